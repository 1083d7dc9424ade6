"""Which way to compute a transform: the one place that knows backends."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Literal, get_args

import jax

Method = Literal['auto', 'fft', 'matmul']
Scale = Literal['ortho', 'none']
Lengths = Literal['exact', 'padded']

# What is transformed: 'whole' rows of tokens, all alike, or features; 'rows' of
# tokens, each over its own length, where the FFT is Bluestein's; the 'features'
# of rows whose tokens take matrices.
Kind = Literal['whole', 'rows', 'features']

# Up to how many points a matrix is the faster way, by kind and backend; 0 where
# it is not given.
_MATMUL_MAX = {
  'whole': {'tpu': 4096},
  'rows': {'cpu': 1024, 'gpu': 4096, 'tpu': 4096},
  'features': {'gpu': 4096, 'tpu': 4096},
}


# Backends whose matrix units compute all features in less time than it takes to
# reverse the order of half of them: TPUs by their compiler's estimates, GPUs
# until the kit (`benchmarks/accelerator`) has measured it.
_ALL_FEATURES = ('gpu', 'tpu')


_TARGET = contextvars.ContextVar('target_backend', default=None)


@contextlib.contextmanager
def target_backend(backend: str) -> Iterator[None]:
  """Traces the block's programs for a backend that is not the one in use.

  Args:
    backend: JAX's name of the platform that will run them.
  """
  token = _TARGET.set(backend)
  try:
    yield
  finally:
    _TARGET.reset(token)


def current_backend() -> str:
  """Returns the platform that programs are traced for."""
  return _TARGET.get() or jax.default_backend()


def all_features_pay() -> bool:
  """Whether matrices are better taken over all features than over half."""
  return _known(current_backend()) in _ALL_FEATURES


def _known(backend):
  return backend if backend in ('cpu', 'tpu') else 'gpu'


def check_choice(name: str, value: str, choices) -> None:
  """Raises ValueError unless `value` is one of the Literal's choices."""
  if value not in get_args(choices):
    raise ValueError(
      f'{name}={value!r} is not known; choose one of '
      f'{", ".join(get_args(choices))}'
    )


def choose_method(
  method: Method,
  points: int,
  kind: Kind = 'whole',
  *,
  backend: str | None = None,
) -> Literal['fft', 'matmul']:
  """Resolves 'auto' for a transform of `points` points.

  CPU: the FFT, but folded matrices (`folded.py`) for rows of their own length
  up to 1024 tokens (measured: `python -m fnet_t5x.benchmarks.mixing`). TPU:
  matrices up to 4096 points, where FNet's authors drew the line (arXiv
  2105.03824, section 3). GPU: the FFT, in float32 since cuFFT has no bfloat16;
  for rows of their own length matrices over both axes, up to 4096 points (by
  first trials on one; `python -m fnet_t5x.benchmarks.accelerator` measures it).
  Any other backend is treated as a GPU.

  Args:
    method: 'fft' and 'matmul' are returned as they are.
    points: the transform's length.
    kind: what is transformed.
    backend: JAX's name of the platform; by default `current_backend()`.
  """
  check_choice('method', method, Method)
  if method != 'auto':
    return method
  backend = _known(backend or current_backend())
  return 'matmul' if points <= _MATMUL_MAX[kind].get(backend, 0) else 'fft'
