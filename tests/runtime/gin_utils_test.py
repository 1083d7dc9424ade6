"""Gin parsing; for invalid files see `bad_input_test`."""

import gin

from fnet_t5x.runtime import gin_utils


def test_home_is_expanded_in_macros(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  path = tmp_path / 'run.gin'
  path.write_text(
    "MODEL_DIR = '~/a'\nOTHER = %MODEL_DIR\nNAME = 'a~/b'\nTEXT = 1\n"
  )
  gin_utils.parse_gin_flags(
    ['.'], [str(path)], ["TEXT = '~/*.txt'"], finalize_config=False
  )
  assert gin_utils.macro('MODEL_DIR') == f'{tmp_path}/a'
  assert gin_utils.macro('TEXT') == f'{tmp_path}/*.txt'
  assert gin_utils.macro('NAME') == 'a~/b'
  assert '~/a' not in gin.config_str()


def test_unset_macro():
  assert gin_utils.macro('NO_SUCH_MACRO') is None


def test_files_of_installed_packages_are_found(tmp_path, monkeypatch):
  """Like `t5x/...` with T5X installed, whether named or included."""
  folder = tmp_path / 'gin_package'
  folder.mkdir()
  (folder / '__init__.py').write_text('')
  (folder / 'theirs.gin').write_text('OF_PACKAGE = 1\n')
  (tmp_path / 'ours').mkdir()
  (tmp_path / 'ours/ours.gin').write_text("include 'gin_package/theirs.gin'\n")
  monkeypatch.syspath_prepend(str(tmp_path))
  for name in ('ours.gin', 'gin_package/theirs.gin'):
    gin.clear_config()
    gin_utils.parse_gin_flags([str(tmp_path / 'ours')], [name], [])
    assert gin_utils.macro('OF_PACKAGE') == 1
    gin.clear_config()
