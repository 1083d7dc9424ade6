"""Cost of checkpoint checksums: `python -m fnet_t5x.benchmarks.checkpoints`.

  python -m fnet_t5x.benchmarks.checkpoints --megabytes=512 --rounds=5

Saves and restores a state of float32 arrays with and without checksums, in
turns, in one process. A save is timed until it is complete on disk, although
training would continue meanwhile. A restore reads what was just written from
the page cache, so that the cost of hashing is most visible.
"""

import argparse
import contextlib
import functools
import io
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from fnet_t5x import absent_tpu, argument_parser, command_line, result_table
from fnet_t5x.benchmarks.timing import Times, speedup, time_in_turns

SIDES = ('without', 'with checksums')
ACTIONS = ('save', 'restore')
_ARRAYS = 16
_SEED = 0


def make_state(megabytes: int) -> Any:
  """Returns a state of random arrays, at 2^20 bytes per megabyte.

  Random, since files are compressed.
  """
  import jax
  import jax.numpy as jnp

  from fnet_t5x.runtime import train_state

  keys = jax.random.split(jax.random.PRNGKey(_SEED), _ARRAYS)
  shape = (megabytes, 2**20 // 4 // _ARRAYS)
  params = {
    f'array_{i}': jax.random.normal(k, shape) for i, k in enumerate(keys)
  }
  return train_state.InferenceState(
    step=jnp.zeros((), jnp.int32), params=params
  )


def measure(megabytes: int, rounds: int, folder: str) -> list[dict[str, Any]]:
  """Times saves, then restores, both sides in turns.

  Args:
    megabytes: size of the parameters.
    rounds: timed calls of each.
    folder: folder for the checkpoints.

  Returns:
    One record per action and side: median and minimum seconds, bytes per
    second, and `ratio`, the time relative to that without checksums (the median
    over rounds).
  """
  from fnet_t5x.runtime import checkpoints

  state = make_state(megabytes)
  with contextlib.ExitStack() as stack:
    managers = {
      side: stack.enter_context(
        contextlib.closing(
          checkpoints.CheckpointManager(
            str(pathlib.Path(folder, side.replace(' ', '_'))),
            keep=1,
            create=True,
            with_checksums=side != SIDES[0],
          )
        )
      )
      for side in SIDES
    }
    times = {
      'save': _in_turns(
        {side: _saves(each, state) for side, each in managers.items()}, rounds
      ),
      'restore': _in_turns(
        {
          side: functools.partial(_restore, each, state)
          for side, each in managers.items()
        },
        rounds,
      ),
    }
  return [
    {
      'action': action,
      'side': side,
      'median_seconds': float(np.median(taken)),
      'least_seconds': float(min(taken)),
      'bytes_per_second': megabytes * 2**20 / float(np.median(taken)),
      'ratio': speedup(taken, times[action][SIDES[0]]),
      'rounds': len(taken),
    }
    for action in ACTIONS
    for side, taken in times[action].items()
  ]


def _in_turns(cases: Mapping[str, Any], rounds: int) -> dict[str, Times]:
  return time_in_turns(cases, rounds=rounds, min_rounds=rounds)


def _saves(manager: Any, state: Any) -> Any:
  """Returns a function that saves the next step at each call."""
  steps = iter(range(10**9))

  def save():
    import jax.numpy as jnp

    step = jnp.asarray(next(steps), jnp.int32)
    manager.save(state.replace_step(step), dtype=None)
    manager.wait_until_finished()

  return save


def _restore(manager: Any, state: Any) -> Any:
  import jax

  from fnet_t5x.runtime import checkpoints

  shapes = jax.eval_shape(lambda: state)
  shardings = jax.tree.map(lambda x: x.sharding, state)
  # Each restore prints that there are no checksums.
  with contextlib.redirect_stdout(io.StringIO()):
    return manager.restore(
      manager.latest_step(),
      shapes,
      shardings,
      checkpoints.RestoreCheckpointConfig(),
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.checkpoints', __doc__
  )
  parser.add_argument(
    '--megabytes', type=int, default=512, help='size of the state in MiB'
  )
  parser.add_argument('--rounds', type=int, default=5, help='timed calls')
  parser.add_argument(
    '--folder', help='folder for the checkpoints; a temporary one by default'
  )
  options = result_table.parse(parser, arguments)
  if min(options.megabytes, options.rounds) < 1:
    parser.error('--megabytes and --rounds: at least 1')
  if options.folder and not pathlib.Path(options.folder).is_dir():
    parser.error(f'--folder: no such folder: {options.folder}')
  return options


def _cells(row: Mapping[str, Any]) -> list[str]:
  return [
    f'{row["action"]}, {row["side"]}',
    f'{row["median_seconds"]:.2f}',
    f'{row["least_seconds"]:.2f}',
    f'{row["bytes_per_second"] / 2**20:,.0f}',
    f'{row["ratio"]:.2f}',
  ]


def main(arguments: list[str] | None = None) -> None:
  """Measures, prints a table, and writes the JSON file."""
  options = parse(arguments)
  with tempfile.TemporaryDirectory(dir=options.folder) as folder:
    rows = measure(options.megabytes, options.rounds, folder)
  result_table.print_table(
    f'a state of {options.megabytes:,} MiB; medians of {options.rounds} rounds',
    ['', 'seconds', 'minimum', 'MiB/s', 'relative time'],
    [
      [_cells(row) for row in rows if row['action'] == action]
      for action in ACTIONS
    ],
  )
  if options.json:
    settings = {'megabytes': options.megabytes, 'rounds': options.rounds}
    result_table.write_json(options.json, 'checkpoints', settings, rows)


if __name__ == '__main__':
  with command_line.one_line_errors():
    # Before the slow imports, to report errors at once.
    parse(None)
    absent_tpu.hide_library()
    command_line.import_tensorflow()
    main()
