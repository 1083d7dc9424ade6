"""Macros whose values lead back to themselves: gin follows them for ever."""

import itertools
from collections.abc import Mapping, Sequence


def check(references: Mapping[str, Sequence[str]]) -> None:
  """Refuses macros that refer to themselves, by others or at once.

  Args:
    references: the macros that a macro's value refers to, by its name; either
      may have a scope, 'scope/NAME'.

  Raises:
    ValueError: names the macros of a circle.
  """
  for start in references:
    circle = _way_back(start, references)
    if circle:
      said = ', '.join(f'{a} = %{b}' for a, b in itertools.pairwise(circle))
      raise ValueError(
        f'{said}: the macro {start} refers to itself; give it a value'
      )


def _way_back(
  start: str, references: Mapping[str, Sequence[str]]
) -> list[str] | None:
  """Returns the macros from one to itself, where its value leads there."""
  ways, seen = [[start]], set()
  while ways:
    way = ways.pop()
    for name in references[way[-1]]:
      # A macro that has no value in a scope takes the one outside it.
      if name not in references:
        name = name.rpartition('/')[2]
      if name == start:
        return [*way, name]
      if name in references and name not in seen:
        seen.add(name)
        ways.append([*way, name])
  return None
