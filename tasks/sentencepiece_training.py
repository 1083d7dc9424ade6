"""Training and caching of SentencePiece models with T5's special ids."""

import hashlib
import io
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sentencepiece

_REMEDY = 'set FNET_T5X_CACHE_DIR to a writable folder'


def cache_dir() -> pathlib.Path:
  """Returns the cache folder.

  `$FNET_T5X_CACHE_DIR`, or `fnet_t5x` in `$XDG_CACHE_HOME` or `~/.cache`.
  """
  configured = os.environ.get('FNET_T5X_CACHE_DIR')
  if configured:
    return pathlib.Path(configured).expanduser()
  caches = os.environ.get('XDG_CACHE_HOME')
  # The XDG specification says to ignore a relative path.
  if caches and os.path.isabs(caches):
    return pathlib.Path(caches) / 'fnet_t5x'
  return pathlib.Path.home() / '.cache' / 'fnet_t5x'


def trainer_args(vocab_size: int, **more: Any) -> dict[str, Any]:
  """Returns SentencePiece's arguments for a unigram model with T5's ids.

  Args:
    vocab_size: number of pieces, including special ids, excluding sentinels.
    **more: arguments to add or override.
  """
  return {
    'vocab_size': vocab_size,
    'model_type': 'unigram',
    'pad_id': 0,
    'eos_id': 1,
    'unk_id': 2,
    'bos_id': -1,
    'character_coverage': 1.0,
    # The default drops lines over 4,192 bytes; many paragraphs are longer.
    'max_sentence_length': 1 << 20,
    # The number of threads determines the order of float sums, and with it the
    # pieces: fixed, so that every machine trains the same vocabulary.
    'num_threads': 16,
    'minloglevel': 2,
    **more,
  }


def train(lines: Iterable[str], args: Mapping[str, Any], text: str) -> bytes:
  """Trains a SentencePiece model and returns it serialized.

  Args:
    lines: lines to train on.
    args: see `trainer_args`.
    text: short description of the lines, for the error.

  Raises:
    ValueError: SentencePiece cannot train such a model on these lines.
  """
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines), model_writer=model, **args
    )
  except RuntimeError as e:
    raise ValueError(
      'cannot train a SentencePiece vocabulary of'
      f' {args["vocab_size"]} pieces on {text}: {e}'
    ) from e
  return model.getvalue()


def cached_model_file(
  name: str,
  text_hash: str,
  args: Mapping[str, Any],
  text: str,
  trained: Callable[[], bytes],
) -> pathlib.Path:
  """Returns the path of a cached model; trains the model if it is missing.

  Training prints a line to standard error before and after. Two processes that
  start at the same time may both train: they write the same bytes, each to its
  own temporary file, which is renamed when complete.

  Args:
    name: first part of the file's name.
    text_hash: hash of the training text.
    args: training arguments; `vocab_size` is the requested number of pieces.
    text: description of the text for users: 'the shipped corpus'.
    trained: trains a model and returns it serialized.

  Raises:
    ValueError: training fails, or the cache is not writable.
  """
  pieces = args['vocab_size']
  # Different releases train different pieces on the same text and arguments.
  parameters = json.dumps(args, sort_keys=True) + sentencepiece.__version__
  key = hashlib.sha256((text_hash + parameters).encode()).hexdigest()[:16]
  path = cache_dir() / 'vocabularies' / f'{name}_{pieces}_{key}.model'
  if path.is_file():
    return path
  # Fails before training, rather than after.
  _check_folder(path.parent, _REMEDY)
  _print_line(f'training a vocabulary of {pieces:,} pieces on {text} ...')
  start = time.monotonic()
  model = trained()
  write_atomically(path, model, _REMEDY)
  seconds = time.monotonic() - start
  got = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
  fewer = (
    f' ({pieces:,} requested: the text has no more)' if got < pieces else ''
  )
  _print_line(
    f'trained a vocabulary of {got:,} pieces{fewer} in {seconds:.0f} s: {path}'
  )
  return path


def write_atomically(path: pathlib.Path, content: bytes, remedy: str) -> None:
  """Writes a file so that readers see either none of it or all of it.

  Args:
    path: path of the file; its folder is created.
    content: content of the file.
    remedy: what to do if the folder is not writable, for the error.

  Raises:
    ValueError: the folder is not writable.
  """
  handle, name = _temporary_file(path.parent, remedy)
  try:
    # mkstemp's files are private; a vocabulary is for all users.
    os.chmod(name, 0o644)
    with os.fdopen(handle, 'wb') as f:
      f.write(content)
    os.replace(name, path)
  except BaseException:
    os.unlink(name)
    raise


def _check_folder(folder: pathlib.Path, remedy: str) -> None:
  handle, name = _temporary_file(folder, remedy)
  os.close(handle)
  os.unlink(name)


def _temporary_file(folder: pathlib.Path, remedy: str) -> tuple[int, str]:
  try:
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.mkstemp(dir=folder, suffix='.tmp')
  except OSError as e:
    raise ValueError(
      f'cannot write the vocabulary to {folder}: {e.strerror}; {remedy}'
    ) from e


def _print_line(line: str) -> None:
  print(f'fnet_t5x: {line}', file=sys.stderr, flush=True)
