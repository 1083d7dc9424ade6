"""Generation options: invalid values and defaults."""

import math
import subprocess
import sys

import pytest

from fnet_t5x.runtime.generation_options import GenerationOptions


@pytest.mark.parametrize(
  ('options', 'line'),
  [
    ({'temperature': -0.1}, 'temperature is -0.1; it must be at least 0'),
    ({'temperature': math.nan}, 'temperature is nan; it must be at least 0'),
    ({'temperature': math.inf}, 'temperature is inf; it must be'),
    ({'top_k': -1}, 'top_k is -1; it must be at least 0'),
    ({'top_p': 1.1}, 'top_p is 1.1; it must be from 0 to 1'),
    ({'top_p': math.nan}, 'top_p is nan; it must be from 0 to 1'),
    ({'top_k': 4, 'top_p': 0.5}, 'top_k and top_p exclude each other'),
    ({'num_samples': 0}, 'num_samples is 0; it must be at least 1'),
    ({'num_beams': 0}, 'num_beams is 0; it must be at least 1'),
    ({'max_tokens': 0}, 'max_tokens is 0; it must be at least 1'),
    ({'no_repeat_ngram_size': -1}, 'no_repeat_ngram_size is -1; it must be at'),
    ({'seed': -1}, 'seed is -1; it must be from 0 to 4294967295'),
    ({'seed': 2**32}, 'seed is 4294967296; it must be from 0 to'),
    (
      {'num_beams': 2, 'temperature': 0.5},
      'num_beams and temperature exclude each other: beam search does not',
    ),
    ({'num_beams': 2, 'top_k': 4}, 'num_beams and top_k exclude'),
    ({'num_beams': 2, 'top_p': 0.4}, 'num_beams and top_p exclude'),
    ({'num_beams': 2, 'num_samples': 2}, 'num_beams and num_samples exclude'),
  ],
)
def test_value_is_refused(options, line):
  with pytest.raises(ValueError, match=line):
    GenerationOptions(**options)


@pytest.mark.parametrize(
  ('options', 'line'),
  [
    ({'num_samples': '2'}, "num_samples is '2'; it must be an integer"),
    ({'max_tokens': 2.5}, 'max_tokens is 2.5; it must be an integer'),
    ({'temperature': 'hot'}, "temperature is 'hot'; it must be a number"),
    ({'top_p': True}, 'top_p is True; it must be a number'),
  ],
)
def test_what_is_no_number_is_refused(options, line):
  with pytest.raises(TypeError, match=line):
    GenerationOptions(**options)


def test_defaults():
  assert GenerationOptions().sampling_temperature == 0.8
  assert GenerationOptions().sampling_top_k == 40
  assert GenerationOptions(top_p=0.9).sampling_top_k == 0
  assert GenerationOptions(top_k=0, temperature=0).sampling_top_k == 0
  assert GenerationOptions(temperature=0).sampling_temperature == 0


def test_checking_imports_nothing_heavy():
  code = (
    'import sys, fnet_t5x.runtime.generation_options; '
    'print([m for m in ("jax", "tensorflow", "numpy") if m in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert done.stdout == '[]\n'
