"""Trains a vocabulary on your own text files.

  python -m fnet_t5x.tasks.text_vocabulary --text_files='~/notes/*.txt' \\
    --output=notes.model

Text of any kind comes back out of it as it went in: line ends, tabs, runs of
blanks. A run uses the file with --gin_file=gin/vocabularies/file.gin; or it
trains a vocabulary itself, with --gin_file=gin/vocabularies/own.gin.
"""

import os
import sys

from absl import flags

from fnet_t5x import command_line

if __name__ == '__main__':
  with command_line.one_line_errors():
    flags.DEFINE_multi_string(
      'text_files',
      [],
      'File or glob of .txt, .jsonl, .json (both also .gz or .zst) or .parquet;'
      ' repeat it for several.',
    )
    flags.DEFINE_string('output', None, 'The model file to write.')
    flags.DEFINE_integer(
      'pieces', 8000, 'Pieces, if the text has so many.', lower_bound=300
    )
    flags.DEFINE_boolean(
      'byte_fallback',
      True,
      'Spell byte by byte what no piece spells; without, it becomes unknown.',
    )
    flags.DEFINE_string(
      'text_key', 'text', 'The field or column that holds the text.'
    )
    flags.DEFINE_boolean(
      'skip_bad_documents', False, 'Leave out what is no document.'
    )
    command_line.read(sys.argv, __doc__)
    if not flags.FLAGS.text_files:
      raise ValueError(
        "no --text_files given, such as --text_files='notes/*.txt'"
      )
    if not flags.FLAGS.output:
      raise ValueError('no --output given, such as --output=notes.model')
    # A checkpoint may need the vocabulary that is there.
    if os.path.exists(os.path.expanduser(flags.FLAGS.output)):
      raise ValueError(
        f'--output={flags.FLAGS.output} is there already; name another file, or'
        ' remove it'
      )
  command_line.import_tensorflow()

import collections
import functools
import hashlib
import itertools
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
from sentencepiece import sentencepiece_model_pb2

from fnet_t5x.tasks import (
  document_files,
  document_source,
  passages,
  sentencepiece_training,
  spelling,
  text_files,
  vocabularies,
)

DEFAULT_PIECES = 8000
# Pieces of their own: to SentencePiece they are no part of a line.
_SYMBOLS = ('\n', '\r\n', '\r', '\t')
# Pieces for characters and words, at least.
_FEWEST = 32
# Text that is trained on at most: so much per piece, within bounds.
# SentencePiece takes about 4 s per megabyte on two cores.
_BYTES_PER_PIECE = 1 << 10
_SAMPLE_BYTES = (1 << 22, 1 << 25)
# Text and files that are read for it at most.
_READ_BYTES = 1 << 26
_READ_FILES = 1 << 10
_PASSAGE_BYTES = 1 << 12
# Characters that are spelled by pieces, with byte fallback: the rest is rare.
_COVERAGE = 0.9995
# SentencePiece writes a blank as U+2581, and reads both as a blank. A U+2581
# in a text is therefore written as a character that stands in no text: Unicode
# keeps U+FDD0 for uses within a program.
_NORMALIZATION = '2581\tFDD0\n'
_DENORMALIZATION = 'FDD0\t2581\n'
# Scores are multiples of this, so that their sums are exact: three blanks and
# six are as likely as six and three, and where rounding decides between them,
# TensorFlow's encoding, for training, differs from Python's, for a prompt.
_SCORE_STEP = 1 / 16


def sample(
  paths: Sequence[str],
  part: document_source.Part,
  options: document_files.ReadOptions,
  size: int,
) -> list[bytes]:
  """Returns passages from all over text files, to train a vocabulary on.

  A hash of their text chooses them and is their order: names and order of
  files do not matter, and copies count once.

  Args:
    paths: of the files.
    part: what part of their documents is taken.
    options: how they are read.
    size: bytes of text, at most.

  Raises:
    DocumentError: a bad document, unless such are skipped.
  """
  kept: dict[bytes, bytes] = {}
  kept_bytes = 0
  for text in _texts(paths, part, options):
    for passage in passages.passages(text, _PASSAGE_BYTES):
      digest = hashlib.blake2b(passage, digest_size=16).digest()
      if digest not in kept:
        kept[digest] = passage
        kept_bytes += len(passage)
    if kept_bytes > 2 * size:
      kept, kept_bytes = _first(kept, size)
  return list(_first(kept, size)[0].values())


