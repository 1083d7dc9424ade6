"""The kit's sections: their order, their shares of the time, their modules."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence

from fnet_t5x.benchmarks.accelerator.bench import Bench

_PACKAGE = 'fnet_t5x.benchmarks.accelerator'


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the kit.

  Attributes:
    name: as `--sections` says it.
    share: of the time, relative to the others'.
    module: in this package, with a function `run(bench)`. Imported when its
      turn comes: one that fails to import costs the others nothing.
    needs_corpus: whether it is left out where `--corpus` is not given.
  """

  name: str
  share: float
  module: str
  needs_corpus: bool = False

  def run(self, bench: Bench) -> None:
    """Measures everything that fits into the section's time."""
    importlib.import_module(f'{_PACKAGE}.{self.module}').run(bench)


# Shares are about the seconds of a run of eight minutes.
SECTIONS = (
  Section('ceilings', 15, 'ceilings'),
  Section('mixing', 110, 'mixing'),
  Section('training', 140, 'training'),
  Section('generation', 75, 'generation'),
  Section('quality', 130, 'quality', needs_corpus=True),
)


def chosen(names: Sequence[str] | None) -> tuple[Section, ...]:
  """Returns the sections of these names in the kit's order; None: all.

  Raises:
    ValueError: a name that no section has.
  """
  known = [section.name for section in SECTIONS]
  for name in names or ():
    if name not in known:
      raise ValueError(
        f'--sections {name}: there is no such section; choose from '
        f'{", ".join(known)}'
      )
  return tuple(s for s in SECTIONS if not names or s.name in names)
