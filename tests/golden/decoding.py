"""Golden decodes from a table of logits, recorded from T5X.

T5X at commit cc342d4, in an environment where it is importable, from here:

  JAX_PLATFORMS=cpu python decoding.py > decoding.json

The tests call `run` with our module, and compare with the recorded values.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

STATES, VOCAB, EOS, LENGTH = 61, 11, 1, 12
# The next token depends on all previous tokens, through a number in the cache:
# a cache that does not follow its beam changes the tokens.
TABLE = np.random.RandomState(0).normal(size=(STATES, VOCAB)) * 1.5
TABLE = np.float32(np.round(TABLE, 4))
EMPTY = np.zeros((3, LENGTH), np.int32)
PROMPTS = EMPTY.copy()
PROMPTS[1, 1:3] = [7, 4]
PROMPTS[2, 1:6] = [3, 1, 9, 5, 2]
PREFILLED = np.array([0, 2, 5], np.int32)

CASES = {
  'greedy': ('temperature_sample', EMPTY, {'topk': 1}),
  'cold': (
    'temperature_sample',
    PROMPTS,
    {'topk': 4, 'temperature': 0.0, 'rescale_log_probs': False},
  ),
  'sample_all': (
    'temperature_sample',
    EMPTY,
    {'topk': 0, 'num_decodes': 3, 'seed': 1},
  ),
  'sample_topk': (
    'temperature_sample',
    PROMPTS,
    {'topk': 3, 'num_decodes': 2, 'temperature': 0.7, 'seed': 2},
  ),
  'sample_topp': (
    'temperature_sample',
    EMPTY,
    {'topk': 0, 'topp': 0.8, 'rescale_log_probs': False, 'seed': 3},
  ),
  'sample_own_temperatures': (
    'temperature_sample',
    EMPTY,
    {'topk': 0, 'num_decodes': 2, 'temperature': [0.0, 0.8, 1.5], 'seed': 4},
  ),
  'sample_prefilled': (
    'temperature_sample',
    PROMPTS,
    {'topk': 5, 'num_decodes': 4, 'seed': 5, 'initial_index': PREFILLED},
  ),
  'sample_few_steps': (
    'temperature_sample',
    PROMPTS,
    {'topk': 1, 'max_decode_steps': 3, 'initial_index': PREFILLED},
  ),
  'sample_hard_limit': (
    'temperature_sample',
    PROMPTS,
    {'topk': 0, 'max_decode_steps': 9, 'max_decode_steps_hard_limit': 4},
  ),
  'beam_1': ('beam_search', EMPTY, {'num_decodes': 1}),
  'beam_4': ('beam_search', EMPTY, {'num_decodes': 4}),
  'beam_no_penalty': ('beam_search', EMPTY, {'num_decodes': 3, 'alpha': 0.0}),
  'beam_long': ('beam_search', EMPTY, {'num_decodes': 2, 'alpha': 3.0}),
  'beam_prompts': ('beam_search', PROMPTS, {'num_decodes': 4}),
  'beam_short': ('beam_search', EMPTY, {'num_decodes': 2, 'max_decode_len': 5}),
  'beam_few_steps': (
    'beam_search',
    PROMPTS,
    {'num_decodes': 2, 'max_decode_step': 3, 'initial_index': PREFILLED},
  ),
  'beam_unlikely': (
    'beam_search',
    EMPTY,
    {'num_decodes': 2, 'min_log_prob': -2.0},
  ),
}


def advance(history, token):
  return (history * 7 + token + 1) % STATES


def tokens_to_logits(state):
  history = advance(state.cache['history'], state.cur_token)
  return jnp.asarray(TABLE)[history[:, 0]], {'history': history}


def prefilled_cache(inputs, initial_index):
  history = np.zeros((len(inputs), 1), np.int32)
  for row, last in enumerate(initial_index):
    for token in inputs[row, :last]:
      history[row] = advance(history[row], token)
  return {'history': jnp.asarray(history)}


def run(decoding, name):
  """Decodes one case: tokens and scores, as lists."""
  function, inputs, options = CASES[name]
  options = dict(options)
  seed = options.pop('seed', 0)
  if 'temperature' in options:
    options['temperature'] = np.array(options['temperature'], np.float32)
  initial_index = options.get('initial_index', np.zeros(3, np.int32))
  decode = functools.partial(
    getattr(decoding, function),
    tokens_to_logits=tokens_to_logits,
    eos_id=EOS,
    decode_rng=jax.random.PRNGKey(seed),
    **options,
  )
  decodes, scores = jax.jit(decode)(
    jnp.asarray(inputs), cache=prefilled_cache(inputs, initial_index)
  )
  return decodes.tolist(), scores.tolist()


if __name__ == '__main__':
  import t5x.decoding

  print(
    json.dumps(
      {
        'made_by': 'T5X cc342d4, tests/golden/decoding.py',
        'cases': {name: run(t5x.decoding, name) for name in CASES},
      },
      separators=(',', ':'),
    )
  )
