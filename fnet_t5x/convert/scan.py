"""Conversion of a checkpoint between scanned and unscanned layers.

  python -m fnet_t5x.convert.scan \\
    --checkpoint=/data/runs/xl/checkpoint_10000 --output=/data/runs/xl_unscanned

writes `<output>/checkpoint_10000`: parameters, optimizer state, step and
position in the training data. Runs of either engine can resume from it. Copies
`config.gin` and `vocabulary.model`, if present, so eval, infer and generate
accept <output> as --model_dir. Scanned layers compile faster; public T5 1.1
checkpoints are unscanned.
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
    'A checkpoint_<step>, or a folder of them (the latest is converted).',
  )
  flags.DEFINE_string('output', None, 'Folder to write checkpoint_<step> to.')
  flags.DEFINE_enum(
    'to',
    None,
    ['scanned', 'unscanned'],
    'Layout to convert to; by default the other one.',
  )
  flags.mark_flag_as_required('checkpoint')
  flags.mark_flag_as_required('output')


def main(argv: Sequence[str]) -> None:
  """Converts the checkpoint given by the flags."""
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
