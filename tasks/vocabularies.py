"""SentencePiece vocabularies with T5's ids: pad 0, eos 1, unk 2, no bos.

The sentinels are the last `extra_ids` ids, counted from the top: the last id is
`<extra_id_0>`. The default vocabulary is trained on the training split of the
shipped corpus at first use, and cached.
"""

import functools
import os
import pathlib

import gin
import seqio
import tensorflow as tf
from google.protobuf import message

from fnet_t5x.tasks import corpus, sentencepiece_training

# The embedding table rounds these 8,100 ids up to 8,192, a multiple of 128.
DEFAULT_VOCAB_SIZE = 8000
DEFAULT_EXTRA_IDS = 100
_CORPUS = 'the shipped corpus'
# (pad, eos, unk)
_T5 = (0, 1, 2)
_PUBLISHED_FNET = (3, 2, 0)
_FNET = (0, 2, 3)  # After conversion (`convert/padding_id.py`).


def trained_model_file(vocab_size: int = DEFAULT_VOCAB_SIZE) -> pathlib.Path:
  """Returns the path of the shipped corpus's model; trains it if missing.

  Args:
    vocab_size: number of pieces, including special ids, excluding sentinels.

  Raises:
    FileNotFoundError: the corpus is not installed.
    ValueError: the corpus is empty or too small for so many pieces, or the
      cache is not writable.
  """
  args = sentencepiece_training.trainer_args(vocab_size)
  lines = (
    line
    for _, text in corpus.documents('train')
    for line in text.splitlines()
    if line.strip()
  )
  return sentencepiece_training.cached_model_file(
    'sotu',
    corpus.content_hash('train'),
    args,
    _CORPUS,
    lambda: sentencepiece_training.train(lines, args, _CORPUS),
  )


def from_file(
  sentencepiece_model_file: str, extra_ids: int = DEFAULT_EXTRA_IDS
) -> seqio.SentencePieceVocabulary:
  """Loads a vocabulary from a SentencePiece model file.

  Args:
    sentencepiece_model_file: path of the model, local or gs://.
    extra_ids: number of sentinels to add to its pieces.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no path, not a SentencePiece model, or a model with neither
      T5's special ids nor those of a converted FNet vocabulary.
  """
  path = os.path.expanduser(sentencepiece_model_file)
  if not path:
    raise ValueError(
      'VOCABULARY_FILE is not set: name a SentencePiece model, such as one that'
      ' `python -m fnet_t5x.tasks.text_vocabulary` trained on your own text'
    )
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
      f'{path} is not a SentencePiece model ({e}): delete it if it is from the'
      ' cache, or name another'
    ) from e
  tokenizer = vocabulary.tokenizer
  special = (tokenizer.pad_id(), tokenizer.eos_id(), tokenizer.unk_id())
  if special == _PUBLISHED_FNET:
    raise ValueError(
      f'{path} has padding at 3, as published for FNet; it is 0 here: give it'
      ' to `python -m fnet_t5x.convert.fnet` as --vocabulary, and use the'
      ' vocabulary.model that it writes'
    )
  if special not in (_T5, _FNET):
    raise ValueError(
      f'{path} has (pad, eos, unk) = {special}, T5 needs (0, 1, 2): train it'
      ' with --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1'
    )
  return vocabulary


# Cached, since every use of the vocabulary calls this: looking at the corpus's
# files for every decoded output would take longer than decoding.
@functools.lru_cache(maxsize=32)
def _known_model_file(
  vocab_size: int, speeches_dir: pathlib.Path, folder: pathlib.Path
) -> pathlib.Path:
  del speeches_dir, folder  # Only part of the cache key.
  return trained_model_file(vocab_size)


@gin.configurable
def default_vocabulary(
  sentencepiece_model_file: str | None = None,
  vocab_size: int = DEFAULT_VOCAB_SIZE,
  extra_ids: int = DEFAULT_EXTRA_IDS,
) -> seqio.SentencePieceVocabulary:
  """Returns the vocabulary of our tasks, and of models trained on them.

  Args:
    sentencepiece_model_file: model file; by default one is trained.
    vocab_size: number of pieces of the trained model, excluding sentinels.
    extra_ids: number of sentinels.

  Raises:
    FileNotFoundError, ValueError: see `from_file` and `trained_model_file`.
  """
  path = sentencepiece_model_file
  if path is None:
    path = _known_model_file(
      vocab_size, corpus.speeches_dir(), sentencepiece_training.cache_dir()
    )
  return from_file(path, extra_ids)


@gin.configurable
def embedding_size(
  pieces: int | None = None, extra_ids: int = DEFAULT_EXTRA_IDS
) -> int:
  """Returns the rows of an embedding table: the vocabulary size, rounded up.

  Args:
    pieces: maximum number of pieces, including special ids; None loads
      `default_vocabulary()` and takes its size.
    extra_ids: number of sentinels to add to `pieces`.

  Returns:
    A multiple of 128, as accelerators prefer.

  Raises:
    FileNotFoundError, ValueError: see `default_vocabulary`.
  """
  ids = (
    default_vocabulary().vocab_size if pieces is None else pieces + extra_ids
  )
  return -(-ids // 128) * 128


class DefaultVocabulary(seqio.SentencePieceVocabulary):
  """Lazy proxy of `default_vocabulary()`, evaluated at each use.

  Tasks are registered at import, before gin is parsed and possibly before a
  vocabulary is trained; their features hold this proxy. Nothing is read or
  trained before the first use, and gin bindings of `default_vocabulary` take
  effect whenever they are made.

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
    # Cheap: SeqIO caches models by file and number of sentinels.
    return default_vocabulary()._model_context()

  def __eq__(self, other):
    return self is other or (
      isinstance(other, seqio.SentencePieceVocabulary)
      and self.sp_model == other.sp_model
    )

  __hash__ = None

  def __str__(self) -> str:
    return str(default_vocabulary())
