"""Decoding against T5X's golden decodes, exhaustive search, and counts."""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import decoding as golden

from fnet_t5x.runtime import decoding
from fnet_t5x.runtime.decoding import topk_mask, topp_mask

EOS = 1
RECORDED = json.loads(
  pathlib.Path(golden.__file__).with_suffix('.json').read_text()
)


@pytest.mark.slow
@pytest.mark.parametrize('case', golden.CASES)
def test_decodes_equal_those_of_t5x(case):
  tokens, scores = golden.run(decoding, case)
  want_tokens, want_scores = RECORDED['cases'][case]
  np.testing.assert_array_equal(tokens, want_tokens)
  np.testing.assert_allclose(scores, want_scores, rtol=1e-5, atol=1e-5)


def markov(table):
  """A network whose next-token logits depend only on the last token."""

  def tokens_to_logits(state):
    return jnp.asarray(table)[state.cur_token[:, 0]], state.cache

  return tokens_to_logits


def log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize('alpha', [0.0, 0.6, 2.0])
def test_beam_search_wide_enough_is_exhaustive(alpha):
  vocab, length, beams = 4, 3, 27
  table = np.random.RandomState(3).normal(size=(vocab, vocab)) * 2
  tokens, scores = decoding.beam_search(
    jnp.zeros((1, length), jnp.int32),
    {},
    markov(table.astype(np.float32)),
    EOS,
    num_decodes=beams,
    alpha=alpha,
  )
  log_probs = log_softmax(table)
  others = [token for token in range(vocab) if token != EOS]
  want = []
  for steps in range(1, length + 1):
    for text in itertools.product(others, repeat=steps - 1):
      path = (0, *text, EOS)
      log_prob = sum(log_probs[a, b] for a, b in itertools.pairwise(path))
      penalty = ((5 + steps) / 6) ** alpha
      padded = (*path[1:], *[0] * (length - steps))
      want.append((log_prob / penalty, padded))
  want.sort()
  assert len(want) == 13
  np.testing.assert_array_equal(tokens[0, -13:], [text for _, text in want])
  np.testing.assert_allclose(
    scores[0, -13:], [score for score, _ in want], rtol=1e-5
  )


def decisive_network(rows=60, vocab=9):
  """EOS is either the best token or very unlikely, never the second best.

  A beam search keeps an EOS that is second best, and may return it: only
  where that cannot happen is one beam the same as greedy.
  """
  random = np.random.RandomState(5)
  table = random.normal(size=(rows, vocab))
  table[:, EOS] = np.where(random.uniform(size=rows) < 0.15, 9.0, -20.0)
  table = jnp.asarray(table, jnp.float32)

  def tokens_to_logits(state):
    history = (state.cache['history'] * 5 + state.cur_token + 1) % rows
    return table[history[:, 0]], {'history': history}

  return tokens_to_logits


@pytest.mark.slow
def test_beam_search_with_one_beam_is_greedy():
  start = {'history': jnp.arange(20, dtype=jnp.int32)[:, None]}
  inputs = jnp.zeros((20, 10), jnp.int32)
  arguments = (inputs, start, decisive_network(), EOS)
  beam, _ = decoding.beam_search(*arguments, num_decodes=1)
  greedy, _ = decoding.temperature_sample(*arguments, topk=1)
  np.testing.assert_array_equal(beam, greedy)
  ended = np.any(np.asarray(greedy) == EOS, axis=-1)
  assert 3 < ended.sum() < 20


@pytest.mark.slow
def test_beam_search_stops_when_nothing_better_can_come():
  table = np.zeros((4, 4), np.float32)
  table[:, EOS] = 20.0
  calls = []

  def tokens_to_logits(state):
    calls.append(state.cur_index)
    return markov(table)(state)

  with jax.disable_jit():
    tokens, _ = decoding.beam_search(
      jnp.zeros((1, 9), jnp.int32), {}, tokens_to_logits, EOS, num_decodes=1
    )
  assert tokens[0, 0].tolist() == [EOS, *[0] * 8]
  assert len(calls) == 1


