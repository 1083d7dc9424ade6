"""The rows of a run's `metrics.jsonl`, read without TensorFlow."""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

FILE = 'metrics.jsonl'
# The collection of training rows; others are a kind of evaluation and a task.
TRAIN = 'train'
TRAINING_EVAL = 'training_eval/'
INFERENCE_EVAL = 'inference_eval/'
# What a step fits in where steps are drawn, or kept by a checkpoint.
_MAX_STEP = 2**53
# Far more than the metrics of a row take.
_MAX_LINE_BYTES = 2**20


class Rows(NamedTuple):
  """What a file holds.

  Attributes:
    rows: each with its `step`, a whole number, and its `collection`, a text.
      Other values are as the file has them.
    skipped: lines that are no such row, such as one that a kill cut off.
  """

  rows: list[dict[str, Any]]
  skipped: int


def parse(lines: Iterable[str | bytes]) -> Rows:
  """Parses lines of JSON; empty lines count as nothing."""
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
  """Reads a file of this machine.

  Raises:
    OSError: it cannot be read.
  """
  with open(path, 'rb') as f:
    return parse(_lines(f))


def _row(line: str | bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(line)
  # A ValueError is also what no UTF-8 and a number of 5000 digits raise.
  except (ValueError, RecursionError):
    return None
  if not isinstance(row, dict) or not isinstance(row.get('collection'), str):
    return None
  step = row.get('step')
  if type(step) is not int or not 0 <= step <= _MAX_STEP:
    return None
  return row


def _lines(f: BinaryIO) -> Iterator[bytes]:
  """Yields lines, long ones cut: a file of one line must not fill memory."""
  while line := f.readline(_MAX_LINE_BYTES):
    yield line
    while not line.endswith(b'\n') and len(line) == _MAX_LINE_BYTES:
      line = f.readline(_MAX_LINE_BYTES)
