"""Shapes of a published FNet: derived from its tensors, and checked."""

import re
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from fnet_t5x.convert import array_checks
from fnet_t5x.networks import fnet

_LAYER = re.compile(
  r'encoder/(encoder|feed_forward|self_attention|linear_transform)_(\d+)/'
)
_MIXINGS = {'self_attention': 'attention', 'linear_transform': 'linear'}
_ATTENTION = 'encoder/self_attention_{}/query/kernel'


def config_of(shapes: array_checks.Shapes) -> fnet.FNetConfig:
  """Derives the configuration from the shapes of all parameters.

  Layers without parameters for mixing are called 'fourier': their tensors do
  not tell the Fourier transform from random matrices, or from no mixing.

  Args:
    shapes: by our name.

  Raises:
    ValueError: a parameter that determines a size is missing, or of another
      rank.
  """

  def sizes(name: str, rank: int) -> tuple[int, ...]:
    if name not in shapes:
      raise ValueError(f'it lacks {name}')
    if len(shapes[name]) != rank or 0 in shapes[name]:
      raise ValueError(f'{name} is {list(shapes[name])}, not of rank {rank}')
    return shapes[name]

  found: dict[int, set[str]] = {}
  for name in shapes:
    if match := _LAYER.match(name):
      found.setdefault(int(match[2]), set()).add(match[1])
  if sorted(found) != list(range(len(found))):
    raise ValueError(f'it has only the layers {sorted(found)}')
  mixings = tuple(
    next((m for n, m in _MIXINGS.items() if n in found[i]), 'fourier')
    for i in range(len(found))
  )
  vocab_size, embedding_dim = sizes('encoder/embedder/word/embedding', 2)
  _, emb_dim = sizes('encoder/embedder/hidden_mapping_in/kernel', 2)
  heads = 1
  if 'attention' in mixings:
    kernel = _ATTENTION.format(mixings.index('attention'))
    heads = sizes(kernel, 3)[1]
  return fnet.FNetConfig(
    vocab_size=vocab_size,
    embedding_dim=embedding_dim,
    emb_dim=emb_dim,
    mlp_dim=sizes('encoder/feed_forward_0/intermediate/kernel', 2)[1],
    num_layers=len(found),
    num_heads=heads,
    max_length=sizes('encoder/embedder/position/embedding', 3)[1],
    type_vocab_size=sizes('encoder/embedder/type/embedding', 2)[0],
    layer_mixing=mixings,
  )


def expected(config: fnet.FNetConfig) -> dict[str, tuple[int, ...]]:
  """Returns the shape of each of the network's parameters, by name."""
  # One layer of each kind tells the shapes of all: tracing 24 takes seconds.
  kinds = list(dict.fromkeys(config.mixings))
  network = fnet.FNet(
    config.replace(num_layers=len(kinds), layer_mixing=tuple(kinds))
  )

  def initialize():
    tokens = jnp.zeros((1, config.max_length), jnp.int32)
    variables = network.init(jax.random.PRNGKey(0), tokens)
    return nn.unbox(variables['params'])

  shapes = {}
  params = traverse_util.flatten_dict(jax.eval_shape(initialize), sep='/')
  for name, array in params.items():
    match = _LAYER.match(name)
    if not match:
      shapes[name] = array.shape
      continue
    kind = kinds[int(match[2])]
    for i, mixing in enumerate(config.mixings):
      if mixing == kind:
        own = f'{name[: match.start(2)]}{i}{name[match.end(2) :]}'
        shapes[own] = array.shape
  return shapes


def check(arrays: Mapping[str, np.ndarray]) -> fnet.FNetConfig:
  """Checks all parameters, and returns the configuration they belong to.

  Args:
    arrays: by our name.

  Raises:
    ValueError: names the first parameter that is missing, unknown, of a wrong
      shape, no floating-point array, or not finite.
  """
  config = config_of({name: tuple(x.shape) for name, x in arrays.items()})
  array_checks.check(arrays, expected(config))
  return config