# No prompt, a short one, and one that leaves room for three tokens.
PROMPTS = np.zeros((3, 12), np.int32)
PROMPTS[1, 1:3] = [7, 4]
PROMPTS[2, 1:10] = [3, 8, 9, 5, 2, 2, 6, 4, 10]
LENGTHS = np.array([0, 2, 9])


@pytest.mark.slow
@pytest.mark.parametrize('function', ['beam_search', 'temperature_sample'])
@pytest.mark.parametrize('prefilled', [False, True])
def test_an_example_does_not_depend_on_its_neighbours(function, prefilled):
  options = {'topk': 1, 'num_decodes': 1}
  if function == 'beam_search':
    options = {'num_decodes': 3}
  decode = jax.jit(
    functools.partial(
      getattr(decoding, function),
      tokens_to_logits=golden.tokens_to_logits,
      eos_id=EOS,
      **options,
    )
  )

  def run(rows):
    index = LENGTHS[rows] if prefilled else np.zeros(len(rows), int)
    cache = golden.prefilled_cache(PROMPTS[rows], index)
    given = {'initial_index': jnp.asarray(index)} if prefilled else {}
    return decode(jnp.asarray(PROMPTS[rows]), cache=cache, **given)

  tokens, scores = run([0, 1, 2])
  for row in range(3):
    alone_tokens, alone_scores = run([row])
    np.testing.assert_array_equal(tokens[row], alone_tokens[0])
    np.testing.assert_allclose(scores[row], alone_scores[0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('function', ['beam_search', 'temperature_sample'])
def test_prefilled_prompts_change_nothing(function):
  options = {'topk': 1} if function == 'temperature_sample' else {}
  results = []
  for given in ({}, {'initial_index': jnp.asarray(LENGTHS)}):
    index = given.get('initial_index', [0, 0, 0])
    results.append(
      getattr(decoding, function)(
        jnp.asarray(PROMPTS),
        golden.prefilled_cache(PROMPTS, index),
        golden.tokens_to_logits,
        EOS,
        **options,
        **given,
      )
    )
  (tokens, scores), (prefilled_tokens, prefilled_scores) = results
  np.testing.assert_allclose(scores, prefilled_scores, rtol=1e-5)
  # Slots without a sequence hold the prompt or nothing.
  found = np.asarray(scores > decoding.NEG_INF / 2)
  assert found.any(axis=1).all()
  np.testing.assert_array_equal(
    np.asarray(tokens)[found], np.asarray(prefilled_tokens)[found]
  )


def test_a_prompt_that_fills_the_buffer_leaves_one_token():
  table = np.zeros((9, 9), np.float32)
  table[5, 7] = 9.0
  table[:, EOS] = -30.0
  inputs = jnp.array([[0, 3, 4, 5]])
  for given in ({}, {'initial_index': jnp.array([3])}):
    tokens, _ = decoding.beam_search(
      inputs, {}, markov(table), EOS, num_decodes=2, **given
    )
    np.testing.assert_array_equal(tokens[0, -1], [3, 4, 5, 7])


LOGITS = np.array([2.0, -30.0, 1.5, 0.3, -0.4, 1.4], np.float32)


def exact_distribution(temperature=1.0, topk=0, topp=0.0):
  probs = np.exp(log_softmax(LOGITS / temperature))
  order = np.argsort(-probs)
  kept = len(probs)
  if topk:
    kept = topk
  if topp:
    kept = int(np.searchsorted(np.cumsum(probs[order]), topp)) + 1
  probs[order[kept:]] = 0
  return probs / probs.sum()


@pytest.mark.slow
@pytest.mark.parametrize(
  'options',
  [
    {'topk': 0},
    {'topk': 0, 'temperature': 0.5},
    {'topk': 3},
    {'topk': 2, 'temperature': 2.0},
    {'topk': 0, 'topp': 0.7},
    {'topk': 0, 'topp': 0.9, 'temperature': 1.5},
  ],
)
def test_samples_follow_the_distribution(options):
  draws = 20_000

  def tokens_to_logits(state):
    rows = state.cur_token.shape[0]
    return jnp.broadcast_to(LOGITS, (rows, LOGITS.size)), state.cache

  tokens, log_probs = decoding.temperature_sample(
    jnp.zeros((1, 1), jnp.int32),
    {},
    tokens_to_logits,
    EOS,
    jax.random.PRNGKey(7),
    num_decodes=draws,
    **options,
  )
  want = exact_distribution(**options)
  counts = np.bincount(np.ravel(tokens), minlength=LOGITS.size) / draws
  # Five standard deviations of a fraction near one half.
  np.testing.assert_allclose(counts, want, atol=5 * 0.5 / draws**0.5)
  assert np.all(counts[want == 0] == 0)
  np.testing.assert_allclose(
    np.exp(log_probs[0]), want[np.asarray(tokens[0, :, 0])], rtol=1e-4
  )


def test_log_probs_of_the_network_itself():
  tokens, log_probs = decoding.temperature_sample(
    jnp.zeros((1, 1), jnp.int32),
    {},
    lambda state: (jnp.asarray(LOGITS)[None], state.cache),
    EOS,
    topk=1,
    temperature=0.3,
    rescale_log_probs=False,
  )
  assert tokens.tolist() == [[[0]]]
  np.testing.assert_allclose(log_probs, [[log_softmax(LOGITS)[0]]], rtol=1e-6)


def test_greedy_draws_lots_between_equals_only():
  logits = jnp.array([[4.0, 0.0, 3.0, 3.0]] + [[1.0, 0.0, 3.0, 3.0]] * 399)
  tokens, log_probs = decoding.temperature_sample(
    jnp.zeros((400, 1), jnp.int32), {}, lambda s: (logits, s.cache), EOS, topk=1
  )
  assert tokens[0, 0, 0] == 0 and log_probs[0, 0] == 0
  shares = np.bincount(np.ravel(tokens[1:]), minlength=4) / 399
  np.testing.assert_allclose(shares, [0, 0, 0.5, 0.5], atol=0.13)
  np.testing.assert_allclose(log_probs[1:], np.log(0.5), rtol=1e-6)


def test_contradictory_arguments_are_refused():
  inputs = jnp.zeros((1, 4), jnp.int32)
  network = markov(np.zeros((4, 4), np.float32))
  with pytest.raises(ValueError, match=r'topk=3 and topp=0\.5'):
    decoding.temperature_sample(inputs, {}, network, EOS, topk=3, topp=0.5)
  with pytest.raises(ValueError, match='max_decode_steps=5'):
    decoding.temperature_sample(inputs, {}, network, EOS, max_decode_steps=5)


@pytest.mark.parametrize('traced', [False, True])
@pytest.mark.parametrize('k', [1, 3, 7, 100])
def test_topk_mask_equals_a_sort(k, traced):
  logits = np.random.RandomState(1).normal(size=(5, 40)).astype(np.float32)
  logits[0, :4] = [2.0, 2.0, -np.inf, 0.0]  # ties are kept, infinities not
  mask = functools.partial(topk_mask, replace_val=-1e7)
  got = jax.jit(mask)(logits, k) if traced else mask(logits, k)
  cutoff = np.sort(logits, axis=-1)[:, ::-1][:, min(k, 40) - 1][:, None]
  keep = (logits >= cutoff) & np.isfinite(logits)
  np.testing.assert_array_equal(got, np.where(keep, logits, np.float32(-1e7)))


@pytest.mark.parametrize('p', [0.0, 0.3, 0.9, 0.999])
def test_topp_mask_equals_a_sort(p):
  logits = 2 * np.random.RandomState(1).normal(size=(6, 50))
  logits = logits.astype(np.float32)
  got = jax.jit(topp_mask)(logits, p, -1e7)
  for row, masked in zip(logits, np.asarray(got), strict=True):
    probs = np.exp(log_softmax(row))
    order = np.argsort(-probs)
    kept = int(np.searchsorted(np.cumsum(probs[order]), p)) + 1
    kept = len(row) if p == 0 else kept
    np.testing.assert_array_equal(
      np.sort(order[:kept]), np.where(masked > -1e6)[0]
    )


def test_top_k_two_stage_breaks_ties_as_one_stage_does():
  random = np.random.RandomState(2)
  x = random.randint(0, 300, size=(3, 2500)).astype(np.float32)
  got = decoding.top_k_two_stage(x, 2)
  want = np.argsort(-x, axis=1, kind='stable')[:, :2]
  np.testing.assert_array_equal(got[1], want)
  np.testing.assert_array_equal(got[0], np.take_along_axis(x, want, axis=1))


@pytest.mark.parametrize('one_hot', [False, True])
@pytest.mark.parametrize('offset', [0, 1])
def test_cache_beams_are_picked_and_shared_leaves_stay(one_hot, offset):
  random = np.random.RandomState(4)
  key = random.normal(size=(*[2] * offset, 3, 4, 5)).astype(np.float32)
  shared = random.normal(size=(3, 5)).astype(np.float32)
  cache = {
    'layer': {
      'cached_key': key,
      'cached_cross_key': {'cached_bias': shared},
      'cached_bias': shared,
      'cache_index': np.int32(3),
    }
  }
  beams = np.array([[3, 0, 0, 1], [1, 1, 2, 2], [0, 1, 2, 3]])
  got = decoding.cache_gather_beams(
    cache, beams, 3, 4, 4, one_hot=one_hot, offset=offset
  )['layer']
  index = beams.reshape(*[1] * offset, 3, 4, 1)
  want = np.take_along_axis(key, index, axis=offset + 1)
  np.testing.assert_array_equal(got['cached_key'], want)
  assert got['cached_cross_key']['cached_bias'] is shared
  assert got['cached_bias'] is shared
  assert got['cache_index'] == 3


@pytest.mark.parametrize('offset', [0, 1])
def test_beam_axes_go_and_come(offset):
  x = np.arange(24).reshape(*[2] * offset, 3, -1)
  flat = decoding.flat_batch_beam_expand(x, 5, offset)
  np.testing.assert_array_equal(flat, np.repeat(x, 5, axis=offset))
  again = decoding.unflatten_beam_dim(flat, 3, 5, offset)
  np.testing.assert_array_equal(again, decoding.add_beam_dim(x, 5, offset))
  np.testing.assert_array_equal(decoding.flatten_beam_dim(again, offset), flat)


def test_brevity_penalty_is_that_of_the_paper():
  lengths = np.array([1, 7, 40])
  got = decoding.brevity_penalty(0.6, lengths)
  np.testing.assert_allclose(got, ((5 + lengths) / 6) ** 0.6, rtol=1e-6)


def test_callbacks_see_and_change_the_loop():
  def stop_after_three(state):
    ended = state.ended | (state.step >= 3)
    return state.replace(ended=ended)

  def only_token_two(logits, state):
    return jnp.where(jnp.arange(4)[None, :] == 2, logits, -1e7)

  tokens, _ = decoding.temperature_sample(
    jnp.zeros((1, 6), jnp.int32),
    {},
    markov(np.zeros((4, 4), np.float32)),
    EOS,
    topk=0,
    state_callback_fn=stop_after_three,
    logit_callback_fn=only_token_two,
  )
  assert tokens[0, 0].tolist() == [2, 2, 2, 0, 0, 0]


VOCAB = 5


def brute_force(tokens, size):
  """Tokens after which the text would contain an n-gram twice."""
  banned = np.zeros(VOCAB, bool)
  for token in range(VOCAB):
    text = [*tokens, token]
    ngrams = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
    banned[token] = len(ngrams) > 0 and ngrams[-1] in ngrams[:-1]
  return banned


@pytest.mark.parametrize('size', [1, 2, 3, 4])
def test_equals_brute_force(size):
  """At every length, also for texts that already contain repeated n-grams."""
  rng = np.random.default_rng(size)
  tokens = rng.integers(0, VOCAB, (6, 20))
  banned = jax.jit(
    lambda count: decoding.repeating_tokens(tokens, count, size, VOCAB)
  )
  seen = 0
  for count in range(21):
    want = np.stack([brute_force(row[:count], size) for row in tokens])
    np.testing.assert_array_equal(banned(count), want)
    seen += want.sum()
  assert seen


def test_text_shorter_than_the_ngram():
  banned = decoding.repeating_tokens(np.ones((2, 3), int), 3, 5, VOCAB)
  assert banned.shape == (2, VOCAB)
  assert not banned.any()
