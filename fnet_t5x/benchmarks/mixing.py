"""Token mixing speed: `python -m fnet_t5x.benchmarks.mixing`.

  python -m fnet_t5x.benchmarks.mixing --quick

For each length, times our Fourier mixing by all methods, FNet's implementation
(`vmap(fftn)(x).real`, differentiated by JAX), T5's self-attention sublayer, and
the other mixings of the encoder, with their projections; each forward, and
forward with backward. Prints the median time per call, and the speedup over
FNet's implementation in the same run.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fnet_t5x import absent_tpu, argument_parser, result_table
from fnet_t5x.benchmarks.timing import speedup, time_in_turns

if TYPE_CHECKING:
  from jaxtyping import Array, Float

LENGTHS = (128, 256, 512, 1024, 2048, 4096)
QUICK_LENGTHS = (128, 512)
BASELINE = "FNet's implementation"
# Without and with the backward pass.
DIRECTIONS = (False, True)
# Mixings of the encoder that have projections, and so are compared as a whole.
SUBLAYERS = (
  'linear',
  'toeplitz',
  'convolution',
  'fourier_gated',
  'hartley_gated',
  'toeplitz_gated',
  'toeplitz_gated_dependent',
)


class Case(NamedTuple):
  """A function to time.

  Attributes:
    function: function of the activations and `arguments`.
    arguments: further arguments; if `trained`, the backward pass includes their
      gradients.
    trained: whether the arguments are parameters.
    mixes: False for work done once per batch, which has no backward pass and is
      not compared with anything.
  """

  function: Callable[..., Any]
  arguments: tuple = ()
  trained: bool = False
  mixes: bool = True


def ragged_lengths(batch: int, length: int) -> np.ndarray:
  """Returns row lengths from half of `length` to all but one token."""
  fractions = (np.arange(batch) + 0.5) / batch
  return np.maximum((length * (1 + fractions) / 2).astype(np.int32), 1)


def attention_case(x: Float[Array, 'batch length embed']) -> Case:
  """Returns T5's self-attention sublayer with a relative position bias."""
  import jax
  import jax.numpy as jnp

  from fnet_t5x.layers.attention import MultiHeadDotProductAttention

  embed, length = x.shape[2], x.shape[1]
  head_dim = min(64, embed)
  layer = MultiHeadDotProductAttention(
    num_heads=max(embed // head_dim, 1), head_dim=head_dim, dtype=x.dtype
  )
  params = layer.init(jax.random.key(0), x[:1, :2], x[:1, :2])['params']
  bias = jnp.zeros((1, layer.num_heads, length, length), x.dtype)

  def attend(x, params, bias):
    return layer.apply({'params': params}, x, x, bias=bias, deterministic=True)

  return Case(attend, (params, bias), trained=True)


def toeplitz_case(
  x: Float[Array, 'batch length embed'], method: str, packed: bool = False
) -> Case:
  """Returns a product with a free Toeplitz filter per head, without V."""
  import jax

  from fnet_t5x.layers.toeplitz_mixing import ToeplitzMixing

  layer = ToeplitzMixing(
    num_heads=_heads(x),
    max_length=x.shape[1],
    method=method,
    dtype=x.dtype,
    project=False,
  )
  ids = _ragged(x).astype('int32')
  params = layer.init(jax.random.key(0), x[:1], ids[:1])['params']

  def mix(x, params):
    return layer.apply({'params': params}, x, ids, packed)

  return Case(mix, (params,), trained=True)


def sublayer_case(x: Float[Array, 'batch length embed'], mixing: str) -> Case:
  """Returns a mixing of the encoder with all its parameters, on ragged rows.

  Plans are made outside, as the encoder makes them once for all layers.
  """
  import flax.linen as nn
  import jax

  from fnet_t5x.fourier.mixing import make_mixing_plan
  from fnet_t5x.networks import encoder_mixings, fnet_t5

  cfg = fnet_t5.FNetT5Config(
    vocab_size=1,
    dtype=x.dtype,
    emb_dim=x.shape[2],
    num_heads=_heads(x),
    num_encoder_layers=1,
    max_encoder_length=x.shape[1],
    encoder_mixing=(mixing,),
  )
  ragged = _ragged(x)

  def inputs_of(rows):
    plans = (
      make_mixing_plan(rows, transform=transform, dtype=x.dtype)
      if mixing.startswith(transform)
      else None
      for transform in ('fourier', 'hartley')
    )
    ids = rows.astype('int32')
    return encoder_mixings.MixingInputs(ids, None, None, None, *plans)

  class Sublayer(nn.Module):
    @nn.compact
    def __call__(self, x, inputs):
      return encoder_mixings.MIXINGS[mixing](cfg, x, inputs)

  params = Sublayer().init(jax.random.key(0), x[:1], inputs_of(ragged[:1]))
  inputs = inputs_of(ragged)

  def apply(x, params):
    return Sublayer().apply({'params': params}, x, inputs)

  return Case(apply, (params.get('params', {}),), trained=True)


def _heads(x):
  return max(x.shape[2] // min(64, x.shape[2]), 1)


def _ragged(x):
  import jax.numpy as jnp

  batch, length = x.shape[:2]
  rows = ragged_lengths(batch, length)
  return jnp.asarray(np.arange(length)[None, :] < rows[:, None])


def make_cases(x: Float[Array, 'batch length embed']) -> dict[str, Case]:
  """Returns the cases to time on these activations, by name."""
  import jax
  import jax.numpy as jnp

  from fnet_t5x.fourier.mixing import fourier_mix, make_mixing_plan, mix

  batch, length = x.shape[:2]
  ragged = _ragged(x)
  # Rows of one segment: the cost of packed rows does not depend on segments.
  positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
  packed = (ragged.astype(jnp.int32), positions)
  plan_of = functools.partial(make_mixing_plan, dtype=x.dtype)
  bluestein = functools.partial(plan_of, length_method='fft')
  matrices = functools.partial(plan_of, length_method='matmul')
  all_matrices = functools.partial(plan_of, method='matmul')

  def plan_case(make):
    return Case(lambda x, mask: make(mask), (ragged,), mixes=False)

  return {
    'ours, padded, FFT': Case(functools.partial(fourier_mix, method='fft')),
    'ours, padded, matmul': Case(
      functools.partial(fourier_mix, method='matmul')
    ),
    'ours, exact, full rows': Case(mix, (plan_of(jnp.ones_like(ragged)),)),
    'ours, exact, Bluestein': Case(mix, (bluestein(ragged),)),
    'ours, exact, matrices': Case(mix, (matrices(ragged),)),
    'ours, exact, all matrices': Case(mix, (all_matrices(ragged),)),
    'ours, packed': Case(mix, (plan_of(*packed),)),
    'chirps, once per batch': plan_case(bluestein),
    'matrices, once per batch': plan_case(matrices),
    BASELINE: Case(
      lambda x: jax.vmap(jnp.fft.fftn)(x.astype(jnp.float32)).real.astype(
        x.dtype
      )
    ),
    'T5 self-attention': attention_case(x),
    'Hartley, exact, full rows': Case(
      mix, (plan_of(jnp.ones_like(ragged), transform='hartley'),)
    ),
    'Hartley, exact, matrices': Case(
      mix, (matrices(ragged, transform='hartley'),)
    ),
    'Toeplitz, FFT': toeplitz_case(x, 'fft'),
    'Toeplitz, matrices': toeplitz_case(x, 'matmul'),
    'Toeplitz, packed': toeplitz_case(x, 'matmul', packed=True),
    **{f'sublayer {name}': sublayer_case(x, name) for name in SUBLAYERS},
  }


def as_function(case: Case, backward: bool) -> Callable[..., Any]:
  """Returns a new function of activations and arguments.

  Args:
    case: the case.
    backward: whether it computes gradients, too.
  """
  import jax

  def forward(x, arguments):
    return case.function(x, *arguments)

  def both(x, arguments):
    if case.trained:
      y, pullback = jax.vjp(case.function, x, *arguments)
    else:
      y, pullback = jax.vjp(lambda x: forward(x, arguments), x)
    # The gradient of half the sum of y squared. A cotangent that does not
    # depend on y would let XLA run both passes of a linear map concurrently,
    # which is impossible in a training step.
    return pullback(y)

  return both if backward else forward


def compile_case(case: Case, x: Array, backward: bool) -> Callable[[], Any]:
  """Returns a compiled call without arguments."""
  import jax

  function = jax.jit(as_function(case, backward))
  return lambda: function(x, case.arguments)


def direction(backward: bool) -> str:
  """Returns the direction of a record."""
  return 'forward+backward' if backward else 'forward'


def measure(
  shape: tuple[int, int, int],
  *,
  dtype: str = 'float32',
  rounds: int = 20,
  seconds: float = 20.0,
) -> list[dict[str, Any]]:
  """Times every case at one shape [batch, length, embed].

  Returns:
    One record per case and direction, with median and minimum seconds, rounds,
    and `speedup` over FNet's implementation (None for work done once per
    batch).
  """
  import jax

  x = jax.random.normal(jax.random.key(0), shape).astype(dtype)
  cases = make_cases(x)
  rows = []
  for backward in DIRECTIONS:
    calls = {
      name: compile_case(case, x, backward)
      for name, case in cases.items()
      if case.mixes or not backward
    }
    times = time_in_turns(calls, rounds=rounds, seconds=seconds)
    rows += [
      {
        'shape': list(shape),
        'case': name,
        'direction': direction(backward),
        'median_seconds': float(np.median(taken)),
        'least_seconds': float(taken.min()),
        'rounds': len(taken),
        'speedup': speedup(times[BASELINE], taken)
        if cases[name].mixes
        else None,
      }
      for name, taken in times.items()
    ]
  return rows


def as_section(
  rows: list[dict[str, Any]],
  cells_of: Callable[[dict[str, Any]], list[str]] | None = None,
) -> list[list[str]]:
  """Returns one shape's records as rows of cells.

  Args:
    rows: the records.
    cells_of: returns the two cells of a record; by default its time and its
      speedup.
  """
  batch, length, embed = rows[0]['shape']
  # The backslash keeps rich from parsing the shape as markup.
  cells = [[rf'\[{batch}, {length}, {embed}]', '', '', '', '']]
  records = {(row['case'], row['direction']): row for row in rows}
  for name in dict.fromkeys(row['case'] for row in rows):
    line = ['  ' + name]
    for backward in DIRECTIONS:
      row = records.get((name, direction(backward)))
      line += (cells_of or _cells)(row) if row else ['', '']
    cells.append(line)
  return cells


def _cells(row):
  speedup_cell = f'{row["speedup"]:.2f}x' if row['speedup'] else ''
  return [f'{1e3 * row["median_seconds"]:.2f}', speedup_cell]


def add_shape_options(parser: argparse.ArgumentParser, other: str = '') -> None:
  """Adds the options of the activations' shapes.

  Args:
    parser: the parser.
    other: what else to say of the default lengths.
  """
  parser.add_argument(
    '--lengths',
    type=int,
    nargs='+',
    help=f'tokens per row; by default {_listed(LENGTHS)}{other}',
  )
  parser.add_argument(
    '--embed', type=int, default=768, help='width of the activations'
  )
  parser.add_argument(
    '--tokens',
    type=int,
    default=2048,
    help='tokens per batch: rows = tokens / length, at least one',
  )


def check_shape_options(
  parser: argparse.ArgumentParser, options: argparse.Namespace
) -> None:
  """Exits if a shape or the dtype is invalid."""
  if min(*options.lengths, options.embed, options.tokens) < 1:
    parser.error('--lengths, --embed and --tokens must be at least 1')
  if options.dtype not in ('float32', 'bfloat16'):
    parser.error(f'--dtype {options.dtype}: choose float32 or bfloat16')


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser('fnet_t5x.benchmarks.mixing', __doc__)
  add_shape_options(parser, f', with --quick {_listed(QUICK_LENGTHS)}')
  parser.add_argument('--dtype', default='float32', help='float32 or bfloat16')
  parser.add_argument(
    '--quick',
    action='store_true',
    help='two lengths and three rounds, in well under a minute',
  )
  options = result_table.parse(parser, arguments)
  options.lengths = options.lengths or (
    QUICK_LENGTHS if options.quick else LENGTHS
  )
  check_shape_options(parser, options)
  return options


def _listed(lengths: Sequence[int]) -> str:
  return ', '.join(map(str, lengths))


def _quick_note(lengths: Sequence[int]) -> str:
  """Returns a note on the limits of a quick table."""
  skipped = [length for length in LENGTHS if length not in lengths]
  text = '--quick: medians of three rounds, imprecise on a shared machine'
  return f'{text}; lengths skipped: {_listed(skipped)}' if skipped else text


def main(arguments: list[str] | None = None) -> None:
  """Measures every length, prints the table, and writes the JSON file."""
  options = parse(arguments)
  limits = {'rounds': 3, 'seconds': 0.0} if options.quick else {}
  measured = []
  for length in options.lengths:
    shape = (max(options.tokens // length, 1), length, options.embed)
    measured.append(measure(shape, dtype=options.dtype, **limits))
  where = result_table.environment()
  result_table.print_table(
    f'{where["device"]}, {options.dtype}: median ms, and speedup over '
    f'{BASELINE}',
    ['', 'forward', '', 'forward+backward', ''],
    [as_section(rows) for rows in measured],
  )
  if options.quick:
    print(_quick_note(options.lengths))
  if options.json:
    settings = {
      'lengths': list(options.lengths),
      'embed': options.embed,
      'tokens': options.tokens,
      'dtype': options.dtype,
      'quick': options.quick,
    }
    rows = [row for section in measured for row in section]
    result_table.write_json(options.json, 'mixing', settings, rows)


if __name__ == '__main__':
  absent_tpu.hide_library()
  main()
