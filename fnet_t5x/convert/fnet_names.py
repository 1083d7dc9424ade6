"""Names of FNet's parameters in Hugging Face's layout.

Sources: google-research/google-research `f_net`, huggingface/transformers
`models/fnet`. Torch keeps a linear map's weight transposed; the sentence-pair
head is kept that way by both.
"""

import re
from collections.abc import Callable, Iterable

import numpy as np

Change = Callable[[np.ndarray], np.ndarray]

# (our name, Hugging Face's, change of layout); `{}` is the layer's number.
_NORM = (('scale', 'weight', ''), ('bias', 'bias', ''))
_DENSE = (('kernel', 'weight', 'T'), ('bias', 'bias', ''))
_OUTPUT = (('output_kernel', 'weight', ''), ('output_bias', 'bias', ''))
_MODULES = (
  ('encoder/embedder/layer_norm', 'fnet.embeddings.LayerNorm', _NORM),
  ('encoder/embedder/hidden_mapping_in', 'fnet.embeddings.projection', _DENSE),
  (
    'encoder/encoder_{}/mixing_layer_norm',
    'fnet.encoder.layer.{}.fourier.output.LayerNorm',
    _NORM,
  ),
  (
    'encoder/feed_forward_{}/intermediate',
    'fnet.encoder.layer.{}.intermediate.dense',
    _DENSE,
  ),
  (
    'encoder/feed_forward_{}/output',
    'fnet.encoder.layer.{}.output.dense',
    _DENSE,
  ),
  (
    'encoder/encoder_{}/output_layer_norm',
    'fnet.encoder.layer.{}.output.LayerNorm',
    _NORM,
  ),
  ('encoder/pooler', 'fnet.pooler.dense', _DENSE),
  ('predictions_dense', 'cls.predictions.transform.dense', _DENSE),
  ('predictions_layer_norm', 'cls.predictions.transform.LayerNorm', _NORM),
  ('classification', 'cls.seq_relationship', _OUTPUT),
)
_LEAVES = (
  (
    'encoder/embedder/word/embedding',
    'fnet.embeddings.word_embeddings.weight',
    '',
  ),
  (
    'encoder/embedder/position/embedding',
    'fnet.embeddings.position_embeddings.weight',
    'rows',
  ),
  (
    'encoder/embedder/type/embedding',
    'fnet.embeddings.token_type_embeddings.weight',
    '',
  ),
  ('predictions_output/output_bias', 'cls.predictions.bias', ''),
  *(
    (f'{ours}/{our_leaf}', f'{theirs}.{their_leaf}', change)
    for ours, theirs, leaves in _MODULES
    for our_leaf, their_leaf, change in leaves
  ),
)
_FROM: dict[str, Change] = {
  '': lambda x: x,
  'T': lambda x: x.T,
  'rows': lambda x: x[None],
}
_TO = _FROM | {'rows': lambda x: x[0]}
# Copies that Hugging Face ties to another tensor, by the name of that tensor.
TIED = {
  'cls.predictions.decoder.weight': 'fnet.embeddings.word_embeddings.weight',
  'cls.predictions.decoder.bias': 'cls.predictions.bias',
}
# No parameters: position numbers, and matrices of the Fourier transform.
_BUFFER = re.compile(
  r'fnet\.embeddings\.(position_ids|token_type_ids)'
  r'|fnet\.encoder\.layer\.\d+\.fourier\.self\.dft_mat_(hidden|seq)'
)


def is_buffer(name: str) -> bool:
  """Returns whether a tensor of Hugging Face's FNet is no parameter."""
  return bool(_BUFFER.fullmatch(name))


def layer_count(names: Iterable[str]) -> int:
  """Returns the number of layers, by Hugging Face's names."""
  layers = (re.match(r'fnet\.encoder\.layer\.(\d+)\.', n) for n in names)
  return len({match[1] for match in layers if match})


def table(num_layers: int) -> dict[str, tuple[str, Change, Change]]:
  """Returns all parameters of FNet with Fourier layers.

  Args:
    num_layers: depth.

  Returns:
    By our name: Hugging Face's, and functions from their layout and to it.
  """
  result = {}
  for ours, theirs, change in _LEAVES:
    for i in range(num_layers if '{}' in ours else 1):
      result[ours.format(i)] = (theirs.format(i), _FROM[change], _TO[change])
  return result
