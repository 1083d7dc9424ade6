"""Hugging Face's FNet and BERT in torch, with the parameters of our network."""

import numpy as np
import torch
import transformers


def _copy(tensor, array):
  assert tensor.shape == array.shape
  with torch.no_grad():
    tensor.copy_(torch.from_numpy(np.array(array)))


def _linear(module, p):
  inputs = module.in_features
  _copy(module.weight, p['kernel'].reshape(inputs, -1).T)
  _copy(module.bias, p['bias'].reshape(-1))


def _norm(module, p):
  _copy(module.weight, p['scale'])
  _copy(module.bias, p['bias'])


def build(config, params):
  """Returns Hugging Face's model for pretraining, in float64.

  Args:
    config: an `FNetConfig` with equal widths, all layers 'fourier', or all
      'attention' for BERT.
    params: of our network. BERT has no projection of the embeddings: ours must
      be the identity.
  """
  attention = config.mixings[0] == 'attention'
  sizes = {
    'vocab_size': config.vocab_size,
    'hidden_size': config.emb_dim,
    'num_hidden_layers': config.num_layers,
    'intermediate_size': config.mlp_dim,
    'hidden_act': 'gelu_new',
    'max_position_embeddings': config.max_length,
    'type_vocab_size': config.type_vocab_size,
    'layer_norm_eps': 1e-12,
    'pad_token_id': 0,
  }
  if attention:
    model = transformers.BertForPreTraining(
      transformers.BertConfig(num_attention_heads=config.num_heads, **sizes)
    )
    body = model.bert
  else:
    model = transformers.FNetForPreTraining(transformers.FNetConfig(**sizes))
    body = model.fnet
  ours, embedder = params['encoder'], params['encoder']['embedder']
  theirs = body.embeddings
  _copy(theirs.word_embeddings.weight, embedder['word']['embedding'])
  _copy(theirs.position_embeddings.weight, embedder['position']['embedding'][0])
  _copy(theirs.token_type_embeddings.weight, embedder['type']['embedding'])
  _norm(theirs.LayerNorm, embedder['layer_norm'])
  if not attention:
    _linear(theirs.projection, embedder['hidden_mapping_in'])
  for i, layer in enumerate(body.encoder.layer):
    norms, block = ours[f'encoder_{i}'], ours[f'feed_forward_{i}']
    if attention:
      p = ours[f'self_attention_{i}']
      for name in ('query', 'key', 'value'):
        _linear(getattr(layer.attention.self, name), p[name])
      _linear(layer.attention.output.dense, p['out'])
      mixing_norm = layer.attention.output.LayerNorm
    else:
      mixing_norm = layer.fourier.output.LayerNorm
    _norm(mixing_norm, norms['mixing_layer_norm'])
    _linear(layer.intermediate.dense, block['intermediate'])
    _linear(layer.output.dense, block['output'])
    _norm(layer.output.LayerNorm, norms['output_layer_norm'])
  _linear(body.pooler.dense, ours['pooler'])
  heads = model.cls
  _linear(heads.predictions.transform.dense, params['predictions_dense'])
  _norm(heads.predictions.transform.LayerNorm, params['predictions_layer_norm'])
  model.tie_weights()
  _copy(
    heads.predictions.decoder.bias, params['predictions_output']['output_bias']
  )
  _copy(heads.predictions.decoder.weight, embedder['word']['embedding'])
  _copy(
    heads.seq_relationship.weight, params['classification']['output_kernel']
  )
  _copy(heads.seq_relationship.bias, params['classification']['output_bias'])
  return model.double().eval()


def outputs(config, params, tokens, types):
  """Returns a dict of hidden states, pooled output and logits, in float64."""
  model = build(config, params)
  inputs = {
    'input_ids': torch.from_numpy(np.array(tokens, np.int64)),
    'token_type_ids': torch.from_numpy(np.array(types, np.int64)),
  }
  if config.mixings[0] == 'attention':
    inputs['attention_mask'] = inputs['input_ids'] > 0
  with torch.no_grad():
    body = model.base_model(**inputs)
    hidden, pooled = body.last_hidden_state, body.pooler_output
    mlm, pair = model.cls(hidden, pooled)
  values = {'hidden': hidden, 'pooled': pooled, 'mlm': mlm, 'pair': pair}
  return {name: value.numpy() for name, value in values.items()}
