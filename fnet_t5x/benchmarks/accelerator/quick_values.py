"""Random parameters for timing, without compiling initializers.

Compiling initializers takes seconds, and the time of a step does not depend on
the values of parameters. Training runs that measure losses use real initial
values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from jaxtyping import PyTree

_BLOCK = 2**20


def fill(shapes: PyTree, seed: int = 0) -> PyTree:
  """Returns random arrays on the device, at the scale of initial values.

  Args:
    shapes: a tree of `jax.ShapeDtypeStruct`s.
    seed: seed of the numbers, which repeat after a million.
  """
  import jax
  import numpy as np

  random = np.random.default_rng(seed).standard_normal(_BLOCK, np.float32)

  def one(path, shape):
    name = path[-1].key if path else ''
    if name == 'scale':
      return np.ones(shape.shape, shape.dtype)
    # A kernel's first axis is contracted; embeddings have unit variance.
    rows = 1 if name == 'embedding' else shape.shape[0]
    values = np.resize(random, shape.shape) / np.float32(np.sqrt(rows))
    return values.astype(shape.dtype)

  return jax.device_put(jax.tree_util.tree_map_with_path(one, shapes))


def zeros(shapes: PyTree) -> PyTree:
  """Returns zeros on the device, without compiling a program per shape."""
  import jax
  import numpy as np

  return jax.device_put(
    jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
  )


def variables(module: Any, *arguments: Any, **options: Any) -> PyTree:
  """Returns random `params` of a module.

  Args:
    module: a Flax module.
    *arguments: arguments of its call; only their shapes matter.
    **options: keyword arguments of its call, as compile-time constants.
  """
  import jax

  shapes = jax.eval_shape(
    lambda *given: module.init(jax.random.key(0), *given, **options), *arguments
  )
  return fill(shapes.get('params', {}))
