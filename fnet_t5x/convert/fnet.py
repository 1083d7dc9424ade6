"""Conversion of a published FNet to a checkpoint, and back.

  python -m fnet_t5x.convert.fnet f_net_checkpoint /data/fnet_base \\
    --vocabulary=c4_bpe_sentencepiece.model

reads google-research's msgpack file of any architecture (FNet, BERT, Linear,
Random, feed-forward only, hybrids), or a Hugging Face folder with config.json
and model.safetensors, and writes checkpoint_0 and vocabulary.model, which runs
of either engine can start from. Ids 0 and 3 are exchanged in both: padding is 3
in the published vocabulary, and 0 here. Optimizer state is dropped.

  python -m fnet_t5x.convert.fnet /data/fnet_base fnet_base_hf --to_hf

writes a Hugging Face folder, with the published ids.
"""

import pathlib
import sys
from collections.abc import Sequence

from fnet_t5x import absent_tpu, argument_parser, command_line


def parser() -> argument_parser.ArgumentParser:
  """Returns the parser of the command line."""
  result = argument_parser.ArgumentParser('fnet_t5x.convert.fnet', __doc__)
  # Optional for argparse, which otherwise reports them before a mistyped flag.
  result.add_argument(
    'source',
    nargs='?',
    type=pathlib.Path,
    help='msgpack file, Hugging Face folder, or with --to_hf a checkpoint_N '
    'or a folder of them',
  )
  result.add_argument(
    'out',
    nargs='?',
    type=pathlib.Path,
    help='folder to write, new or empty',
  )
  result.add_argument(
    '--step', type=int, default=0, help='step of the checkpoint to write'
  )
  result.add_argument(
    '--vocabulary',
    type=pathlib.Path,
    help='SentencePiece model to convert too; by default the one that lies '
    'beside the weights, if any',
  )
  result.add_argument(
    '--to_hf', action='store_true', help='convert to a Hugging Face folder'
  )
  return result


def main(argv: Sequence[str]) -> None:
  """Converts as the command line says."""
  arguments = parser().parse_args(argv[1:])
  if arguments.out is None:
    parser().error('name the source and the folder to write')
  if arguments.step < 0:
    raise ValueError(f'--step={arguments.step} is negative')
  absent_tpu.hide_library()
  command_line.use_runtime()
  command_line.import_tensorflow()
  from fnet_t5x.convert import fnet_conversion

  if arguments.to_hf:
    fnet_conversion.to_hugging_face(
      arguments.source, arguments.out, arguments.vocabulary
    )
  else:
    fnet_conversion.from_published(
      arguments.source, arguments.out, arguments.vocabulary, arguments.step
    )


if __name__ == '__main__':
  with command_line.one_line_errors():
    main(sys.argv)
