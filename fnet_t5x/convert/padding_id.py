"""Padding's id: exchange of ids 0 and 3 of the published FNet vocabulary.

Everywhere in this project 0 is padding; the published vocabulary has <unk> at 0
and <pad> at 3. Conversion exchanges the two ids wherever an id is an index: in
the rows of the word embedding, in the output bias, and in the pieces of the
SentencePiece model. All other ids stay. The exchange is its own inverse, so the
same functions convert back.
"""

import numpy as np
from google.protobuf import message
from jaxtyping import Float
from sentencepiece import sentencepiece_model_pb2

# Of the published vocabulary: 0 <unk>, 1 <s>, 2 </s>, 3 <pad>, 4 [CLS],
# 5 [SEP], 6 [MASK].
PUBLISHED = 3
PADDING = 0
_UNKNOWN = sentencepiece_model_pb2.ModelProto.SentencePiece.UNKNOWN


def exchange(
  array: Float[np.ndarray, 'vocab ...'],
) -> Float[np.ndarray, 'vocab ...']:
  """Returns a copy of an array by id, with rows 0 and 3 exchanged."""
  result = np.array(array)
  result[[PADDING, PUBLISHED]] = array[[PUBLISHED, PADDING]]
  return result


def exchange_pieces(model: bytes, where: str, published: bool = True) -> bytes:
  """Exchanges pieces 0 and 3 of a SentencePiece model.

  Encodings are the same but for these two ids: SentencePiece chooses pieces by
  text and score, never by id.

  Args:
    model: the serialized model.
    where: its file, for errors.
    published: whether it must have the published ids (unknown 0, padding 3),
      or ours (padding 0, unknown 3).

  Returns:
    The serialized model with the other ids.

  Raises:
    ValueError: not a SentencePiece model, or its ids are others.
  """
  try:
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  except message.DecodeError as error:
    raise ValueError(f'{where} is not a SentencePiece model') from error
  if not proto.pieces:
    raise ValueError(f'{where} is not a SentencePiece model: it has no pieces')
  pad = proto.trainer_spec.pad_piece
  ids = {
    'unknown': [i for i, p in enumerate(proto.pieces) if p.type == _UNKNOWN],
    'padding': [i for i, p in enumerate(proto.pieces) if p.piece == pad],
  }
  wanted = {'unknown': [PADDING], 'padding': [PUBLISHED]}
  if not published:
    wanted = {'unknown': [PUBLISHED], 'padding': [PADDING]}
  if ids != wanted:
    found = ', '.join(
      f'{name} {", ".join(map(str, at)) or "nowhere"}'
      for name, at in ids.items()
    )
    needed = ', '.join(f'{name} {at[0]}' for name, at in wanted.items())
    raise ValueError(
      f'{where} has the ids {found}; '
      f'{"a published FNet" if published else "a converted one"} has {needed}'
    )
  pieces = list(proto.pieces)
  first, other = pieces[PADDING], pieces[PUBLISHED]
  del proto.pieces[:]
  proto.pieces.extend(
    [other, *pieces[1:PUBLISHED], first, *pieces[PUBLISHED + 1 :]]
  )
  spec = proto.trainer_spec
  spec.unk_id, spec.pad_id = (
    (PUBLISHED, PADDING) if published else (PADDING, PUBLISHED)
  )
  return proto.SerializeToString(deterministic=True)


def piece_count(model: bytes) -> int:
  """Returns the number of pieces of a serialized SentencePiece model."""
  return len(sentencepiece_model_pb2.ModelProto.FromString(model).pieces)
