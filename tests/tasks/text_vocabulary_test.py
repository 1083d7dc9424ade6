"""Vocabularies trained on text files are lossless."""

import collections
import json
import os
import pathlib
import random
import subprocess
import sys

import gin
import pytest
import sentencepiece
import seqio
import tensorflow as tf
from checkout import ROOT

from fnet_t5x.runtime import gin_utils
from fnet_t5x.tasks import (
  document_files,
  document_source,
  sentencepiece_training,
  text_files,
  text_vocabulary,
  vocabularies,
)

OPTIONS = document_files.ReadOptions()
# Source code has the most difficult whitespace.
CODE = pathlib.Path(document_source.__file__).read_text(encoding='utf-8')
HARD = {
  'code': 'def f(x):\n    if x >> 2:\n\treturn {\n  "a": x}\n\n\n',
  'prompts': '>>> a = 1\n>>> a\n1\n',
  'windows': 'one\r\ntwo\r\n\r\n  three\r\n',
  'carriage returns': 'a\rb\r\r\nc\n\r',
  'tabs': '\ta\t\tb\t \tc',
  'blanks around': '   leading, and trailing   ',
  'only blanks': '     ',
  'only line breaks': '\n\n\n',
  'emoji': 'x 😀 👨\u200d👩\u200d👧 ☃\ufe0f y',
  'scripts': '日本語、 العربية ελληνικά',
  'forms': 'ﬁ … ｱ e\u0301 é \u00a0 \u2003 \ufeff',
  "SentencePiece's blank": '▁▂▃▄▅▆▇█ ▁ a▁b ▁',
  'marks': '<s> </s> <pad> <unk> <0x0A> ⁇ \ufffd',
  'controls': '\0a\x07\x1b[0m\x7f',
}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path / 'cache'))
  monkeypatch.delenv(text_files.VARIABLE, raising=False)


def _write(folder, name, text):
  folder.mkdir(exist_ok=True)
  path = folder / name
  path.write_bytes(text.encode())
  return str(path)


def _train(*paths, pieces=600, part=document_source.WHOLE, **kwargs):
  return text_vocabulary.trained_model_file(
    paths, part, OPTIONS, pieces, **kwargs
  )


@pytest.fixture
def code_vocabulary(tmp_path):
  path = _write(tmp_path / 'text', 'code.txt', CODE)
  return vocabularies.from_file(_train(path))


def test_text_is_restored_exactly(code_vocabulary):
  for text in (*HARD.values(), CODE):
    ids = code_vocabulary.encode(text)
    assert 2 not in ids
    assert code_vocabulary.decode(ids) == text
    # As seqio.preprocessors.tokenize does.
    assert code_vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == ids
    back = code_vocabulary.decode_tf(tf.constant(ids)).numpy().decode()
    assert back == text


def test_training_and_prompts_have_the_same_tokens(code_vocabulary):
  # Indentation has several equally likely segmentations.
  for path in sorted((ROOT / 'tasks').glob('*.py')):
    text = path.read_text(encoding='utf-8')
    tensor = code_vocabulary.encode_tf(tf.constant(text))
    assert tensor.numpy().tolist() == code_vocabulary.encode(text), path


def test_parts_of_a_text_decode_to_the_whole(code_vocabulary):
  ids = code_vocabulary.encode(CODE[:2000])
  for cut in (1, 17, 200):
    parts = [
      code_vocabulary.decode(ids[:cut]),
      code_vocabulary.decode(ids[cut:]),
    ]
    assert ''.join(parts) == CODE[:2000]


def test_ids_are_those_of_t5(code_vocabulary):
  tokenizer = code_vocabulary.tokenizer
  names = [tokenizer.id_to_piece(i) for i in range(3)]
  assert names == ['<pad>', '</s>', '<unk>']
  assert code_vocabulary.bos_id == -1
  size = code_vocabulary.vocab_size
  assert code_vocabulary.extra_ids == 100
  assert tokenizer.id_to_piece(size - 1) == '▁<extra_id_0>'
  assert tokenizer.id_to_piece(size - 100) == '▁<extra_id_99>'
  assert code_vocabulary.encode('a <extra_id_0>')[-1] == size - 1


def test_spaces_and_line_breaks_have_pieces(code_vocabulary):
  pieces = code_vocabulary.tokenizer.encode('\r\n\n\t    x', out_type=str)
  assert pieces[:3] == ['\r\n', '\n', '\t']
  assert ''.join(pieces[3:]) == '▁▁▁▁x'
  assert len(pieces) <= 6


