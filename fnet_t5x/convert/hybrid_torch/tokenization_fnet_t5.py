# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Tokenizer of FNet-T5: SentencePiece's, with all of its ids.

T5's tokenizer in transformers splits texts at whitespace and has no byte
pieces, so that other vocabularies than T5's get other ids from it. Here
SentencePiece itself encodes the whole text; the sentinels are pieces of
`spiece.model`.
"""

import pathlib

import sentencepiece
from transformers import PreTrainedTokenizer

PIECES = 'spiece.model'


class FNetT5Tokenizer(PreTrainedTokenizer):
  """Encodes by SentencePiece, and appends EOS."""

  vocab_files_names = {'vocab_file': PIECES}  # noqa: RUF012
  model_input_names = ['input_ids', 'attention_mask']  # noqa: RUF012

  def __init__(self, vocab_file: str, **kwargs):
    """Reads `spiece.model`, which also names the special tokens."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=vocab_file)
    self.pieces = pieces
    for name in ('pad', 'eos', 'unk'):
      token = getattr(pieces, f'{name}_id')()
      kwargs[f'{name}_token'] = pieces.id_to_piece(token)
    super().__init__(**kwargs)

  @property
  def vocab_size(self) -> int:
    """Number of ids."""
    return self.pieces.get_piece_size()

  def get_vocab(self) -> dict[str, int]:
    """Returns the ids by piece."""
    return {self.pieces.id_to_piece(i): i for i in range(self.vocab_size)}

  def tokenize(self, text: str, **kwargs) -> list[str]:
    """Returns the pieces of a text.

    '</s>' in a text is no end of it, as little as in training texts.
    """
    return [self.pieces.id_to_piece(i) for i in self.pieces.encode(text)]

  def _convert_token_to_id(self, token: str) -> int:
    return self.pieces.piece_to_id(token)

  def _convert_id_to_token(self, index: int) -> str:
    # Embedding tables are rounded up: a network may choose an id without piece.
    known = index < self.vocab_size
    return self.pieces.id_to_piece(index if known else self.pieces.unk_id())

  def convert_tokens_to_string(self, tokens: list[str]) -> str:
    """Returns the text of pieces.

    Padding and EOS, which SentencePiece decodes to nothing, are shown: others
    take EOS as text, for example to recognize the end of one.
    """
    shown = (self.pad_token, self.eos_token)
    texts, ids = [], []
    for token in tokens:
      if token in shown:
        texts += [self.pieces.decode(ids), token]
        ids = []
      else:
        ids.append(self.pieces.piece_to_id(token))
    return ''.join([*texts, self.pieces.decode(ids)])

  def build_inputs_with_special_tokens(
    self, token_ids_0: list[int], token_ids_1: list[int] | None = None
  ) -> list[int]:
    """Appends EOS to each text."""
    end = [self.eos_token_id]
    second = [] if token_ids_1 is None else [*token_ids_1, *end]
    return [*token_ids_0, *end, *second]

  def save_vocabulary(
    self, save_directory: str, filename_prefix: str | None = None
  ) -> tuple[str]:
    """Writes `spiece.model`."""
    prefix = f'{filename_prefix}-' if filename_prefix else ''
    path = pathlib.Path(save_directory, prefix + PIECES)
    path.write_bytes(self.pieces.serialized_model_proto())
    return (str(path),)
