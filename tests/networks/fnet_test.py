import jax
import jax.numpy as jnp
import pytest

from fnet_t5x.networks import fnet, fnet_t5

LARGE = {'emb_dim': 1024, 'mlp_dim': 4096, 'num_layers': 24, 'num_heads': 16}


def abstract_parameters(**choices):
  module = fnet.FNet(fnet.FNetConfig(**choices))
  tokens = jnp.ones((1, 4), jnp.int32)
  variables = jax.eval_shape(
    lambda: module.init(jax.random.key(0), tokens, enable_dropout=False)
  )
  return jax.tree.leaves(variables['params'])


@pytest.mark.parametrize(
  ('mixing', 'choices', 'parameters', 'leaves'),
  [
    ('fourier', {}, 83_486_722, 112),
    ('fourier', LARGE, 238_031_106, 208),
    ('random', {}, 83_486_722, 112),
    ('none', {}, 83_486_722, 112),
  ],
)
def test_parameters_of_the_published_checkpoints(
  mixing, choices, parameters, leaves
):
  layers = choices.get('num_layers', 12)
  got = abstract_parameters(layer_mixing=(mixing,) * layers, **choices)
  assert sum(leaf.size for leaf in got) == parameters
  assert len(got) == leaves


@pytest.mark.parametrize(
  ('mixing', 'attending', 'choices', 'millions'),
  [
    ('attention', 0, {}, 112),
    ('linear', 0, {}, 94),
    ('fourier', 2, {}, 88),
    ('attention', 0, LARGE, 339),
    ('linear', 0, LARGE, 269),
  ],
)
def test_parameters_of_the_papers_table(mixing, attending, choices, millions):
  """Millions, as the paper prints them (2105.03824)."""
  layers = choices.get('num_layers', 12)
  mixings = fnet_t5.mixing_layout(layers, mixing, attending)
  got = abstract_parameters(layer_mixing=mixings, **choices)
  assert round(sum(leaf.size for leaf in got) / 1e6) == millions
