r"""Weak scaling of the cost per device: `python -m fnet_t5x.planning.scaling`.

Compiles the training step for growing numbers of simulated CPU devices, with a
constant number of rows per device, and prints FLOPs, bytes accessed, memory and
communication per device. With ideal data parallelism only the all-reduce of
gradients changes.

  python -m fnet_t5x.planning.scaling --devices=1,8,64,256 \
    --rows_per_device=2 --gin_file=gin/models/fnet_t5_tiny.gin \
    --gin_file=gin/objectives/span_corruption.gin \
    --gin_file=gin/runs/pretrain.gin
"""

import json
import pathlib
import sys
from typing import Any

from absl import flags

from fnet_t5x import command_line


def _define_flags() -> None:
  flags.DEFINE_list('devices', ['1', '8', '64', '256'], 'Numbers of devices.')
  flags.DEFINE_integer(
    'rows_per_device', 2, 'Examples per device.', lower_bound=1
  )
  flags.DEFINE_string('json', None, 'File to write the figures to.')


def measure(count: int, rows: int) -> dict[str, Any]:
  """Returns the record of a number of devices, for the flags' gin files."""
  from fnet_t5x.planning import gin_run, programs, topology

  bindings = [*flags.FLAGS.gin_bindings, f'BATCH_SIZE = {count * rows}']
  with gin_run.configured(
    flags.FLAGS.gin_file, bindings, flags.FLAGS.gin_search_paths
  ) as run:
    programs.place(run, topology.parse(f'cpu:{count}'))
    step = programs.train_step(run, 'cpu')
    return {
      'devices': count,
      'mesh': dict(run.partitioner.mesh.shape),
      'rows': count * rows,
      'flops': step.cost.flops,
      'bytes_accessed': step.cost.bytes,
      'memory': step.memory,
      'collectives': [dict(found) for found in step.collectives],
      'sent': sum(found['bytes'] for found in step.collectives),
    }


def as_cells(record: dict[str, Any]) -> list[str]:
  """Returns a record as a row of the table."""
  from fnet_t5x.planning import report

  return [
    str(record['devices']),
    str(record['rows']),
    f'{record["flops"] / 1e9:,.3f}',
    report.gib(record['bytes_accessed']),
    report.gib(record['memory']),
    report.gib(record['sent']),
  ]


def main(argv: list[str]) -> int:
  """Compiles for each number of devices, and prints the table."""
  _define_flags()
  command_line.read_planned_run(argv, __doc__)
  counts = [int(n) for n in flags.FLAGS.devices if n.isdecimal() and int(n)]
  if len(counts) != len(flags.FLAGS.devices):
    raise ValueError(
      f'--devices={",".join(flags.FLAGS.devices)}: give numbers, such as 1,8,64'
    )
  from fnet_t5x.planning import topology

  topology.prepare([topology.parse(f'cpu:{max(counts)}')])
  command_line.use_runtime()
  command_line.import_tensorflow()
  from fnet_t5x import result_table

  records = [measure(n, flags.FLAGS.rows_per_device) for n in counts]
  result_table.print_table(
    'training step per device, by number of simulated devices',
    ['devices', 'rows', 'GFLOPs', 'accessed', 'memory', 'in collectives'],
    [[as_cells(record) for record in records]],
  )
  if flags.FLAGS.json:
    pathlib.Path(flags.FLAGS.json).write_text(
      json.dumps({'rows': records}, indent=2) + '\n'
    )
  return 0


if __name__ == '__main__':
  with command_line.one_line_errors():
    sys.exit(main(sys.argv))
