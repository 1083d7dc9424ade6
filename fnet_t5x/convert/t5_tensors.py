"""Hugging Face's T5 (also mT5 and Flan-T5), in our parameters and back.

Source of the names: huggingface/transformers `models/t5`. Torch keeps a linear
map's weight transposed, and position biases as [buckets, heads].
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fnet_t5x.convert import array_checks, hf_folder
from fnet_t5x.convert.network_conversion import Converted, Exported
from fnet_t5x.convert.tensor_table import (
  Row,
  of_layers,
  to_ours,
  to_theirs,
)

MODEL_TYPES = ('t5', 'mt5')
GIN_FILE = 'gin/models/t5_base.gin'
_SHARED, _OUTPUT = 'shared.weight', 'lm_head.weight'
_EMBEDDING, _LOGITS = 'token_embedder/embedding', 'decoder/logits_dense/kernel'
_TIED = {
  'encoder.embed_tokens.weight': _SHARED,
  'decoder.embed_tokens.weight': _SHARED,
}
# Cross-attention has no position biases; T5 1.0's files have an unused table.
_BUFFER = re.compile(
  r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias'
  r'\.weight'
)
# What our network computes, and Hugging Face's may not.
_SAME = {
  'layer_norm_epsilon': (1e-6,),
  'relative_attention_num_buckets': (32,),
  'relative_attention_max_distance': (128,),
  'decoder_start_token_id': (0, None),
  'pad_token_id': (0,),
  'eos_token_id': (1,),
  'is_encoder_decoder': (True,),
}
_ACTIVATIONS = {'gated-gelu': ('gelu', 'linear'), 'relu': ('relu',)}
_BUCKETS = 32


def _attention(ours: str, theirs: str) -> list[Row]:
  names = {'query': 'q', 'key': 'k', 'value': 'v'}
  return [
    *(
      Row(
        f'{theirs}.{name}.weight',
        (f'{ours}/{part}/kernel',),
        ('embed', 'joined_kv'),
        True,
      )
      for part, name in names.items()
    ),
    Row(
      f'{theirs}.o.weight',
      (f'{ours}/out/kernel',),
      ('joined_kv', 'embed'),
      True,
    ),
  ]


def _norm(ours: str, theirs: str) -> Row:
  return Row(f'{theirs}.weight', (f'{ours}/scale',), ('embed',))


def _stack(side: str, gated: bool) -> list[Row]:
  ours, theirs = f'{side}/layers_{{}}', f'{side}.block.{{}}.layer'
  rows = [
    Row(
      f'{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
      (f'{side}/relpos_bias/rel_embedding',),
      ('heads', 'relpos_buckets'),
      True,
    ),
    _norm(f'{side}/{side}_norm', f'{side}.final_layer_norm'),
  ]
  sublayers = [('attention', 'pre_attention_layer_norm', 'SelfAttention')]
  if side == 'decoder':
    sublayers = [
      ('self_attention', 'pre_self_attention_layer_norm', 'SelfAttention'),
      (
        'encoder_decoder_attention',
        'pre_cross_attention_layer_norm',
        'EncDecAttention',
      ),
    ]
  for i, (name, norm, their_name) in enumerate(sublayers):
    rows += _attention(f'{ours}/{name}', f'{theirs}.{i}.{their_name}')
    rows.append(_norm(f'{ours}/{norm}', f'{theirs}.{i}.layer_norm'))
  last = len(sublayers)
  for name in ('wi_0', 'wi_1') if gated else ('wi',):
    rows.append(
      Row(
        f'{theirs}.{last}.DenseReluDense.{name}.weight',
        (f'{ours}/mlp/{name}/kernel',),
        ('embed', 'mlp'),
        True,
      )
    )
  rows += [
    Row(
      f'{theirs}.{last}.DenseReluDense.wo.weight',
      (f'{ours}/mlp/wo/kernel',),
      ('mlp', 'embed'),
      True,
    ),
    _norm(f'{ours}/pre_mlp_layer_norm', f'{theirs}.{last}.layer_norm'),
  ]
  return rows


def table(
  encoder_layers: int, decoder_layers: int, gated: bool, tied: bool
) -> list[Row]:
  """Returns all parameters.

  Args:
    encoder_layers: depth of the encoder.
    decoder_layers: depth of the decoder.
    gated: whether feed-forward blocks have two input projections.
    tied: whether the token embedding is also the output layer.
  """
  rows = [Row(_SHARED, (_EMBEDDING,), ('vocab', 'embed'))]
  if not tied:
    rows.append(Row(_OUTPUT, (_LOGITS,), ('embed', 'vocab'), True))
  return [
    *rows,
    *of_layers(_stack('encoder', gated), encoder_layers),
    *of_layers(_stack('decoder', gated), decoder_layers),
  ]


def is_buffer(name: str) -> bool:
  """Returns whether a tensor is no parameter."""
  return bool(_BUFFER.fullmatch(name))


def from_hugging_face(
  tensors: dict[str, np.ndarray], config: Mapping[str, Any]
) -> Converted:
  """Converts tensors to our parameters.

  Args:
    tensors: by Hugging Face's names; changed.
    config: `config.json`.

  Raises:
    ValueError: the configuration is not one that our network has, or a tensor
      is missing, unknown or misshapen.
  """
  hf_folder.check_config(config, _SAME, hf_folder.CONFIG, 'ours has')
  # Hugging Face's default is that of T5 1.0, mT5's that of T5 1.1.
  default = 'gated-gelu' if config['model_type'] == 'mt5' else 'relu'
  feed_forward = config.get('feed_forward_proj', default)
  if feed_forward not in _ACTIVATIONS:
    raise ValueError(
      f'{hf_folder.CONFIG}: feed_forward_proj is {feed_forward!r}; T5 1.1 has '
      "'gated-gelu', T5 1.0 'relu'"
    )
  gated = feed_forward == 'gated-gelu'
  sizes = hf_folder.sizes(
    config,
    {
      **dict.fromkeys(('vocab_size', 'd_model', 'd_kv', 'd_ff'), None),
      **dict.fromkeys(('num_heads', 'num_layers'), None),
      'num_decoder_layers': config.get('num_layers'),
    },
  )
  for side, name in (
    ('encoder', 'num_layers'),
    ('decoder', 'num_decoder_layers'),
  ):
    count = _layer_count(side, '.block.', tensors)
    if sizes[name] != count:
      raise ValueError(
        f'{hf_folder.CONFIG}: {name} is {sizes[name]}, and {count} by the '
        'tensors'
      )
  copies = hf_folder.drop_copies(tensors, _TIED, hf_folder.WEIGHTS)
  tied = _resolve_output(tensors, config, copies)
  axes = {
    'vocab': sizes['vocab_size'],
    'embed': sizes['d_model'],
    'joined_kv': sizes['num_heads'] * sizes['d_kv'],
    'heads': sizes['num_heads'],
    'mlp': sizes['d_ff'],
    'relpos_buckets': _BUCKETS,
  }
  rows = table(sizes['num_layers'], sizes['num_decoder_layers'], gated, tied)
  arrays = to_ours(rows, axes, tensors)
  return Converted(
    arrays=arrays,
    dropped={'copies of other tensors': copies},
    macros={
      'EMBED_DIM': sizes['d_model'],
      'NUM_HEADS': sizes['num_heads'],
      'HEAD_DIM': sizes['d_kv'],
      'MLP_DIM': sizes['d_ff'],
      'NUM_ENCODER_LAYERS': sizes['num_layers'],
      'NUM_DECODER_LAYERS': sizes['num_decoder_layers'],
      'VOCAB_SIZE': sizes['vocab_size'],
      'SCAN_LAYERS': False,
      'RELPOS_BIAS_PER_LAYER': False,
    },
    bindings={
      't5.T5Config.mlp_activations': _ACTIVATIONS[feed_forward],
      't5.T5Config.logits_via_embedding': tied,
    },
    imports=('from fnet_t5x.networks import t5',),
    notes=(),
  )


def _layer_count(side: str, infix: str, names: Iterable[str]) -> int:
  pattern = re.compile(re.escape(side + infix) + r'(\d+)[./]')
  return len({m[1] for m in map(pattern.match, names) if m})


def _resolve_output(
  tensors: dict[str, np.ndarray], config: Mapping[str, Any], copies: list[str]
) -> bool:
  """Returns whether our output layer is the embedding; completes `tensors`.

  T5 1.0 ties the output layer to the embedding, and divides its input by
  sqrt(d_model), as ours does if tied. Hugging Face's T5 derives the division
  from `tie_word_embeddings`; newer versions, which save True whether tied or
  not, from `scale_decoder_outputs`. Its mT5 never divides.
  """
  tie = config.get('tie_word_embeddings', True) is not False
  divides = config.get('scale_decoder_outputs', tie) is not False
  if config['model_type'] == 'mt5':
    divides = False
  if _SHARED not in tensors:
    raise ValueError(f'it lacks {_SHARED}')
  if _OUTPUT not in tensors:
    if not tie:
      raise ValueError(f'it lacks {_OUTPUT}')
    if not divides:  # Tied without the division, which ours is only untied.
      tensors[_OUTPUT] = tensors[_SHARED]
    return divides
  if not divides:
    return False
  if not np.array_equal(tensors[_OUTPUT], tensors[_SHARED]):
    raise ValueError(
      f'{_OUTPUT} differs from {_SHARED}, and {hf_folder.CONFIG} says '
      'tie_word_embeddings: T5 1.1 has false, T5 1.0 equal tensors'
    )
  del tensors[_OUTPUT]
  copies.append(_OUTPUT)
  return True


def to_hugging_face(arrays: Mapping[str, np.ndarray]) -> Exported:
  """Converts our parameters, of unscanned layers, to tensors.

  Raises:
    ValueError: they are not those of T5.
  """
  layers = {
    side: _layer_count(side, '/layers_', arrays)
    for side in ('encoder', 'decoder')
  }
  for side, attention in (
    ('encoder', 'attention'),
    ('decoder', 'self_attention'),
  ):
    query = f'{side}/layers_{{}}/{attention}/query/kernel'
    without = array_checks.layers_without(arrays, query, layers[side])
    if without:
      raise ValueError(
        f'its {side} has no attention in the layers {without}: it is a '
        "hybrid's, for which transformers has no class"
      )
  own = '/layers_0/relpos_bias/rel_embedding'
  if f'decoder{own}' in arrays or f'encoder{own}' in arrays:
    raise ValueError(
      "each layer has its own position biases, and Hugging Face's T5 one table "
      'for all'
    )
  gated = 'decoder/layers_0/mlp/wi_0/kernel' in arrays
  tied = _LOGITS not in arrays

  def size(name: str, axis: int) -> int:
    if name not in arrays:
      raise ValueError(f'it lacks {name}')
    if arrays[name].ndim != 2:
      raise ValueError(f'{name} has the shape {list(arrays[name].shape)}')
    return arrays[name].shape[axis]

  wi = f'decoder/layers_0/mlp/{"wi_0" if gated else "wi"}/kernel'
  axes = {
    'vocab': size(_EMBEDDING, 0),
    'embed': size(_EMBEDDING, 1),
    'joined_kv': size('decoder/layers_0/self_attention/query/kernel', 1),
    'heads': size('decoder/relpos_bias/rel_embedding', 0),
    'mlp': size(wi, 1),
    'relpos_buckets': _BUCKETS,
  }
  rows = table(layers['encoder'], layers['decoder'], gated, tied)
  feed_forward = 'gated-gelu' if gated else 'relu'
  config = {
    'architectures': ['T5ForConditionalGeneration'],
    'model_type': 't5',
    'd_model': axes['embed'],
    'd_kv': axes['joined_kv'] // axes['heads'],
    'd_ff': axes['mlp'],
    'num_heads': axes['heads'],
    'num_layers': layers['encoder'],
    'num_decoder_layers': layers['decoder'],
    'vocab_size': axes['vocab'],
    'feed_forward_proj': feed_forward,
    'tie_word_embeddings': tied,
    'dropout_rate': 0.1,
    'initializer_factor': 1.0,
    **{name: values[0] for name, values in _SAME.items()},
  }
  return Exported(
    tensors=to_theirs(rows, axes, arrays),
    config=config,
    generation={
      'decoder_start_token_id': 0,
      'eos_token_id': 1,
      'pad_token_id': 0,
    },
    tokenizer='T5Tokenizer',
    notes=(
      f'feed_forward_proj is {feed_forward}: tensors do not tell other '
      'activations',
    ),
  )
