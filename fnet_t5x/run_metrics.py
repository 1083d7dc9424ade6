"""Parser of a run's `metrics.jsonl`, without TensorFlow."""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

FILE = 'metrics.jsonl'
# The collection of training rows. Those of evaluations are a prefix and a task.
TRAIN = 'train'
TRAINING_EVAL = 'training_eval/'
INFERENCE_EVAL = 'inference_eval/'
# Steps up to here are exact in float64, which plots and checkpoints use.
_MAX_STEP = 2**53
# Far more than any row of metrics needs.
_MAX_LINE_BYTES = 2**20


class Rows(NamedTuple):
  """Contents of a file.

  Attributes:
    rows: each with an int `step` and a str `collection`. Other values are not
      checked.
    skipped: number of lines that are not such rows, such as one cut off when
      the run was killed.
  """

  rows: list[dict[str, Any]]
  skipped: int


def parse(lines: Iterable[str | bytes]) -> Rows:
  """Parses lines of JSON; ignores empty lines."""
  rows, skipped = [], 0
  for line in lines:
    if not line.strip():
      continue
    row = _row(line)
    if row is None:
      skipped += 1
    else:
      rows.append(row)
  return Rows(rows, skipped)


def read(path: str | os.PathLike[str]) -> Rows:
  """Reads a local file.

  Raises:
    OSError: if it cannot be read.
  """
  with open(path, 'rb') as f:
    return parse(_lines(f))


def _row(line: str | bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  # ValueError also covers invalid UTF-8 and numbers of thousands of digits.
  except (ValueError, RecursionError):
    return None
  if not isinstance(row, dict) or not isinstance(row.get('collection'), str):
    return None
  step = row.get('step')
  if type(step) is not int or not 0 <= step <= _MAX_STEP:
    return None
  return row


def _lines(f: BinaryIO) -> Iterator[bytes]:
  """Yields lines, long ones truncated so that they cannot fill the memory."""
  while line := f.readline(_MAX_LINE_BYTES):
    yield line
    while not line.endswith(b'\n') and len(line) == _MAX_LINE_BYTES:
      line = f.readline(_MAX_LINE_BYTES)
