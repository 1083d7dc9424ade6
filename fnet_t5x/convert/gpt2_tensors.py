"""Hugging Face's GPT-2, in our parameters and back.

Source of the names: huggingface/transformers `models/gpt2`. Its linear maps are
[in, out], as ours, and query, key and value are one tensor.

Id 0 begins a text and is padding here. The published vocabulary has '!' at 0,
and begins and ends texts by <|endoftext|>, id 50256: the two are exchanged, in
the rows of the embedding, which is also the output layer.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from fnet_t5x.convert import array_checks, hf_folder
from fnet_t5x.convert.network_conversion import Converted, Exported
from fnet_t5x.convert.tensor_table import Row, of_layers, to_ours, to_theirs

MODEL_TYPES = ('gpt2',)
GIN_FILE = 'gin/models/gpt2_base.gin'
POSITIONS = 'decoder/position_embedder/embedding'
_EMBEDDING = 'token_embedder/embedding'
_PREFIX = 'transformer.'
_OUTPUT, _WORD = 'lm_head.weight', 'wte.weight'
# Causal masks, which older files contain.
_BUFFER = re.compile(r'(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)')
# What our network computes, and Hugging Face's may not.
_SAME = {
  'activation_function': ('gelu_new', 'gelu_pytorch_tanh'),
  'layer_norm_epsilon': (1e-5,),
  'scale_attn_weights': (True,),
  'scale_attn_by_inverse_layer_idx': (False,),
  'add_cross_attention': (False,),
  'tie_word_embeddings': (True,),
}
_PUBLISHED_BOS = 50256


def _norm(ours: str, theirs: str) -> list[Row]:
  return [
    Row(f'{theirs}.weight', (f'{ours}/scale',), ('embed',)),
    Row(f'{theirs}.bias', (f'{ours}/bias',), ('embed',)),
  ]


def _dense(theirs: str, ours: tuple[str, ...], *axes: str) -> list[Row]:
  return [
    Row(f'{theirs}.weight', tuple(f'{n}/kernel' for n in ours), axes),
    Row(f'{theirs}.bias', tuple(f'{n}/bias' for n in ours), axes[1:]),
  ]


def table(layers: int) -> list[Row]:
  """Returns all parameters; the output layer is tied."""
  ours = 'decoder/layers_{}'
  attention = f'{ours}/self_attention'
  return of_layers(
    [
      Row(_WORD, (_EMBEDDING,), ('vocab', 'embed')),
      Row('wpe.weight', (POSITIONS,), ('abspos_buckets', 'embed')),
      *_norm('decoder/decoder_norm', 'ln_f'),
      *_norm(f'{ours}/pre_self_attention_layer_norm', 'h.{}.ln_1'),
      *_dense(
        'h.{}.attn.c_attn',
        tuple(f'{attention}/{part}' for part in ('query', 'key', 'value')),
        'embed',
        'joined_kv',
      ),
      *_dense('h.{}.attn.c_proj', (f'{attention}/out',), 'joined_kv', 'embed'),
      *_norm(f'{ours}/pre_mlp_layer_norm', 'h.{}.ln_2'),
      *_dense('h.{}.mlp.c_fc', (f'{ours}/mlp/wi',), 'embed', 'mlp'),
      *_dense('h.{}.mlp.c_proj', (f'{ours}/mlp/wo',), 'mlp', 'embed'),
    ],
    layers,
  )


def is_buffer(name: str) -> bool:
  """Returns whether a tensor is no parameter."""
  return bool(_BUFFER.fullmatch(name))


def from_hugging_face(
  tensors: dict[str, np.ndarray], config: Mapping[str, Any]
) -> Converted:
  """Converts tensors to our parameters, with <|endoftext|> at 0.

  Args:
    tensors: by Hugging Face's names; changed.
    config: `config.json`.

  Raises:
    ValueError: the configuration is not one that our network has, or a tensor
      is missing, unknown or misshapen.
  """
  hf_folder.check_config(config, _SAME, hf_folder.CONFIG, 'ours has')
  sizes = hf_folder.sizes(
    config,
    {
      **dict.fromkeys(('vocab_size', 'n_positions', 'n_embd'), None),
      **dict.fromkeys(('n_layer', 'n_head'), None),
      'n_inner': 4 * config['n_embd'] if _is_size(config, 'n_embd') else None,
    },
  )
  if sizes['n_embd'] % sizes['n_head']:
    raise ValueError(
      f'{hf_folder.CONFIG}: n_head {sizes["n_head"]} does not divide n_embd '
      f'{sizes["n_embd"]}'
    )
  # The published files lack the prefix; those that transformers saves have it.
  for name in [n for n in tensors if n.startswith(_PREFIX)]:
    tensors[name.removeprefix(_PREFIX)] = tensors.pop(name)
  count = len(
    {m[1] for m in map(re.compile(r'h\.(\d+)\.').match, tensors) if m}
  )
  if sizes['n_layer'] != count:
    raise ValueError(
      f'{hf_folder.CONFIG}: n_layer is {sizes["n_layer"]}, and {count} by the '
      'tensors'
    )
  if _WORD not in tensors:
    raise ValueError(f'it lacks {_WORD}')
  copies = hf_folder.drop_copies(tensors, {_OUTPUT: _WORD}, hf_folder.WEIGHTS)
  arrays = to_ours(
    table(count),
    {
      'vocab': sizes['vocab_size'],
      'abspos_buckets': sizes['n_positions'],
      'embed': sizes['n_embd'],
      'joined_kv': sizes['n_embd'],
      'mlp': sizes['n_inner'],
    },
    tensors,
  )
  first = config.get('bos_token_id', _PUBLISHED_BOS)
  notes = ['no vocabulary converted: that of GPT-2 is no SentencePiece model']
  if first is None:
    notes.append('ids are kept: config.json has no bos_token_id')
  else:
    arrays[_EMBEDDING] = exchange(arrays[_EMBEDDING], first)
    if first:
      notes.append(
        f'ids 0 and {first} are exchanged: 0 begins texts; back by '
        f'--bos_token_id={first}'
      )
  return Converted(
    arrays=arrays,
    dropped={'copies of other tensors': copies},
    macros={
      'EMBED_DIM': sizes['n_embd'],
      'NUM_HEADS': sizes['n_head'],
      'NUM_DECODER_LAYERS': sizes['n_layer'],
      'MLP_DIM': sizes['n_inner'],
      'MAX_LENGTH': sizes['n_positions'],
      'VOCAB_SIZE': sizes['vocab_size'],
    },
    bindings={},
    imports=(),
    notes=tuple(notes),
  )


def _is_size(config: Mapping[str, Any], name: str) -> bool:
  return type(config.get(name)) is int


def exchange(embedding: np.ndarray, first: int) -> np.ndarray:
  """Returns an embedding with the rows 0 and `first` exchanged.

  Raises:
    ValueError: there is no row `first`.
  """
  if type(first) is not int or not 0 <= first < len(embedding):
    raise ValueError(
      f'bos_token_id is {first!r}, and the vocabulary has {len(embedding)} ids'
    )
  result = np.array(embedding)
  result[[0, first]] = embedding[[first, 0]]
  return result


def to_hugging_face(
  arrays: Mapping[str, np.ndarray],
  num_heads: int | None,
  bos_token_id: int = 0,
) -> Exported:
  """Converts our parameters to tensors.

  Args:
    arrays: by our name.
    num_heads: attention heads, which the parameters do not tell.
    bos_token_id: the id to exchange with 0, which begins texts here.

  Raises:
    ValueError: they are not those of GPT-2, or the heads are unknown or do not
      divide the width.
  """
  layer = re.compile(r'decoder/layers_(\d+)/')
  layers = len({m[1] for m in map(layer.match, arrays) if m})

  def shape(name: str) -> tuple[int, int]:
    if name not in arrays:
      raise ValueError(f'it lacks {name}')
    if arrays[name].ndim != 2:
      raise ValueError(f'{name} has the shape {list(arrays[name].shape)}')
    return arrays[name].shape

  vocab, embed = shape(_EMBEDDING)
  query = 'decoder/layers_{}/self_attention/query/kernel'
  without = array_checks.layers_without(arrays, query, layers)
  if without:
    raise ValueError(
      f'it has no attention in the layers {without}: it has other mixings, for '
      'which transformers has no class'
    )
  mlp = shape('decoder/layers_0/mlp/wi/kernel')[1]
  axes = {
    'vocab': vocab,
    'abspos_buckets': shape(POSITIONS)[0],
    'embed': embed,
    'joined_kv': embed,
    'mlp': mlp,
  }
  if num_heads is None:
    raise ValueError(
      'its parameters do not tell the number of attention heads, and no '
      'config.gin beside it: give --num_heads'
    )
  if num_heads < 1 or embed % num_heads:
    raise ValueError(f'{num_heads} heads do not divide the width {embed}')
  tensors = to_theirs(table(layers), axes, arrays)
  tensors[_WORD] = exchange(tensors[_WORD], bos_token_id)
  # Our vocabularies end a text by 1, the published one as it begins it.
  special = {
    'bos_token_id': bos_token_id,
    'eos_token_id': bos_token_id or 1,
    'pad_token_id': bos_token_id,
  }
  return Exported(
    tensors={_PREFIX + name: x for name, x in tensors.items()},
    config={
      'architectures': ['GPT2LMHeadModel'],
      'model_type': 'gpt2',
      'n_embd': embed,
      'n_head': num_heads,
      'n_inner': mlp,
      'n_layer': layers,
      'n_positions': axes['abspos_buckets'],
      'vocab_size': vocab,
      'attn_pdrop': 0.1,
      'embd_pdrop': 0.1,
      'resid_pdrop': 0.1,
      'initializer_range': 0.02,
      **{name: values[0] for name, values in _SAME.items()},
      **special,
    },
    generation=special,
    tokenizer=None,
    notes=(f'texts begin with id {bos_token_id}: give it first to generate',),
  )
