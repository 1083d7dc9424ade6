"""Encoder-decoder model: T5X's values, and decoding against its own logits."""

import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import small_runs
from golden import models as golden

from fnet_t5x.networks import fnet_t5, t5
from fnet_t5x.runtime import decoding, models

RECORDED = json.loads(
  pathlib.Path(golden.__file__).with_suffix('.json').read_text()
)
VOCAB = golden.VOCAB
GREEDY = functools.partial(decoding.temperature_sample, topk=1)


@pytest.fixture(scope='module')
def results():
  return golden.run(t5, models, decoding)


@pytest.mark.parametrize('case', golden.LOSSES)
def test_loss_gradient_and_metrics_equal_those_of_t5x(results, case):
  got, want = results['losses'][case], RECORDED['losses'][case]
  for name in ('loss', 'gradient_norm', 'eval_loss'):
    assert got[name] == pytest.approx(want[name], rel=1e-5), name
  metrics = dict(got['metrics'])
  ours = metrics.pop('cross_ent_per_target_token')
  assert metrics == pytest.approx(want['metrics'], rel=1e-5)
  assert got['timing'] == want['timing']
  if case == 'plain':
    assert ours == pytest.approx(
      want['metrics']['loss_per_nonpadding_target_token'], rel=1e-5
    )


@pytest.mark.parametrize('case', golden.DECODES)
def test_decodes_equal_those_of_t5x(results, case):
  got, want = results['decodes'][case], RECORDED['decodes'][case]
  assert got['tokens'] == want['tokens']
  np.testing.assert_allclose(got['scores'], want['scores'], rtol=1e-4)


def test_scores_equal_those_of_t5x(results):
  np.testing.assert_allclose(results['scores'], RECORDED['scores'], rtol=1e-5)


HYBRID = {
  **golden.SIZES,
  'num_encoder_layers': 2,
  'encoder_mixing': ('fourier', 'attention'),
}
MODULES = {
  't5': t5.Transformer(t5.T5Config(**golden.SIZES)),
  'fnet_t5': fnet_t5.Transformer(fnet_t5.FNetT5Config(**HYBRID)),
}


@pytest.fixture(scope='module', params=MODULES)
def setting(request):
  """A greedily decoding model, parameters with clear maxima, and a batch."""
  vocabulary = seqio.PassThroughVocabulary(size=VOCAB, eos_id=1)
  model = models.EncoderDecoderModel(
    module=MODULES[request.param],
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    optimizer_def=None,
    decode_fn=GREEDY,
  )
  batch = golden.make_batch()
  return model, golden.make_params(model, batch, jax.random.PRNGKey(3)), batch


@pytest.mark.slow
def test_greedy_decoding_takes_the_best_of_its_own_logits(setting):
  model, params, batch = setting
  tokens = jax.jit(model.predict_batch)(params, batch)
  forced = {
    **batch,
    # The network masks by targets: generated text may contain padding tokens.
    'decoder_target_tokens': jnp.ones_like(tokens),
    'decoder_input_tokens': jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
  }
  logits = jax.jit(model._compute_logits)(params, forced)
  best = np.asarray(jnp.argmax(logits, axis=-1))
  tokens = np.asarray(tokens)
  ended = np.cumsum(tokens == 1, axis=1) - (tokens == 1) > 0
  np.testing.assert_array_equal(tokens, np.where(ended, 0, best))
  assert not ended.all(axis=1).any()


