"""The input pipeline benchmark on few sequences: batches, table and JSON."""

import itertools
import json

import gin
import numpy as np
import pytest
import sentencepiece
import seqio

from fnet_t5x.benchmarks import batch_times, input_pipeline
from fnet_t5x.tasks import catalog, objective_table


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
  """40 documents of words, and a vocabulary of 200 pieces trained on them."""
  folder = tmp_path_factory.mktemp('text')
  rng = np.random.default_rng(0)
  texts = []
  for i in range(40):
    words = (
      ''.join(rng.choice(list('aeiounrst'), rng.integers(1, 8)))
      for _ in range(rng.integers(30, 200))
    )
    texts.append('. '.join(words))
    (folder / f'{i}.txt').write_text(texts[-1])
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_prefix=str(folder / 'small'),
    vocab_size=200,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  return folder


@pytest.fixture(autouse=True)
def _bound(corpus, monkeypatch):
  monkeypatch.setenv('FNET_T5X_TEXT_FILES', f'{corpus}/*.txt')
  gin.clear_config()
  gin.parse_config(
    'fnet_t5x.tasks.vocabularies.default_vocabulary.sentencepiece_model_file ='
    f' {str(corpus / "small.model")!r}'
  )
  yield
  gin.clear_config()


@pytest.mark.slow
def test_prints_the_table_and_writes_json(tmp_path, capsys):
  path = tmp_path / 'pipeline.json'
  names = ['span_corruption', 'causal_lm', 'masked_lm_nsp']
  input_pipeline.main(
    [
      *('--source', 'text', '--objectives', *names, '--lengths', '64', '64'),
      *('--sequences', '130', '--rounds', '2', '--json', str(path)),
    ]
  )
  table = capsys.readouterr().out
  for head in (
    'span_corruption 64/64 ',
    'causal_lm 64 ',
    'masked_lm_nsp 64/64, not packed ',
  ):
    assert head in table
  content = json.loads(path.read_text())
  assert content['settings']['objectives'] == names
  ours = [row for row in content['rows'] if row['side'] == 'ours']
  assert [row['objective'] for row in ours] == names
  for row in content['rows']:
    assert row['from'] == 'text'
    assert row['rounds'] == 2
    assert row['sequences_per_second'] > 0
    places = 64 if len(row['lengths']) != 2 else 128
    tokens = row['tokens_per_second'] / row['sequences_per_second']
    assert tokens == pytest.approx((1 - row['padding']) * places)
    # Of span corruption and of causal LM, almost every example is full.
    assert 0 <= row['padding'] < 0.6


def test_rates_are_those_of_the_sequences_drawn(monkeypatch):
  taken = {'batches': 0}

  def counted(task, setup, use_cached):
    del task, setup, use_cached
    row = np.array([[5, 6, 0, 0]] * 128)
    for _ in itertools.count():
      taken['batches'] += 1
      yield {'encoder_input_tokens': row, 'decoder_target_tokens': row[:, :2]}

  def timed(cases, **_):
    for case in cases.values():
      case()
    return {case: np.array([1.0, 4.0, 2.0]) for case in cases}

  monkeypatch.setattr(batch_times, 'batches', counted)
  monkeypatch.setattr(batch_times, 'time_in_turns', timed)
  monkeypatch.setattr(batch_times, 't5_preprocessors', lambda: None)
  (row,) = batch_times.measure('text', 'prefix_lm', sequences=256)
  assert taken['batches'] == 2
  assert row['sequences_per_second'] == 128.0
  assert row['tokens_per_second'] == 128.0 * 4
  assert row['padding'] == pytest.approx(2 / 6)
  assert row['speedup'] is None


@pytest.mark.slow
def test_batches_are_those_of_training():
  setup = batch_times.setup_of(
    'fnet_text_prefix_lm', 'prefix_lm', lengths=(32, 48)
  )
  batch = next(
    batch_times.batches(
      catalog.get('fnet_text_prefix_lm'), setup, use_cached=False
    )
  )
  assert batch['encoder_input_tokens'].shape == (128, 32)
  assert batch['decoder_target_tokens'].shape == (128, 48)
  assert batch['decoder_segment_ids'].max() > 1


@pytest.mark.parametrize('objective', objective_table.OBJECTIVES)
def test_default_lengths_are_the_tasks_own(objective):
  name = f'fnet_text_{objective}'
  setup = batch_times.setup_of(name, objective)
  assert setup.lengths == catalog.default_feature_lengths(name)
  chosen = batch_times.setup_of(name, objective, (32, 32)).lengths
  assert chosen.keys() == setup.lengths.keys()
  assert set(chosen.values()) <= {32, 1}


def test_t5_makes_the_same_batches():
  pytest.importorskip(
    't5.data.preprocessors', reason='needs t5 0.9.4 (pip install --no-deps t5)'
  )
  for objective in batch_times.T5_OBJECTIVES:
    task = catalog.get(f'fnet_text_{objective}')
    setup = batch_times.setup_of(task.name, objective)
    twin = batch_times.t5_twin(task, objective)
    assert twin.preprocessors != task.preprocessors
    ours, theirs = (
      batch_times.batches(side, setup, use_cached=False)
      for side in (task, twin)
    )
    for a, b in itertools.islice(zip(ours, theirs, strict=True), 4):
      for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_only_the_objective_is_swapped_for_t5(monkeypatch):
  class Theirs:
    @staticmethod
    def prefix_lm(dataset):
      return dataset

  monkeypatch.setattr(batch_times, 't5_preprocessors', lambda: Theirs)
  task = catalog.get('fnet_text_prefix_lm')
  twin = batch_times.t5_twin(task, 'prefix_lm')
  swapped = [
    b
    for a, b in zip(task.preprocessors, twin.preprocessors, strict=True)
    if a is not b
  ]
  assert swapped == [Theirs.prefix_lm]
  bart = catalog.get('fnet_text_bart')
  assert batch_times.t5_twin(bart, 'bart') is None


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--lengths', '512', '0'], 'at least 1'),
    (['--rounds', '0'], 'at least 1'),
    (['--json', 'no/such/folder/pipeline.json'], 'no/such/folder'),
  ],
)
def test_bad_input_is_named(arguments, message, capsys):
  with pytest.raises(SystemExit) as error:
    input_pipeline.main(arguments)
  assert error.value.code != 0
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--objectives', 'bert'], '--objectives bert: choose from .*, bart, '),
    (['--source', 'wiki'], '--source wiki: choose from sotu, text, c4, '),
  ],
)
def test_unknown_names_are_rejected(arguments, message):
  with pytest.raises(ValueError, match=message):
    input_pipeline.main(arguments)


def test_missing_files_are_named(monkeypatch):
  monkeypatch.delenv('FNET_T5X_TEXT_FILES')
  with pytest.raises(FileNotFoundError, match='TEXT_FILES'):
    input_pipeline.main(['--source', 'text', '--objectives', 'bart'])


def test_a_cache_is_timed_if_there_is_one(monkeypatch):
  task = catalog.get('fnet_text_prefix_lm')
  monkeypatch.setattr(seqio.Task, 'cache_dir', property(lambda self: 'there'))
  monkeypatch.setattr(
    batch_times, 'batches', lambda task, setup, use_cached: use_cached
  )
  setup = batch_times.setup_of(task.name, 'prefix_lm')
  draws = batch_times.make_draws(task.name, 'prefix_lm', setup, 1)
  assert ('ours', 'text') in draws and ('ours', 'cache') in draws
