"""The command that runs all benchmarks: resuming, failures, a toy run."""

import json

import pytest

from fnet_t5x.benchmarks import results
from fnet_t5x.benchmarks.results_sections import SECTIONS, Section

# A value that its command rejects at once, before importing JAX.
BAD = Section('mixing', 'Mixing', '--lengths 0', '--lengths 0', 1)


@pytest.fixture
def only():
  """Replaces the sections."""
  kept = dict(SECTIONS)

  def replace(*sections):
    SECTIONS.clear()
    SECTIONS.update({section.name: section for section in sections})

  yield replace
  replace(*kept.values())


def saved(folder, section, **fields):
  content = {
    'section': section.name,
    'command': section.command(toy=True),
    'toy': True,
    'seconds': 1.0,
    'environment': {
      **{'date': 'today', 'python': '3', 'machine': 'm', 'processor': None},
      **{'host_memory_bytes': 2**30, 'cpus': 1, 'versions': {}},
      **{'commit': None, 'xla_flags': ''},
    },
    'benchmark': None,
    'error': None,
    **fields,
  }
  (folder / f'{section.name}.json').write_text(json.dumps(content))


def test_a_failure_is_a_line_and_the_rest_goes_on(only, tmp_path, capfd):
  worse = BAD._replace(name='encoders', toy='--size huge')
  only(BAD, worse)
  (tmp_path / 'mixing.png').write_bytes(b'of an earlier run')
  with pytest.raises(SystemExit) as error:
    results.main(['--toy', '--out', str(tmp_path)])
  assert 'error: mixing: ' in error.value.code
  assert 'error: encoders: ' in error.value.code and 'huge' in error.value.code
  assert '--lengths, --embed' in capfd.readouterr().err
  content = json.loads((tmp_path / 'mixing.json').read_text())
  assert content['benchmark'] is None
  assert content['error'].endswith('must be at least 1')
  assert content['command'] == (
    'python -m fnet_t5x.benchmarks.mixing --lengths 0'
  )
  page = (tmp_path / 'RESULTS.md').read_text()
  missing = ' '.join(page.partition('## What was not measured')[2].split())
  assert '`mixing` failed: --lengths, --embed' in missing
  assert '`encoders` failed: ' in missing
  # Nothing else is left.
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'mixing.json', 'encoders.json', 'RESULTS.md'}


def test_what_has_figures_is_not_run_again(only, tmp_path, capsys):
  only(BAD)
  saved(tmp_path, BAD)
  results.main(['--toy', '--out', str(tmp_path)])
  assert 'has figures' in capsys.readouterr().out
  # It would fail if it ran.
  with pytest.raises(SystemExit):
    results.main(['--toy', '--out', str(tmp_path), '--again'])


@pytest.mark.parametrize(
  'content',
  [
    None,
    {'command': 'another', 'error': None},
    {'command': 'this', 'error': 'failed'},
  ],
)
def test_without_all_figures_a_section_is_run(content):
  assert not results.is_done(content, 'this')


def test_a_section_over_its_limit_is_stopped(only, tmp_path):
  only(BAD._replace(limit=0.0))
  with pytest.raises(SystemExit, match='stopped after 0 minutes'):
    results.main(['--toy', '--out', str(tmp_path)])


def test_folders_are_not_in_errors():
  said = ['Traceback', "OSError: '/home/me/a b/c.txt': no 1/2", '']
  assert results.error_line(said, 1) == "OSError: 'a b/c.txt': no 1/2"
  said = ['error: /data/x: no file', 'W0000 /a/b.cc: bye']
  assert results.error_line(said, 2) == 'x: no file'
  assert results.error_line([], 3) == 'exit code 3'
  assert results.error_line(said, -9) == 'ended by signal 9'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--toy'], '--out'),
    (['--sections', 'mixing,glue'], 'glue: choose from mixing'),
    (['--write', '--out', '/no/such/folder'], '/no/such/folder'),
    (['--out', '/dev/null/x'], '/dev/null'),
  ],
)
def test_bad_input_is_named(arguments, message, capsys):
  with pytest.raises(SystemExit) as error:
    results.parse(arguments)
  assert error.value.code == 2
  assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_toy_run(tmp_path):
  """Without training, which the test of that benchmark does."""
  arguments = ['--toy', '--out', str(tmp_path), '--sections=mixing,inference']
  results.main(arguments)
  page = (tmp_path / 'RESULTS.md').read_text()
  for text in (
    'A toy run',
    'Is Fourier mixing faster than attention?',
    'Where does the time go?',
    '| [2, 16, 8] |',
    '| 16 tokens x 2 |',
    '![Generation](inference.png)',
    '`quality` was not run',
  ):
    assert text in page
  content = json.loads((tmp_path / 'inference.json').read_text())
  assert content['error'] is None and content['seconds'] > 0
  assert (tmp_path / 'inference.png').read_bytes().startswith(b'\x89PNG')
  # From the files alone, the same page.
  (tmp_path / 'RESULTS.md').unlink()
  results.main(['--write', '--out', str(tmp_path)])
  assert (tmp_path / 'RESULTS.md').read_text() == page
