"""Networks of converted folders: built by their gin file, and run."""

import gin
import jax
import jax.numpy as jnp
import numpy as np
from checkout import ROOT
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from fnet_t5x import gin_macros
from fnet_t5x.convert import checkpoint_leaves
from fnet_t5x.networks import decoding as network_decoding
from fnet_t5x.runtime import decoding


def leaves(checkpoint) -> dict[str, np.ndarray]:
  """Returns the arrays of a checkpoint, by name."""
  return checkpoint_leaves.read(epath.Path(checkpoint), lambda: [])


def load(checkpoint):
  """Returns the network of the model.gin beside a checkpoint, and parameters.

  Raises:
    ValueError: names or shapes of the parameters are not the network's.
  """
  gin.clear_config()
  gin.add_config_file_search_path(str(ROOT))
  gin.parse_config_file(str(checkpoint.parent / 'model.gin'))
  gin.parse_config(
    ['DROPOUT_RATE = 0.0', "ACTIVATION_DTYPE = 'float32'", 'VOCABULARY = None']
  )
  module = gin_macros.value('MODEL').module
  gin.clear_config()
  found = leaves(checkpoint)
  params = unflatten_dict(
    {
      name.removeprefix('target/'): jnp.asarray(x)
      for name, x in found.items()
      if name.startswith('target/')
    },
    sep='/',
  )
  tokens = jnp.ones((1, 3), jnp.int32)
  count = 3 if hasattr(module, 'encode') else 2
  wanted = jax.eval_shape(module.init, jax.random.key(0), *[tokens] * count)
  shapes, others = (
    {name: x.shape for name, x in flatten_dict(tree, sep='/').items()}
    for tree in (params, wanted['params'])
  )
  if shapes != others:
    raise ValueError(f'{checkpoint} is not of {module}')
  return module, params


def logits(module, params, inputs, targets):
  """Returns teacher-forced logits of decoder inputs without padding."""
  ones = jnp.ones_like
  if hasattr(module, 'encode'):
    arguments = (inputs, targets, ones(targets))
  else:
    arguments = (inputs, ones(inputs))
  return module.apply({'params': params}, *arguments, enable_dropout=False)


def generate(module, params, inputs, new_tokens, eos_id, beams=None):
  """Returns generated tokens [batch, new_tokens]; greedy without beams.

  Beam search is without length penalty, `alpha=0`.
  """
  if hasattr(module, 'encode'):
    prompts = jnp.zeros((len(inputs), new_tokens), jnp.int32)
    encoded = network_decoding.encode(module, params, jnp.asarray(inputs))
    cache, positions = network_decoding.start(
      module, params, encoded, prompts, prompted=False
    )
    rows = encoded.repeat(beams or 1)

    def step(state):
      return network_decoding.step(
        module, params, rows, state.cache, state.cur_token
      )

    skipped = 0
  else:
    # The first token is not among the outputs.
    skipped = inputs.shape[1] - 1
    prompts = jnp.pad(jnp.asarray(inputs), ((0, 0), (0, new_tokens - 1)))
    cache, positions = network_decoding.start_decoder_only(
      module, params, prompts
    )

    def step(state):
      return network_decoding.step_decoder_only(
        module, params, state.cache, state.cur_token
      )

  options = {'eos_id': eos_id, 'initial_index': positions}
  if beams:
    tokens, _ = decoding.beam_search(
      prompts, cache, step, num_decodes=beams, alpha=0.0, **options
    )
  else:
    tokens, _ = decoding.temperature_sample(
      prompts, cache, step, topk=1, **options
    )
  return np.asarray(tokens)[:, -1, skipped:]


def until(rows, eos_id):
  """Returns rows as lists, each up to the first EOS."""
  return [
    row[: row.index(eos_id)] if eos_id in row else row
    for row in (list(map(int, row)) for row in rows)
  ]
