"""Conversion of a hybrid to a Hugging Face folder with its own code, and back.

  python -m fnet_t5x.convert.hybrid --to runs/quickstart fnet-t5-hf

writes config.json, model.safetensors, the tokenizer, README.md (a model card),
and a PyTorch module, so that transformers reads the folder:
AutoModelForSeq2SeqLM.from_pretrained('fnet-t5-hf', trust_remote_code=True).

  python -m fnet_t5x.convert.hybrid --from fnet-t5-hf /data/hybrid

reads such a folder, perhaps trained further, and writes checkpoint_0, which
runs of either engine can start from, model.gin, the gin file of the model, and
vocabulary.model. Neither direction needs torch or transformers.
"""

import pathlib
import sys
from collections.abc import Sequence

from fnet_t5x import absent_tpu, argument_parser, command_line


def parser() -> argument_parser.ArgumentParser:
  """Returns the parser of the command line."""
  result = argument_parser.ArgumentParser('fnet_t5x.convert.hybrid', __doc__)
  result.add_argument(
    '--to',
    nargs=2,
    dest='checkpoint',
    metavar=('CHECKPOINT', 'OUT'),
    type=pathlib.Path,
    help='convert the folder of a training run, or a checkpoint_N in it, to a '
    'Hugging Face folder OUT, new or empty',
  )
  result.add_argument(
    '--from',
    nargs=2,
    dest='source',
    metavar=('FOLDER', 'CHECKPOINT'),
    type=pathlib.Path,
    help='convert such a folder to a checkpoint in CHECKPOINT, new or empty',
  )
  result.add_argument(
    '--step', type=int, default=0, help='step of the checkpoint to write'
  )
  return result


def main(argv: Sequence[str]) -> None:
  """Converts as the command line says."""
  arguments = parser().parse_args(argv[1:])
  if (arguments.source is None) == (arguments.checkpoint is None):
    parser().error('give --to CHECKPOINT OUT, or --from FOLDER CHECKPOINT')
  if arguments.step < 0:
    raise ValueError(f'--step={arguments.step} is negative')
  absent_tpu.hide_library()
  command_line.use_runtime()
  command_line.import_tensorflow()
  from fnet_t5x.convert import hybrid_conversion

  if arguments.source:
    hybrid_conversion.from_hugging_face(*arguments.source, arguments.step)
  else:
    hybrid_conversion.to_hugging_face(*arguments.checkpoint)


if __name__ == '__main__':
  with command_line.one_line_errors():
    main(sys.argv)
