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
from typing import Any

import jax
import jax.numpy as jnp

from fnet_t5x.runtime import adafactor_math, factor_rules, optimizer_def
from fnet_t5x.runtime.factor_rules import (
  HEURISTIC_RULE,
  FactorDim,
  FactorRule,
  HeuristicRule,
  HParamMap,
  factor_name_to_factordim,
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


# T5X's names.
_AdafactorHyperParams = adafactor_math.HyperParams
_AdafactorParamState = adafactor_math.ParamState


class Adafactor(optimizer_def.OptimizerDef):
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

  def _layout(self, path: str, shape: tuple[int, ...]) -> factor_rules.Layout:
    hyper_params = self.hyper_params
    rule = HEURISTIC_RULE
    if not hyper_params.factored:
      rule = None
    elif hyper_params.factor_map:
      rule = hyper_params.factor_map[path]
    return factor_rules.layout(
      path, shape, rule, hyper_params.min_dim_size_to_factor
    )

  def init_param_state(self, param: Any, path: str) -> _AdafactorParamState:
    moments = adafactor_math.empty_moments(
      param.shape, self._layout(path, param.shape)
    )
    momentum = adafactor_math.unused()
    if self.hyper_params.beta1 is not None:
      momentum = jnp.zeros(param.shape, self.dtype_momentum)
    return _AdafactorParamState(**moments, m=momentum)

  def init_state(self, params: PyTree) -> optimizer_def.OptimizerState:
    states = {
      path: self.init_param_state(param, path)
      for path, param in optimizer_def.flatten_names(params).items()
    }
    return optimizer_def.OptimizerState(
      step=jnp.zeros((), jnp.int32),
      param_states=optimizer_def.unflatten_names(params, states),
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
    moments, update = adafactor_math.precondition(
      grad.astype(jnp.float32),
      {'v_row': state.v_row, 'v_col': state.v_col, 'v': state.v},
      adafactor_math.second_moment_decay(
        step - hyper_params.step_offset, hyper_params.decay_rate
      ),
      layout,
      hyper_params.epsilon1,
    )
    if hyper_params.clipping_threshold is not None:
      update = adafactor_math.clip_rms(
        update, layout.averaged, hyper_params.clipping_threshold
      )
    update *= adafactor_math.step_size(
      hyper_params, param, layout.averaged, path
    )

    momentum = adafactor_math.unused()
    if hyper_params.beta1 is not None:
      update = hyper_params.beta1 * state.m + (1 - hyper_params.beta1) * update
      momentum = update.astype(self.dtype_momentum)

    decay = adafactor_math.weight_decay(hyper_params)
    kept = param if decay is None else (1.0 - decay) * param
    new_param = (kept - update).astype(param.dtype)
    new_state = _AdafactorParamState(**moments, m=momentum)
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
    state: optimizer_def.OptimizerState,
    grads: PyTree,
  ) -> tuple[PyTree, optimizer_def.OptimizerState]:
    """Returns (parameters, state) one step on.

    Raises:
      ValueError: no learning rate was given.
    """
    if hyper_params.learning_rate is None:
      raise ValueError(
        'Adafactor has no learning rate: set Adafactor.learning_rate, or the '
        "trainer's learning_rate_fn"
      )
    grads = optimizer_def.flatten_names(grads)
    if hyper_params.global_norm_clip_threshold:
      grads = adafactor_math.clip_global_norm(
        grads, hyper_params.global_norm_clip_threshold
      )
    states = optimizer_def.flatten_names(state.param_states)
    stepped = {
      path: self.apply_param_gradient(
        state.step, hyper_params, param, states[path], grads[path], path
      )
      for path, param in optimizer_def.flatten_names(params).items()
    }
    new_params, new_states = (
      optimizer_def.unflatten_names(
        params, {k: v[i] for k, v in stepped.items()}
      )
      for i in range(2)
    )
    return new_params, optimizer_def.OptimizerState(
      step=state.step + 1, param_states=new_states
    )

  def set_param_axes(self, param_logical_axes: PyTree):
    """Takes the factor rule of every parameter from its logical axes."""
    rules = self.hyper_params.logical_factor_rules
    if rules is None:
      return
    factor_map = {
      path: factor_rules.rule_from_axes(path, axes, rules)
      for path, axes in optimizer_def.flatten_names(param_logical_axes).items()
    }
    self.hyper_params = self.hyper_params.replace(factor_map=factor_map)

  def derive_logical_axes(
    self, optimizer_state: optimizer_def.Optimizer, param_logical_axes: PyTree
  ) -> optimizer_def.Optimizer:
    """Returns the optimizer with its arrays replaced by axes, or None.

    Full moments are laid out like their parameters; factored ones are small
    and replicated.
    """
    axes = optimizer_def.flatten_names(param_logical_axes)
    states = optimizer_def.flatten_names(optimizer_state.state.param_states)
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
      state=optimizer_def.OptimizerState(
        step=None,
        param_states=optimizer_def.unflatten_names(target, state_axes),
      ),
      target=optimizer_def.unflatten_names(target, axes),
    )
