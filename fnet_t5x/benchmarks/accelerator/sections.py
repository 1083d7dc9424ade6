"""The kit's sections: order, shares of the time, and modules."""

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
    name: name for `--sections`.
    share: share of the time, relative to the other sections.
    module: module of this package with a function `run(bench)`. Imported only
      when the section runs, so that a failing import does not stop the others.
    needs_corpus: whether it is skipped without `--corpus`.
  """

  name: str
  share: float
  module: str
  needs_corpus: bool = False

  def run(self, bench: Bench) -> None:
    """Measures everything that fits into the section's time."""
    importlib.import_module(f'{_PACKAGE}.{self.module}').run(bench)


# Shares are roughly the seconds of an eight-minute run.
SECTIONS = (
  Section('ceilings', 15, 'ceilings'),
  Section('mixing', 110, 'mixing'),
  Section('training', 140, 'training'),
  Section('generation', 75, 'generation'),
  Section('encoders', 50, 'encoders'),
  Section('quality', 130, 'quality', needs_corpus=True),
)


def chosen(names: Sequence[str] | None) -> tuple[Section, ...]:
  """Returns the named sections, or all for None, in the kit's order.

  Raises:
    ValueError: for an unknown name.
  """
  known = [section.name for section in SECTIONS]
  for name in names or ():
    if name not in known:
      raise ValueError(
        f'--sections {name}: no such section; choose from {", ".join(known)}'
      )
  return tuple(s for s in SECTIONS if not names or s.name in names)
