"""Section 2: token mixing, every way of ours beside FNet's and attention.

Rates are ratios to FNet's way in the same run, and to the floor: the bytes that
any way must move, at the copy rate of section 1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnet_t5x.benchmarks.accelerator import ceilings, quick_values
from fnet_t5x.benchmarks.accelerator.bench import Bench, Setting
from fnet_t5x.benchmarks.accelerator.programs import (
  compile_program,
  repeated,
  time_calls,
)
from fnet_t5x.fourier.mixing import fourier_mix, make_mixing_plan, mix
from fnet_t5x.layers.attention import MultiHeadDotProductAttention

if TYPE_CHECKING:
  from jaxtyping import Array, Bool, Float

Shape = tuple[int, int, int]
FNET = "FNet's way"
ALL_FEATURES = 'exact, ragged, matrices, all features'
DIRECTIONS = ('forward', 'forward+backward')


class Case(NamedTuple):
  """A way to mix tokens.

  Attributes:
    prepare: returns the function of activations and arguments, and these.
      Called when its turn comes: matrices of all cases would not fit together.
    trained: how many of the arguments, the first ones, get gradients too.
    needs_bytes: memory beside the activations, about.
    gpu_only: whether it is a GPU library's.
  """

  prepare: Callable[[], tuple[Callable[..., Any], tuple]]
  trained: int = 0
  needs_bytes: float = 0.0
  gpu_only: bool = False


def shapes(setting: Setting) -> tuple[Shape, ...]:
  """Returns the shapes [batch, length, embed] that are mixed."""
  if setting.toy:
    return ((2, 64, 64),)
  if setting.backend == 'cpu':
    return ((4, 512, 768), (1, 2048, 768))
  return ((32, 512, 768), (8, 2048, 768), (2, 8192, 768))


def run(bench: Bench) -> None:
  """Measures the shapes one after the other, the shortest rows first."""
  # Now, and not within the first case's time.
  ceilings.copy_rate(bench)
  for shape in shapes(bench.setting):
    cases = make_cases(shape, bench.setting)
    for direction in DIRECTIONS:
      for name, case in cases.items():
        _measure(bench, shape, direction, name, case)
    ways = plan_ways(shape, bench.setting)
    for name in ('exact, ragged, Bluestein', ALL_FEATURES):
      _measure_plan(bench, shape, name, ways[name])


def row_mask(shape: Shape) -> Bool[Array, 'batch length']:
  """Returns rows from half of the length to all but a part of a row."""
  batch, length, _ = shape
  fractions = (np.arange(batch) + 0.5) / batch
  lengths = np.maximum((length * (1 + fractions) / 2).astype(np.int32), 1)
  return jnp.asarray(np.arange(length)[None, :] < lengths[:, None])


def fnet_mix(
  x: Float[Array, 'batch length embed'],
) -> Float[Array, 'batch length embed']:
  """FNet's own code: the complex transform over both axes, its real part.

  Scaled as ours, which costs nothing: the scale is part of another operation.
  """
  scale = (x.shape[-2] * x.shape[-1]) ** -0.5
  y = jax.vmap(jnp.fft.fftn)(x.astype(jnp.complex64)).real
  return (y * scale).astype(x.dtype)


def plan_ways(shape: Shape, setting: Setting) -> dict[str, Callable[..., Any]]:
  """Returns ways to prepare for rows of their own length, by name."""
  plan_of = functools.partial(
    make_mixing_plan, embed=shape[2], dtype=setting.dtype
  )
  return {
    'exact, ragged, auto': plan_of,
    'exact, ragged, Bluestein': functools.partial(plan_of, length_method='fft'),
    'exact, ragged, matrices over tokens': functools.partial(
      plan_of, method='fft', length_method='matmul'
    ),
    ALL_FEATURES: functools.partial(_matrices_plan, plan_of, True),
    'exact, ragged, matrices, half of the features': functools.partial(
      _matrices_plan, plan_of, False
    ),
  }


def _matrices_plan(plan_of, all_features, mask):
  """Returns a plan of matrices over both axes, whatever the backend prefers."""
  plan = plan_of(mask, method='matmul')
  return dataclasses.replace(plan, all_features=all_features)


def make_cases(shape: Shape, setting: Setting) -> dict[str, Case]:
  """Returns everything to time at one shape, FNet's way first."""
  batch, length, _ = shape
  itemsize = jnp.dtype(setting.dtype).itemsize
  ways = plan_ways(shape, setting)
  matrices = 2.0 * batch * length**2 * itemsize

  def planned(way, mask):
    # Compiled, and by itself: not a part of what is timed.
    return lambda: (mix, (jax.jit(way)(mask()),))

  def ragged():
    return row_mask(shape)

  def full():
    return jnp.ones(shape[:2], bool)

  cases = {
    FNET: Case(lambda: (fnet_mix, ())),
    'padded, FFT': Case(
      lambda: (functools.partial(fourier_mix, method='fft'), ())
    ),
    'padded, matrices': Case(
      lambda: (functools.partial(fourier_mix, method='matmul'), ())
    ),
    'exact, full rows, auto': Case(
      planned(ways['exact, ragged, auto'], full), needs_bytes=matrices
    ),
  }
  for name, way in ways.items():
    needs = 0.0 if name.endswith('Bluestein') else 3 * matrices
    cases[name] = Case(planned(way, ragged), needs_bytes=needs)
  return cases | attention_cases(shape, setting)


