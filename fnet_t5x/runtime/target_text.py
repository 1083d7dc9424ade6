"""The bytes of text that target tokens stand for, for a loss per byte."""

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import seqio
from jaxtyping import Int

Batch = Mapping[str, np.ndarray]
_FIRST_BYTE, _BYTES = 3, 256  # of seqio.ByteVocabulary, after pad, EOS and unk


class TargetText:
  """Counts the text of evaluation batches, once for each name.

  Bits per byte are the nats of all target tokens / ln 2 / the bytes of the
  targets' text, as in `fnet_t5x.tasks.metrics.held_out_loss`: models of
  different vocabularies can be compared. The nats of EOS and of sentinels
  count, though they stand for no text: what a model pays to end a target, and
  to say where it goes, is part of it.
  """

  def __init__(self, vocabulary: seqio.Vocabulary):
    """Takes the vocabulary of the targets."""
    self._vocabulary = vocabulary
    self._bytes: Int[np.ndarray, 'vocab'] | None = None
    self._counts: dict[str, tuple[int, int] | None] = {}

  def counted(self, name: str, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yields the batches, and counts their targets the first time.

    Args:
      name: of the task, whose batches are the same at every evaluation.
      batches: with `decoder_target_tokens`, [batch, length], and, where not
        all real tokens count, `decoder_loss_weights` of the same shape.
    """
    if name in self._counts:
      yield from batches
      return
    if self._bytes is None:
      self._bytes = piece_bytes(self._vocabulary)
    tokens = size = 0
    known = self._bytes is not None
    for batch in batches:
      yield batch
      targets = np.asarray(batch['decoder_target_tokens'])
      weights = np.asarray(batch.get('decoder_loss_weights', targets != 0))
      counts = weights != 0
      # With other weights the loss is not that of the text.
      known = known and bool(np.all(weights[counts] == 1))
      known = known and int(targets.max(initial=0)) < len(self._bytes)
      if known:
        tokens += int(counts.sum())
        size += int(self._bytes[targets[counts]].sum())
    self._counts[name] = (tokens, size) if known and size else None

  def metrics(self, name: str, values: Mapping[str, float]) -> dict[str, float]:
    """Returns `bits_per_byte` of an evaluation; nothing where it is unknown.

    Args:
      name: of a task whose batches were counted to their end.
      values: its metrics; `cross_ent_per_target_token` is in nats.
    """
    counts = self._counts.get(name)
    if counts is None:
      return {}
    tokens, size = counts
    nats = values['cross_ent_per_target_token'] * tokens
    return {'bits_per_byte': nats / math.log(2) / size}


def piece_bytes(
  vocabulary: seqio.Vocabulary,
) -> Int[np.ndarray, 'vocab'] | None:
  """Returns the bytes of text that each id stands for.

  Those of a piece's UTF-8, its space (`▁`) among them, also the one that
  SentencePiece puts before a text; of text as the vocabulary normalises it. Ids
  that are no text, such as EOS and sentinels, have 0. An unknown piece hides at
  least 1, and gets that.

  Returns:
    None where the vocabulary does not say.
  """
  if isinstance(vocabulary, seqio.ByteVocabulary):
    table = np.zeros(vocabulary.vocab_size, np.int64)
    table[_FIRST_BYTE : _FIRST_BYTE + _BYTES] = 1
    return table
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return None
  pieces = vocabulary.tokenizer
  sentinels = range(
    vocabulary.vocab_size - vocabulary.extra_ids, vocabulary.vocab_size
  )

  def size(piece: int) -> int:
    if piece in sentinels or pieces.IsControl(piece) or pieces.IsUnused(piece):
      return 0
    if pieces.IsByte(piece) or pieces.IsUnknown(piece):
      return 1
    return len(pieces.IdToPiece(piece).replace('▁', ' ').encode())

  return np.array([size(piece) for piece in range(vocabulary.vocab_size)])