def test_without_byte_fallback_new_characters_are_unknown(tmp_path):
  path = _write(tmp_path / 'text', 'code.txt', CODE + 'once: Ω\n')
  vocabulary = vocabularies.from_file(_train(path, byte_fallback=False))
  assert vocabulary.encode('a☃b').count(2) == 1
  assert '☃' not in vocabulary.decode(vocabulary.encode('a☃b'))
  text = CODE[:3000] + 'Ω\r\n\t'
  assert vocabulary.decode(vocabulary.encode(text)) == text


@pytest.mark.parametrize(
  'text',
  ['hi', ' ', '\t\n\t\n', 'x' * 50_000, 'a b c d e f g ' * 700, '▅▅ ▅', '\0'],
)
def test_short_and_odd_texts(tmp_path, capfd, text):
  path = _write(tmp_path / 'text', 'a.txt', f'{text}\nword')
  vocabulary = vocabularies.from_file(_train(path, pieces=4000))
  for other in (text, CODE[:500]):
    assert vocabulary.decode(vocabulary.encode(other)) == other
  got = vocabulary.vocab_size - 100
  assert got < 4000
  before, after = capfd.readouterr().err.splitlines()
  assert before.endswith('training a vocabulary of 4,000 pieces on 1 file ...')
  assert f'of {got} pieces (4,000 requested: the text has no more)' in after


def test_ten_kilobytes_are_enough(tmp_path):
  path = _write(tmp_path / 'text', 'a.txt', CODE[:10_000])
  vocabulary = vocabularies.from_file(_train(path, pieces=4000))
  ids = vocabulary.encode(CODE[:10_000])
  assert vocabulary.decode(ids) == CODE[:10_000]
  # Words have pieces: byte pieces alone would give one byte per token.
  assert len(ids) < 10_000 / 2.5


def test_more_characters_than_pieces(tmp_path):
  rng = random.Random(0)
  alphabet = [chr(0x4E00 + i) for i in range(2000)]
  text = ''.join(rng.choices(alphabet, k=30_000))
  path = _write(tmp_path / 'text', 'a.txt', text)
  for byte_fallback in (True, False):
    vocabulary = vocabularies.from_file(
      _train(path, pieces=600, byte_fallback=byte_fallback)
    )
    assert vocabulary.vocab_size <= 700
    ids = vocabulary.encode(text)
    assert (vocabulary.decode(ids) == text) == byte_fallback


def test_too_few_pieces_is_an_error(tmp_path):
  path = _write(tmp_path / 'text', 'a.txt', CODE)
  with pytest.raises(ValueError, match=r'of 200 pieces: with .* at least 295'):
    _train(path, pieces=200)
  assert _train(path, pieces=295).is_file()
  assert _train(path, pieces=39, byte_fallback=False).is_file()


@pytest.mark.slow
def test_same_bytes_in_other_processes_orders_and_names(tmp_path):
  texts = [f'{i}\n{CODE[i * 900 : i * 900 + 1500]}' for i in range(8)]
  for folder, order in (('a', range(8)), ('b', reversed(range(8)))):
    for name, i in enumerate(order):
      _write(tmp_path / folder, f'{name}.txt', texts[i])
  program = (
    'import glob, os, sys;'
    'from fnet_t5x.tasks import document_files, document_source;'
    'from fnet_t5x.tasks import text_vocabulary as v;'
    'path = v.trained_model_file(glob.glob(sys.argv[1]), document_source.WHOLE,'
    ' document_files.ReadOptions(), 600);'
    'os.rename(path, sys.argv[2]); print(path.name)'
  )
  processes = [
    subprocess.Popen(
      [
        *(sys.executable, '-c', program, f'{tmp_path}/{folder}/*.txt'),
        tmp_path / f'{folder}.model',
      ],
      cwd=ROOT,
      env={**os.environ, 'FNET_T5X_CACHE_DIR': str(tmp_path / f'{folder}_')},
      stdout=subprocess.PIPE,
      text=True,
    )
    for folder in 'ab'
  ]
  names = [p.communicate(timeout=120)[0] for p in processes]
  assert names[0] and names[0] == names[1]
  model = (tmp_path / 'a.model').read_bytes()
  assert model == (tmp_path / 'b.model').read_bytes()
  assert str(tmp_path).encode() not in model
  assert b'/tmp' not in model


