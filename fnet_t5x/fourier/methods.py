"""The choice between ways to compute a transform, by backend and length."""

from typing import Literal, NamedTuple

from fnet_t5x.backend import current_backend
from fnet_t5x.choices import check_choice

Method = Literal['auto', 'fft', 'matmul']
Scale = Literal['ortho', 'none']
Lengths = Literal['exact', 'padded']

# What is transformed: 'whole' rows of tokens, all alike, or features; 'ragged'
# rows of tokens, each over its own length, where the FFT is Bluestein's; the
# 'features' of rows whose tokens take matrices.
Kind = Literal['whole', 'ragged', 'features']

# Up to how many points a matrix is the faster way, by kind and backend; 0 where
# it is not given.
_MATMUL_MAX = {
  'whole': {'tpu': 4096},
  'ragged': {'cpu': 1024, 'gpu': 4096, 'tpu': 4096},
  'features': {'gpu': 4096, 'tpu': 4096},
}


# Backends whose matrix units compute all features in less time than it takes to
# reverse the order of half of them: TPUs by their compiler's estimates, GPUs
# until the kit (`benchmarks/accelerator`) has measured it.
_ALL_FEATURES = ('gpu', 'tpu')


class Ways(NamedTuple):
  """How a batch is mixed: the outcome of every choice.

  Attributes:
    length: the transform over tokens, one class of `plans.py` each.
    features: the transform over features.
    all_features: whether matrices yield all features, rather than half of them,
      from which the rest are copied.
    full_rows: the ways to take instead where all rows of the batch are full;
      None where the same ones serve.
  """

  length: Literal['fft', 'matrices', 'folded', 'bluestein']
  features: Literal['fft', 'matmul']
  all_features: bool = False
  full_rows: 'Ways | None' = None


def choose_ways(
  tokens: int,
  embed: int,
  *,
  lengths: Lengths = 'exact',
  packed: bool = False,
  method: Method = 'auto',
  length_method: Method | None = None,
  backend: str | None = None,
) -> Ways:
  """Chooses how to mix rows of `tokens` tokens with `embed` features.

  Args:
    tokens: tokens per row, padding included.
    embed: features per token.
    lengths: as of `make_mixing_plan`; so are `method` and `length_method`.
    packed: whether a row holds several segments.
    method: for both transforms.
    length_method: for the one over each row's own tokens.
    backend: JAX's name of the platform; by default `current_backend()`.
  """

  def choose(points, kind='whole', method=method):
    return choose_method(method, points, kind, backend=backend)

  def by_matrices(features):
    all_features = features == 'matmul' and all_features_pay(backend)
    return Ways('matrices', features, all_features)

  whole, beside_matrices = choose(embed), choose(embed, 'features')
  fft = Ways('fft', whole) if choose(tokens) == 'fft' else None
  if lengths == 'padded':
    return fft or by_matrices(whole)
  if packed:
    return by_matrices(beside_matrices)
  if choose(tokens, 'ragged', length_method or method) == 'fft':
    ways = Ways('bluestein', whole)
  elif beside_matrices == 'fft':
    ways = Ways('folded', 'fft')
  else:
    ways = by_matrices(beside_matrices)
  # A batch of full rows, the common case in pretraining, then costs what the
  # plain transform does.
  return ways._replace(full_rows=fft)


def all_features_pay(backend: str | None = None) -> bool:
  """Whether matrices are better taken over all features than over half.

  Args:
    backend: JAX's name of the platform; by default `current_backend()`.
  """
  return _known(backend or current_backend()) in _ALL_FEATURES


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


def _known(backend):
  return backend if backend in ('cpu', 'tpu') else 'gpu'
