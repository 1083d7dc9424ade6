"""T5X's own gin files on the embedded runtime."""

import gin
import jax
import pytest
import seqio
from flax import traverse_util

from fnet_t5x.networks import t5
from fnet_t5x.runtime import gin_utils, models

SHAPES = {
  'encoder_input_tokens': (2, 8),
  'decoder_input_tokens': (2, 8),
  'decoder_target_tokens': (2, 8),
}


def shapes_of(module):
  vocabulary = seqio.ByteVocabulary()
  model = models.EncoderDecoderModel(module, vocabulary, vocabulary, None)
  variables = jax.eval_shape(
    lambda key: model.get_initial_variables(key, SHAPES), jax.random.PRNGKey(0)
  )
  flat = traverse_util.flatten_dict(variables['params'], sep='/')
  return {name: leaf.shape for name, leaf in flat.items()}


@pytest.mark.parametrize(
  'name',
  [
    'scalable_t5/mt5/small',
    'scalable_t5/t5_1_1/base',
    't5/byt5/large',
    't5/mt5/xl',
    't5/t5_1_0/11B',
    't5/t5_1_1/small',
    't5/t5_1_1/xxl',
  ],
)
def test_parameters_are_those_of_t5xs_network(name, lax_ranks):
  gin_utils.parse_gin_flags(
    ['.'],
    [f't5x/examples/{name}.gin'],
    ['DROPOUT_RATE = 0.1'],
    finalize_config=False,
  )
  ours = gin.get_configurable(t5.Transformer)()
  settings = gin.get_bindings(t5.T5Config)
  if name.startswith('scalable_t5'):
    from t5x.examples.scalable_t5 import network
  else:
    from t5x.examples.t5 import network
  theirs = network.Transformer(config=network.T5Config(**settings))
  assert shapes_of(ours) == shapes_of(theirs)
