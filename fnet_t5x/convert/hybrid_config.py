"""Configuration of an exported hybrid: `config.json`, and back to gin."""

import pathlib
from collections.abc import Mapping
from typing import Any

from fnet_t5x.convert import hf_folder
from fnet_t5x.networks import fnet_t5

MODEL_TYPE = 'fnet_t5'
# transformers' names of gated and of plain blocks. Its 'gated-gelu' is the
# approximation by tanh, as Flax's gelu is; its plain 'gelu' is not.
_ACTIVATIONS = {
  ('gelu', 'linear'): 'gated-gelu',
  ('relu', 'linear'): 'gated-relu',
  ('silu', 'linear'): 'gated-silu',
  ('relu',): 'relu',
}
# Names of sizes in config.json, in our configuration, and in gin.
_SIZES = {
  'vocab_size': ('vocab_size', 'VOCAB_SIZE'),
  'd_model': ('emb_dim', 'EMBED_DIM'),
  'd_kv': ('head_dim', 'HEAD_DIM'),
  'd_ff': ('mlp_dim', 'MLP_DIM'),
  'num_heads': ('num_heads', 'NUM_HEADS'),
  'num_layers': ('num_encoder_layers', 'NUM_ENCODER_LAYERS'),
  'num_decoder_layers': ('num_decoder_layers', 'NUM_DECODER_LAYERS'),
  'max_encoder_length': ('max_encoder_length', 'MAX_ENCODER_LENGTH'),
}
# Mixings of `hybrid_torch/modeling_fnet_t5.py`.
_MIXINGS = ('fourier', 'attention', 'linear', 'none')
_OPTIONS = {
  'encoder_position_embedding': (
    'ENCODER_POSITION_EMBEDDING',
    ('none', 'learned', 'sinusoidal'),
  ),
  'fourier_scale': ('FOURIER_SCALE', ('ortho', 'none')),
  'fourier_lengths': ('FOURIER_LENGTHS', ('exact', 'padded')),
}
# What our network computes, and T5's configuration could change.
_SAME = {
  'model_type': MODEL_TYPE,
  'layer_norm_epsilon': 1e-6,
  'relative_attention_num_buckets': 32,
  'relative_attention_max_distance': 128,
  'decoder_start_token_id': 0,
  'pad_token_id': 0,
  'is_encoder_decoder': True,
}
_CLASSES = {
  'AutoConfig': 'configuration_fnet_t5.FNetT5Config',
  'AutoModelForSeq2SeqLM': 'modeling_fnet_t5.FNetT5ForConditionalGeneration',
}


def to_json(
  config: fnet_t5.FNetT5Config, own_biases: bool, eos_id: int
) -> dict[str, Any]:
  """Returns the content of `config.json`.

  Args:
    config: of the network.
    own_biases: whether the layers' position biases differ.
    eos_id: the token that ends a text.

  Raises:
    ValueError: an activation that transformers' T5 does not have; or a mixing,
      or a shorter encoder output, that the exported code does not have.
  """
  for mixing in config.layer_mixing:
    if mixing not in _MIXINGS:
      raise ValueError(
        f'encoder_mixing has {mixing!r}; exported are {", ".join(_MIXINGS)}'
      )
  for mixing in config.decoder_layer_mixing:
    if mixing != 'attention':
      raise ValueError(
        f'decoder_mixing has {mixing!r}; exported are decoders whose layers '
        'all have self-attention'
      )
  if config.encoder_output_rate != 1:
    raise ValueError(
      f'encoder_output_rate is {config.encoder_output_rate}; exported are '
      'hybrids whose decoder attends to all tokens (1)'
    )
  activations = tuple(config.mlp_activations)
  if activations not in _ACTIVATIONS:
    raise ValueError(
      f'mlp_activations is {activations}; exported are '
      f'{", ".join(map(str, _ACTIVATIONS))}'
    )
  tied = bool(config.logits_via_embedding)
  return {
    **_SAME,
    **{name: int(getattr(config, ours)) for name, (ours, _) in _SIZES.items()},
    **{name: getattr(config, name) for name in _OPTIONS},
    'architectures': ['FNetT5ForConditionalGeneration'],
    'auto_map': _CLASSES,
    'dropout_rate': float(config.dropout_rate),
    'encoder_mixing': list(config.layer_mixing),
    'eos_token_id': eos_id,
    'feed_forward_proj': _ACTIVATIONS[activations],
    'logits_via_embedding': tied,
    'relpos_bias_per_layer': own_biases,
    'tie_word_embeddings': tied,
    'torch_dtype': 'float32',
  }


