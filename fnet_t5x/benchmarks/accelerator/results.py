"""Results of a run, in a JSON file that is complete at any time."""

from __future__ import annotations

import json
import math
import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any, Literal

FORMAT = 1
Status = Literal['ok', 'failed', 'skipped']


class Results:
  """The results of a run so far.

  Every change is printed, and written atomically to the JSON file, so that a
  killed run leaves all results it had.

  Attributes:
    path: the JSON file.
  """

  def __init__(self, path: pathlib.Path, header: Mapping[str, Any]):
    """Creates the file's folder, and the file with its header.

    Args:
      path: path of the JSON file.
      header: command and environment that the figures depend on.
    """
    self.path = path
    self._content = {
      'format': FORMAT,
      'header': dict(header),
      'ended': None,
      'notes': [],
      'rows': [],
    }
    self._lock = threading.Lock()
    path.parent.mkdir(parents=True, exist_ok=True)
    self._write()

  def set_header(self, **values: Any) -> None:
    """Adds to the header."""
    with self._lock:
      self._content['header'].update(values)
      self._write()

  def add(
    self,
    section: str,
    labels: Mapping[str, Any],
    status: Status,
    result: Mapping[str, Any],
  ) -> None:
    """Adds a row and prints it.

    Args:
      section: name of its section.
      labels: identify the row within the section.
      status: 'ok'; or 'failed' or 'skipped', without figures.
      result: the figures, with units in their names (`run_seconds`); or
        `reason`, one line.
    """
    row = {
      'section': section,
      'labels': dict(labels),
      'status': status,
      'result': dict(result),
    }
    with self._lock:
      self._content['rows'].append(row)
      self._write()
    self._print(row_text(row))

  def note(self, text: str) -> None:
    """Prints a line and keeps it in the JSON."""
    with self._lock:
      self._content['notes'].append(text)
      self._write()
    self._print(text)

  def find(self, section: str, **labels: Any) -> dict[str, Any] | None:
    """Returns the figures of the last row with these labels, or None."""
    for row in reversed(self._content['rows']):
      same = labels.items() <= row['labels'].items()
      if row['section'] == section and row['status'] == 'ok' and same:
        return row['result']
    return None

  def rows(self) -> list[dict[str, Any]]:
    """Returns all rows so far, with section, labels, status and result."""
    return list(self._content['rows'])

  def end(self, how: str) -> None:
    """Writes how the run ended; only the first call has an effect."""
    with self._lock:
      self._content['ended'] = self._content['ended'] or how
      self._write()

  def _write(self):
    text = json.dumps(_finite(self._content), indent=1, allow_nan=False)
    # Always the same name: killed runs leave at most one extra file.
    beside = self.path.with_name(self.path.name + '.part')
    with open(beside, 'w') as file:
      file.write(text + '\n')
      file.flush()
      os.fsync(file.fileno())
    os.replace(beside, self.path)

  def _print(self, text):
    print(text, flush=True)


def row_text(row: Mapping[str, Any]) -> str:
  """Returns a row as one line."""
  labels = ', '.join(map(_shown, row['labels'].values()))
  text = f'{row["section"]}: {labels}: '
  if row['status'] != 'ok':
    return f'{text}{row["status"]}: {row["result"]["reason"]}'
  return text + ', '.join(
    f'{name} {_shown(value)}'
    for name, value in row['result'].items()
    if value is not None
  )


def _shown(value: Any) -> str:
  if isinstance(value, float):
    return f'{value:.4g}'
  if isinstance(value, list | tuple) and len(value) > 8:
    return f'[{len(value)} values]'
  return str(value)


def _finite(value: Any) -> Any:
  """Returns the value with None for NaN and infinities, which JSON lacks."""
  if isinstance(value, Mapping):
    return {name: _finite(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
