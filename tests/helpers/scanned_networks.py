"""A tiny hybrid, with its layers scanned or unrolled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from flax.traverse_util import flatten_dict, unflatten_dict

from fnet_t5x.convert import scanned_layers
from fnet_t5x.networks import fnet_t5

SIZES = {
  'vocab_size': 31,
  'emb_dim': 16,
  'num_heads': 2,
  'num_encoder_layers': 3,
  'num_decoder_layers': 2,
  'head_dim': 8,
  'mlp_dim': 24,
  'mlp_activations': ('gelu', 'linear'),
  'dropout_rate': 0.0,
  'encoder_mixing': ('fourier', 'fourier', 'attention'),
  'max_encoder_length': 16,
}
DECODES = {
  'greedy': ('temperature_sample', {'topk': 1}, 1),
  'beam': ('beam_search', {}, 3),
}
BATCH, INPUTS, TARGETS = 4, 9, 6


def hybrid(**choices) -> fnet_t5.Transformer:
  return fnet_t5.Transformer(fnet_t5.FNetT5Config(**SIZES | choices))


@functools.cache
def initialise(module):
  ones = [jnp.ones((BATCH, n)) for n in (INPUTS, TARGETS, TARGETS)]
  init = jax.jit(functools.partial(module.init, enable_dropout=False))
  return init(jax.random.key(0), *ones)


def scanned_params(params):
  """Converts a tree of unrolled parameters to scanned ones."""
  flat = flatten_dict(params, sep='/')
  leaves = {f'target/{name}': np.asarray(x) for name, x in flat.items()}
  converted = scanned_layers.to_scanned(leaves).leaves
  return unflatten_dict(
    {n.removeprefix('target/'): jnp.asarray(x) for n, x in converted.items()},
    sep='/',
  )


def predict(models, decoding, module, params, decode):
  """Returns ids and scores of all decodes by an engine's model."""
  function, options, num_decodes = DECODES[decode]
  vocabulary = seqio.PassThroughVocabulary(size=SIZES['vocab_size'], eos_id=1)
  model = models.EncoderDecoderModel(
    module=module,
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    optimizer_def=None,
    decode_fn=functools.partial(getattr(decoding, function), **options),
  )
  random = np.random.default_rng(0)
  inputs = random.integers(2, 31, (BATCH, INPUTS))
  inputs[1, 6:] = 0
  batch = {
    'encoder_input_tokens': jnp.asarray(inputs, jnp.int32),
    'decoder_input_tokens': jnp.zeros((BATCH, TARGETS), jnp.int32),
  }
  tokens, aux = jax.jit(
    functools.partial(
      model.predict_batch_with_aux,
      return_all_decodes=True,
      num_decodes=num_decodes,
    )
  )(params, batch, rng=jax.random.PRNGKey(4))
  return np.asarray(tokens), np.asarray(aux['scores'])
