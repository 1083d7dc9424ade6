r"""Text generation with a trained model: `python -m fnet_t5x.generate`.

  python -m fnet_t5x.generate --model_dir=runs/quickstart \
    --prompt="My fellow citizens,"
  python -m fnet_t5x.generate --model_dir=runs/quickstart \
    --prompt_file=prompts.txt --num_samples=3 --temperature=1
  python -m fnet_t5x.generate --model_dir=runs/quickstart

The prompt is --prompt, or each line of --prompt_file or of standard input. A
terminal prompts for input (Ctrl-C stops a text, Ctrl-D quits). If there are
several texts, each follows a line with the beginning of its prompt. The same
command prints the same texts.

A masked language model fills in masks instead. For each [MASK] of the prompt,
one line has the --top_k (5) likeliest tokens and their probabilities; +ed is a
token that continues the word before the mask.

  python -m fnet_t5x.generate --model_dir=runs/fnet \
    --prompt="My fellow [MASK], ..."
"""

import contextlib
import os
import sys
import typing
from collections.abc import Iterator, Sequence

from absl import flags

from fnet_t5x import command_line
from fnet_t5x.runtime.generation_options import (
  DEFAULT_TEMPERATURE,
  DEFAULT_TOP_K,
  GenerationOptions,
  of_flags,
)

if typing.TYPE_CHECKING:
  from fnet_t5x.runtime.mask_filling import Candidate, MaskFiller
  from fnet_t5x.runtime.text_generation import TextGenerator

_LABEL_WIDTH = 60
# Options of sampling and search, which filling in masks has not.
_OF_TEXTS = (
  'max_tokens',
  'no_repeat_ngram_size',
  'num_beams',
  'num_samples',
  'seed',
  'temperature',
  'top_p',
  'truncate_prompt',
)
_CANDIDATES = 5


def define_flags() -> None:
  """Defines the command-line flags."""
  flags.DEFINE_string('model_dir', None, 'Folder of a training run.')
  flags.DEFINE_integer(
    'checkpoint_step', None, 'Step of the checkpoint; the last by default.'
  )
  flags.DEFINE_string('prompt', None, 'The text to continue.')
  flags.DEFINE_string('prompt_file', None, 'A file with one prompt per line.')
  flags.DEFINE_boolean(
    'truncate_prompt',
    False,
    "Truncate prompts longer than the model's maximum from the left, instead "
    'of failing.',
  )
  flags.DEFINE_integer('num_samples', 1, 'Texts per prompt.')
  flags.DEFINE_integer(
    'max_tokens',
    None,
    "Maximum number of tokens to generate; the decoder's maximum by default.",
  )
  flags.DEFINE_float(
    'temperature',
    None,
    'Sampling temperature: below 1, likely tokens become likelier; 0 is greedy '
    f'decoding. (default: {DEFAULT_TEMPERATURE})',
  )
  flags.DEFINE_integer(
    'top_k',
    None,
    'Sample from the k most likely tokens; 0 for all. (default: '
    f'{DEFAULT_TOP_K}, without --top_p)',
  )
  flags.DEFINE_float(
    'top_p',
    0.0,
    'Sample from the most likely tokens with this total probability; 0 for '
    'all.',
  )
  flags.DEFINE_integer(
    'num_beams', 1, 'Number of beams; more than 1 is beam search.'
  )
  flags.DEFINE_integer(
    'no_repeat_ngram_size',
    0,
    'Length in tokens of n-grams that may not repeat in a text; 0 for none.',
  )
  flags.DEFINE_integer('seed', 0, 'Seed of the sampling.')


def options() -> GenerationOptions:
  """Returns the options that the flags set.

  Raises:
    ValueError: if a value is out of range, or two exclude each other.
  """
  given = flags.FLAGS
  return of_flags(
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


def given_prompts() -> list[str] | None:
  """Returns the prompts from flags or standard input; None for a terminal.

  Raises:
    ValueError: if there is none, or they are not UTF-8.
    OSError: if the file cannot be read.
  """
  given = flags.FLAGS
  if given.prompt is not None and given.prompt_file is not None:
    raise ValueError('--prompt and --prompt_file: give only one of them')
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
      f'{name}, line {line}: not UTF-8; convert it to UTF-8'
    ) from error
  # Not `splitlines`, which also splits at characters that occur within texts.
  lines = [line.rstrip('\r') for line in text.split('\n')]
  lines = [line for line in lines if line.strip()]
  if not lines:
    raise ValueError(f'{name} has no prompt: give one per line, or --prompt')
  return lines


def typed_prompts() -> Iterator[str]:
  """Yields the lines that the user types, until Ctrl-D."""
  # Line editing and history.
  with contextlib.suppress(ImportError):
    import readline  # noqa: F401
  while True:
    try:
      line = _read_typed_line()
    except EOFError:
      sys.stderr.write('\n')
      return
    except KeyboardInterrupt:
      sys.stderr.write('\n')
      raise
    if line.strip():
      yield line


def _read_typed_line() -> str:
  if sys.stdout.isatty():
    return input('> ')
  # Standard output is redirected: keep the prompt sign out of the texts.
  sys.stderr.write('> ')
  sys.stderr.flush()
  line = sys.stdin.readline()
  if not line:
    raise EOFError
  return line.rstrip('\n')


