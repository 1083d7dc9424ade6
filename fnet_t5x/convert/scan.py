"""Converts a checkpoint between scanned layers and layers one by one.

  python -m fnet_t5x.convert.scan \\
    --checkpoint=/data/runs/xl/checkpoint_10000 --output=/data/runs/xl_unscanned

writes `<output>/checkpoint_10000`: the parameters, the optimizer's state, the
step and the position in the training data. Runs of both engines go on from it.
`config.gin` and `vocabulary.model` come along, if they are beside it: eval,
infer and generate take <output> as their --model_dir.
Scanned layers compile faster; public T5 1.1 checkpoints are of layers one by
one.
"""

import sys
from collections.abc import Sequence

from absl import flags

from fnet_t5x import absent_tpu, command_line


def define_flags() -> None:
  """Defines the command-line flags."""
  flags.DEFINE_string(
    'checkpoint',
    None,
    'A checkpoint_<step>, or a folder of them, whose last one is taken.',
  )
  flags.DEFINE_string('output', None, 'Folder to write checkpoint_<step> to.')
  flags.DEFINE_enum(
    'to',
    None,
    ['scanned', 'unscanned'],
    'By default the one that it is not in.',
  )
  flags.mark_flag_as_required('checkpoint')
  flags.mark_flag_as_required('output')


def main(argv: Sequence[str]) -> None:
  """Converts the checkpoint that the flags name."""
  define_flags()
  command_line.read(argv, __doc__)
  absent_tpu.hide_library()
  command_line.use_runtime()
  command_line.import_tensorflow()
  from fnet_t5x.convert import checkpoint

  checkpoint.convert(flags.FLAGS.checkpoint, flags.FLAGS.output, flags.FLAGS.to)


if __name__ == '__main__':
  with command_line.one_line_errors():
    main(sys.argv)
