"""Options of text generation, set by flags or the Python API.

Imports neither JAX nor TensorFlow, so that a command checks its flags at once.
"""

import dataclasses
import math
import re
from typing import Any

DEFAULT_TEMPERATURE = 0.8
DEFAULT_TOP_K = 40
# A JAX key takes 32 bits of seed.
_MAX_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
  """Options of sampling or beam search after a prompt.

  Attributes:
    num_samples: texts per prompt.
    max_tokens: maximum number of tokens; None for the decoder's length.
    temperature: divisor of the logits; 0 for greedy decoding. None for 0.8.
    top_k: number of most likely tokens to sample from; 0 for all. None for 40,
      or for all if `top_p` is set.
    top_p: total probability of the most likely tokens to sample from; 0 for
      all. Excludes `top_k`.
    num_beams: number of beams of beam search; 1 for sampling. More than 1
      excludes all of the above except `max_tokens`.
    no_repeat_ngram_size: length of n-grams that may not repeat within a text;
      0 for no such constraint.
    seed: seed of sampling.
    truncate_prompt: whether to keep only the end of a prompt that exceeds the
      encoder's length, instead of raising an error.

  Raises:
    ValueError: a value is out of range, or two exclude each other.
    TypeError: a value is not a number.
  """

  num_samples: int = 1
  max_tokens: int | None = None
  temperature: float | None = None
  top_k: int | None = None
  top_p: float = 0.0
  num_beams: int = 1
  no_repeat_ngram_size: int = 0
  seed: int = 0
  truncate_prompt: bool = False

  def __post_init__(self):
    for name, minimum in (
      ('num_samples', 1),
      ('max_tokens', 1),
      ('top_k', 0),
      ('num_beams', 1),
      ('no_repeat_ngram_size', 0),
    ):
      value = getattr(self, name)
      if value is not None and _integer(name, value) < minimum:
        raise ValueError(f'{name} is {value}; it must be at least {minimum}')
    if not 0 <= _integer('seed', self.seed) <= _MAX_SEED:
      raise ValueError(f'seed is {self.seed}; it must be from 0 to {_MAX_SEED}')
    temperature = self.temperature
    # Negated, so that NaN fails.
    if temperature is not None and not (
      0 <= _number('temperature', temperature) < math.inf
    ):
      raise ValueError(f'temperature is {temperature}; it must be at least 0')
    if not 0 <= _number('top_p', self.top_p) <= 1:
      raise ValueError(f'top_p is {self.top_p}; it must be from 0 to 1')
    if self.top_k and self.top_p:
      raise ValueError('top_k and top_p exclude each other: set one of them')
    if self.num_beams > 1:
      self._check_beams()

  def _check_beams(self):
    for name, is_set in (
      ('temperature', self.temperature is not None),
      ('top_k', self.top_k is not None),
      ('top_p', self.top_p),
      ('num_samples', self.num_samples > 1),
    ):
      if is_set:
        raise ValueError(
          f'num_beams and {name} exclude each other: beam search does not '
          'sample: it returns one text'
        )

  @property
  def sampling_temperature(self) -> float:
    """The temperature, or its default."""
    if self.temperature is None:
      return DEFAULT_TEMPERATURE
    return self.temperature

  @property
  def sampling_top_k(self) -> int:
    """The number of tokens to sample from, or its default; 0 for all."""
    if self.top_k is None:
      return 0 if self.top_p else DEFAULT_TOP_K
    return self.top_k


def of_flags(**values: Any) -> GenerationOptions:
  """Returns options of a command line; errors name the flags, `--name`.

  Raises:
    ValueError, TypeError: as `GenerationOptions`.
  """
  try:
    return GenerationOptions(**values)
  except ValueError as error:
    names = '|'.join(f.name for f in dataclasses.fields(GenerationOptions))
    message = re.sub(rf'\b({names})\b', r'--\1', str(error))
    raise ValueError(message) from error


def _integer(name, value) -> int:
  if isinstance(value, bool) or not hasattr(value, '__index__'):
    raise TypeError(f'{name} is {value!r}; it must be an integer')
  return value.__index__()


def _number(name, value) -> float:
  if isinstance(value, bool) or not hasattr(value, '__float__'):
    raise TypeError(f'{name} is {value!r}; it must be a number')
  return float(value)
