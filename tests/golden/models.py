"""Golden loss, scores and decodes of a tiny T5, recorded from T5X.

T5X at commit cc342d4, in an environment where it is importable, from here:

  JAX_PLATFORMS=cpu python models.py > models.json

The tests call `run` with our modules, and compare with the recorded values.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import seqio

VOCAB, BATCH, INPUTS, TARGETS = 32, 3, 9, 8
SIZES = {
  'vocab_size': VOCAB,
  'emb_dim': 16,
  'num_heads': 2,
  'num_encoder_layers': 1,
  'num_decoder_layers': 2,
  'head_dim': 8,
  'mlp_dim': 24,
  'mlp_activations': ('gelu', 'linear'),
  'dropout_rate': 0.1,
  'logits_via_embedding': False,
}
LOSSES = {
  'plain': {},
  'per_sequence': {
    'label_smoothing': 0.1,
    'z_loss': 0.01,
    'loss_normalizing_factor': 'average_per_sequence',
  },
}
DECODES = {
  'greedy': ('temperature_sample', {'topk': 1}, {}),
  'sample': ('temperature_sample', {'topk': 5}, {'num_decodes': 2}),
  'beam': ('beam_search', {}, {'num_decodes': 4}),
  'beam_prompt': (
    'beam_search',
    {},
    {'num_decodes': 2, 'prompt_with_targets': True},
  ),
}


def make_batch():
  random = np.random.RandomState(0)
  inputs = random.randint(3, VOCAB, size=(BATCH, INPUTS))
  targets = random.randint(3, VOCAB, size=(BATCH, TARGETS))
  for row, (kept_inputs, kept_targets) in enumerate([(9, 7), (4, 5), (6, 3)]):
    inputs[row, kept_inputs:] = 0
    targets[row, kept_targets:] = 0
    targets[row, kept_targets - 1] = 1
  shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  return {
    'encoder_input_tokens': jnp.asarray(inputs, jnp.int32),
    'decoder_input_tokens': jnp.asarray(shifted, jnp.int32),
    'decoder_target_tokens': jnp.asarray(targets, jnp.int32),
    'decoder_loss_weights': jnp.asarray(targets > 0, jnp.float32),
  }


def make_model(network, models, decode_fn, **options):
  vocabulary = seqio.PassThroughVocabulary(size=VOCAB, eos_id=1)
  return models.EncoderDecoderModel(
    module=network.Transformer(config=network.T5Config(**SIZES)),
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    optimizer_def=None,
    decode_fn=decode_fn,
    **options,
  )


def make_params(model, batch, rng):
  """Initial values, doubled so that the output depends on the inputs."""
  shapes = {name: x.shape for name, x in batch.items()}
  init = jax.jit(lambda rng: model.get_initial_variables(rng, shapes)['params'])
  return jax.tree.map(lambda x: 2 * x, init(rng))


def run(network, models, decoding):
  """Everything recorded, as lists and floats."""
  batch = make_batch()
  model = make_model(network, models, decoding.beam_search)
  params = make_params(model, batch, jax.random.PRNGKey(0))

  losses = {}
  for name, options in LOSSES.items():
    model = make_model(network, models, decoding.beam_search, **options)
    (loss, metrics), gradients = jax.jit(
      jax.value_and_grad(model.loss_fn, has_aux=True)
    )(params, batch, jax.random.PRNGKey(1))
    squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients)]
    losses[name] = {
      'loss': float(loss),
      'gradient_norm': float(jnp.sqrt(sum(squares))),
      'eval_loss': float(jax.jit(model.eval_fn)(params, batch)[0]),
      'metrics': {
        key: float(metric.compute())
        for key, metric in sorted(metrics.items())
        if not key.startswith('timing/')
      },
      'timing': [key for key in sorted(metrics) if key.startswith('timing/')],
    }

  decodes = {}
  for name, (function, fixed, options) in DECODES.items():
    decode_fn = functools.partial(getattr(decoding, function), **fixed)
    model = make_model(network, models, decode_fn)
    tokens, aux = jax.jit(
      functools.partial(
        model.predict_batch_with_aux, return_all_decodes=True, **options
      )
    )(params, batch, rng=jax.random.PRNGKey(2))
    decodes[name] = {
      'tokens': tokens.tolist(),
      'scores': aux['scores'].tolist(),
    }
  return {
    'losses': losses,
    'decodes': decodes,
    'scores': jax.jit(model.score_batch)(params, batch).tolist(),
  }


if __name__ == '__main__':
  import t5x.decoding
  import t5x.models
  from t5x.examples.t5 import network as t5x_network

  print(
    json.dumps(
      {
        'made_by': 'T5X cc342d4, tests/golden/models.py',
        **run(t5x_network, t5x.models, t5x.decoding),
      },
      separators=(',', ':'),
    )
  )
