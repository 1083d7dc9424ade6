r"""Estimates of token mixing on an absent TPU.

  python -m fnet_t5x.benchmarks.mixing_estimates --topology=v4:1x1x1 \
    --lengths 512 4096 --json estimates.json

The cases of `fnet_t5x.benchmarks.mixing`, compiled for one TPU by its compiler
(libtpu, which needs no TPU: pip install 'fnet_t5x[plan]'), and not run. Prints
the compiler's own estimate of the time, and the roofline: the longer of
arithmetic and memory traffic at the chip's peak rates. Where a case does not
name its method (FFT or matrices), it is the one that a TPU takes by default.

The compiler has no estimate for some operations, such as an FFT. Such a time
is that of the others, and marked with a +.
"""

import argparse
from collections.abc import Callable
from typing import Any

from fnet_t5x import argument_parser, result_table
from fnet_t5x.benchmarks import mixing


def estimate(
  shape: tuple[int, int, int],
  topology: Any,
  dtype: str = 'bfloat16',
  keep: Callable[[str], bool] = lambda name: True,
) -> list[dict[str, Any]]:
  """Estimates the cases at one shape [batch, length, embed].

  Args:
    shape: of the activations.
    topology: a `planning.topology.Topology`.
    dtype: of the activations.
    keep: whether to estimate a case, by its name.

  Returns:
    One record per case and direction: `compiler` and `roofline`, seconds, None
    if the case does not fit the device or its clock is unknown; `complete`,
    whether the compiler's estimate has every operation; `temporaries`, bytes.
  """
  import jax.numpy as jnp

  from fnet_t5x.backend import target_backend
  from fnet_t5x.planning.topology import devices

  device = devices(topology)[0]
  rows = []
  with target_backend(topology.backend):
    x = jnp.zeros(shape, dtype)
    for name, case in mixing.make_cases(x).items():
      if not case.mixes or not keep(name):
        continue
      for backward in mixing.DIRECTIONS:
        rows.append(
          {
            'shape': list(shape),
            'case': name,
            'direction': mixing.direction(backward),
            **_figures(_compile(name, case, x, backward, device), topology),
          }
        )
  return rows


def _compile(name, case, x, backward, device):
  import jax

  from fnet_t5x.planning import programs

  sharding = jax.sharding.SingleDeviceSharding(device)
  arguments = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    (x, case.arguments),
  )
  # New for each call: JAX's traces do not know the target.
  function = mixing.as_function(case, backward)
  return programs.compile_and_analyse(
    name,
    x.shape[0] * x.shape[1],
    0,
    lambda: jax.jit(function).lower(*arguments).compile(),
  )


def _figures(program, topology):
  from fnet_t5x.planning import roofline

  if not program.compiled:
    return {'compiler': None, 'roofline': None, 'complete': False}
  times = roofline.times(program, topology.chip)
  return {
    'compiler': times.compiler,
    'roofline': times.roofline,
    # An operation without an estimate counts -1 second.
    'complete': (program.optimal_seconds or -1) >= 0,
    'temporaries': program.temporaries,
  }


def cells_of(row: dict[str, Any]) -> list[str]:
  """Returns the cells of a record: the compiler's time, and the roofline."""
  mark = '' if row['complete'] else '+'
  return [
    '-' if seconds is None else f'{1e3 * seconds:.3f}{end}'
    for seconds, end in ((row['compiler'], mark), (row['roofline'], ''))
  ]


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.mixing_estimates', __doc__
  )
  parser.add_argument(
    '--topology', default='v4:1x1x1', help='a TPU, such as v4:1x1x1 or v5e:1x1'
  )
  mixing.add_shape_options(parser)
  parser.add_argument('--dtype', default='bfloat16', help='float32 or bfloat16')
  parser.add_argument(
    '--cases',
    nargs='+',
    default=[''],
    metavar='TEXT',
    help='estimate only cases with one of these in their names',
  )
  options = result_table.parse(parser, arguments)
  options.lengths = options.lengths or mixing.LENGTHS
  mixing.check_shape_options(parser, options)
  return options


def main(arguments: list[str] | None = None) -> None:
  """Estimates every length, prints the table, and writes the JSON file."""
  options = parse(arguments)
  from fnet_t5x import command_line

  with command_line.one_line_errors():
    from fnet_t5x.planning import topology as topology_lib

    topology = topology_lib.parse(options.topology)
    if not topology.is_tpu:
      raise ValueError(
        f'--topology={options.topology}: only the compiler of TPUs estimates '
        'times; name one, such as v4:1x1x1'
      )
    topology_lib.prepare([topology], thorough=True)
    sections = [
      estimate(
        (max(options.tokens // length, 1), length, options.embed),
        topology,
        options.dtype,
        lambda name: any(text in name for text in options.cases),
      )
      for length in options.lengths
    ]
    if not any(sections):
      raise ValueError(
        f'--cases {" ".join(options.cases)}: no case has that in its name'
      )
  result_table.print_table(
    f'{topology.chip.device_kind}, {options.dtype}: ms by the compiler, and '
    'roofline; nothing was run',
    ['', 'forward', 'roofline', 'forward+backward', 'roofline'],
    [mixing.as_section(rows, cells_of) for rows in sections],
  )
  if options.json:
    settings = {k: v for k, v in vars(options).items() if k != 'json'}
    rows = [row for section in sections for row in section]
    result_table.write_json(options.json, 'mixing_estimates', settings, rows)


if __name__ == '__main__':
  main()
