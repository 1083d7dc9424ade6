"""Adafactor's formulas for one parameter; `adafactor.py` puts them together.

Moments and updates are float32. A moment that is not used is a zero of shape
[1], so that checkpoints have one layout.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fnet_t5x.runtime.factor_rules import (
  FactorDim,
  FactorRule,
  HParamMap,
  Layout,
)


@flax.struct.dataclass
class HyperParams:
  """The arguments of `Adafactor`, in its order, less `dtype_momentum`."""

  learning_rate: float | jax.Array | None
  factored: bool
  multiply_by_parameter_scale: bool | HParamMap
  beta1: float | None
  decay_rate: float
  step_offset: int
  clipping_threshold: float | None
  weight_decay_rate: float | None
  min_dim_size_to_factor: int
  epsilon1: float
  epsilon2: float
  factor_map: Mapping[str, FactorRule] | HParamMap | None = None
  logical_factor_rules: Mapping[str, FactorDim | str] | None = None
  weight_decay_rate_lr_exponent: float | None = None
  global_norm_clip_threshold: float | None = None
  max_parameter_scale: float | None = None
  skip_nan_updates: bool | None = False


@flax.struct.dataclass
class ParamState:
  """Second moments (float32) and momentum of one parameter."""

  v_row: jax.Array
  v_col: jax.Array
  v: jax.Array
  m: jax.Array


def unused() -> Float[Array, '1']:
  return jnp.zeros((1,), jnp.float32)


def empty_moments(
  shape: tuple[int, ...], layout: Layout
) -> dict[str, Float[Array, '...']]:
  """Returns zeros for `v_row`, `v_col` and `v` of a parameter of `shape`."""

  def without(dims):
    kept = [size for i, size in enumerate(shape) if i not in dims]
    return jnp.zeros(kept, jnp.float32)

  if layout.rows is None:
    return {'v_row': unused(), 'v_col': unused(), 'v': without(())}
  return {
    'v_row': without(layout.columns),
    'v_col': without(layout.rows),
    'v': unused(),
  }


def second_moment_decay(
  step: Int[Array, ''], decay_rate: float
) -> Float[Array, '']:
  """Returns 1 - (step + 1)^-decay_rate (section 7.2): 0 at step 0."""
  return 1.0 - (jnp.asarray(step, jnp.float32) + 1.0) ** -decay_rate


def precondition(
  grad: Float[Array, '...'],
  moments: Mapping[str, Float[Array, '...']],
  decay: Float[Array, ''],
  layout: Layout,
  epsilon: float,
) -> tuple[dict[str, Float[Array, '...']], Float[Array, '...']]:
  """Returns the next moments, and grad / sqrt(second moment).

  With R = E[v_row] over the rows, the factored second moment of entry (i, j) is
  v_row[i] v_col[j] / R (algorithm 4; means in place of sums).

  Args:
    grad: float32.
    moments: `v_row`, `v_col`, `v`.
    decay: weight of the old moments.
    layout: the parameter's.
    epsilon: added to the squared gradient.
  """
  fresh = 1.0 - decay
  squares = grad * grad + epsilon
  if layout.rows is None:
    v = decay * moments['v'] + fresh * squares
    return {'v_row': unused(), 'v_col': unused(), 'v': v}, grad * v**-0.5
  row_means = jnp.mean(squares, layout.columns)
  column_means = jnp.mean(squares, layout.rows)
  v_row = decay * moments['v_row'] + fresh * row_means
  v_col = decay * moments['v_col'] + fresh * column_means
  # The rows' places within v_row, from which the columns are gone.
  places = tuple(
    row - sum(column < row for column in layout.columns) for row in layout.rows
  )
  row_factor = (v_row / jnp.mean(v_row, places, keepdims=True)) ** -0.5
  update = (
    grad
    * jnp.expand_dims(row_factor, layout.columns)
    * jnp.expand_dims(v_col**-0.5, layout.rows)
  )
  return {'v_row': v_row, 'v_col': v_col, 'v': unused()}, update


def rms(
  x: Float[Array, '...'], averaged: tuple[int, ...]
) -> Float[Array, '...']:
  """Returns the root mean square over the dimensions `averaged`, kept as 1."""
  return jnp.sqrt(jnp.mean(x * x, averaged, keepdims=True))


def clip_rms(
  update: Float[Array, '...'], averaged: tuple[int, ...], threshold: float
) -> Float[Array, '...']:
  """Returns `update` with an RMS of at most `threshold` (section 6)."""
  return update / jnp.maximum(1.0, rms(update, averaged) / threshold)


def step_size(
  hyper_params: HyperParams,
  param: Float[Array, '...'],
  averaged: tuple[int, ...],
  path: str,
) -> float | Float[Array, '...']:
  """Returns the step size, by default relative to the parameter's RMS.

  Section 8. Stacked parameters have one step size each: the result then has
  the rank of `param`, with its dimensions `averaged` being 1.
  """
  relative = hyper_params.multiply_by_parameter_scale
  if isinstance(relative, HParamMap):
    relative = relative[path]
  if not relative:
    return hyper_params.learning_rate
  scale = jnp.maximum(rms(param, averaged), hyper_params.epsilon2)
  if hyper_params.max_parameter_scale is not None:
    scale = jnp.minimum(scale, hyper_params.max_parameter_scale)
  return hyper_params.learning_rate * scale


def weight_decay(
  hyper_params: HyperParams,
) -> float | Float[Array, ''] | None:
  """Returns the share of a parameter to take away, None for none."""
  rate = hyper_params.weight_decay_rate
  exponent = hyper_params.weight_decay_rate_lr_exponent
  if not exponent:
    return rate
  return (rate or 1.0) * hyper_params.learning_rate**exponent


def clip_global_norm(
  grads: Mapping[str, Float[Array, '...']], threshold: float
) -> dict[str, Float[Array, '...']]:
  """Returns `grads` with a joint norm of at most `threshold`.

  Pascanu, Mikolov & Bengio 2013, section 3.2.
  """
  norm = jnp.sqrt(sum(jnp.sum(jnp.square(grad)) for grad in grads.values()))
  scale = jnp.minimum(1.0, threshold / norm)
  return {path: grad * scale for path, grad in grads.items()}
