"""Which way to compute a transform: the one place that knows backends."""

from typing import Literal, get_args

import jax

Method = Literal['auto', 'fft', 'matmul']
Scale = Literal['ortho', 'none']
Lengths = Literal['exact', 'padded']

# Up to this many points a TPU multiplies by a matrix faster than it runs its
# FFT (FNet's authors also drew the line here: arXiv 2105.03824, section 3).
TPU_MATMUL_MAX = 4096


def check_choice(name: str, value: str, choices) -> None:
  """Raises ValueError unless `value` is one of the Literal's choices."""
  if value not in get_args(choices):
    raise ValueError(
      f'{name}={value!r} is not known; choose one of '
      f'{", ".join(get_args(choices))}'
    )


def choose_method(
  method: Method, points: int, backend: str | None = None
) -> Literal['fft', 'matmul']:
  """Resolves 'auto' for a transform of `points` points.

  CPU: the FFT, at every length. TPU: matrices up to `TPU_MATMUL_MAX` points.
  GPU and the rest: the FFT, in float32 (cuFFT has no bfloat16).

  Args:
    method: 'fft' and 'matmul' are returned as they are.
    points: the transform's length.
    backend: JAX's name of the platform; by default the one in use.
  """
  check_choice('method', method, Method)
  if method != 'auto':
    return method
  backend = backend or jax.default_backend()
  if backend == 'tpu' and points <= TPU_MATMUL_MAX:
    return 'matmul'
  return 'fft'
