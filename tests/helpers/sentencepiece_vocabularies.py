"""A small SentencePiece vocabulary with byte fallback and sentinels."""

import io
import pathlib

import sentencepiece
import seqio

_TEXTS = [
  'my fellow citizens, the state of the union is strong and free',
  'we must help the people of the united states, and their friends',
  "don't forget the well-known words (of freedom) of 1862",
] * 30


def train(folder: pathlib.Path, extra_ids: int = 4, keeps_blanks: bool = False):
  """Trains a vocabulary of about 130 pieces, 256 bytes and the sentinels.

  Args:
    folder: folder to write it to.
    extra_ids: number of sentinels.
    keeps_blanks: whether decoding restores blanks exactly, also at the ends.
  """
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
    add_dummy_prefix=not keeps_blanks,
    remove_extra_whitespaces=not keeps_blanks,
    allow_whitespace_only_pieces=keeps_blanks,
  )
  path = folder / 'pieces.model'
  path.write_bytes(model.getvalue())
  return seqio.SentencePieceVocabulary(str(path), extra_ids=extra_ids)
