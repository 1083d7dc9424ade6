import pytest

from fnet_t5x import whole_file


def test_a_file_is_replaced(tmp_path):
  path = tmp_path / 'figures.json'
  path.write_text('old, and longer')
  whole_file.write(path, b'new')
  assert path.read_bytes() == b'new'
  assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_if_writing_fails(tmp_path):
  path = tmp_path / 'figures.json'
  path.write_text('old')
  (tmp_path / 'figures.json.tmp').mkdir()
  with pytest.raises(OSError):
    whole_file.write(path, b'new')
  assert path.read_text() == 'old'
