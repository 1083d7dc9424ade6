"""The comparison of generation at tiny shapes: table, JSON, figure."""

import json

import numpy as np
import pytest

from fnet_t5x.benchmarks import hugging_face, inference, inference_figure


@pytest.mark.slow
def test_prints_the_table_and_writes_files(tmp_path, capsys):
  path, picture = tmp_path / 'inference.json', tmp_path / 'inference.png'
  inference.main(
    '--size toy --prefixes 8 --batches 2 --tokens 3 --rounds 2 --seconds 0 '
    f'--models hybrid --json {path} --figure {picture}'.split()
  )
  table = capsys.readouterr().out
  assert '8 tokens x 2' in table
  content = json.loads(path.read_text())
  copy_rate = content['settings']['copy_bytes_per_second']
  rows = content['rows']
  assert [row['model'] for row in rows] == ['hybrid', 'GPT-2']
  for row in rows:
    assert row['model'] in table and row['rounds'] == 2
    assert row['tokens_per_second'] == row['rows'] * 3 / row['all_seconds']
    floor = row['bytes_per_step'] / copy_rate
    assert row['share_of_floor'] == pytest.approx(floor / row['token_seconds'])
    assert row['prefill_seconds'] <= row['first_token_seconds']
    assert row['prefix_attention_flops'] < row['prefix_flops']
    assert (row['encode_seconds'] is None) == (row['model'] == 'GPT-2')
    if row['model'] == 'GPT-2':
      assert row['first_speedup'] == row['token_speedup'] == 1
      assert row['cross_cache_bytes'] == 0
  assert picture.read_bytes().startswith(b'\x89PNG')


def test_the_rest_of_a_whole_generation_is_the_difference():
  times = {
    ('ours', 'first'): np.array([1.0, 3.0, 2.0]),
    ('ours', 'rest'): np.array([4.0, 8.0, 6.0]),
    ('theirs', 'first'): np.array([2.0, 2.0, 4.0]),
    ('theirs', 'whole'): np.array([6.0, 10.0, 16.0]),
  }
  ours, theirs = (
    inference._parts(name, times, steps=4) for name in ('ours', 'theirs')
  )
  np.testing.assert_allclose(theirs['token'], [1, 2, 3])
  np.testing.assert_allclose(ours['token'], [1, 2, 1.5])
  found = inference.summarize(theirs, rows=2, tokens=5)
  assert found == {
    'first_token_seconds': 2,
    'encode_seconds': None,
    'prefill_seconds': 2,
    'token_seconds': 2,
    'all_seconds': 10,
    'tokens_per_second': 1,
    'rounds': 3,
  }
  encoding = {**ours, 'encode': np.array([0.5, 0.5, 2.5])}
  found = inference.summarize(encoding, rows=2, tokens=5)
  # The encoder alone took longer than all of the last round's first token.
  assert (found['encode_seconds'], found['prefill_seconds']) == (0.5, 0.5)
  ratios = inference._ratios(ours, theirs)
  # 6/5, 10/11, 16/8, of which the median.
  assert ratios['all_speedup'] == pytest.approx(1.2)
  assert inference._ratios(ours, None)['first_speedup'] is None


@pytest.mark.slow
def test_what_does_not_fit_is_a_line(monkeypatch):
  from fnet_t5x.benchmarks.accelerator import device_memory

  monkeypatch.setattr(device_memory, 'free_bytes', lambda: 1e3)
  options = inference.parse(
    ['--size', 'toy', '--models', 'gpt2', '--tokens', '2']
  )
  records = inference.measure(options, 8, 1, 1e9)
  assert [record['model'] for record in records] == ['GPT-2']
  assert 'GB are free' in records[0]['skipped']
  _, line = inference.as_section(records)
  assert line[0].startswith('  GPT-2: needs 0.0 GB')
  assert inference_figure.draw(records).startswith(b'\x89PNG')


def test_a_line_per_network_and_batch_size():
  records = [
    {'model': model, 'prefix': prefix, 'rows': rows, 'x': prefix * rows}
    for model in ('T5', 'GPT-2')
    for prefix in (8, 4)
    for rows in (1, 2)
  ]
  records[0]['x'] = None
  found = inference_figure.lines(records, lambda record: record['x'])
  assert [(label, *curve) for label, _, *curve in found] == [
    ('T5, batch 1', [4], [4]),
    ('T5, batch 2', [4, 8], [8, 16]),
    ('GPT-2, batch 1', [4, 8], [4, 8]),
    ('GPT-2, batch 2', [4, 8], [8, 16]),
  ]
  assert len({style for _, style, *_ in found}) == 4


@pytest.mark.slow
@pytest.mark.parametrize('name', hugging_face.NAMES)
def test_hugging_faces_models_have_our_shapes(name):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  from fnet_t5x.benchmarks import generation_case
  from fnet_t5x.benchmarks.accelerator import networks

  network = {**networks.NETWORKS, 'GPT-2': networks.DECODER_ONLY}[name]
  sizes = generation_case.Sizes('toy', prefix=8, rows=2, tokens=3)
  module = network.make('toy', max_encoder_length=8, max_target_length=3)
  case = hugging_face.HuggingFaceCase(module, sizes)
  # T5's relative positions: scanned layers of ours have tables of their own.
  ours = networks.count_parameters(network.make('toy', scan_layers=False))
  assert case.costs()['parameters'] == ours
  whole = case.whole()
  assert whole.shape == (2, 3)
  np.testing.assert_array_equal(case.first(), whole[:, :1])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--prefixes', '0'], 'at least 1'),
    (['--tokens', '1'], '--tokens 2'),
    (['--dtype', 'int8'], 'int8'),
    (['--models', 'bert'], 'bert'),
    (['--figure', '/no/such/folder/a.png'], '/no/such/folder'),
  ],
)
def test_bad_input_is_named(arguments, message, capsys):
  with pytest.raises(SystemExit) as error:
    inference.parse(arguments)
  assert error.value.code == 2
  assert message in capsys.readouterr().err
