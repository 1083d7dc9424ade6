"""Conversion of Hugging Face's T5, GPT-2 and FNet to a checkpoint, and back.

  python -m fnet_t5x.convert.hf --from t5-v1_1-base /data/t5_base

reads a folder with config.json and model.safetensors (or a set of files with
model.safetensors.index.json), and writes checkpoint_0, which runs of either
engine can start from; model.gin, the gin file of the model; and
vocabulary.model, if the folder has spiece.model. T5 is 1.1, mT5, Flan-T5 or
1.0, of any size.

  python -m fnet_t5x.convert.hf --to /data/t5_base t5-base-hf

writes a folder that transformers reads.

GPT-2's ids 0 and 50256 (<|endoftext|>) are exchanged, because 0 begins texts
here; --to exchanges them back by --bos_token_id=50256.
"""

import pathlib
import sys
from collections.abc import Sequence

from fnet_t5x import absent_tpu, argument_parser, command_line


def parser() -> argument_parser.ArgumentParser:
  """Returns the parser of the command line."""
  result = argument_parser.ArgumentParser('fnet_t5x.convert.hf', __doc__)
  result.add_argument(
    '--from',
    nargs=2,
    dest='source',
    metavar=('FOLDER', 'OUT'),
    type=pathlib.Path,
    help="convert Hugging Face's folder to a checkpoint in OUT, new or empty",
  )
  result.add_argument(
    '--to',
    nargs=2,
    dest='checkpoint',
    metavar=('CHECKPOINT', 'OUT'),
    type=pathlib.Path,
    help='convert a checkpoint_N, or the last of a folder, to a Hugging Face '
    'folder OUT, new or empty',
  )
  result.add_argument(
    '--vocabulary',
    type=pathlib.Path,
    help='SentencePiece model to convert too; by default the one that lies '
    'beside the weights, if any',
  )
  result.add_argument(
    '--step', type=int, default=0, help='step of the checkpoint to write'
  )
  result.add_argument(
    '--num_heads',
    type=int,
    help='attention heads of a GPT-2 to export; by default those of the '
    'config.gin or model.gin beside it',
  )
  result.add_argument(
    '--bos_token_id',
    type=int,
    default=0,
    help='id to exchange with 0 in a GPT-2 to export; 50256 for a converted '
    'one',
  )
  return result


def main(argv: Sequence[str]) -> None:
  """Converts as the command line says."""
  arguments = parser().parse_args(argv[1:])
  if (arguments.source is None) == (arguments.checkpoint is None):
    parser().error('give --from FOLDER OUT, or --to CHECKPOINT OUT')
  if arguments.step < 0:
    raise ValueError(f'--step={arguments.step} is negative')
  absent_tpu.hide_library()
  command_line.use_runtime()
  command_line.import_tensorflow()
  from fnet_t5x.convert import hf_conversion

  if arguments.source:
    hf_conversion.from_hugging_face(
      *arguments.source, arguments.vocabulary, arguments.step
    )
  else:
    hf_conversion.to_hugging_face(
      *arguments.checkpoint,
      arguments.vocabulary,
      arguments.num_heads,
      arguments.bos_token_id,
    )


if __name__ == '__main__':
  with command_line.one_line_errors():
    main(sys.argv)