def test_cache_follows_the_content(tmp_path, monkeypatch, capfd):
  path = _write(tmp_path / 'text', 'a.txt', CODE[:9000])
  first = _train(path)
  assert capfd.readouterr().err.count('\n') == 2
  moved = _write(tmp_path / 'elsewhere', 'b.txt', CODE[:9000])
  assert _train(moved) == first
  assert capfd.readouterr().err == ''
  others = {
    _train(path, pieces=500),
    _train(path, byte_fallback=False),
    _train(_write(tmp_path / 'text', 'a.txt', CODE[:9000] + 'more')),
  }
  monkeypatch.setattr(sentencepiece, '__version__', '0.0.1')
  others.add(_train(path))
  assert len({first, *others}) == 5
  cached = sentencepiece_training.cache_dir() / 'vocabularies'
  assert set(cached.iterdir()) == {first, *others}


def test_sample_is_of_the_whole_text_and_bounded(tmp_path):
  lines = [json.dumps({'text': f'line {i} ' * 40}) for i in range(3000)]
  paths = [
    _write(tmp_path / 'text', f'{n}.jsonl', '\n'.join(lines[n::3]))
    for n in range(3)
  ]
  size = 100_000
  chosen = text_vocabulary.sample(paths, document_source.WHOLE, OPTIONS, size)
  total = sum(map(len, chosen))
  assert size - 5000 < total <= size
  numbers = sorted(int(text.split()[1]) for text in chosen)
  assert len(set(numbers)) == len(numbers)
  thirds = collections.Counter(n // 1000 for n in numbers)
  assert min(thirds.values()) > 0.7 * len(numbers) / 3
  # Copies count once.
  again = text_vocabulary.sample(
    [*paths, *paths], document_source.WHOLE, OPTIONS, size
  )
  assert again == chosen


def test_much_text_is_read_in_part(tmp_path, monkeypatch):
  monkeypatch.setattr(text_vocabulary, '_READ_BYTES', 30_000)
  monkeypatch.setattr(text_vocabulary, '_READ_FILES', 10)
  paths = [
    _write(
      tmp_path / 'text',
      f'{n:02}.jsonl',
      '\n'.join(json.dumps({'text': f'{n} {i} ' * 20}) for i in range(100)),
    )
    for n in range(20)
  ]
  chosen = text_vocabulary.sample(
    paths, document_source.WHOLE, OPTIONS, 1 << 20
  )
  assert sum(map(len, chosen)) < 33_000
  assert {int(c.split()[0]) for c in chosen} == set(range(0, 20, 2))


def _bind(tmp_path, *bindings):
  gin_utils.parse_gin_flags(
    [str(ROOT)],
    ['gin/sources/text.gin', 'gin/vocabularies/own.gin'],
    [f"TEXT_FILES = '{tmp_path}/text/*.txt'", *bindings],
    finalize_config=False,
  )


def test_gin_trains_on_the_training_split(tmp_path, capfd):
  # Each document has a character of its own.
  for i in range(200):
    sign = chr(0x4E00 + i)
    _write(
      tmp_path / 'text', f'{i}.txt', f'{sign} {CODE[i * 10 : i * 10 + 300]}'
    )
  _bind(tmp_path, 'VOCABULARY_PIECES = 900', 'BYTE_FALLBACK = False')
  gin.bind_parameter('text_files.corpus.held_out_share', 0.2)
  vocabulary = vocabularies.DefaultVocabulary()
  shown = capfd.readouterr().err
  assert 'training' not in shown
  signs = {
    split: {
      e['text'].decode()[0]
      for e in text_files.SOURCE.get_dataset(split).as_numpy_iterator()
    }
    for split in ('train', 'validation')
  }
  assert len(signs['validation']) > 10
  assert all(2 not in vocabulary.encode(s) for s in signs['train'])
  assert all(2 in vocabulary.encode(s) for s in signs['validation'])
  # Trained once, looked up at every use.
  assert capfd.readouterr().err.count('training a vocabulary') == 1
  (tmp_path / 'text' / '0.txt').write_text('changed')
  assert vocabulary.vocab_size == vocabularies.default_vocabulary().vocab_size
  assert capfd.readouterr().err == ''


def test_embedding_covers_the_pieces(tmp_path):
  _write(tmp_path / 'text', 'a.txt', CODE)
  for pieces, size in ((3996, 4096), (3997, 4224), (300, 512)):
    gin.clear_config()
    _bind(tmp_path, f'VOCABULARY_PIECES = {pieces}')
    assert vocabularies.embedding_size() == size
    assert vocabularies.default_vocabulary().vocab_size <= size


def test_a_bound_file_takes_precedence_and_no_text_is_read(tmp_path):
  path = _train(_write(tmp_path / 'text', 'a.txt', CODE))
  _bind(tmp_path, "TEXT_FILES = '/nowhere/*.txt'")
  with pytest.raises(FileNotFoundError, match='no file matches /nowhere'):
    vocabularies.default_vocabulary()
  gin.bind_parameter('default_vocabulary.sentencepiece_model_file', str(path))
  found = vocabularies.DefaultVocabulary()
  assert found.sentencepiece_model_file == str(path)


def test_a_file_by_gin(tmp_path):
  path = _train(_write(tmp_path / 'text', 'a.txt', CODE))
  gin_utils.parse_gin_flags(
    [str(ROOT)],
    ['gin/vocabularies/file.gin'],
    [f"VOCABULARY_FILE = '{path}'"],
    finalize_config=False,
  )
  assert vocabularies.default_vocabulary().vocab_size == 700
  assert vocabularies.embedding_size() == 768


def test_a_file_by_gin_must_be_named():
  gin_utils.parse_gin_flags(
    [str(ROOT)], ['gin/vocabularies/file.gin'], [], finalize_config=False
  )
  with pytest.raises(ValueError, match='VOCABULARY_FILE is not set: name a'):
    vocabularies.embedding_size()


def test_examples_of_a_task_decode_to_the_text(tmp_path):
  texts = [
    f'{i}\r\n\n\n\tif a >> {i}:\n        return "▁{i}☃"  \n' * 3
    for i in range(40)
  ]
  for i, text in enumerate(texts):
    _write(tmp_path / 'text', f'{i}.txt', text)
  _bind(tmp_path)
  task = seqio.get_mixture_or_task('fnet_text_prefix_lm')
  vocabulary = vocabularies.default_vocabulary()
  examples = list(
    task.get_dataset({'inputs': 512, 'targets': 512}, 'train', shuffle=False)
  )
  seen = [
    vocabulary.decode(e['inputs'].numpy()[:-1])
    + vocabulary.decode(e['targets'].numpy()[:-1])
    for e in examples
  ]
  assert len(seen) > 20
  assert set(seen) <= set(texts)


def _command(folder, *arguments, tensorflow=True):
  if not tensorflow:
    (folder / 'tensorflow.py').write_text("raise SystemExit('imported')")
  paths = [*([] if tensorflow else [str(folder)]), str(ROOT)]
  return subprocess.run(
    [sys.executable, '-m', 'fnet_t5x.tasks.text_vocabulary', *arguments],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )


@pytest.mark.slow
def test_command_writes_a_model_and_prints_a_summary(tmp_path):
  _write(tmp_path / 'text', 'a.txt', CODE)
  arguments = ('--text_files=text/*.txt', '--output=a.model', '--pieces=600')
  done = _command(tmp_path, *arguments)
  assert done.returncode == 0, done.stderr
  assert [line.split()[1] for line in done.stderr.splitlines()] == [
    'training',
    'trained',
  ]
  vocabulary = vocabularies.from_file(tmp_path / 'a.model')
  assert vocabulary.vocab_size == 700
  first, *_, last = done.stdout.splitlines()
  assert first.startswith('a.model: 600 pieces, ')
  assert ' 0 % of the characters unknown; lossless' in first
  assert last.strip() == '--gin.VOCABULARY_FILE="\'a.model\'"'
  # A checkpoint may need it: an existing file is kept.
  before = (tmp_path / 'a.model').read_bytes()
  done = _command(tmp_path, *arguments, '--pieces=500')
  assert done.returncode == 1
  assert 'error: --output=a.model already exists; name' in done.stderr
  assert (tmp_path / 'a.model').read_bytes() == before


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--output=a.model'], 'error: no --text_files given, such as'),
    (['--text_files=*'], 'error: no --output given, such as'),
    (['--text_files=*', '--output=a', '--pieces=9'], 'error: flag --pieces=9'),
    (['--text_file=*'], "error: Unknown command line flag 'text_file'"),
  ],
)
def test_command_checks_its_flags_first(tmp_path, arguments, message):
  done = _command(tmp_path, *arguments, tensorflow=False)
  assert done.returncode in (1, 2)
  assert done.stderr.startswith(message)


def test_command_shows_its_help(tmp_path):
  done = _command(tmp_path, '--help', tensorflow=False)
  assert done.returncode == 0
  assert "--text_files='~/notes/*.txt'" in done.stdout
  assert '  --[no]byte_fallback\n' in done.stdout
