"""Tensors of an exported hybrid, in our parameters and back.

Names of the decoder are those of transformers' T5, names of the encoder those
of `hybrid_torch/modeling_fnet_t5.py`. Torch keeps a linear map's weight
transposed, and position biases as [buckets, heads].
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fnet_t5x.convert import array_checks

_BUCKETS = 32


class Tensor(NamedTuple):
  """One tensor.

  Attributes:
    theirs: its name in the exported folder.
    ours: the parameter's name.
    shape: of our parameter.
    transposed: whether theirs is transposed.
  """

  theirs: str
  ours: str
  shape: tuple[int, ...]
  transposed: bool = False


def table(config: Mapping[str, Any]) -> list[Tensor]:
  """Returns all tensors of a hybrid.

  Args:
    config: content of its `config.json`.
  """
  embed, vocab = config['d_model'], config['vocab_size']
  heads = config['num_heads']
  own_biases = config['relpos_bias_per_layer']
  mixings = config['encoder_mixing']
  length = config['max_encoder_length']
  biases = {'shape': (heads, _BUCKETS), 'transposed': True}
  rows = [
    Tensor('shared.weight', 'token_embedder/embedding', (vocab, embed)),
    _norm('encoder.final_layer_norm', 'encoder/encoder_norm', embed),
    _norm('decoder.final_layer_norm', 'decoder/decoder_norm', embed),
  ]
  if not config['logits_via_embedding']:
    rows.append(
      _dense('lm_head', 'decoder/logits_dense', (embed, vocab)),
    )
  if config['encoder_position_embedding'] == 'learned':
    rows.append(
      Tensor(
        'encoder.position_embedding.weight',
        'encoder/position_embedder/embedding',
        (length, embed),
      )
    )
  if 'attention' in mixings and not own_biases:
    rows.append(
      Tensor(
        'encoder.relative_attention_bias.weight',
        'encoder/relpos_bias/rel_embedding',
        **biases,
      )
    )
  for i, mixing in enumerate(mixings):
    theirs, ours = f'encoder.layers.{i}', f'encoder/layers_{i}'
    if mixing != 'none':
      norm = 'attention' if mixing == 'attention' else 'mixing'
      rows.append(
        _norm(f'{theirs}.mixing_norm', f'{ours}/pre_{norm}_layer_norm', embed)
      )
    if mixing == 'attention':
      rows += _attention(f'{theirs}.mixing', f'{ours}/attention', config)
      if own_biases:
        rows.append(
          Tensor(
            f'{theirs}.mixing.relative_attention_bias.weight',
            f'{ours}/relpos_bias/rel_embedding',
            **biases,
          )
        )
    elif mixing == 'linear':
      rows += [
        _dense(
          f'{theirs}.mixing.embed_mixing',
          f'{ours}/linear/embed_mixing',
          (embed, embed),
        ),
        Tensor(
          f'{theirs}.mixing.length_mixing',
          f'{ours}/linear/length_mixing',
          (length, length),
        ),
      ]
    rows.append(
      _norm(f'{theirs}.mlp_norm', f'{ours}/pre_mlp_layer_norm', embed)
    )
    rows += _feed_forward(f'{theirs}.mlp', f'{ours}/mlp', config)
  for i in range(config['num_decoder_layers']):
    rows += _decoder_layer(i, config)
    if own_biases or i == 0:
      layer = f'/layers_{i}' if own_biases else ''
      rows.append(
        Tensor(
          f'decoder.block.{i}.layer.0.SelfAttention.relative_attention_bias'
          '.weight',
          f'decoder{layer}/relpos_bias/rel_embedding',
          **biases,
        )
      )
  return rows


def _decoder_layer(i: int, config: Mapping[str, Any]) -> list[Tensor]:
  theirs, ours = f'decoder.block.{i}.layer', f'decoder/layers_{i}'
  rows = []
  for j, (their_name, our_name, norm) in enumerate(
    (
      ('SelfAttention', 'self_attention', 'self_attention'),
      ('EncDecAttention', 'encoder_decoder_attention', 'cross_attention'),
    )
  ):
    rows += _attention(
      f'{theirs}.{j}.{their_name}', f'{ours}/{our_name}', config
    )
    rows.append(
      _norm(
        f'{theirs}.{j}.layer_norm',
        f'{ours}/pre_{norm}_layer_norm',
        config['d_model'],
      )
    )
  return [
    *rows,
    *_feed_forward(f'{theirs}.2.DenseReluDense', f'{ours}/mlp', config),
    _norm(
      f'{theirs}.2.layer_norm', f'{ours}/pre_mlp_layer_norm', config['d_model']
    ),
  ]


def _norm(theirs: str, ours: str, embed: int) -> Tensor:
  return Tensor(f'{theirs}.weight', f'{ours}/scale', (embed,))


def _dense(theirs: str, ours: str, shape: tuple[int, int]) -> Tensor:
  return Tensor(f'{theirs}.weight', f'{ours}/kernel', shape, True)


def _attention(
  theirs: str, ours: str, config: Mapping[str, Any]
) -> list[Tensor]:
  embed, joined_kv = config['d_model'], config['num_heads'] * config['d_kv']
  names = {'q': 'query', 'k': 'key', 'v': 'value'}
  return [
    *(
      _dense(f'{theirs}.{short}', f'{ours}/{name}', (embed, joined_kv))
      for short, name in names.items()
    ),
    _dense(f'{theirs}.o', f'{ours}/out', (joined_kv, embed)),
  ]


def _feed_forward(
  theirs: str, ours: str, config: Mapping[str, Any]
) -> list[Tensor]:
  embed, mlp = config['d_model'], config['d_ff']
  gated = config['feed_forward_proj'].startswith('gated-')
  return [
    *(
      _dense(f'{theirs}.{name}', f'{ours}/{name}', (embed, mlp))
      for name in (('wi_0', 'wi_1') if gated else ('wi',))
    ),
    _dense(f'{theirs}.wo', f'{ours}/wo', (mlp, embed)),
  ]


def to_theirs(
  rows: list[Tensor], parameters: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns tensors by their names.

  Raises:
    ValueError: a parameter is missing, unknown, misshapen or not finite.
  """
  array_checks.check(parameters, {row.ours: row.shape for row in rows})
  return {
    row.theirs: np.ascontiguousarray(
      parameters[row.ours].T if row.transposed else parameters[row.ours]
    )
    for row in rows
  }


def to_ours(
  rows: list[Tensor], tensors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns parameters by our names.

  Raises:
    ValueError: a tensor is missing, unknown, misshapen or not finite.
  """
  array_checks.check(
    tensors,
    {
      row.theirs: row.shape[::-1] if row.transposed else row.shape
      for row in rows
    },
  )
  return {
    row.ours: np.ascontiguousarray(
      tensors[row.theirs].T if row.transposed else tensors[row.theirs]
    )
    for row in rows
  }