def _first(
  kept: Mapping[bytes, bytes], size: int
) -> tuple[dict[bytes, bytes], int]:
  """Returns what comes first, and how many bytes it has."""
  first, total = {}, 0
  for digest in sorted(kept):
    if total + len(kept[digest]) > size:
      break
    first[digest] = kept[digest]
    total += len(kept[digest])
  return first, total


def _texts(
  paths: Sequence[str],
  part: document_source.Part,
  options: document_files.ReadOptions,
) -> Iterator[bytes]:
  """Yields texts of a part: of every file the beginning, if there is much."""
  ordered = sorted(paths)
  ordered = ordered[:: max(1, -(-len(ordered) // _READ_FILES))]
  for path in ordered:
    left = _READ_BYTES // len(ordered)
    for document in document_files.documents(path, options):
      if left <= 0:
        break
      left -= len(document.text)
      for taken in part.of(document):
        yield taken.text


def trained_model_file(
  paths: Sequence[str],
  part: document_source.Part,
  options: document_files.ReadOptions,
  pieces: int = DEFAULT_PIECES,
  byte_fallback: bool = True,
) -> pathlib.Path:
  """Path of a model trained on text files; trains and caches it if need be.

  The same text and arguments give the same model, wherever the files are.

  Args:
    paths: of the text files.
    part: what part of their documents is trained on.
    options: how they are read.
    pieces: number of pieces, special ids among them, sentinels not. A text
      that is too short for so many gives fewer.
    byte_fallback: whether characters without a piece are spelled by their
      bytes, instead of becoming unknown.

  Raises:
    FileNotFoundError: there are no files.
    ValueError: there is no text, the number of pieces fits no text, or the
      cache cannot be written.
    DocumentError: a bad document, unless such are skipped.
  """
  fewest = _fixed_pieces(byte_fallback) + _FEWEST
  if pieces < fewest:
    kind = 'with' if byte_fallback else 'without'
    raise ValueError(
      f'a vocabulary of {pieces} pieces: {kind} byte fallback it takes at least'
      f' {fewest}; raise VOCABULARY_PIECES'
    )
  least, most = _SAMPLE_BYTES
  size = min(max(pieces * _BYTES_PER_PIECE, least), most)
  chosen = sample(paths, part, options, size)
  if not chosen:
    raise ValueError(
      f'{len(paths)} text files hold no text to train a vocabulary on; add some'
    )
  lines = _lines(chosen, pieces, byte_fallback)
  text = '\n'.join((*lines, _NORMALIZATION, str(_SCORE_STEP)))
  args = sentencepiece_training.trainer_args(
    pieces,
    byte_fallback=byte_fallback,
    user_defined_symbols=list(_SYMBOLS),
    # The blank, even if the text has none.
    required_chars='\u2581',
    remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True,
    # The first word of a text has the piece that it has as the first of a
    # line; and pieces of text decoded one by one are those of the whole.
    add_dummy_prefix=False,
    hard_vocab_limit=False,
  )
  files = f'{len(paths):,} {"file" if len(paths) == 1 else "files"}'
  return sentencepiece_training.cached_model_file(
    'text',
    hashlib.sha256(text.encode()).hexdigest(),
    args,
    files,
    lambda: _train(lines, args, files),
  )


def _fixed_pieces(byte_fallback: bool) -> int:
  """Padding, end and unknown, the symbols, and a piece per byte."""
  return 3 + len(_SYMBOLS) + (256 if byte_fallback else 0)


def _lines(
  texts: Iterable[bytes], pieces: int, byte_fallback: bool
) -> list[str]:
  """Returns lines to train on: characters without a piece end a word there."""
  decoded = [text.decode() for text in texts]
  counts = collections.Counter()
  for text in decoded:
    counts.update(text)
  for symbol in _SYMBOLS:
    counts.pop(symbol, None)
  by_count = sorted(counts, key=lambda c: (-counts[c], c))
  # Half of the pieces at most: those of a text of many different characters,
  # such as a Chinese one, would leave none for words.
  most = (pieces - _fixed_pieces(byte_fallback)) // 2
  if byte_fallback:
    reached = itertools.accumulate(counts[c] for c in by_count)
    wanted = _COVERAGE * counts.total()
    most = min(most, 1 + sum(1 for count in reached if count < wanted))
  without = dict.fromkeys(map(ord, by_count[most:]), '\t')
  return [
    line
    for text in decoded
    for line in re.split('\r?\n', text.translate(without))
    if line
  ]


def _train(lines: Iterable[str], args: Mapping[str, Any], text: str) -> bytes:
  with tempfile.TemporaryDirectory() as folder:
    names = {}
    for name, rule in (
      ('normalization_rule_tsv', _NORMALIZATION),
      ('denormalization_rule_tsv', _DENORMALIZATION),
    ):
      path = pathlib.Path(folder, name)
      path.write_text(rule)
      names[name] = str(path)
    model = sentencepiece_model_pb2.ModelProto.FromString(
      sentencepiece_training.train(lines, {**args, **names}, text)
    )
  for piece in model.pieces:
    piece.score = round(piece.score / _SCORE_STEP) * _SCORE_STEP
  # The rules are in the model; where they came from is not the same twice.
  model.normalizer_spec.ClearField('normalization_rule_tsv')
  model.denormalizer_spec.ClearField('normalization_rule_tsv')
  return model.SerializeToString(deterministic=True)


@gin.configurable(module='text_vocabulary')
def model_file(pieces: int = DEFAULT_PIECES, byte_fallback: bool = True) -> str:
  """Path of the model trained on what `fnet_text_*` are trained on.

  What is held out is not trained on. The vocabulary of a process stays as it
  is, whatever becomes of the files.

  Args:
    pieces, byte_fallback: see `trained_model_file`.

  Raises:
    FileNotFoundError, ValueError: see `text_files.corpus` and
      `trained_model_file`.
  """
  # A vocabulary is asked for at every use: to look for the files each time
  # would take longer than to decode.
  return _model_file(
    pieces,
    byte_fallback,
    repr(sorted(gin.get_bindings(text_files.corpus).items())),
    os.environ.get(text_files.VARIABLE),
    document_files.ReadOptions(),
    sentencepiece_training.cache_dir(),
  )


@functools.lru_cache(maxsize=32)
def _model_file(
  pieces: int,
  byte_fallback: bool,
  corpus: str,
  variable: str | None,
  options: document_files.ReadOptions,
  folder: pathlib.Path,
) -> str:
  del corpus, variable, folder  # What the answer depends on.
  paths, part = text_files.corpus('train')
  return str(trained_model_file(paths, part, options, pieces, byte_fallback))


def main() -> None:
  """Trains the vocabulary that the flags describe, and says what it is like."""
  given = flags.FLAGS
  gin.bind_parameter('ReadOptions.text_key', given.text_key)
  gin.bind_parameter('ReadOptions.skip_bad_documents', given.skip_bad_documents)
  options = document_files.ReadOptions()
  paths, part = text_files.corpus('train', train=given.text_files)
  cached = trained_model_file(
    paths, part, options, given.pieces, given.byte_fallback
  )
  output = pathlib.Path(given.output).expanduser()
  sentencepiece_training.write_atomically(
    output, cached.read_bytes(), 'name an --output that can be written'
  )
  texts = sample(paths, part, options, 1 << 18)
  found = spelling.spelling(vocabularies.from_file(output), texts)
  print(found.summary())
  for line in spelling.remedies(found):
    print(line)
  print('\nuse it in a run:')
  print('  --gin_file=gin/vocabularies/file.gin \\')
  print(f'  --gin.VOCABULARY_FILE="\'{given.output}\'"')


if __name__ == '__main__':
  with command_line.one_line_errors():
    main()
