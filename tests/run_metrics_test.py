"""Parsing of `metrics.jsonl`, including damaged files."""

import json

import pytest

from fnet_t5x import run_metrics

ROW = {'step': 3, 'collection': 'train', 'loss': 2.5}


@pytest.mark.parametrize(
  'line',
  [
    '{"step": 3, "coll',
    'no JSON at all',
    b'\xff\xfe\x00',
    '[1, 2]',
    'null',
    '{"collection": "train"}',
    '{"step": 3}',
    '{"step": 3, "collection": ["train"]}',
    '{"step": "3", "collection": "train"}',
    '{"step": 3.5, "collection": "train"}',
    '{"step": true, "collection": "train"}',
    '{"step": -1, "collection": "train"}',
    '{"step": 1e400, "collection": "train"}',
    '{"step": 1' + 30 * '0' + ', "collection": "train"}',
    '{"step": ' + 5000 * '9' + ', "collection": "train"}',
    '{"step": 3, "collection": "train", "x": ' + 100_000 * '[',
  ],
)
def test_invalid_rows_are_skipped_and_counted(line):
  rows, skipped = run_metrics.parse([json.dumps(ROW), line, json.dumps(ROW)])
  assert rows == [ROW, ROW]
  assert skipped == 1


def test_empty_lines_are_ignored():
  assert run_metrics.parse(['\n', b' \n', '']) == ([], 0)


def test_file_of_bytes_is_read(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  # Rows after junk, and after an overlong line, are still read.
  path.write_bytes(
    b'\xff\n' + 3 * 2**20 * b'x' + b'\n' + json.dumps(ROW).encode()
  )
  assert run_metrics.read(path) == ([ROW], 2)
