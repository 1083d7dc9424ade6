"""The mixing benchmark at tiny shapes: cases, table and JSON."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.benchmarks import mixing


@pytest.mark.slow
def test_prints_the_table_and_writes_json(tmp_path, capsys):
  path = tmp_path / 'mixing.json'
  sizes = ['--lengths', '8', '12', '--embed', '16', '--tokens', '24']
  mixing.main([*sizes, '--quick', '--json', str(path)])
  table = capsys.readouterr().out
  assert '[3, 8, 16]' in table and '[2, 12, 16]' in table
  content = json.loads(path.read_text())
  assert content['environment']['backend'] == 'cpu'
  assert content['settings']['tokens'] == 24
  timed = {(row['case'], row['direction']) for row in content['rows']}
  for case in (
    'ours, padded, FFT',
    'ours, padded, matmul',
    'ours, exact, full rows',
    'ours, exact, Bluestein',
    'ours, exact, matrices',
    mixing.BASELINE,
    'T5 self-attention',
    'Hartley, exact, full rows',
    'Toeplitz, FFT',
    'Toeplitz, packed',
    *(f'sublayer {name}' for name in mixing.SUBLAYERS),
  ):
    assert case in table
    assert {(case, 'forward'), (case, 'forward+backward')} <= timed
  for row in content['rows']:
    assert 0 < row['least_seconds'] <= row['median_seconds']
    assert row['rounds'] == 3
    if row['case'] == mixing.BASELINE:
      assert row['speedup'] == 1
    assert (row['speedup'] is None) == row['case'].endswith('once per batch')


@pytest.mark.slow
def test_quick_lists_the_lengths_it_skips(capsys):
  assert mixing.parse(['--quick']).lengths == (128, 512)
  assert mixing.parse([]).lengths == (128, 256, 512, 1024, 2048, 4096)
  mixing.main(
    ['--quick', '--lengths', '8', '128', '--embed', '4', '--tokens', '8']
  )
  last = capsys.readouterr().out.splitlines()[-1]
  assert last.startswith('--quick: ')
  assert last.endswith(': 256, 512, 1024, 2048, 4096')


@pytest.mark.slow
def test_all_cases_of_the_transform_compute_the_same():
  # Times of different results could not be compared.
  x = np.random.default_rng(0).normal(size=(2, 8, 6)).astype('float32')
  cases = mixing.make_cases(jnp.asarray(x))
  expected = np.fft.fft2(x).real
  scaled = expected / np.sqrt(8 * 6)
  for name, wanted in {
    'ours, padded, FFT': scaled,
    'ours, padded, matmul': scaled,
    'ours, exact, full rows': scaled,
    mixing.BASELINE: expected,
  }.items():
    case = cases[name]
    error = np.abs(case.function(x, *case.arguments) - wanted).max()
    assert error / np.abs(wanted).max() < 1e-5
  ways = ('ours, exact, Bluestein', 'ours, exact, matrices')
  a, b = (cases[n].function(x, *cases[n].arguments) for n in ways)
  assert np.abs(a - b).max() / np.abs(a).max() < 1e-5
  assert np.abs(a - scaled).max() > 0.1
  ways = ('Toeplitz, FFT', 'Toeplitz, matrices', 'Toeplitz, packed')
  a, *others = (cases[n].function(x, *cases[n].arguments) for n in ways)
  for b in others:
    assert np.abs(a - b).max() / np.abs(a).max() < 1e-5


def test_ragged_rows_are_never_full():
  for batch, length in ((1, 4096), (16, 128), (3, 8)):
    rows = mixing.ragged_lengths(batch, length)
    assert rows.shape == (batch,)
    assert rows.min() >= length // 2 and rows.max() < length


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--lengths', '0'], 'at least 1'),
    (['--dtype', 'int8'], 'int8'),
    (['--json', 'no/such/folder/mixing.json'], 'no/such/folder'),
  ],
)
def test_bad_input_is_named(arguments, message, capsys):
  with pytest.raises(SystemExit) as error:
    mixing.main(arguments)
  assert error.value.code != 0
  assert message in capsys.readouterr().err