def attention_cases(shape: Shape, setting: Setting) -> dict[str, Case]:
  """Returns T5's self-attention sublayer, ours and by cuDNN."""
  batch, length, embed = shape
  head_dim = min(64, embed)
  heads = embed // head_dim
  layer = MultiHeadDotProductAttention(
    num_heads=heads,
    head_dim=head_dim,
    dtype=jnp.dtype(setting.dtype),
    implementation='xla',
  )
  x = jax.ShapeDtypeStruct((1, 8, embed), setting.dtype)

  def params():
    return quick_values.variables(layer, x, x, deterministic=True)

  def bias():
    return jnp.zeros((1, heads, length, length), setting.dtype)

  def plain(x, params, bias):
    return layer.apply({'params': params}, x, x, bias=bias, deterministic=True)

  # Logits and weights, forward and backward, some of them in float32.
  scores = 16.0 * batch * heads * length**2
  return {
    'attention, plain': Case(
      lambda: (plain, (params(), bias())), 2, needs_bytes=scores
    ),
    'attention, cuDNN': Case(
      lambda: (library_attention, (params(),)), 1, gpu_only=True
    ),
    # cuDNN has a gradient for a bias of all heads that rows share: this one.
    'attention, cuDNN, bias': Case(
      lambda: (library_attention, (params(), bias())),
      2,
      needs_bytes=scores / 4,
      gpu_only=True,
    ),
  }


def library_attention(
  x: Float[Array, 'batch length embed'],
  params: Mapping[str, Any],
  bias: Float[Array, '#batch heads length length'] | None = None,
  implementation: str = 'cudnn',
) -> Float[Array, 'batch length embed']:
  """T5's self-attention by JAX's library, between our projections.

  Args:
    x: activations.
    params: of a `MultiHeadDotProductAttention` with heads of 64.
    bias: added to the logits.
    implementation: of `jax.nn.dot_product_attention`.
  """
  head_dim = min(64, x.shape[-1])

  def project(name):
    kernel = params[name]['kernel'].astype(x.dtype)
    return jnp.dot(x, kernel).reshape(*x.shape[:2], -1, head_dim)

  y = jax.nn.dot_product_attention(
    *map(project, ('query', 'key', 'value')),
    bias,
    scale=1.0,  # T5 has it in the initial queries
    implementation=implementation,
  )
  kernel = params['out']['kernel'].astype(x.dtype)
  return jnp.dot(y.reshape(*x.shape[:2], -1), kernel)


def _measure(bench, shape, direction, name, case):
  labels = {'shape': list(shape), 'direction': direction, 'case': name}
  if case.gpu_only and bench.setting.backend != 'gpu':
    bench.skip(labels, 'a GPU has it')
    return
  size = np.prod(shape) * jnp.dtype(bench.setting.dtype).itemsize
  # FFTs are complex numbers of 8 bytes, two or three of them at once.
  complex_bytes = 8 * 4 * np.prod(shape)

  def measure():
    result = time_case(bench.setting, shape, direction, case)
    seconds = result['run_seconds']
    fnet = bench.found(bench.section, **{**labels, 'case': FNET})
    if name == FNET:
      fnet = result
    moved = float(size) * (2 if direction == 'forward' else 4)
    rate = ceilings.copy_rate(bench)
    return {
      **result,
      'times_fnet': seconds / fnet['run_seconds'] if fnet else None,
      'times_floor': seconds * rate / moved if rate else None,
    }

  bench.case(
    labels,
    measure,
    kind=direction,
    needs_bytes=case.needs_bytes + float(complex_bytes),
  )


def time_case(
  setting: Setting, shape: Shape, direction: str, case: Case
) -> Mapping[str, Any]:
  """Times one way at one shape, many times in one program.

  Returns:
    `run_seconds` of one mixing, `compile_seconds`, and `finite`: whether the
    last outcome was.
  """
  random = np.random.default_rng(setting.seed)
  x = jnp.asarray(random.standard_normal(shape, np.float32), setting.dtype)
  function, arguments = case.prepare()

  def both(x, *arguments):
    trained, constant = arguments[: case.trained], arguments[case.trained :]
    y, pullback = jax.vjp(
      lambda x, *trained: function(x, *trained, *constant), x, *trained
    )
    # The gradient of half the sum of y squared. A cotangent that did not come
    # from y would let XLA run both passes of a linear map side by side, which
    # no training step can.
    return pullback(y)

  chained = function if direction == 'forward' else both
  iterations = setting.iterations
  program = compile_program(repeated(chained, iterations), x, *arguments)
  times = time_calls(
    lambda: program(x, *arguments), seconds=setting.timing_seconds
  )
  last = program(x, *arguments)
  last = last[0] if type(last) is tuple else last
  return {
    'run_seconds': times.median / iterations,
    'compile_seconds': program.compile_seconds,
    'finite': bool(np.isfinite(np.asarray(last[0, 0], np.float32)).all()),
  }


def _measure_plan(bench, shape, name, way):
  """What is done once a batch, and shared by all layers."""

  def measure():
    mask = row_mask(shape)
    program = compile_program(way, mask)
    times = time_calls(
      lambda: program(mask), seconds=bench.setting.timing_seconds
    )
    return {
      'run_seconds': times.median,
      'compile_seconds': program.compile_seconds,
    }

  labels = {'shape': list(shape), 'direction': 'once per batch', 'case': name}
  matrices = 8.0 * shape[0] * shape[1] ** 2
  bench.case(labels, measure, kind='once per batch', needs_bytes=2 * matrices)
