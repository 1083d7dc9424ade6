"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235), T5X's variant.

The second moment V of a gradient G is kept as its row and column means: with
r and c their moving averages of G^2 + epsilon1,

  V ~= r c^T / mean(r),    update = G / sqrt(V)

so that a [1024, 4096] kernel costs 5,120 floats of state. T5X's variant, which
this one follows number for number, adds to the paper:

- rules that say which dimensions are rows, columns, or a batch of stacked
  parameters (`factor_rules.py`), so that [embed, heads, kv] factors as a
  matrix and scanned layers are not averaged together;
- the decay 1 - (step + 1)^-decay_rate, and updates scaled by the RMS of the
  parameter, so that the learning rate is relative.

A parameter of rank 2 or less without a batch dimension always follows the
heuristic (its two largest dimensions, if both reach
`min_dim_size_to_factor`), whatever its rule says.

State of one parameter: `v_row`, `v_col` (float32) if factored, else `v`; `m`
with momentum. What is unused is a zero of shape [1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from fnet_t5x.runtime import optimizers
from fnet_t5x.runtime.factor_rules import (
  HEURISTIC_RULE,
  FactorDim,
  FactorRule,
  HeuristicRule,
  HParamMap,
  factor_name_to_factordim,
  rule_from_axes,
  standard_logical_factor_rules,
)

__all__ = [
  'HEURISTIC_RULE',
  'Adafactor',
  'FactorDim',
  'FactorRule',
  'HParamMap',
  'HeuristicRule',
  'factor_name_to_factordim',
  'standard_logical_factor_rules',
]

PyTree = Any
Dims = tuple[int, ...]


@flax.struct.dataclass
class _AdafactorHyperParams:
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
class _AdafactorParamState:
  v_row: jax.Array
  v_col: jax.Array
  v: jax.Array
  m: jax.Array


class _Layout(NamedTuple):
  """How one parameter is averaged, and factored (both None: it is not)."""

  averaged: Dims
  rows: Dims | None
  columns: Dims | None


def _without(shape: Dims, dims: Dims) -> Dims:
  return tuple(size for i, size in enumerate(shape) if i not in dims)


def _unused() -> jax.Array:
  return jnp.zeros((1,), jnp.float32)


class Adafactor(optimizers.OptimizerDef):
  """Adafactor with factored second moments and relative step sizes."""

  def __init__(
    self,
    learning_rate: float | None = None,
    factored: bool = True,
    multiply_by_parameter_scale: bool | HParamMap = True,
    beta1: float | None = None,
    decay_rate: float = 0.8,
    step_offset: int = 0,
    clipping_threshold: float | None = 1.0,
    weight_decay_rate: float | None = None,
    min_dim_size_to_factor: int = 128,
    epsilon1: float = 1e-30,
    epsilon2: float = 1e-3,
    dtype_momentum: Any = jnp.float32,
    factor_map: HParamMap | None = None,
    logical_factor_rules: Mapping[str, FactorDim | str] | None = None,
    weight_decay_rate_lr_exponent: float | None = None,
    global_norm_clip_threshold: float | None = None,
    max_parameter_scale: float | None = None,
    skip_nan_updates: bool | None = False,
  ):
    """Sets the hyper parameters.

    Args:
      learning_rate: step size, relative to the parameter's RMS; the trainer
        passes its schedule's value at each step.
      factored: whether second moments are factored at all.
      multiply_by_parameter_scale: whether the step is relative to the RMS of
        the parameter, for all parameters or by name.
      beta1: momentum; None for none, and no memory for it.
      decay_rate: exponent of the second moment's decay schedule.
      step_offset: step at which that schedule starts anew (finetuning).
      clipping_threshold: greatest RMS of an update before the step size.
      weight_decay_rate: share of the parameter taken away at each step.
      min_dim_size_to_factor: the heuristic factors only if both dimensions
        are at least this long.
      epsilon1: added to the squared gradient.
      epsilon2: least RMS of a parameter that the step size counts.
      dtype_momentum: dtype of the momentum kept.
      factor_map: factor rules by parameter name.
      logical_factor_rules: factor rules by logical axis; where the model
        names its axes they take the place of `factor_map`.
      weight_decay_rate_lr_exponent: the weight decay is then multiplied by
        learning_rate ** this.
      global_norm_clip_threshold: greatest norm of all gradients together,
        before anything else.
      max_parameter_scale: greatest RMS of a parameter that counts.
      skip_nan_updates: whether elements that would become NaN keep their
        values (parameters and moments).

    Raises:
      ValueError: a `factor_map` with `factored=False`.
      TypeError: a map that is no `HParamMap`.
    """
    if factor_map is not None and not factored:
      raise ValueError(
        'Adafactor has a factor_map but factored=False: drop one'
      )
    if not isinstance(multiply_by_parameter_scale, bool | HParamMap):
      raise TypeError(
        'Adafactor.multiply_by_parameter_scale must be a bool or an HParamMap, '
        f'not {type(multiply_by_parameter_scale).__name__}'
      )
    if factor_map is not None and not isinstance(factor_map, HParamMap):
      raise TypeError(
        'Adafactor.factor_map must be None or an HParamMap, not '
        f'{type(factor_map).__name__}'
      )
    self.dtype_momentum = jax.dtypes.canonicalize_dtype(dtype_momentum)
    super().__init__(
      _AdafactorHyperParams(
        learning_rate=learning_rate,
        factored=factored,
        multiply_by_parameter_scale=multiply_by_parameter_scale,
        beta1=beta1,
        decay_rate=decay_rate,
        step_offset=step_offset,
        clipping_threshold=clipping_threshold,
        weight_decay_rate=weight_decay_rate,
        min_dim_size_to_factor=min_dim_size_to_factor,
        epsilon1=epsilon1,
        epsilon2=epsilon2,
        factor_map=factor_map,
        logical_factor_rules=logical_factor_rules,
        weight_decay_rate_lr_exponent=weight_decay_rate_lr_exponent,
        global_norm_clip_threshold=global_norm_clip_threshold,
        max_parameter_scale=max_parameter_scale,
        skip_nan_updates=skip_nan_updates,
      )
    )

  # Two train states are trees of one structure only if their definitions are
  # equal, so equality goes by value. Hyper parameters hold dicts and change
  # with `set_param_axes`: they stay out of the hash.
  def __eq__(self, other: Any) -> bool:
    return self is other or (
      isinstance(other, Adafactor)
      and self.hyper_params == other.hyper_params
      and self.dtype_momentum == other.dtype_momentum
    )

  def __hash__(self) -> int:
    return hash((Adafactor, self.dtype_momentum))

  def _heuristic(self, shape: Dims) -> tuple[Dims, Dims] | tuple[None, None]:
    if len(shape) < 2:
      return None, None
    *_, row, column = (int(i) for i in np.argsort(shape))
    if shape[row] < self.hyper_params.min_dim_size_to_factor:
      return None, None
    return (row,), (column,)

  def _layout(self, path: str, shape: Dims) -> _Layout:
    """Returns how to treat the parameter `path`.

    Raises:
      ValueError: it has rank 3 or more and no rule, or a rule of another rank.
    """
    rank = len(shape)
    everything = tuple(range(rank))
    if not self.hyper_params.factored:
      return _Layout(everything, None, None)
    rule = HEURISTIC_RULE
    if self.hyper_params.factor_map:
      rule = self.hyper_params.factor_map[path]
    if rule is None:
      return _Layout(everything, None, None)
    if rule is HEURISTIC_RULE:
      if rank > 2:
        raise ValueError(
          f'parameter {path!r} of shape {shape} has rank {rank}: Adafactor '
          'needs a factor rule for it (logical_factor_rules or factor_map)'
        )
      return _Layout(everything, *self._heuristic(shape))
    if len(rule) != rank:
      raise ValueError(
        f'the factor rule {rule} for parameter {path!r} has {len(rule)} '
        f'dimensions, its shape {shape} has {rank}'
      )
    if rank <= 2 and FactorDim.BATCH not in rule:
      return _Layout(everything, *self._heuristic(shape))

    def dims(kind):
      return tuple(i for i, dim in enumerate(rule) if dim is kind)

    averaged = tuple(i for i in everything if rule[i] is not FactorDim.BATCH)
    rows, columns = dims(FactorDim.ROW), dims(FactorDim.COLUMN)
    if not rows and not columns:
      return _Layout(averaged, None, None)
    return _Layout(averaged, rows, columns)

  def init_param_state(self, param: Any, path: str) -> _AdafactorParamState:
    layout = self._layout(path, param.shape)
    v_row = v_col = v = m = None
    if layout.rows is None:
      v = jnp.zeros(param.shape, jnp.float32)
    else:
      v_row = jnp.zeros(_without(param.shape, layout.columns), jnp.float32)
      v_col = jnp.zeros(_without(param.shape, layout.rows), jnp.float32)
    if self.hyper_params.beta1 is not None:
      m = jnp.zeros(param.shape, self.dtype_momentum)
    parts = (_unused() if x is None else x for x in (v_row, v_col, v, m))
    return _AdafactorParamState(*parts)

  def init_state(self, params: PyTree) -> optimizers.OptimizerState:
    states = {
      path: self.init_param_state(param, path)
      for path, param in optimizers.flatten_names(params).items()
    }
    return optimizers.OptimizerState(
      step=jnp.zeros((), jnp.int32),
      param_states=optimizers.unflatten_names(params, states),
    )

  def apply_param_gradient(
    self,
    step: jax.Array,
    hyper_params: _AdafactorHyperParams,
    param: jax.Array,
    state: _AdafactorParamState,
    grad: jax.Array,
    path: str,
  ) -> tuple[jax.Array, _AdafactorParamState]:
    """Returns one parameter and its state one step on."""
    layout = self._layout(path, param.shape)
    grad = grad.astype(jnp.float32)
    second_moment, update = _precondition(
      step, hyper_params, layout, state, grad
    )
    if hyper_params.clipping_threshold is not None:
      rms = jnp.sqrt(jnp.mean(update * update, layout.averaged, keepdims=True))
      update /= jnp.maximum(1.0, rms / hyper_params.clipping_threshold)
    update *= _step_size(hyper_params, layout, param, path)

    momentum = _unused()
    if hyper_params.beta1 is not None:
      update = hyper_params.beta1 * state.m + (1 - hyper_params.beta1) * update
      momentum = update.astype(self.dtype_momentum)

    decay = _weight_decay(hyper_params)
    kept = param if decay is None else (1.0 - decay) * param
    new_param = (kept - update).astype(param.dtype)
    new_state = _AdafactorParamState(**second_moment, m=momentum)
    if hyper_params.skip_nan_updates:
      new_param, new_state = jax.tree.map(
        lambda new, old: jnp.where(jnp.isnan(new), old, new),
        (new_param, new_state),
        (param, state),
      )
    return new_param, new_state

  def apply_gradient(
    self,
    hyper_params: _AdafactorHyperParams,
    params: PyTree,
    state: optimizers.OptimizerState,
    grads: PyTree,
  ) -> tuple[PyTree, optimizers.OptimizerState]:
    """Returns (parameters, state) one step on.

    Raises:
      ValueError: no learning rate was given.
    """
    if hyper_params.learning_rate is None:
      raise ValueError(
        'Adafactor has no learning rate: set Adafactor.learning_rate, or the '
        "trainer's learning_rate_fn"
      )
    grads = optimizers.flatten_names(grads)
    if hyper_params.global_norm_clip_threshold:
      grads = _clip_global_norm(grads, hyper_params.global_norm_clip_threshold)
    states = optimizers.flatten_names(state.param_states)
    stepped = {
      path: self.apply_param_gradient(
        state.step, hyper_params, param, states[path], grads[path], path
      )
      for path, param in optimizers.flatten_names(params).items()
    }
    new_params, new_states = (
      optimizers.unflatten_names(params, {k: v[i] for k, v in stepped.items()})
      for i in range(2)
    )
    return new_params, optimizers.OptimizerState(
      step=state.step + 1, param_states=new_states
    )

  def set_param_axes(self, param_logical_axes: PyTree):
    """Takes the factor rule of every parameter from its logical axes."""
    rules = self.hyper_params.logical_factor_rules
    if rules is None:
      return
    factor_map = {
      path: rule_from_axes(path, axes, rules)
      for path, axes in optimizers.flatten_names(param_logical_axes).items()
    }
    self.hyper_params = self.hyper_params.replace(factor_map=factor_map)

  def derive_logical_axes(
    self, optimizer_state: optimizers.Optimizer, param_logical_axes: PyTree
  ) -> optimizers.Optimizer:
    """Returns the optimizer with its arrays replaced by axes, or None.

    Full moments are laid out like their parameters; factored ones are small
    and replicated.
    """
    axes = optimizers.flatten_names(param_logical_axes)
    states = optimizers.flatten_names(optimizer_state.state.param_states)
    has_momentum = self.hyper_params.beta1 is not None
    state_axes = {
      path: _AdafactorParamState(
        v_row=None,
        v_col=None,
        v=axes[path] if state.v.shape != (1,) else None,
        m=axes[path] if has_momentum else None,
      )
      for path, state in states.items()
    }
    target = optimizer_state.target
    return optimizer_state.replace(
      state=optimizers.OptimizerState(
        step=None,
        param_states=optimizers.unflatten_names(target, state_axes),
      ),
      target=optimizers.unflatten_names(target, axes),
    )


def _precondition(step, hyper_params, layout, state, grad):
  """Returns the new second moments by name, and the unscaled update."""
  count = jnp.asarray(step - hyper_params.step_offset, jnp.float32) + 1.0
  decay = 1.0 - count**-hyper_params.decay_rate
  fresh = 1.0 - decay
  squares = grad * grad + hyper_params.epsilon1
  if layout.rows is None:
    v = decay * state.v + fresh * squares
    return (
      {'v_row': _unused(), 'v_col': _unused(), 'v': v},
      grad * v**-0.5,
    )
  v_row = decay * state.v_row + fresh * jnp.mean(squares, layout.columns)
  v_col = decay * state.v_col + fresh * jnp.mean(squares, layout.rows)
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
  return {'v_row': v_row, 'v_col': v_col, 'v': _unused()}, update


def _step_size(hyper_params, layout, param, path):
  relative = hyper_params.multiply_by_parameter_scale
  if isinstance(relative, HParamMap):
    relative = relative[path]
  if not relative:
    return hyper_params.learning_rate
  rms = jnp.sqrt(jnp.mean(param * param, layout.averaged, keepdims=True))
  rms = jnp.maximum(rms, hyper_params.epsilon2)
  if hyper_params.max_parameter_scale is not None:
    rms = jnp.minimum(rms, hyper_params.max_parameter_scale)
  return hyper_params.learning_rate * rms


def _weight_decay(hyper_params):
  rate = hyper_params.weight_decay_rate
  exponent = hyper_params.weight_decay_rate_lr_exponent
  if not exponent:
    return rate
  return (rate or 1.0) * hyper_params.learning_rate**exponent


def _clip_global_norm(grads, threshold):
  """Scales gradients to a norm of at most `threshold` (Pascanu et al. 2013)."""
  norm = jnp.sqrt(sum(jnp.sum(jnp.square(grad)) for grad in grads.values()))
  scale = jnp.minimum(1.0, threshold / norm)
  return {path: grad * scale for path, grad in grads.items()}
