"""Filling in the masks of a text with a masked language model.

A mask stands for one token, together with the space before it if the token
begins a word: the text is split at the masks, and the part before a mask is
read without its last space.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from jaxtyping import Bool

from fnet_t5x.runtime import loaded_model
from fnet_t5x.runtime.eval import piece_bytes

MASK = '[MASK]'
_SPACE = '▁'


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A token for a mask.

  Attributes:
    text: its text; with a space before it if it begins a word.
    token: its id.
    probability: by the model, among all tokens.
  """

  text: str
  token: int
  probability: float


class MaskFiller:
  """Fills in masks with the model of a checkpoint.

  Attributes:
    step: the checkpoint's step.
    task_name: the task or mixture on which the model was trained.
  """

  def __init__(self, loaded: loaded_model.LoadedModel):
    """Takes a loaded `EncoderOnlyModel`."""
    self.step = loaded.step
    self.task_name = loaded.task_name
    self._model = loaded.model
    self._params = loaded.params
    self._length = loaded.feature_lengths['inputs']
    self._vocabulary = loaded.model.output_vocabulary
    self._has_text = ids_with_text(self._vocabulary)
    self._logits = jax.jit(self._model.mask_logits)

  def fill_masks(self, text: str, top_k: int = 5) -> list[list[Candidate]]:
    """Returns the likeliest tokens for each [MASK] of a text.

    Each mask is filled in by itself, given the text and the other masks.

    Args:
      text: a text with at least one `[MASK]`.
      top_k: candidates per mask.

    Returns:
      The candidates of each mask in order, the likeliest first. Tokens without
      text, such as padding or [SEP], are not among them.

    Raises:
      ValueError: the text has no mask or exceeds the model's length, or
        `top_k` is less than 1.
    """
    if not isinstance(top_k, int) or top_k < 1:
      raise ValueError(f'top_k is {top_k!r}; it must be at least 1')
    tokens = self.tokens(text)
    padded = np.zeros((1, self._length), np.int32)
    padded[0, : len(tokens)] = tokens
    (masks,) = np.nonzero(padded[0] == self._model.mask_id)
    # As many positions in every call, so that it is compiled only once.
    positions = np.zeros((1, self._length), np.int32)
    positions[0, : len(masks)] = masks
    logits = self._logits(
      self._params, jnp.asarray(padded), jnp.asarray(positions)
    )
    log_probs = np.asarray(jax.nn.log_softmax(logits[0]))[: len(masks)]
    if np.any(np.isnan(log_probs)):
      raise ValueError(
        f"the model's logits are not finite at step {self.step}: the checkpoint"
        ' is damaged or the run diverged'
      )
    return [self._candidates(row, top_k) for row in log_probs]

  def tokens(self, text: str) -> list[int]:
    """Returns the ids of [CLS] text [SEP], with masks.

    Raises:
      ValueError: as `fill_masks`.
    """
    if MASK not in text:
      raise ValueError(
        f'the prompt has no {MASK}: put one in place of each missing word'
      )
    model = self._model
    parts = split_text(text, self._vocabulary)
    found = [model.cls_id, *parts[0]]
    for part in parts[1:]:
      found += [model.mask_id, *part]
    found.append(model.sep_id)
    if len(found) > self._length:
      raise ValueError(
        f'the prompt is {len(found)} tokens long, with [CLS] and [SEP], and the'
        f' model reads at most {self._length}: shorten it'
      )
    return found

  def _candidates(self, log_probs: np.ndarray, top_k: int) -> list[Candidate]:
    known = np.where(self._has_text, log_probs[: len(self._has_text)], -np.inf)
    best = np.argsort(-known, kind='stable')[:top_k]
    return [
      Candidate(
        text=token_text(self._vocabulary, int(token)),
        token=int(token),
        probability=float(np.exp(known[token])),
      )
      for token in best
      if known[token] > -np.inf
    ]


def ids_with_text(vocabulary: seqio.Vocabulary) -> Bool[np.ndarray, ' vocab']:
  """Returns which ids decode to text, and so can be candidates."""
  sizes = piece_bytes(vocabulary)
  if sizes is None:
    return np.ones(vocabulary.vocab_size, bool)
  found = sizes > 0
  if vocabulary.unk_id is not None:
    found[vocabulary.unk_id] = False
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    # [CLS], [SEP] and [MASK] are pieces of published vocabularies.
    for token in range(vocabulary.tokenizer.GetPieceSize()):
      piece = vocabulary.tokenizer.IdToPiece(token)
      if piece in ('[CLS]', '[SEP]', MASK, '<pad>', '<s>', '</s>'):
        found[token] = False
  return found


def token_text(vocabulary: seqio.Vocabulary, token: int) -> str:
  """Returns a token's text, with the space before it."""
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return vocabulary.tokenizer.IdToPiece(token).replace(_SPACE, ' ')
  return vocabulary.decode([token])


def split_text(text: str, vocabulary: seqio.Vocabulary) -> list[list[int]]:
  """Returns the ids of the parts of a text between its masks.

  A part that follows a mask without a space is encoded as the middle of a word,
  although SentencePiece may put a space before every text.
  """
  parts = text.split(MASK)
  encoded = []
  for number, part in enumerate(parts):
    read = part.rstrip(' ') if number < len(parts) - 1 else part
    tokens = [int(token) for token in vocabulary.encode(read)] if read else []
    if number and not read[:1].isspace():
      tokens = _without_space(tokens, vocabulary)
    encoded.append(tokens)
  return encoded


def _without_space(
  tokens: Sequence[int], vocabulary: seqio.Vocabulary
) -> list[int]:
  """Returns tokens without the space that SentencePiece puts first."""
  if not tokens or not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return list(tokens)
  model = vocabulary.tokenizer
  id_of: Callable[[str], int] = model.PieceToId
  piece = model.IdToPiece(tokens[0])
  if not piece.startswith(_SPACE):
    return list(tokens)
  rest = piece.removeprefix(_SPACE)
  if not rest:
    return list(tokens[1:])
  # Kept where there is no such piece within words.
  known = id_of(rest) != vocabulary.unk_id
  return [id_of(rest) if known else tokens[0], *tokens[1:]]
