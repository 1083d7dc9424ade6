"""SentencePiece vocabularies with T5's ids: pad 0, eos 1, unk 2, no bos.

The sentinels are the `extra_ids` at the top, counting down: the last id is
`<extra_id_0>`. The default vocabulary is trained on first use, on the training
split of the shipped corpus, and cached.
"""

import functools
import hashlib
import io
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import gin
import sentencepiece
import seqio
import tensorflow as tf
from google.protobuf import message

from fnet_t5x.tasks import corpus

# The network's embedding rounds the 8,100 ids up to 8,192, a multiple of 128.
DEFAULT_VOCAB_SIZE = 8000
DEFAULT_EXTRA_IDS = 100


def cache_dir() -> pathlib.Path:
  """`$FNET_T5X_CACHE_DIR`, or `~/.cache/fnet_t5x`."""
  configured = os.environ.get('FNET_T5X_CACHE_DIR')
  if configured:
    return pathlib.Path(configured).expanduser()
  return pathlib.Path.home() / '.cache' / 'fnet_t5x'


def _train(trainer_args: dict[str, Any]) -> bytes:
  """Returns a serialized SentencePiece model of the training split."""
  lines = (
    line
    for _, text in corpus.documents('train')
    for line in text.splitlines()
    if line.strip()
  )
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=lines, model_writer=model, **trainer_args
    )
  except RuntimeError as e:
    raise ValueError(
      'cannot train a SentencePiece vocabulary of'
      f' {trainer_args["vocab_size"]} pieces on the shipped corpus: {e}'
    ) from e
  return model.getvalue()


def _write_atomically(path: pathlib.Path, content: bytes) -> None:
  """Writes so that readers see either no file or all of it."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix='.tmp')
  except OSError as e:
    raise ValueError(
      f'cannot write the vocabulary to {path.parent}: {e.strerror}; set'
      ' FNET_T5X_CACHE_DIR to a folder that can be written'
    ) from e
  try:
    with os.fdopen(handle, 'wb') as f:
      f.write(content)
    os.replace(name, path)
  except BaseException:
    os.unlink(name)
    raise


def trained_model_file(vocab_size: int = DEFAULT_VOCAB_SIZE) -> pathlib.Path:
  """Path of the shipped corpus's model; trains and caches it if there is none.

  Silent unless it trains; then one line on standard error. Two processes that
  start at once may both train: they write the same bytes, each through a file
  of its own that is renamed when complete.

  Args:
    vocab_size: number of pieces, special ids among them, sentinels not.

  Raises:
    FileNotFoundError: the corpus is not installed.
    ValueError: the corpus is empty, the size does not fit the corpus, or the
      cache cannot be written.
  """
  trainer_args = {
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
  }
  # Releases train other pieces from the same text and arguments.
  parameters = (
    json.dumps(trainer_args, sort_keys=True) + sentencepiece.__version__
  )
  key = hashlib.sha256(
    (corpus.content_hash('train') + parameters).encode()
  ).hexdigest()[:16]
  path = cache_dir() / 'vocabularies' / f'sotu_{vocab_size}_{key}.model'
  if not path.is_file():
    start = time.monotonic()
    model = _train(trainer_args)
    _write_atomically(path, model)
    print(
      f'fnet_t5x: trained a vocabulary of {vocab_size} pieces on the shipped'
      f' corpus in {time.monotonic() - start:.0f} s: {path}',
      file=sys.stderr,
    )
  return path


def from_file(
  sentencepiece_model_file: str, extra_ids: int = DEFAULT_EXTRA_IDS
) -> seqio.SentencePieceVocabulary:
  """The vocabulary in a SentencePiece model file, local or remote (gs://).

  Args:
    sentencepiece_model_file: path of the model, without sentinels.
    extra_ids: number of sentinels to put on top of its pieces.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a SentencePiece model, or not one with T5's special ids.
  """
  path = os.fspath(sentencepiece_model_file)
  if not tf.io.gfile.exists(path):
    raise FileNotFoundError(
      f'no SentencePiece model at {path}: check the path, or leave'
      ' default_vocabulary.sentencepiece_model_file unset to train one on the'
      ' shipped corpus'
    )
  vocabulary = seqio.SentencePieceVocabulary(path, extra_ids=extra_ids)
  try:
    vocabulary.load_model()
  except (message.DecodeError, RuntimeError) as e:
    raise ValueError(
      f'{path} is not a SentencePiece model ({e}): delete it if it is a cached'
      ' one, or name another'
    ) from e
  tokenizer = vocabulary.tokenizer
  special = (tokenizer.pad_id(), tokenizer.eos_id(), tokenizer.unk_id())
  if special != (0, 1, 2):
    raise ValueError(
      f'{path} has (pad, eos, unk) = {special}, T5 needs (0, 1, 2): train it'
      ' with --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1'
    )
  return vocabulary


# A vocabulary is asked for at every use, an evaluation's every output: to look
# at the corpus's files each time would take longer than to decode.
@functools.lru_cache(maxsize=32)
def _known_model_file(
  vocab_size: int, speeches_dir: pathlib.Path, folder: pathlib.Path
) -> pathlib.Path:
  del speeches_dir, folder  # What the answer depends on.
  return trained_model_file(vocab_size)


@gin.configurable
def default_vocabulary(
  sentencepiece_model_file: str | None = None,
  vocab_size: int = DEFAULT_VOCAB_SIZE,
  extra_ids: int = DEFAULT_EXTRA_IDS,
) -> seqio.SentencePieceVocabulary:
  """The vocabulary of our tasks, and of the models trained on them.

  Args:
    sentencepiece_model_file: a model of your own instead of the trained one.
    vocab_size: number of pieces of the trained one, sentinels not among them.
    extra_ids: number of sentinels on top.

  Raises:
    FileNotFoundError, ValueError: see `from_file` and `trained_model_file`.
  """
  path = sentencepiece_model_file or _known_model_file(
    vocab_size, corpus.speeches_dir(), cache_dir()
  )
  return from_file(path, extra_ids)


class DefaultVocabulary(seqio.SentencePieceVocabulary):
  """What `default_vocabulary()` returns, asked at each use.

  Tasks are registered at import, before gin is parsed and perhaps before any
  vocabulary was trained: this stands in their features. Nothing is read or
  trained before the first use, and gin's bindings for `default_vocabulary`
  count whenever they come.

  Equal to every SentencePiece vocabulary with the same pieces and sentinels,
  wherever its file is.
  """

  def __init__(self):
    super().__init__('')

  @property
  def sentencepiece_model_file(self) -> str:
    return default_vocabulary().sentencepiece_model_file

  @property
  def extra_ids(self) -> int:
    return default_vocabulary().extra_ids

  def _model_context(self):
    # seqio's own cache, by file and number of sentinels, makes this cheap.
    return default_vocabulary()._model_context()

  def __eq__(self, other):
    return self is other or (
      isinstance(other, seqio.SentencePieceVocabulary)
      and self.sp_model == other.sp_model
    )

  __hash__ = None

  def __str__(self) -> str:
    return str(default_vocabulary())
