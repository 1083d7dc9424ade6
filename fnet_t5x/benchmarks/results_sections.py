"""The sections of docs/RESULTS.md: a command of ours each."""

import pathlib
import shlex
from typing import NamedTuple


class Section(NamedTuple):
  """A benchmark with fixed arguments.

  Attributes:
    name: of its files, and on the command line.
    title: its heading in the page.
    arguments: of `python -m fnet_t5x.benchmarks.<name>`.
    toy: those of a run with tiny sizes, whose figures mean nothing.
    limit: minutes after which it is stopped. All limits together are the
      longest that a whole run can take, 90 minutes.
    draws: whether the command has `--figure`.
    reads_text: whether it has `--text`.
  """

  name: str
  title: str
  arguments: str
  toy: str
  limit: float
  draws: bool = False
  reads_text: bool = False

  def words(self, toy: bool = False, text: str | None = None) -> list[str]:
    """Returns the arguments, without names of files to write."""
    words = shlex.split(self.toy if toy else self.arguments)
    return words + (['--text', text] if text and self.reads_text else [])

  def command(self, toy: bool = False, text: str | None = None) -> str:
    """Returns the command to show, without the user's folders."""
    shown = self.words(toy, text and shown_text(text))
    return shlex.join(
      ['python', '-m', f'fnet_t5x.benchmarks.{self.name}'] + shown
    )


# In the order of measurement: the quick ones first.
SECTIONS = {
  section.name: section
  for section in (
    Section(
      'mixing',
      'Token mixing',
      '--lengths 512 2048',
      '--lengths 16 --embed 8 --tokens 32 --quick',
      8,
    ),
    Section(
      'encoders',
      'FNet and BERT',
      '--size base --layers 2 --lengths 512 1024 2048 4096 --seconds 10',
      '--size toy --lengths 16 --rows 2 --rounds 3 --seconds 0',
      14,
    ),
    Section(
      'inference',
      'Generation',
      '--models hybrid,t5,gpt2 --size mini --prefixes 512,4096 --batches 8,1 '
      '--tokens 128 --rounds 3',
      '--models hybrid,t5,gpt2 --size toy --prefixes 8,16 --batches 2 '
      '--tokens 3 --rounds 3 --seconds 0',
      34,
      draws=True,
    ),
    Section(
      'quality',
      'Quality after equal training time',
      '--size mini --objective fixed_prefix_lm --inputs 256 --targets 256 '
      # Few rows: more steps in the time.
      '--minutes 1.5 --seeds 1,2,3 --rows 4 --validation_rows 16',
      '--size toy --objective fixed_prefix_lm --inputs 8 --targets 8 '
      '--steps 8 --seeds 1,2 --rows 2 --validation_rows 4 --train_rows 16 '
      '--pieces 300',
      33,
      draws=True,
      reads_text=True,
    ),
  )
}


def shown_text(text: str) -> str:
  """Returns the name of a corpus for the page: of its folder, and a pattern."""
  path = pathlib.PurePath(text)
  kept = 2 if '*' in path.name else 1
  return str(pathlib.PurePath(*path.parts[-kept:]))
