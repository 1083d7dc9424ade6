"""Choice of the algorithms of a transform, by backend and length."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from fnet_t5x.backend import current_backend
from fnet_t5x.choices import check_choice

Method = Literal['auto', 'fft', 'matmul']
Scale = Literal['ortho', 'none']
Lengths = Literal['exact', 'padded']
Transform = Literal['fourier', 'hartley']

# Kinds of transforms: 'whole' over whole rows of tokens, or over features;
# 'ragged' over each row's own tokens, where the FFT is Bluestein's; 'features'
# over features if matrices transform the tokens.
Kind = Literal['whole', 'ragged', 'features']

# Maximum number of points for which a matrix is faster, by kind and backend;
# 0 if not listed.
_MATMUL_MAX = {
  'whole': {'tpu': 4096},
  'ragged': {'cpu': 1024, 'gpu': 4096, 'tpu': 4096},
  'features': {'gpu': 4096, 'tpu': 4096},
}

# Backends whose matrix units compute all features in less time than it takes to
# reverse the token order of half of them: TPUs by their compiler's estimates,
# GPUs by assumption until `benchmarks/accelerator` has measured it.
_ALL_FEATURES = ('gpu', 'tpu')


class Ways(NamedTuple):
  """Algorithms to mix a batch with.

  Attributes:
    length: of the transform over tokens; each has a class in `plans.py`.
    features: of the transform over features.
    all_features: whether matrices compute all features rather than half of
      them, from which the rest are copied.
    full_rows: algorithms to use instead if all rows of the batch are full;
      None for the same.
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
  """Chooses the algorithms for rows of `tokens` tokens with `embed` features.

  Args:
    tokens: tokens per row, padding included.
    embed: features per token.
    lengths: see `make_mixing_plan`, as for `method` and `length_method`.
    packed: whether rows hold several segments.
    method: for both transforms.
    length_method: for the transform over each row's own tokens.
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
  # A batch of full rows, the common case in pretraining, then costs no more
  # than the plain transform.
  return ways._replace(full_rows=fft)


def all_features_pay(backend: str | None = None) -> bool:
  """Whether computing all features by matrices is faster than half of them.

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

  CPU: the FFT, except for ragged rows of up to 1024 tokens, which use folded
  matrices (`folded.py`; measured by `python -m fnet_t5x.benchmarks.mixing`).
  TPU: matrices up to 4096 points, the threshold of FNet's authors (arXiv
  2105.03824, section 3). GPU: the FFT, in float32 since cuFFT has no bfloat16;
  for ragged rows matrices over both axes, up to 4096 points (from first
  experiments; `python -m fnet_t5x.benchmarks.accelerator` measures it).
  Any other backend is treated as a GPU.

  Args:
    method: 'fft' and 'matmul' are returned unchanged.
    points: length of the transform.
    kind: kind of transform.
    backend: JAX's name of the platform; by default `current_backend()`.
  """
  check_choice('method', method, Method)
  if method != 'auto':
    return method
  backend = _known(backend or current_backend())
  return 'matmul' if points <= _MATMUL_MAX[kind].get(backend, 0) else 'fft'


def choose_convolution(
  name: str,
  fft_min_length: Mapping[str, int],
  method: Method,
  tokens: int,
  *,
  packed: bool = False,
  backend: str | None = None,
) -> Literal['fft', 'matmul']:
  """Resolves 'auto' for a convolution; packed rows always use matrices.

  Args:
    name: of the setting, for errors.
    fft_min_length: minimum number of tokens per row from which 'auto' takes the
      FFT, by backend.
    method: 'auto', 'fft' or 'matmul'.
    tokens: tokens per row, padding included.
    packed: whether rows hold several examples.
    backend: JAX's name of the platform; by default `current_backend()`. One
      that is neither 'cpu' nor 'tpu' is treated as a GPU.
  """
  check_choice(name, method, Method)
  if packed:
    return 'matmul'
  if method != 'auto':
    return method
  backend = _known(backend or current_backend())
  return 'fft' if tokens >= fft_min_length[backend] else 'matmul'


def _known(backend):
  return backend if backend in ('cpu', 'tpu') else 'gpu'
