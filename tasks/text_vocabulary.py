"""Training of a vocabulary on your own text files.

  python -m fnet_t5x.tasks.text_vocabulary --text_files='~/notes/*.txt' \\
    --output=notes.model

The vocabulary is lossless: it keeps line breaks, tabs and runs of spaces. To
use the file in a run, pass --gin_file=gin/vocabularies/file.gin; to have the
run train its own vocabulary, pass --gin_file=gin/vocabularies/own.gin.
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
      ' may be repeated.',
    )
    flags.DEFINE_string('output', None, 'The model file to write.')
    flags.DEFINE_integer(
      'pieces', 8000, 'Maximum number of pieces.', lower_bound=300
    )
    flags.DEFINE_boolean(
      'byte_fallback',
      True,
      'Encode characters without a piece as bytes instead of as unknown.',
    )
    flags.DEFINE_string(
      'text_key', 'text', 'The field or column that holds the text.'
    )
    flags.DEFINE_boolean(
      'skip_bad_documents', False, 'Skip bad documents instead of stopping.'
    )
    command_line.read(sys.argv, __doc__)
    if not flags.FLAGS.text_files:
      raise ValueError(
        "no --text_files given, such as --text_files='notes/*.txt'"
      )
    if not flags.FLAGS.output:
      raise ValueError('no --output given, such as --output=notes.model')
    # A checkpoint may need the existing vocabulary.
    if os.path.exists(os.path.expanduser(flags.FLAGS.output)):
      raise ValueError(
        f'--output={flags.FLAGS.output} already exists; name another file, or'
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
# User-defined pieces, since SentencePiece does not train on them.
_SYMBOLS = ('\n', '\r\n', '\r', '\t')
# Minimum number of pieces for characters and words.
_MIN_TEXT_PIECES = 32
# Size of the training sample: proportional to the number of pieces, within
# bounds. SentencePiece takes about 4 s per megabyte on two cores.
_BYTES_PER_PIECE = 1 << 10
_SAMPLE_BYTES = (1 << 22, 1 << 25)
# Maximum text and number of files read for the sample.
_READ_BYTES = 1 << 26
_READ_FILES = 1 << 10
_PASSAGE_BYTES = 1 << 12
# Share of characters that get pieces, with byte fallback for the rare rest.
_COVERAGE = 0.9995
# SentencePiece encodes a space as U+2581 and decodes both to a space. A U+2581
# in a text is therefore mapped to U+FDD0, a Unicode noncharacter that is
# reserved for internal use.
_NORMALIZATION = '2581\tFDD0\n'
_DENORMALIZATION = 'FDD0\t2581\n'
# Scores are multiples of this, so that their sums are exact: a run of nine
# spaces is equally likely as three and six or six and three, and if rounding
# broke the tie, TensorFlow's encoding, used in training, and Python's, used for
# prompts, would differ.
_SCORE_STEP = 1 / 16


def sample(
  paths: Sequence[str],
  part: document_source.Part,
  options: document_files.ReadOptions,
  size: int,
) -> list[bytes]:
  """Samples passages of text files, to train a vocabulary on.

  Passages are chosen and sorted by a hash of their text: names and order of
  files do not matter, and copies count once.

  Args:
    paths: paths of the files.
    part: part of their documents to sample from.
    options: options for reading them.
    size: maximum bytes of text.

  Raises:
    DocumentError: a bad document, unless these are skipped.
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
  """Returns the passages with the lowest hashes, and their total bytes."""
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
  """Yields texts of a part; in a large corpus, the beginning of each file."""
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
  model_type: str = 'unigram',
) -> pathlib.Path:
  """Returns the path of a model trained on text files; trains it if missing.

  The same text and arguments give the same model, wherever the files are.

  Args:
    paths: paths of the text files.
    part: part of their documents to train on.
    options: options for reading them.
    pieces: maximum number of pieces, including special ids, excluding
      sentinels; a short text yields fewer.
    byte_fallback: whether to encode characters without a piece as bytes
      instead of as unknown.
    model_type: SentencePiece's; 'char' makes every character a token.

  Raises:
    FileNotFoundError: there are no files.
    ValueError: there is no text, too few pieces, or the cache is not writable.
    DocumentError: a bad document, unless these are skipped.
  """
  min_pieces = _fixed_pieces(byte_fallback) + _MIN_TEXT_PIECES
  if pieces < min_pieces:
    kind = 'with' if byte_fallback else 'without'
    raise ValueError(
      f'a vocabulary of {pieces} pieces: {kind} byte fallback it needs at least'
      f' {min_pieces}; raise VOCABULARY_PIECES'
    )
  lowest, highest = _SAMPLE_BYTES
  size = min(max(pieces * _BYTES_PER_PIECE, lowest), highest)
  chosen = sample(paths, part, options, size)
  if not chosen:
    raise ValueError(
      f'no text to train a vocabulary on in {len(paths)} text files; add some'
    )
  lines = _lines(chosen, pieces, byte_fallback)
  text = '\n'.join((*lines, _NORMALIZATION, str(_SCORE_STEP)))
  args = sentencepiece_training.trainer_args(
    pieces,
    byte_fallback=byte_fallback,
    model_type=model_type,
    user_defined_symbols=list(_SYMBOLS),
    # The space, even if the text has none.
    required_chars='\u2581',
    remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True,
    # So that the first word of a text is encoded like the first of a line, and
    # decoding token by token gives the same text as decoding all at once.
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
  """Returns the number of special ids, symbols, and byte pieces."""
  return 3 + len(_SYMBOLS) + (256 if byte_fallback else 0)


def _lines(
  texts: Iterable[bytes], pieces: int, byte_fallback: bool
) -> list[str]:
  """Returns training lines; characters without a piece become word breaks."""
  decoded = [text.decode() for text in texts]
  counts = collections.Counter()
  for text in decoded:
    counts.update(text)
  for symbol in _SYMBOLS:
    counts.pop(symbol, None)
  by_count = sorted(counts, key=lambda c: (-counts[c], c))
  # At most half of the pieces: otherwise the characters of a Chinese text, for
  # one, would leave no pieces for words.
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
  # The model includes the rules; the names of temporary files would make every
  # model different.
  model.normalizer_spec.ClearField('normalization_rule_tsv')
  model.denormalizer_spec.ClearField('normalization_rule_tsv')
  return model.SerializeToString(deterministic=True)


@gin.configurable(module='text_vocabulary')
def model_file(
  pieces: int = DEFAULT_PIECES,
  byte_fallback: bool = True,
  model_type: str = 'unigram',
) -> str:
  """Returns the path of a model trained on the training split of `fnet_text_*`.

  A process keeps its vocabulary, even if the files change.

  Args:
    pieces, byte_fallback, model_type: see `trained_model_file`.

  Raises:
    FileNotFoundError, ValueError: see `text_files.corpus` and
      `trained_model_file`.
  """
  # Cached, since every use of the vocabulary calls this: searching for the
  # files each time would take longer than decoding.
  return _model_file(
    pieces,
    byte_fallback,
    model_type,
    repr(sorted(gin.get_bindings(text_files.corpus).items())),
    os.environ.get(text_files.VARIABLE),
    document_files.ReadOptions(),
    sentencepiece_training.cache_dir(),
  )


@functools.lru_cache(maxsize=32)
def _model_file(
  pieces: int,
  byte_fallback: bool,
  model_type: str,
  corpus: str,
  variable: str | None,
  options: document_files.ReadOptions,
  folder: pathlib.Path,
) -> str:
  del corpus, variable, folder  # Only part of the cache key.
  paths, part = text_files.corpus('train')
  return str(
    trained_model_file(paths, part, options, pieces, byte_fallback, model_type)
  )


def main() -> None:
  """Trains the vocabulary that the flags describe, and prints a summary."""
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
    output, cached.read_bytes(), 'name a writable --output'
  )
  texts = sample(paths, part, options, 1 << 18)
  found = spelling.spelling(vocabularies.from_file(output), texts)
  print(found.summary())
  for line in spelling.remedies(found):
    print(line)
  print('\nTo use it in a run:')
  print('  --gin_file=gin/vocabularies/file.gin \\')
  print(f'  --gin.VOCABULARY_FILE="\'{given.output}\'"')


if __name__ == '__main__':
  with command_line.one_line_errors():
    main()
