"""Prepared tokens: those of the SeqIO task; damaged files are rejected."""

import hashlib
import json

import numpy as np
import pytest

from fnet_t5x.benchmarks.accelerator import command, prepared_corpus

LENGTHS = prepared_corpus.LENGTHS


def arrays_of(rows=4, highest=99):
  random = np.random.default_rng(0)
  return {
    f'{split}_{side}': random.integers(1, highest + 1, (rows, length))
    for split in prepared_corpus.ROWS
    for side, length in LENGTHS.items()
  }


@pytest.fixture
def folder(tmp_path):
  prepared_corpus.save(tmp_path, arrays_of(), 100)
  return tmp_path


def test_what_is_saved_is_loaded(folder):
  corpus = prepared_corpus.load(folder)
  assert (corpus.vocab_size, corpus.task) == (100, prepared_corpus.TASK)
  for name, array in arrays_of().items():
    np.testing.assert_array_equal(corpus.arrays[name], array)


def change(folder, **fields):
  path = folder / 'manifest.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def pickled(folder):
  """Objects, with their own checksum: loading them would run code."""
  replaced(folder, np.array([[{}]]))


def replaced(folder, array):
  path = folder / 'train_inputs.npy'
  with path.open('wb') as file:
    if isinstance(array, dict):
      np.savez(file, **array)
    else:
      np.save(file, array, allow_pickle=True)
  digests = json.loads((folder / 'manifest.json').read_text())['sha256']
  digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
  change(folder, sha256=digests)


@pytest.mark.parametrize(
  ('damage', 'named'),
  [
    (lambda f: (f / 'manifest.json').unlink(), 'manifest.json: .*No such'),
    (lambda f: (f / 'manifest.json').write_text('{'), 'manifest.json: '),
    (lambda f: (f / 'manifest.json').write_text('[]'), 'manifest.json: '),
    (lambda f: change(f, format='other'), 'manifest.json: its format'),
    (lambda f: change(f, sha256={}), "manifest.json: no entry '"),
    (lambda f: change(f, vocab_size=50), r'train_inputs.npy: .*\[0, 50\)'),
    (lambda f: change(f, vocab_size='x'), 'manifest.json: vocab_size'),
    (lambda f: (f / 'train_targets.npy').unlink(), 'train_targets.npy: '),
    (
      lambda f: (f / 'train_targets.npy').write_bytes(
        (f / 'train_targets.npy').read_bytes()[:-1]
      ),
      'train_targets.npy: its checksum',
    ),
    (pickled, 'train_inputs.npy: .*allow_pickle'),
    (lambda f: replaced(f, np.ones((4, 512))), 'train_inputs.npy: .*uint16'),
    (lambda f: replaced(f, {'a': np.ones(3)}), 'train_inputs.npy: .*uint16'),
    (
      lambda f: replaced(f, np.ones((4, 7), np.uint16)),
      r'train_inputs.npy: .*\(4, 7\)',
    ),
    (lambda f: change(f, vocab_size=70000), '70000 ids do not fit'),
  ],
)
def test_damage_is_named_in_one_line(folder, damage, named):
  damage(folder)
  with pytest.raises(ValueError, match=named) as error:
    prepared_corpus.load(folder)
  assert '\n' not in str(error.value)
  assert str(error.value).endswith(' with --prepare')


def test_both_sides_must_have_equally_many_rows(tmp_path):
  arrays = arrays_of()
  arrays['train_targets'] = arrays['train_targets'][:-1]
  prepared_corpus.save(tmp_path, arrays, 100)
  with pytest.raises(ValueError, match='4 inputs, 3 targets'):
    prepared_corpus.load(tmp_path)


def test_ids_without_an_embedding_are_not_saved(tmp_path):
  with pytest.raises(ValueError, match=r'\[0, 99\)'):
    prepared_corpus.save(tmp_path, arrays_of(), 99)


@pytest.mark.slow
def test_tokens_are_those_of_the_task(tmp_path, monkeypatch, capsys):
  import gin
  import seqio

  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path / 'cache'))
  monkeypatch.setattr(prepared_corpus, 'ROWS', {'train': 30, 'validation': 5})
  text = tmp_path / 'texts/text.txt'
  text.parent.mkdir()
  words = np.random.default_rng(0).integers(0, 400, 60_000)
  text.write_text('\n'.join(f'word{n} and' for n in words))
  gin.clear_config()
  try:
    command.main(['--prepare', str(tmp_path / 'texts'), str(tmp_path / 'out')])
    corpus = prepared_corpus.load(tmp_path / 'out')
    examples = seqio.get_mixture_or_task(prepared_corpus.TASK).get_dataset(
      LENGTHS, 'validation', shuffle=False, seed=0
    )
    examples = list(examples.take(5).as_numpy_iterator())
  finally:
    gin.clear_config()
  assert '30 train' in capsys.readouterr().out
  for side, length in LENGTHS.items():
    assert corpus.arrays[f'train_{side}'].shape == (30, length)
    for row, example in zip(
      corpus.arrays[f'validation_{side}'], examples, strict=True
    ):
      np.testing.assert_array_equal(
        row[: len(example[side])], example[side][:length]
      )
      assert not row[len(example[side]) :].any()
  # A second pass over the text corrupts other spans.
  assert len(np.unique(corpus.arrays['train_inputs'], axis=0)) == 30


def test_a_missing_corpus_is_one_line(tmp_path, capsys):
  with pytest.raises(SystemExit) as stop:
    command.main(['--prepare', str(tmp_path / 'no'), str(tmp_path / 'out')])
  assert stop.value.code
  assert f'no file matches {tmp_path / "no"};' in capsys.readouterr().err
