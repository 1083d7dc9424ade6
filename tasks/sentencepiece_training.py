"""Trains SentencePiece models with T5's ids, and keeps them in a cache."""

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

_REMEDY = 'set FNET_T5X_CACHE_DIR to a folder that can be written'


def cache_dir() -> pathlib.Path:
  """`$FNET_T5X_CACHE_DIR`, or `fnet_t5x` in `$XDG_CACHE_HOME` or `~/.cache`."""
  configured = os.environ.get('FNET_T5X_CACHE_DIR')
  if configured:
    return pathlib.Path(configured).expanduser()
  caches = os.environ.get('XDG_CACHE_HOME')
  # A relative one is to be ignored, says the standard.
  if caches and os.path.isabs(caches):
    return pathlib.Path(caches) / 'fnet_t5x'
  return pathlib.Path.home() / '.cache' / 'fnet_t5x'


def trainer_args(vocab_size: int, **more: Any) -> dict[str, Any]:
  """Returns SentencePiece's arguments for a unigram model with T5's ids.

  Args:
    vocab_size: number of pieces, special ids among them, sentinels not.
    **more: further arguments, or others in their place.
  """
  return {
    'vocab_size': vocab_size,
    'model_type': 'unigram',
    'pad_id': 0,
    'eos_id': 1,
    'unk_id': 2,
    'bos_id': -1,
    'character_coverage': 1.0,
    # The default drops lines over 4,192 bytes, and many paragraphs are longer.
    'max_sentence_length': 1 << 20,
    # The number of threads decides the order of float sums, hence the pieces:
    # fixed, so that every machine gets the same vocabulary.
    'num_threads': 16,
    'minloglevel': 2,
    **more,
  }


def train(lines: Iterable[str], args: Mapping[str, Any], text: str) -> bytes:
  """Returns a serialized SentencePiece model.

  Args:
    lines: to train on.
    args: see `trainer_args`.
    text: what the lines are, for the error.

  Raises:
    ValueError: SentencePiece cannot train this on these lines.
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
  """Path of a model in the cache; trains it if it is not there.

  Silent unless it trains; then a line on standard error says what is waited
  for, and another one how long it took. Two processes that start at once may
  both train: they write the same bytes, each through a file of its own that is
  renamed when complete.

  Args:
    name: first part of the file's name.
    text_hash: names the very text.
    args: what it is trained with; `vocab_size` is the pieces asked for.
    text: what it is trained on, for a person: 'the shipped corpus'.
    trained: trains, and returns the serialized model.

  Raises:
    ValueError: it cannot be trained, or the cache cannot be written.
  """
  pieces = args['vocab_size']
  # Releases train other pieces from the same text and arguments.
  parameters = json.dumps(args, sort_keys=True) + sentencepiece.__version__
  key = hashlib.sha256((text_hash + parameters).encode()).hexdigest()[:16]
  path = cache_dir() / 'vocabularies' / f'{name}_{pieces}_{key}.model'
  if path.is_file():
    return path
  # What cannot be kept is not to be waited for.
  _check_folder(path.parent, _REMEDY)
  _say(f'training a vocabulary of {pieces:,} pieces on {text} ...')
  start = time.monotonic()
  model = trained()
  write_atomically(path, model, _REMEDY)
  seconds = time.monotonic() - start
  got = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
  fewer = (
    f' ({pieces:,} asked for: the text has no more)' if got < pieces else ''
  )
  _say(
    f'trained a vocabulary of {got:,} pieces{fewer} in {seconds:.0f} s: {path}'
  )
  return path


def write_atomically(path: pathlib.Path, content: bytes, remedy: str) -> None:
  """Writes so that readers see either no file or all of it.

  Args:
    path: of the file; its folder is made.
    content: of the file.
    remedy: what to do if the folder cannot be written, for the error.

  Raises:
    ValueError: the folder cannot be written.
  """
  handle, name = _temporary_file(path.parent, remedy)
  try:
    # A temporary file is its owner's alone, a vocabulary everybody's.
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


def _say(line: str) -> None:
  print(f'fnet_t5x: {line}', file=sys.stderr, flush=True)
