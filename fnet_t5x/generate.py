"""`python -m fnet_t5x.generate --model_dir=... --prompt="..."`: writes text.

Loads the latest checkpoint of a training run and the gin configuration saved
beside it, and streams the continuation of each prompt: of `--prompt`, of each
line of `--prompt_file`, or of each line on standard input.
"""

import sys
from collections.abc import Iterator

from absl import flags

from fnet_t5x import absent_tpu, command_line


def define_flags() -> None:
  """Defines the command-line flags."""
  flags.DEFINE_string('model_dir', None, 'Folder of a training run.')
  flags.DEFINE_string('prompt', None, 'The text to continue.')
  flags.DEFINE_string('prompt_file', None, 'A file with a prompt a line.')
  flags.DEFINE_integer('max_tokens', None, 'Tokens to write at most.')
  flags.DEFINE_float('temperature', 0.8, '0 takes the likeliest token.')
  flags.DEFINE_integer('top_k', 40, 'Choose among so many; 0 for all.')
  flags.DEFINE_float('top_p', 0.0, 'Choose among this probability; 0: all.')
  flags.DEFINE_integer('seed', 0, 'Of the choices.')
  flags.mark_flag_as_required('model_dir')


def prompts() -> Iterator[str]:
  """Yields the prompts that the flags name, or the lines of standard input.

  Raises:
    ValueError: there is not one.
  """
  if flags.FLAGS.prompt is not None:
    yield flags.FLAGS.prompt
    return
  if flags.FLAGS.prompt_file is not None:
    with open(flags.FLAGS.prompt_file, encoding='utf-8') as f:
      lines = [line.rstrip('\n') for line in f if line.strip()]
    if not lines:
      raise ValueError(f'{flags.FLAGS.prompt_file} holds no prompt')
    yield from lines
    return
  count = 0
  for line in sys.stdin:
    if line.strip():
      count += 1
      yield line.rstrip('\n')
  if not count:
    raise ValueError(
      'no prompt: give --prompt, --prompt_file or a line on standard input'
    )


def main(argv: list[str]) -> None:
  """Streams a continuation of each prompt to standard output."""
  define_flags()
  rest = flags.FLAGS(argv)
  if len(rest) > 1:
    raise ValueError(f'no such argument: {" ".join(rest[1:])}')

  from fnet_t5x.runtime import text_generation

  if flags.FLAGS.top_p and flags.FLAGS['top_k'].present:
    raise ValueError('--top_k and --top_p: give one of them')
  generator = text_generation.TextGenerator(flags.FLAGS.model_dir)
  for number, prompt in enumerate(prompts()):
    pieces = generator.continue_text(
      prompt,
      max_tokens=flags.FLAGS.max_tokens,
      temperature=flags.FLAGS.temperature,
      topk=0 if flags.FLAGS.top_p else flags.FLAGS.top_k,
      topp=flags.FLAGS.top_p,
      seed=flags.FLAGS.seed + number,
    )
    for piece in pieces:
      sys.stdout.write(piece)
      sys.stdout.flush()
    sys.stdout.write('\n')


if __name__ == '__main__':
  with command_line.one_line_errors():
    absent_tpu.hide_library()
    command_line.use_runtime()
    command_line.import_tensorflow()
    # A saved configuration binds the arguments of `__main__.train`.
    from fnet_t5x.compat.train import train  # noqa: F401

    main(sys.argv)
