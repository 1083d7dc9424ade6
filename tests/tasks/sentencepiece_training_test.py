"""The cache of trained vocabularies."""

import pathlib
import stat

import pytest

from fnet_t5x.tasks import sentencepiece_training


@pytest.mark.parametrize(
  ('own', 'caches', 'folder'),
  [
    ('/own', '/caches', '/own'),
    ('~/own', None, '/home/me/own'),
    (None, '/caches', '/caches/fnet_t5x'),
    ('', '', '/home/me/.cache/fnet_t5x'),
    # The XDG specification says to ignore a relative path.
    (None, 'caches', '/home/me/.cache/fnet_t5x'),
    (None, None, '/home/me/.cache/fnet_t5x'),
  ],
)
def test_cache_dir(monkeypatch, own, caches, folder):
  monkeypatch.setenv('HOME', '/home/me')
  for name, value in (('FNET_T5X_CACHE_DIR', own), ('XDG_CACHE_HOME', caches)):
    if value is None:
      monkeypatch.delenv(name, raising=False)
    else:
      monkeypatch.setenv(name, value)
  assert sentencepiece_training.cache_dir() == pathlib.Path(folder)


def test_unwritable_cache_fails_before_training(tmp_path, monkeypatch, capfd):
  (tmp_path / 'file').touch()
  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path / 'file' / 'cache'))
  args = sentencepiece_training.trainer_args(100)
  with pytest.raises(ValueError, match='set FNET_T5X_CACHE_DIR'):
    sentencepiece_training.cached_model_file(
      'text', 'hash', args, 'nothing', lambda: pytest.fail('it was trained')
    )
  assert capfd.readouterr().err == ''


def test_other_users_can_read_the_model(tmp_path):
  path = tmp_path / 'folder' / 'a.model'
  sentencepiece_training.write_atomically(path, b'content', 'no remedy')
  assert path.read_bytes() == b'content'
  assert stat.S_IMODE(path.stat().st_mode) == 0o644
  assert list(path.parent.iterdir()) == [path]
