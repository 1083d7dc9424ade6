import json

import pytest

from fnet_t5x.benchmarks import causal_mixing

SMALL = ['--embed', '8', '--heads', '2', '--rounds', '3', '--seconds', '1']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--lengths', '16'], '--lengths 16: must be above 16'),
    (['--embed', '10', '--heads', '4'], 'not a multiple of --heads 4'),
    (['--rows', '0'], '--rows 0: must be at least 1'),
    (['--dtype', 'int8'], 'choose float32 or bfloat16'),
  ],
)
def test_bad_input_is_named(arguments, message, capsys):
  with pytest.raises(SystemExit):
    causal_mixing.parse(arguments)
  assert message in capsys.readouterr().err


@pytest.mark.slow
def test_lengths_are_measured_once(tmp_path, capsys):
  path = tmp_path / 'times.json'
  arguments = [*SMALL, '--json', str(path), '--matrix_max', '24', '--lengths']
  causal_mixing.main([*arguments, '20'])
  first = json.loads(path.read_text())['rows']
  causal_mixing.main([*arguments, '20', '32'])
  rows = json.loads(path.read_text())['rows']
  assert rows[: len(first)] == first
  found = {(r['length'], r['call'], r['mixing']): r for r in rows}
  names = ('attention', 'Fourier, FFT', 'Toeplitz, FFT')
  matrices = ('Fourier, matrices', 'Toeplitz, matrices')
  assert set(found) == {
    *((20, 'prefill', name) for name in (*names, *matrices)),
    *((32, 'prefill', name) for name in names),
    *(
      (length, 'step', name)
      for length in (20, 32)
      for name in ('attention', 'Fourier', 'Toeplitz')
    ),
  }
  assert all(r['ms'] > 0 for r in rows)
  # Keys and values; inputs; values and filters. And an index.
  size = 32 * 8 * 4
  assert found[32, 'step', 'attention']['cache_bytes'] == 2 * size + 4
  assert found[32, 'step', 'Fourier']['cache_bytes'] == size + 4
  filters = 2 * 32 * 4
  toeplitz = found[32, 'step', 'Toeplitz']['cache_bytes']
  assert toeplitz == size + filters + 4
  assert 'Fourier, step after 32' in capsys.readouterr().out