def read(folder: pathlib.Path) -> dict[str, Any]:
  """Reads and checks the `config.json` of an exported hybrid.

  Raises:
    FileNotFoundError: there is none.
    ValueError: not that of a hybrid, or of one that our network does not
      compute.
  """
  path = folder / hf_folder.CONFIG
  config = hf_folder.read_config(folder)
  for name, value in _SAME.items():
    # Newer versions of transformers write the default values of some to other
    # files; the type must be there.
    if config.get(name, None if name == 'model_type' else value) != value:
      raise ValueError(
        f'{path}: {name} is {config.get(name)!r}; a hybrid has {value!r}'
      )
  for name in _SIZES:
    if type(config.get(name)) is not int or config[name] < 1:
      raise ValueError(f'{path}: {name} is {config.get(name)!r}, not a size')
  for name, (_, choices) in _OPTIONS.items():
    if config.get(name) not in choices:
      raise ValueError(
        f'{path}: {name} is {config.get(name)!r}; choose from '
        f'{", ".join(choices)}'
      )
  if config.get('feed_forward_proj') not in _ACTIVATIONS.values():
    raise ValueError(
      f'{path}: feed_forward_proj is {config.get("feed_forward_proj")!r}; '
      f'choose from {", ".join(_ACTIVATIONS.values())}'
    )
  for name in ('logits_via_embedding', 'relpos_bias_per_layer'):
    if type(config.get(name)) is not bool:
      raise ValueError(f'{path}: {name} is {config.get(name)!r}, not a bool')
  extra_ids = config.setdefault('extra_ids', 0)
  if type(extra_ids) is not int or not 0 <= extra_ids < config['vocab_size']:
    raise ValueError(f'{path}: extra_ids is {extra_ids!r}, not a number of ids')
  mixings = config.get('encoder_mixing')
  if not isinstance(mixings, list) or not all(m in _MIXINGS for m in mixings):
    raise ValueError(f'{path}: encoder_mixing is {mixings!r}')
  if len(mixings) != config['num_layers']:
    raise ValueError(
      f'{path}: encoder_mixing names {len(mixings)} layers, num_layers is '
      f'{config["num_layers"]}'
    )
  return config


def to_gin(config: Mapping[str, Any], vocabulary: str | None) -> str:
  """Returns a gin file of the model.

  Args:
    config: content of `config.json`, checked.
    vocabulary: path of its SentencePiece model, if it has one.
  """
  by_name = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
  macros = {
    **{macro: config[name] for name, (_, macro) in _SIZES.items()},
    **{macro: config[name] for name, (macro, _) in _OPTIONS.items()},
    'ENCODER_MIXING': tuple(config['encoder_mixing']),
    'SCAN_LAYERS': False,
    'RELPOS_BIAS_PER_LAYER': config['relpos_bias_per_layer'],
    'fnet_t5.FNetT5Config.mlp_activations': by_name[
      config['feed_forward_proj']
    ],
    'fnet_t5.FNetT5Config.logits_via_embedding': config['logits_via_embedding'],
  }
  lines = [
    '# Written by fnet_t5x.convert.hybrid, to use in place of',
    '# gin/models/fnet_t5_base.gin.',
    'from __gin__ import dynamic_registration',
    '',
    'from fnet_t5x.networks import fnet_t5',
  ]
  if vocabulary:
    lines.append('from fnet_t5x.tasks import vocabularies')
  lines += ["include 'gin/models/fnet_t5_base.gin'", '']
  lines += [f'{name} = {value!r}' for name, value in macros.items()]
  if vocabulary:
    name = 'vocabularies.default_vocabulary'
    lines += [
      '# To be changed if the folder is moved.',
      f'{name}.sentencepiece_model_file = {vocabulary!r}',
      f'{name}.extra_ids = {config["extra_ids"]}',
    ]
  return '\n'.join(lines) + '\n'
