"""Range checks of numbers from gin files."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

from fnet_t5x import number_ranges
from fnet_t5x.networks import fnet_t5
from fnet_t5x.runtime import decoding, utils

_NO_NUMBERS = (math.nan, math.inf, -math.inf, None, '1', True, -1e-9)


@pytest.mark.parametrize('value', [*_NO_NUMBERS, 1, 1.5])
def test_share_is_from_0_to_below_1(value):
  with pytest.raises(ValueError) as error:
    number_ranges.check('SHARE', value, 0, below=1)
  assert str(error.value) == (
    f'SHARE is {value!r}; it must be a number, at least 0 and less than 1'
  )


@pytest.mark.parametrize(
  'value', [0, 0.0, 0.999, np.float32(0.5), jnp.ones(())]
)
def test_numbers_in_range_pass(value):
  number_ranges.check('X', value, 0, maximum=1)


@pytest.mark.parametrize('value', [*_NO_NUMBERS, 0, 2.0])
def test_whole_number(value):
  with pytest.raises(ValueError, match='must be a whole number, at least 1'):
    number_ranges.check('X', value, 1, whole=True)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('LABEL_SMOOTHING', 1.0),
    ('LABEL_SMOOTHING', -0.1),
    ('LABEL_SMOOTHING', math.nan),
    ('Z_LOSS', -1e-4),
    ('Z_LOSS', math.nan),
  ],
)
def test_loss_refuses(name, value):
  with pytest.raises(ValueError, match=f'{name} is {value}; it must be'):
    small_runs.bigram_model(**{name.lower(): value})


@pytest.mark.parametrize('rate', [-0.1, 1.0, math.nan])
def test_network_refuses_dropout(rate):
  config = small_runs.make_model().module.config
  assert isinstance(config, fnet_t5.FNetT5Config)
  with pytest.raises(ValueError, match=f'DROPOUT_RATE is {rate}; it must be'):
    dataclasses.replace(config, dropout_rate=rate)


@pytest.mark.parametrize('rate', [math.nan, math.inf, -1.0])
def test_schedule_refuses_a_rate(rate):
  with pytest.raises(ValueError, match=f'LEARNING_RATE is {rate}; it must be'):
    utils.create_learning_rate_scheduler(base_learning_rate=rate)


@pytest.mark.parametrize('steps', [math.nan, -1])
def test_schedule_refuses_a_warmup(steps):
  with pytest.raises(ValueError, match=f'WARMUP_STEPS is {steps}; it must be'):
    utils.create_learning_rate_scheduler('constant', warmup_steps=steps)


def decode(function, logits=(0.0, 1.0, 2.0), **options):
  """Decodes two rows of a network that always returns these logits."""

  def network(state):
    rows = state.cur_token.shape[0]
    return jnp.tile(jnp.asarray(logits), (rows, 1)), state.cache

  return function(
    jnp.zeros((2, 4), jnp.int32), {}, network, eos_id=1, **options
  )


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('topk', -1),
    ('topp', 1.5),
    ('topp', -0.1),
    ('temperature', -1.0),
    ('temperature', math.nan),
    ('temperature', np.asarray([1.0, -1.0])),
    ('max_decode_steps', 0),
    ('num_decodes', 0),
  ],
)
def test_sampling_refuses(name, value):
  with pytest.raises(ValueError, match=rf'{name} is .*; it must be'):
    decode(decoding.temperature_sample, **{'topk': 0, name: value})


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('alpha', -0.1),
    ('alpha', math.nan),
    ('num_decodes', 0),
    ('max_decode_len', 0),
  ],
)
def test_beam_search_refuses(name, value):
  with pytest.raises(ValueError, match=rf'{name} is .*; it must be'):
    decode(decoding.beam_search, **{name: value})


@pytest.mark.slow
@pytest.mark.parametrize(
  'options',
  [
    {},
    {'topk': 0},
    {'topk': 0, 'topp': 0.9},
    {'temperature': 0.0},
    {'num_decodes': 2, 'topk': 0},
  ],
)
def test_nan_logits_make_nan_scores(options):
  _, scores = decode(decoding.temperature_sample, **options)
  assert not np.isnan(scores).any()
  broken = (math.nan, math.nan, math.nan)
  _, scores = decode(decoding.temperature_sample, broken, **options)
  assert np.isnan(scores).all()
