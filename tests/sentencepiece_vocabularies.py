"""A small SentencePiece vocabulary with bytes, lines and sentinels."""

import io
import pathlib

import sentencepiece
import seqio

_TEXTS = [
  'my fellow citizens, the state of the union is strong and free',
  'we must help the people of the united states, and their friends',
  "don't forget the well-known words (of freedom) of 1862",
] * 30


def train(folder: pathlib.Path, extra_ids: int = 4):
  """Returns one of about 130 pieces, 256 bytes and `extra_ids` sentinels."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(_TEXTS),
    model_writer=model,
    vocab_size=380,
    hard_vocab_limit=False,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    byte_fallback=True,
    user_defined_symbols=['\n'],
    normalization_rule_name='identity',
    minloglevel=2,
  )
  path = folder / 'pieces.model'
  path.write_bytes(model.getvalue())
  return seqio.SentencePieceVocabulary(str(path), extra_ids=extra_ids)
