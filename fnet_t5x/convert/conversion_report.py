"""Report of a conversion: every tensor, used or dropped, and the sizes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fnet_t5x.runtime import console

_NUMBER = re.compile(r'(?<=[_.])\d+(?=[/.])')


def print_report(
  title: str,
  used: Mapping[str, np.ndarray],
  dropped: Mapping[str, Sequence[str]],
  settings: Mapping[str, Any],
  notes: Sequence[str] = (),
) -> None:
  """Prints every tensor, layers together, then settings and notes.

  Args:
    title: the first line.
    used: arrays by name.
    dropped: names of other tensors, by reason.
    settings: values of gin macros and bindings.
    notes: further lines.
  """
  total = sum(x.size for x in used.values())
  lines = [title, f'used: {len(used)} tensors, {total:,} parameters']
  shapes = {name: f' {list(x.shape)}' for name, x in used.items()}
  lines += _layers_together(shapes)
  for reason, names in dropped.items():
    if names:
      lines.append(f'dropped, {reason}: {len(names)} tensors')
      lines += _layers_together(dict.fromkeys(names, ''))
  lines += [f'{name} = {value!r}' for name, value in settings.items()]
  for line in [*lines, *notes]:
    console.print_line(line)


def _layers_together(suffixes: Mapping[str, str]) -> list[str]:
  """Returns indented lines; names that differ in a number share one."""
  numbers: dict[str, list[str]] = {}
  for name, suffix in suffixes.items():
    match = _NUMBER.search(name)
    key = _NUMBER.sub('{}', name, count=1) + suffix
    numbers.setdefault(key, []).extend([match[0]] if match else [])
  return [
    f'  {key.replace("{}", "{" + ",".join(found) + "}")}'
    for key, found in numbers.items()
  ]