@pytest.mark.slow
def test_log_prob_of_a_decode_is_its_score(setting):
  model, params, batch = setting
  options = {'rescale_log_probs': False, 'topk': 0}
  tokens, aux = jax.jit(
    functools.partial(
      model.predict_batch_with_aux,
      decoder_params=options,
      num_decodes=2,
      return_all_decodes=True,
    )
  )(params, batch, rng=jax.random.PRNGKey(5))
  score = jax.jit(model.score_batch)
  compared = 0
  for sample in range(2):
    text = tokens[:, sample]
    # After EOS there is padding, which was not sampled.
    drawn = jnp.cumsum(text == 1, axis=1) - (text == 1) == 0
    scored = {
      **batch,
      'decoder_target_tokens': text,
      'decoder_input_tokens': jnp.pad(text, ((0, 0), (1, 0)))[:, :-1],
      'decoder_loss_weights': drawn.astype(jnp.float32),
    }
    # Scoring treats a sampled padding token as padding: no such rows here.
    whole = ~np.any(np.asarray((text == 0) & drawn), axis=1)
    compared += whole.sum()
    np.testing.assert_allclose(
      aux['scores'][whole, sample], score(params, scored)[whole], rtol=1e-4
    )
  assert compared >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
  ('num_decodes', 'prompt_with_targets'), [(1, False), (3, True)]
)
def test_an_example_does_not_depend_on_its_batch(
  setting, num_decodes, prompt_with_targets
):
  model, params, batch = setting
  if num_decodes > 1:
    model = models.EncoderDecoderModel(
      model.module, model.input_vocabulary, model.output_vocabulary, None
    )
  predict = jax.jit(
    functools.partial(
      model.predict_batch_with_aux,
      num_decodes=num_decodes,
      return_all_decodes=True,
      prompt_with_targets=prompt_with_targets,
    )
  )
  tokens, aux = predict(params, batch)
  for row in range(golden.BATCH):
    alone, alone_aux = predict(
      params, {name: x[row : row + 1] for name, x in batch.items()}
    )
    np.testing.assert_array_equal(tokens[row], alone[0])
    np.testing.assert_allclose(
      aux['scores'][row], alone_aux['scores'][0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_prompts_are_kept_without_their_eos(setting):
  model, params, batch = setting
  predict = functools.partial(
    model.predict_batch_with_aux, prompt_with_targets=True
  )
  tokens, _ = jax.jit(predict)(params, batch)
  targets = np.asarray(batch['decoder_target_tokens'])
  for text, target in zip(np.asarray(tokens), targets, strict=True):
    prompt = target[: list(target).index(1)]
    np.testing.assert_array_equal(text[: len(prompt)], prompt)
    assert text[len(prompt)] != 0


@pytest.mark.slow
def test_dropout_needs_a_key_and_evaluation_has_none(setting):
  model, params, batch = setting
  loss = jax.jit(model.loss_fn)
  first = loss(params, batch, jax.random.PRNGKey(0))[0]
  assert first == loss(params, batch, jax.random.PRNGKey(0))[0]
  assert first != loss(params, batch, jax.random.PRNGKey(1))[0]
  assert first != jax.jit(model.eval_fn)(params, batch)[0]


@pytest.mark.slow
def test_intermediates_hold_the_scores_of_tokens(setting):
  model, params, batch = setting
  scores, intermediates = model.score_batch(
    params, batch, return_intermediates=True
  )
  (token_scores,) = intermediates['decoder']['token_scores']
  np.testing.assert_allclose(token_scores.sum(-1), scores, rtol=1e-6)
  (targets,) = intermediates['decoder']['target_tokens']
  np.testing.assert_array_equal(targets, batch['decoder_target_tokens'])
  np.testing.assert_allclose(
    scores, model.score_batch(params, batch), rtol=1e-5
  )


def test_two_keys_are_refused(setting):
  model, params, batch = setting
  rng = jax.random.PRNGKey(0)
  with pytest.raises(ValueError, match='two keys for decoding'):
    model.predict_batch_with_aux(
      params, batch, rng=rng, decoder_params={'decode_rng': rng}
    )


class CountingEmbedder(nn.Module):
  """Keeps the position of the next token in the cache, under T5X's name."""

  @nn.compact
  def __call__(self):
    counted = self.has_variable('cache', 'position_embedder_index')
    index = self.variable('cache', 'position_embedder_index', jnp.zeros, 1, int)
    position = index.value
    if counted:
      index.value = position + 1
    return position


class CountingDecoder(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    position = CountingEmbedder(name='position_embedder')()[:, None]
    return 9.0 * jax.nn.one_hot(following(tokens, position), VOCAB)


class Counting(nn.Module):
  """Generates from the last token and its position, which it counts itself."""

  def setup(self):
    self.decoder = CountingDecoder()

  def encode(self, encoder_input_tokens, enable_dropout=True):
    return jnp.zeros((*encoder_input_tokens.shape, 1))

  def decode(
    self,
    encoded,
    encoder_input_tokens,
    decoder_input_tokens,
    decoder_target_tokens,
    prefill=False,
    **unused_kwargs,
  ):
    return self.decoder(decoder_input_tokens)

  def __call__(self, encoder_input_tokens, **kwargs):
    return self.decode(None, encoder_input_tokens, **kwargs)


def following(token, position):
  return (7 * token + 3 * position + 1) % 5 + 2


@pytest.mark.parametrize('prompts', [False, True])
def test_decoder_that_counts_positions_goes_on_behind_its_prompt(prompts):
  vocabulary = seqio.PassThroughVocabulary(size=VOCAB, eos_id=1)
  model = models.EncoderDecoderModel(
    module=Counting(),
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    optimizer_def=None,
    decode_fn=GREEDY,
  )
  inputs = np.array([[0, 5, 3, 6, 0, 0, 0], [0, 2, 0, 0, 0, 0, 0], [0] * 7])
  expected = np.zeros_like(inputs)
  for row, prompt in zip(expected, inputs[:, 1:], strict=True):
    kept = np.count_nonzero(prompt) if prompts else 0
    row[:kept] = prompt[:kept]
    for i in range(kept, len(row)):
      row[i] = following(row[i - 1] if i else 0, i)
  tokens, _ = model.predict_batch_with_aux(
    {},
    {'encoder_input_tokens': inputs, 'decoder_input_tokens': inputs},
    prompt_with_targets=prompts,
  )
  np.testing.assert_array_equal(tokens, expected)


def nats_per_token(logits, batch):
  """Computed in float64 NumPy from the definition."""
  logits = np.asarray(logits, np.float64)
  targets = batch['decoder_target_tokens']
  log_probs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
  nats = -np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
  weights = batch['decoder_loss_weights']
  return np.sum(nats * weights) / np.sum(weights)


@pytest.mark.slow
@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize(
  'factor',
  [
    None,
    37.0,
    'NUM_REAL_TARGET_TOKENS',
    'NUM_TOTAL_TARGET_TOKENS',
    'AVERAGE_PER_SEQUENCE',
  ],
)
def test_nats_per_target_token_under_each_normaliser(factor, packed):
  model = small_runs.bigram_model(
    loss_normalizing_factor=factor, z_loss=0.01, label_smoothing=0.1
  )
  batches = [small_runs.packed_batch(seed) for seed in (1, 2)]
  # Batches with different numbers of tokens: a mean of means would be wrong.
  batches[0]['decoder_loss_weights'][:5] = 0
  if not packed:
    batches = [
      {k: v for k, v in b.items() if not k.endswith(('_ids', '_positions'))}
      for b in batches
    ]
  params = {
    'table': np.random.default_rng(0).normal(
      size=(small_runs.VOCAB_SIZE, small_runs.VOCAB_SIZE)
    )
  }
  params = jax.tree.map(np.float32, params)
  name = 'cross_ent_per_target_token'
  parts = [model.eval_fn(params, batch)[1][name] for batch in batches]
  merged = parts[0].merge(parts[1]).compute()
  whole = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
  logits = params['table'][whole['decoder_input_tokens']]
  expected = nats_per_token(logits, whole)
  np.testing.assert_allclose(merged, expected, rtol=1e-5)
