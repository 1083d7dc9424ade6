"""FNet's speed against BERT's: `python -m fnet_t5x.benchmarks.encoders`.

  python -m fnet_t5x.benchmarks.encoders --lengths 512 1024 --rows 2

For each length, times whole encoders of one size with the published heads for
pretraining: the loss of 15 % of the tokens and of the sentence pairs, forward,
and forward with backward. Prints the median time per call, and the speedup over
BERT in the same run. Rows are full, and there is no dropout.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fnet_t5x import absent_tpu, argument_parser, result_table
from fnet_t5x.benchmarks.timing import speedup, time_in_turns

if TYPE_CHECKING:
  from jaxtyping import Array, Float

  from fnet_t5x.networks.fnet import FNet

LENGTHS = (512, 1024, 2048, 4096)
BASELINE = 'BERT'
# Mixing of the layers below, and number of attention layers at the top.
ENCODERS = {
  BASELINE: ('attention', 0),
  'Linear': ('linear', 0),
  'FNet-Hybrid': ('fourier', 2),
  'FNet': ('fourier', 0),
  'FF-only': ('none', 0),
}
SIZES = {
  'toy': {'vocab_size': 64, 'emb_dim': 16, 'mlp_dim': 32, 'num_heads': 2},
  'base': {'emb_dim': 768, 'mlp_dim': 3072, 'num_heads': 12},
  'large': {'emb_dim': 1024, 'mlp_dim': 4096, 'num_heads': 16},
}
LAYERS = {'toy': 2, 'base': 12, 'large': 24}
_MASKED = 0.15


def make_network(name: str, options: argparse.Namespace, length: int) -> FNet:
  """Returns one of `ENCODERS`, with positions for `length` tokens."""
  import jax.numpy as jnp

  from fnet_t5x.networks import fnet, fnet_t5

  mixing, attention_layers = ENCODERS[name]
  layout = fnet_t5.mixing_layout(
    options.layers, mixing, min(attention_layers, options.layers)
  )
  config = fnet.FNetConfig(
    layer_mixing=layout,
    num_layers=options.layers,
    max_length=length,
    dtype=jnp.dtype(options.dtype),
    dropout_rate=0.0,
    **SIZES[options.size],
  )
  return fnet.FNet(config)


def make_batch(rows: int, length: int, vocab_size: int) -> dict[str, Array]:
  """Returns full rows of random tokens, and what to predict of them."""
  import jax.numpy as jnp

  random = np.random.default_rng(0)
  masked = max(int(_MASKED * length), 1)
  tokens = random.integers(7, vocab_size, (rows, length), np.int32)
  types = np.tile(np.arange(length) >= length // 2, (rows, 1))
  places = np.stack(
    [np.sort(random.permutation(length)[:masked]) for _ in range(rows)]
  )
  batch = {
    'tokens': tokens,
    'types': types.astype(np.int32),
    'places': places.astype(np.int32),
    'targets': random.integers(7, vocab_size, (rows, masked), np.int32),
    'pairs': random.integers(0, 2, rows, np.int32),
  }
  return {name: jnp.asarray(value) for name, value in batch.items()}


def loss(
  module: FNet, params: Any, batch: dict[str, Array]
) -> Float[Array, '']:
  """Returns the published loss of pretraining, in nats."""
  import jax.numpy as jnp
  import optax

  def apply(method, *inputs, **options):
    return module.apply({'params': params}, *inputs, method=method, **options)

  hidden = apply(
    module.encode, batch['tokens'], batch['types'], enable_dropout=False
  )
  chosen = jnp.take_along_axis(hidden, batch['places'][..., None], axis=1)
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  tokens = cross_entropy(apply(module.mlm_logits, chosen), batch['targets'])
  pair_logits = apply(module.pair_logits, apply(module.pool, hidden))
  return tokens.mean() + cross_entropy(pair_logits, batch['pairs']).mean()


def make_call(
  module: FNet, batch: dict[str, Array], backward: bool
) -> Callable[[], Any]:
  """Returns a compiled call without arguments."""
  import jax

  from fnet_t5x.benchmarks.accelerator import quick_values

  shapes = jax.eval_shape(
    lambda: module.init(
      jax.random.key(0), batch['tokens'][:1], enable_dropout=False
    )
  )
  params = quick_values.fill(shapes['params'], 0)

  def value(params, batch):
    return loss(module, params, batch)

  function = jax.jit(jax.value_and_grad(value) if backward else value)
  return lambda: function(params, batch)


def measure(options: argparse.Namespace, length: int) -> list[dict[str, Any]]:
  """Times every encoder at one length.

  Returns:
    One record per encoder and direction, with median and minimum seconds,
    rounds, and `speedup` over BERT.
  """
  rows = options.rows or max(options.tokens // length, 1)
  records = []
  for backward in (False, True):
    calls = {}
    for name in options.encoders:
      module = make_network(name, options, length)
      batch = make_batch(rows, length, module.config.vocab_size)
      calls[name] = make_call(module, batch, backward)
    times = time_in_turns(calls, rounds=options.rounds, seconds=options.seconds)
    records += [
      {
        'length': length,
        'rows': rows,
        'encoder': name,
        'direction': 'forward+backward' if backward else 'forward',
        'median_seconds': float(np.median(taken)),
        'least_seconds': float(taken.min()),
        'rounds': len(taken),
        'speedup': speedup(times[BASELINE], taken),
      }
      for name, taken in times.items()
    ]
  return records


def as_section(records: list[dict[str, Any]]) -> list[list[str]]:
  """Returns one length's records as rows of cells."""
  first = records[0]
  cells = [[f'{first["length"]} tokens x {first["rows"]}', '', '', '', '']]
  for name in dict.fromkeys(record['encoder'] for record in records):
    line = ['  ' + name]
    for record in records:
      if record['encoder'] == name:
        line += [
          f'{1e3 * record["median_seconds"]:.1f}',
          f'{record["speedup"]:.2f}x',
        ]
    cells.append(line)
  return cells


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.encoders', __doc__
  )
  parser.add_argument(
    '--lengths', type=int, nargs='+', default=LENGTHS, help='tokens per row'
  )
  parser.add_argument('--size', default='base', choices=SIZES)
  parser.add_argument(
    '--layers',
    type=int,
    help="layers, by default the size's; BERT of 12 layers saves about 30 GB "
    'for the backward pass of one row of 4096 tokens',
  )
  parser.add_argument(
    '--encoders',
    nargs='+',
    default=(BASELINE, 'FNet'),
    choices=ENCODERS,
    help=f'which to time; {BASELINE} always is',
  )
  parser.add_argument('--rows', type=int, help='rows per batch')
  parser.add_argument(
    '--tokens',
    type=int,
    default=4096,
    help='without --rows, tokens per batch: rows = tokens / length, at least '
    'one',
  )
  parser.add_argument('--dtype', default='float32', help='float32 or bfloat16')
  parser.add_argument(
    '--rounds', type=int, default=10, help='maximum number of timed rounds'
  )
  parser.add_argument(
    '--seconds',
    type=float,
    default=60.0,
    help='time per length and direction after which no round begins; three '
    'rounds are always timed',
  )
  options = result_table.parse(parser, arguments)
  if options.layers is None:
    options.layers = LAYERS[options.size]
  options.encoders = list(dict.fromkeys((BASELINE, *options.encoders)))
  numbers = [*options.lengths, options.layers, options.tokens, options.rounds]
  if min(numbers) < 1 or (options.rows is not None and options.rows < 1):
    parser.error(
      '--lengths, --layers, --rows, --tokens and --rounds must be at least 1'
    )
  if options.dtype not in ('float32', 'bfloat16'):
    parser.error(f'--dtype {options.dtype}: choose float32 or bfloat16')
  return options


def main(arguments: list[str] | None = None) -> None:
  """Measures every length, prints the table, and writes the JSON file."""
  options = parse(arguments)
  measured = [measure(options, length) for length in options.lengths]
  where = result_table.environment()
  result_table.print_table(
    f'{where["device"]}, {options.size}, {options.layers} layers, '
    f'{options.dtype}: median ms, and speedup over {BASELINE}',
    ['', 'forward', '', 'forward+backward', ''],
    [as_section(records) for records in measured],
  )
  if options.json:
    settings = {
      name: value for name, value in vars(options).items() if name != 'json'
    }
    rows = [record for section in measured for record in section]
    result_table.write_json(options.json, 'encoders', settings, rows)


if __name__ == '__main__':
  absent_tpu.hide_library()
  main()
