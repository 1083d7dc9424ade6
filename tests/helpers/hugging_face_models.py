"""Hugging Face's T5 and GPT-2: tensors by their documented names, from seeds.

Sources of the names: huggingface/transformers `models/t5` and `models/gpt2`.
"""

import json

import numpy as np
from fnet_reference import parameter

T5 = {
  'model_type': 't5',
  'vocab_size': 19,
  'd_model': 8,
  'd_kv': 3,
  'd_ff': 12,
  'num_heads': 2,
  'num_layers': 3,
  'num_decoder_layers': 2,
  'feed_forward_proj': 'gated-gelu',
  'tie_word_embeddings': False,
  'pad_token_id': 0,
  'eos_token_id': 1,
  'decoder_start_token_id': 0,
}
T5_ORIGINAL = T5 | {'feed_forward_proj': 'relu', 'tie_word_embeddings': True}
GPT2 = {
  'model_type': 'gpt2',
  'vocab_size': 19,
  'n_embd': 8,
  'n_head': 2,
  'n_layer': 3,
  'n_positions': 24,
  'bos_token_id': 18,
  'eos_token_id': 18,
}


def _t5_shapes(c):
  d, f, heads = c['d_model'], c['d_ff'], c['num_heads']
  joined = heads * c['d_kv']
  shapes = {'shared.weight': (c['vocab_size'], d)}
  if not c['tie_word_embeddings']:
    shapes['lm_head.weight'] = (c['vocab_size'], d)
  inputs = ('wi_0', 'wi_1') if c['feed_forward_proj'] != 'relu' else ('wi',)
  for side, count in (
    ('encoder', c['num_layers']),
    ('decoder', c['num_decoder_layers']),
  ):
    attentions = ['SelfAttention'] + ['EncDecAttention'] * (side == 'decoder')
    shapes[f'{side}.final_layer_norm.weight'] = (d,)
    shapes[
      f'{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    ] = (32, heads)
    for i in range(count):
      layer = f'{side}.block.{i}.layer'
      for j in range(len(attentions) + 1):
        shapes[f'{layer}.{j}.layer_norm.weight'] = (d,)
      for j, name in enumerate(attentions):
        for part in 'qkv':
          shapes[f'{layer}.{j}.{name}.{part}.weight'] = (joined, d)
        shapes[f'{layer}.{j}.{name}.o.weight'] = (d, joined)
      last = f'{layer}.{len(attentions)}.DenseReluDense'
      shapes |= {f'{last}.{name}.weight': (f, d) for name in inputs}
      shapes[f'{last}.wo.weight'] = (d, f)
  return shapes


def _gpt2_shapes(c):
  d = c['n_embd']
  f = c.get('n_inner') or 4 * d
  shapes = {
    'transformer.wte.weight': (c['vocab_size'], d),
    'transformer.wpe.weight': (c['n_positions'], d),
    'transformer.ln_f.weight': (d,),
    'transformer.ln_f.bias': (d,),
  }
  for i in range(c['n_layer']):
    layer = f'transformer.h.{i}'
    for name in ('ln_1', 'ln_2'):
      shapes[f'{layer}.{name}.weight'] = shapes[f'{layer}.{name}.bias'] = (d,)
    for name, rows, columns in (
      ('attn.c_attn', d, 3 * d),
      ('attn.c_proj', d, d),
      ('mlp.c_fc', d, f),
      ('mlp.c_proj', f, d),
    ):
      shapes[f'{layer}.{name}.weight'] = (rows, columns)
      shapes[f'{layer}.{name}.bias'] = (columns,)
  return shapes


def tensors(config) -> dict[str, np.ndarray]:
  """Returns random tensors by name, such that every one matters."""
  shapes = _gpt2_shapes if config['model_type'] == 'gpt2' else _t5_shapes
  result = {}
  for name, shape in shapes(config).items():
    is_scale = len(shape) == 1 and not name.endswith('.bias')
    result[name] = parameter(name + ('.scale' if is_scale else ''), shape)
  return result


def write(folder, found, config, shards=1) -> None:
  """Writes a Hugging Face folder.

  Args:
    folder: to be created.
    found: tensors by name.
    config: content of config.json.
    shards: number of files; with an index if more than one.
  """
  import safetensors.numpy

  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(config))
  mapping = {}
  for i in range(shards):
    name = f'model-{i + 1:05}-of-{shards:05}.safetensors'
    name = 'model.safetensors' if shards == 1 else name
    part = {n: found[n] for n in sorted(found)[i::shards]}
    mapping |= dict.fromkeys(part, name)
    safetensors.numpy.save_file(part, str(folder / name), {'format': 'pt'})
  if shards > 1:
    index = {'metadata': {}, 'weight_map': mapping}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