class Printer:
  """Printer of generated texts, with labels if there are several."""

  def __init__(
    self,
    generator: 'TextGenerator',
    generation_options: GenerationOptions,
    labelled: bool,
  ):
    """Creates a printer.

    Args:
      generator: the model.
      generation_options: its options.
      labelled: whether to label texts by the number of their prompt.
    """
    self._generator = generator
    self._options = generation_options
    self._labelled = labelled
    self._printed = 0

  def print_texts(self, prompt: str, number: int) -> None:
    """Generates and prints the texts of one prompt; streams a single sample."""
    chosen = self._options
    if chosen.num_samples == 1 and chosen.num_beams == 1:
      self._print_label(prompt, number, 1)
      stream = self._generator.text_stream(prompt, chosen)
      for piece in stream:
        _write(piece)
      _write('\n')
      self._note_cut(stream.ended, prompt, number, 1)
      return
    texts = self._generator.texts(prompt, chosen)
    for sample, text in enumerate(texts, start=1):
      self._print_label(prompt, number, sample)
      _write(text.text + '\n')
      self._note_cut(text.ended, prompt, number, sample)

  def _name(self, number: int, sample: int) -> str:
    """Returns the label of a text; '' if it is the only one."""
    names = [str(number)] if self._labelled else []
    if self._options.num_samples > 1:
      names.append(f'sample {sample}')
    return f'[{", ".join(names)}] ' if names else ''

  def _print_label(self, prompt: str, number: int, sample: int) -> None:
    name = self._name(number, sample)
    if name:
      _write('\n' if self._printed else '')
      _write(f'{name}{beginning(prompt)}\n')
    self._printed += 1

  def _note_cut(
    self, ended: bool, prompt: str, number: int, sample: int
  ) -> None:
    if ended:
      return
    limit = self._generator.max_tokens(self._options.max_tokens, prompt)
    by_flag = limit == self._options.max_tokens
    _note(
      f'{self._name(number, sample)}the text was cut at {limit} tokens '
      f'({"--max_tokens" if by_flag else "the maximum of the decoder"})'
    )


class MaskPrinter:
  """Printer of candidates for masks, one line per mask."""

  def __init__(self, filler: 'MaskFiller', top_k: int | None, labelled: bool):
    """Creates a printer.

    Args:
      filler: the model.
      top_k: candidates per mask; None for 5.
      labelled: whether to label the lines by the number of their prompt.
    """
    self._filler = filler
    self._top_k = _CANDIDATES if top_k is None else top_k
    self._labelled = labelled

  def print_texts(self, prompt: str, number: int) -> None:
    """Prints the candidates for the masks of one prompt."""
    masks = self._filler.fill_masks(prompt, self._top_k)
    if self._labelled:
      _write('\n' if number > 1 else '')
      _write(f'[{number}] {beginning(prompt)}\n')
    for mask, candidates in enumerate(masks, start=1):
      name = f'mask {mask}: ' if len(masks) > 1 else ''
      _write(f'{name}{candidate_line(candidates)}\n')


def candidate_line(candidates: 'Sequence[Candidate]') -> str:
  """Returns the candidates for a mask as one line."""
  return ', '.join(
    f'{_shown(candidate.text)} {candidate.probability:.3f}'
    for candidate in candidates
  )


def _shown(text: str) -> str:
  """Returns a token's text: the word it begins, or '+' and its letters."""
  if text[:1].isalnum():
    return f'+{text}'
  word = text.strip()
  return word or repr(text)


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
    flags.Error, ValueError, OSError: for an error in flags, which are checked
      first, the folder or a prompt.
  """
  define_flags()
  command_line.read(argv, __doc__)
  given = flags.FLAGS
  chosen = options()
  if not given.model_dir:
    raise ValueError(
      'no --model_dir given; name the folder of a training run, such as '
      '--model_dir=runs/quickstart'
    )
  prompts = given_prompts()

  command_line.use_runtime()
  from fnet_t5x import api

  generator = api.load(given.model_dir, given.checkpoint_step)
  if hasattr(generator, 'fill_masks'):
    _fill_masks(generator, prompts)
    return
  longest = generator.max_tokens(None)
  if chosen.max_tokens and chosen.max_tokens > longest:
    _note(
      f'--max_tokens={chosen.max_tokens} exceeds the maximum of the decoder: '
      f'texts have at most {longest} tokens'
    )
  sys.stdout.reconfigure(errors='replace')
  if prompts is None:
    _run_interactively(Printer(generator, chosen, labelled=False))
    return
  generator.check_prompts(prompts, chosen.truncate_prompt)
  printer = Printer(generator, chosen, labelled=len(prompts) > 1)
  for number, prompt in enumerate(prompts, start=1):
    printer.print_texts(prompt, number)


def check_mask_options(given: 'Sequence[str]') -> None:
  """Raises ValueError if any options of text generation are given."""
  if given:
    raise ValueError(
      f'--{given[0]}: this model fills in masks, and generates no text; its '
      'options are --prompt, --prompt_file and --top_k'
    )


def _fill_masks(filler: 'MaskFiller', prompts: list[str] | None) -> None:
  """Prints candidates for the masks of the prompts.

  Raises:
    ValueError: a flag is one of text generation, or a prompt has no mask.
  """
  check_mask_options([n for n in _OF_TEXTS if flags.FLAGS[n].present])
  top_k = flags.FLAGS.top_k
  sys.stdout.reconfigure(errors='replace')
  if prompts is None:
    _run_interactively(MaskPrinter(filler, top_k, labelled=False))
    return
  for number, prompt in enumerate(prompts, start=1):
    try:
      filler.tokens(prompt)
    except ValueError as error:
      if len(prompts) == 1:
        raise
      raise ValueError(f'prompt {number}: {error}') from error
  printer = MaskPrinter(filler, top_k, labelled=len(prompts) > 1)
  for number, prompt in enumerate(prompts, start=1):
    printer.print_texts(prompt, number)


def _run_interactively(printer: Printer | MaskPrinter) -> None:
  """Continues typed prompts; Ctrl-C or an error ends one text only."""
  for prompt in typed_prompts():
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
      # The reader, such as `head`, has closed the pipe.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
