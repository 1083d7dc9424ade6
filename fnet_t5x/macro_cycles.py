"""Detection of macros that refer to themselves, which gin follows forever."""

import itertools
from collections.abc import Mapping, Sequence


def check(references: Mapping[str, Sequence[str]]) -> None:
  """Checks that no macro refers to itself, directly or through others.

  Args:
    references: by name of a macro, the macros that its value refers to. Names
      may have a scope, 'scope/NAME'.

  Raises:
    ValueError: if there is a cycle; names its macros.
  """
  for start in references:
    cycle = _cycle_through(start, references)
    if cycle:
      steps = ', '.join(f'{a} = %{b}' for a, b in itertools.pairwise(cycle))
      raise ValueError(
        f'{steps}: the macro {start} refers to itself; give it a value'
      )


def _cycle_through(
  start: str, references: Mapping[str, Sequence[str]]
) -> list[str] | None:
  """Returns the macros of a cycle through `start`, or None."""
  paths, seen = [[start]], set()
  while paths:
    path = paths.pop()
    for name in references[path[-1]]:
      # A macro without a value in its scope has the value outside it.
      if name not in references:
        name = name.rpartition('/')[2]
      if name == start:
        return [*path, name]
      if name in references and name not in seen:
        seen.add(name)
        paths.append([*path, name])
  return None
