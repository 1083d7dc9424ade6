r"""Continues texts with a trained model.

  python -m fnet_t5x.generate --model_dir=runs/quickstart \
    --prompt="My fellow citizens,"
  python -m fnet_t5x.generate --model_dir=runs/quickstart \
    --prompt_file=prompts.txt --num_samples=3 --temperature=1
  python -m fnet_t5x.generate --model_dir=runs/quickstart

The prompt is --prompt, or each line of --prompt_file or of standard input; on
a terminal it is asked for (Ctrl-D ends, Ctrl-C stops a text). One text is
printed alone; of several, each follows a line with the beginning of its
prompt. The same command prints the same texts.
"""

import contextlib
import dataclasses
import os
import re
import sys
import typing
from collections.abc import Iterator

from absl import flags

from fnet_t5x import command_line
from fnet_t5x.runtime.generation_options import (
  DEFAULT_TEMPERATURE,
  DEFAULT_TOP_K,
  GenerationOptions,
)

if typing.TYPE_CHECKING:
  from fnet_t5x.runtime.text_generation import TextGenerator

_LABEL_WIDTH = 60


def define_flags() -> None:
  """Defines the command-line flags."""
  flags.DEFINE_string('model_dir', None, 'Folder of a training run.')
  flags.DEFINE_integer(
    'checkpoint_step', None, 'Step of the checkpoint; else the last one.'
  )
  flags.DEFINE_string('prompt', None, 'The text to continue.')
  flags.DEFINE_string('prompt_file', None, 'A file with one prompt per line.')
  flags.DEFINE_boolean(
    'truncate_prompt',
    False,
    'Keep the end of a prompt that is longer than the model reads; else it is '
    'an error.',
  )
  flags.DEFINE_integer('num_samples', 1, 'Texts per prompt.')
  flags.DEFINE_integer(
    'max_tokens', None, 'Maximum number of tokens; else what the decoder takes.'
  )
  flags.DEFINE_float(
    'temperature',
    None,
    'Below 1 likely tokens become likelier; 0 takes the likeliest. (default: '
    f'{DEFAULT_TEMPERATURE})',
  )
  flags.DEFINE_integer(
    'top_k',
    None,
    'Sample from so many likeliest tokens; 0 for all. (default: '
    f'{DEFAULT_TOP_K}, without --top_p)',
  )
  flags.DEFINE_float(
    'top_p',
    0.0,
    'Sample from the likeliest tokens of this total probability; 0 for all.',
  )
  flags.DEFINE_integer(
    'num_beams', 1, 'Beam search with so many beams, instead of sampling.'
  )
  flags.DEFINE_integer(
    'no_repeat_ngram_size',
    0,
    'No sequence of so many tokens occurs twice within a text; 0: it may.',
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the sampling.')


def options() -> GenerationOptions:
  """Returns the options that the flags set.

  Raises:
    ValueError: a value is out of range, or two exclude each other.
  """
  given = flags.FLAGS
  try:
    return GenerationOptions(
      num_samples=given.num_samples,
      max_tokens=given.max_tokens,
      temperature=given.temperature,
      top_k=given.top_k,
      top_p=given.top_p,
      num_beams=given.num_beams,
      no_repeat_ngram_size=given.no_repeat_ngram_size,
      seed=given.seed,
      truncate_prompt=given.truncate_prompt,
    )
  except ValueError as error:
    names = '|'.join(f.name for f in dataclasses.fields(GenerationOptions))
    message = re.sub(rf'\b({names})\b', r'--\1', str(error))
    raise ValueError(message) from error


def given_prompts() -> list[str] | None:
  """Returns the prompts that flags or standard input give.

  None stands for a terminal, on which they are asked for.

  Raises:
    ValueError: there is none, or they are no UTF-8.
    OSError: the file cannot be read.
  """
  given = flags.FLAGS
  if given.prompt is not None and given.prompt_file is not None:
    raise ValueError('--prompt and --prompt_file: give one of them')
  if given.prompt is not None:
    if not given.prompt.strip():
      raise ValueError('--prompt is empty: give some text to continue')
    return [given.prompt]
  if given.prompt_file is not None:
    path = os.path.expanduser(given.prompt_file)
    try:
      with open(path, 'rb') as f:
        content = f.read()
    except OSError as error:
      raise OSError(
        f'--prompt_file={given.prompt_file}: {error.strerror}; name a text '
        'file with one prompt per line'
      ) from error
    return _lines(content, f'--prompt_file={given.prompt_file}')
  if sys.stdin is None:
    raise ValueError('no prompt: give --prompt or --prompt_file')
  if sys.stdin.isatty():
    return None
  return _lines(sys.stdin.buffer.read(), 'standard input')


def _lines(content: bytes, name: str) -> list[str]:
  try:
    text = content.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = content.count(b'\n', 0, error.start) + 1
    raise ValueError(
      f'{name}, line {line}: no UTF-8 text; convert it to UTF-8'
    ) from error
  # Not `splitlines`, which ends lines at characters that texts hold too.
  lines = [line.rstrip('\r') for line in text.split('\n')]
  lines = [line for line in lines if line.strip()]
  if not lines:
    raise ValueError(f'{name} holds no prompt: give one per line, or --prompt')
  return lines


def asked_prompts() -> Iterator[str]:
  """Yields the lines that a person types, until Ctrl-D."""
  # Arrow keys, and lines typed before.
  with contextlib.suppress(ImportError):
    import readline  # noqa: F401
  while True:
    try:
      line = _ask()
    except EOFError:
      sys.stderr.write('\n')
      return
    except KeyboardInterrupt:
      sys.stderr.write('\n')
      raise
    if line.strip():
      yield line


def _ask() -> str:
  if sys.stdout.isatty():
    return input('> ')
  # The texts go elsewhere, and the question must not be among them.
  sys.stderr.write('> ')
  sys.stderr.flush()
  line = sys.stdin.readline()
  if not line:
    raise EOFError
  return line.rstrip('\n')


class Printer:
  """Prints the texts of prompts, told apart where there are several."""

  def __init__(
    self, generator: 'TextGenerator', how: GenerationOptions, labelled: bool
  ):
    """Takes a model and its options; `labelled` if there are more prompts."""
    self._generator = generator
    self._how = how
    self._labelled = labelled
    self._printed = 0

  def print_texts(self, prompt: str, number: int) -> None:
    """Generates and prints the texts of one prompt; one alone is streamed."""
    how = self._how
    if how.num_samples == 1 and how.num_beams == 1:
      self._print_label(prompt, number, 1)
      stream = self._generator.text_stream(prompt, how)
      for piece in stream:
        _write(piece)
      _write('\n')
      self._note_cut(stream.ended, number, 1)
      return
    for sample, text in enumerate(self._generator.texts(prompt, how), start=1):
      self._print_label(prompt, number, sample)
      _write(text.text + '\n')
      self._note_cut(text.ended, number, sample)

  def _name(self, number: int, sample: int) -> str:
    """Returns what tells a text from the others; '' where it is the one."""
    names = [str(number)] if self._labelled else []
    if self._how.num_samples > 1:
      names.append(f'sample {sample}')
    return f'[{", ".join(names)}] ' if names else ''

  def _print_label(self, prompt: str, number: int, sample: int) -> None:
    name = self._name(number, sample)
    if name:
      _write('\n' if self._printed else '')
      _write(f'{name}{beginning(prompt)}\n')
    self._printed += 1

  def _note_cut(self, ended: bool, number: int, sample: int) -> None:
    if ended:
      return
    most = self._generator.max_tokens(self._how.max_tokens)
    asked = most == self._how.max_tokens
    _note(
      f'{self._name(number, sample)}the text was cut at {most} tokens '
      f'({"--max_tokens" if asked else "the maximum of the decoder"})'
    )


def beginning(prompt: str) -> str:
  """Returns the first words of a prompt, on one line."""
  words = ' '.join(prompt.split())
  if len(words) <= _LABEL_WIDTH:
    return words
  head = words[: _LABEL_WIDTH + 1]
  return (head.rpartition(' ')[0] or head[:-1]) + ' ...'


def _write(text: str) -> None:
  sys.stdout.write(text)
  sys.stdout.flush()


def _note(text: str) -> None:
  sys.stderr.write(f'note: {text}\n')


def main(argv: list[str]) -> None:
  """Prints continuations of the prompts to standard output.

  Raises:
    flags.Error, ValueError, OSError: something on the command line, the
      folder or a prompt is wrong; flags are looked at first.
  """
  define_flags()
  command_line.read(argv, __doc__)
  given = flags.FLAGS
  how = options()
  if not given.model_dir:
    raise ValueError(
      'no --model_dir given; name the folder of a training run, such as '
      '--model_dir=runs/quickstart'
    )
  prompts = given_prompts()

  command_line.use_runtime()
  from fnet_t5x import api

  generator = api.load(given.model_dir, given.checkpoint_step)
  longest = generator.max_tokens(None)
  if how.max_tokens and how.max_tokens > longest:
    _note(
      f'--max_tokens={how.max_tokens} is more than the decoder takes: texts '
      f'have {longest} tokens at most'
    )
  sys.stdout.reconfigure(errors='replace')
  if prompts is None:
    _converse(Printer(generator, how, labelled=False))
    return
  generator.check_prompts(prompts, how.truncate_prompt)
  printer = Printer(generator, how, labelled=len(prompts) > 1)
  for number, prompt in enumerate(prompts, start=1):
    printer.print_texts(prompt, number)


def _converse(printer: Printer) -> None:
  """Continues what a person types; Ctrl-C stops a text, and errors do."""
  for prompt in asked_prompts():
    try:
      printer.print_texts(prompt, 1)
    except KeyboardInterrupt:
      _write('\n')
    except ValueError as error:
      sys.stderr.write(f'error: {command_line.one_line(error)}\n')


if __name__ == '__main__':
  with command_line.one_line_errors():
    try:
      main(sys.argv)
    except BrokenPipeError:
      # The reader, such as `head`, has what it wanted.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
