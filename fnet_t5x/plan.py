r"""Cost estimates of a run, for absent devices: `python -m fnet_t5x.plan`.

  python -m fnet_t5x.plan --topology=v4:4x4x8 \
    --gin_file=gin/experiments/xl_c4_span_corruption.gin

Compiles the training step, the prefill and a decoding step of a run ahead of
time, for absent devices, from abstract shapes, without weights or data. The gin
files are those of fnet_t5x.train. Prints parameters, FLOPs, memory, collectives
and times; all times are estimates.

  --topology=v4:4x4x8   a TPU slice, by the real TPU compiler (libtpu)
  --topology=cpu:256    simulated devices; h100:8, a100:8 likewise
  --num_slices=2        that many slices of --topology, of v4 or later or of
                        simulated devices; sets NUM_SLICES. What crosses slices
                        is listed by itself, with its time on their network
  --compare=gin/models/t5_xl.gin   also plan the run with another model
  --nodecoding          plan the training step only
  --decode_batch_size=8 decoding batch size, BATCH_SIZE by default
  --thorough            compile at the effort of a run: better estimates of
                        times, but compiling takes about three times as long
  --json=plan.json      write all figures to a file; from those of the
                        experiments `fnet_t5x.planning.tables` makes
                        docs/PLANS.md
"""

import pathlib
import sys

from absl import flags

from fnet_t5x import command_line

_REQUIRED = 'no --topology given, such as v4:4x4x8, cpu:256 or h100:8'


def _define_flags() -> None:
  flags.DEFINE_string('topology', None, 'Devices to plan for.')
  flags.DEFINE_integer(
    'num_slices', 1, 'Number of slices of --topology.', lower_bound=1
  )
  flags.DEFINE_string(
    'compare', None, 'Gin file of another model to plan the run with, too.'
  )
  flags.DEFINE_bool('decoding', True, 'Whether to plan prefill and decoding.')
  flags.DEFINE_integer(
    'decode_batch_size',
    None,
    'Decoding batch size; BATCH_SIZE by default.',
    lower_bound=1,
  )
  flags.DEFINE_bool(
    'thorough',
    False,
    'Whether to compile at the effort of a run: estimates of times are better, '
    'but compiling takes about three times as long.',
  )
  flags.DEFINE_string('json', None, 'File to write the figures to.')


def main(argv: list[str]) -> int:
  """Makes the plans, prints them, and writes the JSON file.

  Returns:
    The exit code: 1 if something does not fit.
  """
  _define_flags()
  command_line.read_planned_run(argv, __doc__)
  if not flags.FLAGS.topology:
    raise ValueError(_REQUIRED)
  from fnet_t5x.planning import topology as topology_lib

  topology = topology_lib.parse(flags.FLAGS.topology, flags.FLAGS.num_slices)
  if flags.FLAGS.json:
    folder = pathlib.Path(flags.FLAGS.json).absolute().parent
    if not folder.is_dir():
      raise FileNotFoundError(f'--json={flags.FLAGS.json}: no folder {folder}')
  topology_lib.prepare([topology], flags.FLAGS.thorough)
  command_line.use_runtime()
  command_line.import_tensorflow()
  from fnet_t5x.planning import command

  return command.make(topology)


if __name__ == '__main__':
  with command_line.one_line_errors():
    sys.exit(main(sys.argv))
