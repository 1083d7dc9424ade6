"""Cost of generation by a decoder's causal mixings, beside self-attention's.

  python -m fnet_t5x.benchmarks.causal_mixing --lengths 512 2048 8192 \
    --json causal_mixing.json

One sublayer, its projections included, at each length: the time to read a
prompt of so many tokens into the cache (prefill), and of one decoding step with
a cache of so many positions, which a jitted loop updates in place. Fourier and
Toeplitz mixing read prompts by FFT or by matrices; a step is the same. Cases
take turns, and the last column is the median over rounds of attention's time by
theirs.

--json is complete after each length, and a later call with the same options and
file measures only the lengths that are missing in it.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from fnet_t5x import absent_tpu, argument_parser, result_table
from fnet_t5x.benchmarks import equal_training, timing

# Steps of one timed call, so that a call's own cost does not count.
STEPS = 16
_CALLS = ('prefill', 'step')
_PATHS = ('json', 'lengths')


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.causal_mixing', __doc__
  )
  parser.add_argument(
    '--lengths', type=int, nargs='+', default=[512, 2048, 8192]
  )
  for name, default, what in (
    ('rows', 1, 'batch size'),
    ('embed', 768, 'width'),
    ('heads', 12, 'attention heads and Toeplitz filters'),
    ('rounds', 10, 'timed calls of each case'),
    ('matrix_max', 4096, 'longest prompt to read by matrices'),
  ):
    parser.add_argument(f'--{name}', type=int, default=default, help=what)
  parser.add_argument(
    '--seconds', type=float, default=60.0, help='of all rounds of a length'
  )
  parser.add_argument('--dtype', default='float32', help='float32 or bfloat16')
  options = result_table.parse(parser, arguments)
  for name in ('rows', 'embed', 'heads', 'rounds'):
    if getattr(options, name) < 1:
      parser.error(f'--{name} {getattr(options, name)}: must be at least 1')
  if min(options.lengths) <= STEPS:
    parser.error(f'--lengths {min(options.lengths)}: must be above {STEPS}')
  if options.embed % options.heads:
    parser.error(
      f'--embed {options.embed} is not a multiple of --heads {options.heads}'
    )
  if options.dtype not in ('float32', 'bfloat16'):
    parser.error(f'--dtype {options.dtype}: choose float32 or bfloat16')
  return options


def cases_of(
  options: argparse.Namespace, length: int
) -> dict[str, tuple[Any, Callable[..., tuple[Any, ...]]]]:
  """Returns modules, and their arguments for inputs, by name.

  Args:
    options: the command line.
    length: tokens per row.
  """
  import jax.numpy as jnp

  from fnet_t5x.fourier.causal import make_causal_plan
  from fnet_t5x.layers import attention, masks
  from fnet_t5x.layers.causal_fourier_mixing import CausalFourierMixing
  from fnet_t5x.layers.causal_toeplitz_mixing import CausalToeplitzMixing

  dtype = jnp.dtype(options.dtype)

  def attended(x):
    # A step is masked by its cache.
    mask = masks.make_causal_mask(x[..., 0]) if x.shape[1] > 1 else None
    return x, mask

  def planned(method):
    return lambda x: (
      make_causal_plan(
        x.shape[1],
        max_length=length,
        method=method,
        embed=options.embed,
        dtype=dtype,
      ),
    )

  cases = {
    'attention': (
      attention.MultiHeadDotProductAttention(
        options.heads, options.embed // options.heads, dtype
      ),
      attended,
    )
  }
  for method, name in (('fft', 'FFT'), ('matmul', 'matrices')):
    if method == 'matmul' and length > options.matrix_max:
      continue
    cases[f'Fourier, {name}'] = (CausalFourierMixing(length), planned(method))
    cases[f'Toeplitz, {name}'] = (
      CausalToeplitzMixing(options.heads, length, method=method, dtype=dtype),
      lambda x: (),
    )
  return cases


def calls_of(
  module: Any,
  further: Callable[..., tuple[Any, ...]],
  options: argparse.Namespace,
  length: int,
) -> tuple[dict[str, Callable[[], Any]], int]:
  """Returns the compiled calls of a case, and the bytes of its cache.

  Args:
    module: the sublayer.
    further: function of the inputs that returns its further arguments.
    options: the command line.
    length: tokens per row.
  """
  import jax
  import jax.numpy as jnp

  key = jax.random.key(0)
  shape = (options.rows, length, options.embed)
  x = jax.random.normal(key, shape, jnp.dtype(options.dtype))
  tokens = jnp.swapaxes(x[:, :STEPS], 0, 1)[:, :, None]
  lengths = jnp.full(options.rows, length, jnp.int32)

  def create(x):
    variables = module.init(key, x, *further(x), decode=True)
    return variables.get('params', {}), variables['cache']

  params, cache = jax.jit(create)(x)

  def apply(params, cache, x, **kind):
    return module.apply(
      {'params': params, 'cache': cache},
      x,
      *further(x),
      mutable=['cache'],
      **kind,
    )

  def prefill(params, cache, x):
    y, changed = apply(params, cache, x, prefill_lengths=lengths)
    return y, changed['cache']

  def steps(params, cache, tokens):
    def step(cache, token):
      y, changed = apply(params, cache, token, decode=True)
      return changed['cache'], y

    # The last positions, again in each call: the longest cache.
    cache = {**cache, 'cache_index': lengths - STEPS}
    return jax.lax.scan(step, cache, tokens)[::-1]

  def call(function, inputs):
    compiled = jax.jit(function, donate_argnums=(1,))
    state = [jax.tree.map(jnp.copy, cache)]
    # After a prefill, as in generation: one index per row.
    state[0]['cache_index'] = lengths

    def run():
      y, state[0] = compiled(params, state[0], inputs)
      return y, state[0]

    return run

  calls = {'prefill': call(prefill, x), 'step': call(steps, tokens)}
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
  return calls, size


def measure(options: argparse.Namespace, length: int) -> list[dict[str, Any]]:
  """Returns the records of a length.

  Each has `length`, `call`, `mixing`, `ms` (the median, of one prefill or one
  step), `attention_by_this`, and `cache_bytes`.
  """
  import numpy as np

  prepared = {
    name: calls_of(*case, options, length)
    for name, case in cases_of(options, length).items()
  }
  records = []
  for call in _CALLS:
    cases = {name: calls[call] for name, (calls, _) in prepared.items()}
    if call == 'step':
      # Prompts were read in another way; steps are the same.
      cases = {n: c for n, c in cases.items() if not n.endswith('matrices')}
    times = timing.time_in_turns(
      cases,
      rounds=options.rounds,
      seconds=options.seconds / len(_CALLS),
    )
    each = STEPS if call == 'step' else 1
    records += [
      {
        'length': length,
        'call': call,
        'mixing': name.partition(',')[0] if call == 'step' else name,
        'ms': float(1000 * np.median(taken)) / each,
        'attention_by_this': timing.speedup(times['attention'], taken),
        'cache_bytes': prepared[name][1],
      }
      for name, taken in times.items()
    ]
  return records


def main(arguments: list[str] | None = None) -> None:
  """Measures, prints the table, and writes the JSON file."""
  options = parse(arguments)
  from fnet_t5x import command_line

  with command_line.one_line_errors():
    settings = {k: v for k, v in vars(options).items() if k not in _PATHS}
    settings |= result_table.environment()
    records = equal_training.recorded(options.json, 'causal_mixing', settings)
    done = {record['length'] for record in records}
    for length in options.lengths:
      if length in done:
        continue
      records = [*records, *measure(options, length)]
      if options.json:
        result_table.write_json(
          options.json, 'causal_mixing', settings, records
        )
  _print(options, settings, records)


def _print(
  options: argparse.Namespace,
  settings: Mapping[str, Any],
  records: list[dict[str, Any]],
) -> None:
  sections = [
    [
      [
        f'{record["mixing"]}, {call} of {length}'
        if call == 'prefill'
        else f'{record["mixing"]}, step after {length}',
        f'{record["ms"]:.{2 if record["ms"] < 100 else 0}f}',
        f'{record["cache_bytes"] / 2**20:.1f}',
        f'{record["attention_by_this"]:.2f}',
      ]
      for record in records
      if (record['length'], record['call']) == (length, call)
    ]
    for length in dict.fromkeys(record['length'] for record in records)
    for call in _CALLS
  ]
  result_table.print_table(
    f'{settings["device"]}, {options.rows} rows, {options.embed} wide, '
    f'{options.heads} heads, {options.dtype}: one sublayer',
    ('', 'ms', 'cache, MiB', 'attention / this'),
    sections,
  )


if __name__ == '__main__':
  absent_tpu.hide_library()
  main()
