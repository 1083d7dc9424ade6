r"""Export of a trained model, to run it without this package.

  python -m fnet_t5x.export --model_dir=runs/quickstart --output_dir=exported
  python -m fnet_t5x.export --model_dir=runs/quickstart --output_dir=exported \
    --mode generate score --platform cpu tpu --num_beams=4

The folder has the model as programs of jax.export (StableHLO), its parameters,
its vocabulary, and a README.md that says how to load it with JAX alone. What a
program does is fixed here: the texts are those of `fnet_t5x.generate` with the
same options.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

from fnet_t5x import argument_parser, command_line
from fnet_t5x.runtime import generation_options, model_directory
from fnet_t5x.serving import modes

_OPTIONS = (
  'max_tokens',
  'temperature',
  'top_k',
  'top_p',
  'num_beams',
  'no_repeat_ngram_size',
)


def parser() -> argument_parser.ArgumentParser:
  """Returns the parser of the command line."""
  result = argument_parser.ArgumentParser('fnet_t5x.export', __doc__)
  result.add_argument(
    '--model_dir', help='folder of a training run, or a checkpoint_N in it'
  )
  result.add_argument(
    '--output_dir', type=pathlib.Path, help='folder to write, new or empty'
  )
  result.add_argument(
    '--checkpoint_step',
    type=int,
    help='step of the checkpoint; the last by default',
  )
  result.add_list(
    '--mode',
    str,
    ['generate'],
    "programs to export: generate (fnet_t5x.generate's texts), predict (of a "
    "task's inputs, by the model's own decoding function) or score "
    '(log-likelihoods)',
    modes.MODES,
  )
  result.add_list(
    '--platform',
    str,
    list(modes.PLATFORMS),
    'backends to export for; none of them need be here',
    tuple(modes.PLATFORMS),
  )
  result.add_argument(
    '--batch_size', type=int, help='rows per call; any number by default'
  )
  result.add_argument(
    '--max_tokens',
    type=int,
    help='of generate: tokens per text; by default as many as the decoder has, '
    'or half of them if the prompt shares it',
  )
  result.add_argument(
    '--temperature',
    type=float,
    help='of generate, as the options below: 0 is greedy (default: '
    f'{generation_options.DEFAULT_TEMPERATURE})',
  )
  result.add_argument(
    '--top_k',
    type=int,
    help='sample from the k most likely tokens; 0 for all (default: '
    f'{generation_options.DEFAULT_TOP_K}, without --top_p)',
  )
  result.add_argument(
    '--top_p',
    type=float,
    default=0.0,
    help='sample from the most likely tokens with this total probability',
  )
  result.add_argument(
    '--num_beams', type=int, default=1, help='more than 1 is beam search'
  )
  result.add_argument(
    '--no_repeat_ngram_size',
    type=int,
    default=0,
    help='length of n-grams that may not repeat in a text',
  )
  return result


def main(argv: Sequence[str]) -> None:
  """Exports as the command line says.

  Raises:
    ValueError, OSError, ImportError: for an error in flags, which are checked
      first, or in the folder.
  """
  given = parser().parse_args(argv[1:])
  options = generation_options.of_flags(
    **{name: getattr(given, name) for name in _OPTIONS}
  )
  if not given.model_dir:
    raise ValueError(
      'no --model_dir given; name the folder of a training run, such as '
      '--model_dir=runs/quickstart'
    )
  if not given.output_dir:
    raise ValueError('no --output_dir given; name a folder to write')
  if given.batch_size is not None and given.batch_size < 1:
    raise ValueError(
      f'--batch_size is {given.batch_size}; it must be at least 1'
    )
  from fnet_t5x.convert import new_folder

  new_folder.check(given.output_dir)
  if '://' not in given.model_dir:
    model_directory.locate(given.model_dir, given.checkpoint_step)
  # Exporting only traces. On a CPU, programs do not depend on the machine, such
  # as by kernels of its GPU, and the memory of accelerators stays free.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  command_line.use_runtime()
  command_line.import_tensorflow()
  from fnet_t5x.runtime import loaded_model
  from fnet_t5x.serving import folder

  folder.write(
    loaded_model.load(given.model_dir, given.checkpoint_step),
    given.output_dir,
    modes=given.mode,
    options=options,
    batch_size=given.batch_size,
    platforms=given.platform,
  )


if __name__ == '__main__':
  with command_line.one_line_errors():
    main(sys.argv)
