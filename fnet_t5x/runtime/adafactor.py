"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235), T5X's variant.

The second moment V of a gradient G is stored as row and column statistics: with
r and c the moving averages of the row and column means of G^2 + epsilon1,

  V ~= r c^T / mean(r),    update = G / sqrt(V)

so a [1024, 4096] kernel needs 5,120 floats of state. T5X's variant, which
this one matches number for number, adds to the paper:

- rules that assign each dimension to the rows, the columns, or a batch of
  stacked parameters, so that [embed, heads, kv] factors as a matrix and scanned
  layers are not averaged together;
- the decay 1 - (step + 1)^-decay_rate, and updates scaled by the RMS of the
  parameter, which makes the learning rate relative.

A rule for one parameter is a tuple with one `FactorDim` per dimension, or
`HEURISTIC_RULE` (the two largest dimensions), or None (not factored). A
parameter of rank 2 or less without a batch dimension always follows the
heuristic (its two largest dimensions, if both reach
`min_dim_size_to_factor`), whatever its rule says.

State per parameter, in float32: `v_row` and `v_col` if factored, else `v`; `m`
with momentum. Unused entries are a zero of shape [1], so all checkpoints have
the same layout.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.core
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import serialization, traverse_util
from jaxtyping import Array, Float, Int

from fnet_t5x.runtime import optimizers

PyTree = Any


class FactorDim(enum.Enum):
  """Role of one dimension in the factored second moment."""

  NONE = None  # not factored
  BATCH = 1  # several parameters stacked: never averaged over
  ROW = 2
  COLUMN = 3


class HeuristicRule(enum.Enum):
  """Singleton type for the rule 'factor the two largest dimensions'."""

  token = 1


HEURISTIC_RULE = HeuristicRule.token
FactorRule = HeuristicRule | tuple[FactorDim, ...] | None
Dims = tuple[int, ...]

_DIM_OF_NAME = {
  'row': FactorDim.ROW,
  'col': FactorDim.COLUMN,
  'column': FactorDim.COLUMN,
  'batch': FactorDim.BATCH,
  'none': FactorDim.NONE,
  'unfactorized': FactorDim.NONE,
}


def standard_logical_factor_rules() -> Mapping[str, FactorDim]:
  """Returns the role of every logical axis of T5X's networks and ours."""
  columns = (
    'vocab',
    'heads',
    'kv',
    'joined_kv',
    'mlp',
    'mlp_activations',
    'q_wi_fused',
    'o_wo_fused',
    'kv_fused',
    'multiquery_heads',
  )
  unfactored = (
    'relpos_buckets',
    'abspos_buckets',
    'layer_norm_scale',
    'length',
  )
  return flax.core.freeze(
    {'embed': FactorDim.ROW}
    | dict.fromkeys(columns, FactorDim.COLUMN)
    | dict.fromkeys(unfactored, FactorDim.NONE)
    | dict.fromkeys(('layers', 'stack'), FactorDim.BATCH)
  )


def factor_name_to_factordim(name: str | FactorDim) -> FactorDim:
  """Returns the `FactorDim` for a name from a gin file: 'row', 'col', ..."""
  if not isinstance(name, str):
    return name
  if name.lower() not in _DIM_OF_NAME:
    raise ValueError(
      f'unknown Adafactor factor rule {name!r}: use one of '
      f'{", ".join(_DIM_OF_NAME)}'
    )
  return _DIM_OF_NAME[name.lower()]


def rule_from_axes(
  path: str, axes: Sequence[str], rules: Mapping[str, FactorDim | str]
) -> tuple[FactorDim, ...]:
  """Derives the rule of the parameter `path` from its logical axes.

  Factoring needs both a row and a column; without them only BATCH dimensions
  are kept.

  Raises:
    ValueError: an axis has no rule, or a factored parameter has a dimension
      that is neither row, column nor batch.
  """
  unknown = [axis for axis in axes if axis not in rules]
  if unknown:
    raise ValueError(
      f'parameter {path!r} has the axis {unknown[0]!r}, which '
      'Adafactor.logical_factor_rules does not know: add it (row, column, '
      'batch or none)'
    )
  dims = tuple(factor_name_to_factordim(rules[axis]) for axis in axes)
  present = set(dims)
  if not {FactorDim.ROW, FactorDim.COLUMN} <= present:
    return tuple(
      dim if dim is FactorDim.BATCH else FactorDim.NONE for dim in dims
    )
  if FactorDim.NONE in present:
    raise ValueError(
      f'parameter {path!r} with axes {tuple(axes)} would be factored but for '
      f'axis {axes[dims.index(FactorDim.NONE)]!r}: give that axis the rule '
      'row, column or batch'
    )
  return dims


class Layout(NamedTuple):
  """Dimensions of one parameter by role; rows and columns None: unfactored."""

  averaged: Dims
  rows: Dims | None
  columns: Dims | None


def layout(
  path: str, shape: Dims, rule: FactorRule, min_dim_size_to_factor: int
) -> Layout:
  """Returns the `Layout` of the parameter `path` under `rule`.

  With rank 2 or less and no BATCH dimension the heuristic applies regardless of
  the rule: the shorter dimension is the rows.

  Raises:
    ValueError: rank 3 or more with the heuristic, or a rule whose length
      differs from the rank.
  """
  rank = len(shape)
  everything = tuple(range(rank))
  if rule is None:
    return Layout(everything, None, None)
  if rule is not HEURISTIC_RULE and len(rule) != rank:
    raise ValueError(
      f'the factor rule {rule} for parameter {path!r} has {len(rule)} '
      f'dimensions, its shape {tuple(shape)} has {rank}'
    )
  if rule is HEURISTIC_RULE and rank > 2:
    raise ValueError(
      f'parameter {path!r} of shape {tuple(shape)} has rank {rank}: Adafactor '
      'needs a factor rule for it (logical_factor_rules or factor_map)'
    )
  if rule is HEURISTIC_RULE or (rank <= 2 and FactorDim.BATCH not in rule):
    if rank < 2 or min(shape) < min_dim_size_to_factor:
      return Layout(everything, None, None)
    row, column = (int(i) for i in np.argsort(shape, stable=True))
    return Layout(everything, (row,), (column,))

  def dims(kind):
    return tuple(i for i, dim in enumerate(rule) if dim is kind)

  averaged = tuple(i for i in everything if rule[i] is not FactorDim.BATCH)
  rows, columns = dims(FactorDim.ROW), dims(FactorDim.COLUMN)
  if not rows and not columns:
    return Layout(averaged, None, None)
  return Layout(averaged, rows, columns)


class HParamMap:
  """Values by parameter name: the first matching regular expression wins."""

  def __init__(self, rules: Sequence[tuple[str, Any]]):
    self._rules = [(re.compile(pattern), value) for pattern, value in rules]

  def __getitem__(self, key: str) -> Any:
    for pattern, value in self._rules:
      if pattern.search(key):
        return value
    raise KeyError(f'no rule matches the parameter {key!r}')

  def __call__(self, params: Any) -> Any:
    """Returns the tree of `params` with each leaf replaced by its value."""
    names = traverse_util.flatten_dict(
      serialization.to_state_dict(params), sep='/'
    )
    values = {name: self[name] for name in names}
    return serialization.from_state_dict(
      params, traverse_util.unflatten_dict(values, sep='/')
    )


@flax.struct.dataclass
class _AdafactorHyperParams:
  """The arguments of `Adafactor` in order, without `dtype_momentum`."""

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
  """Returns 1 - (step + 1)^-decay_rate (section 7.2), 0 at step 0."""
  return 1.0 - (jnp.asarray(step, jnp.float32) + 1.0) ** -decay_rate


def precondition(
  grad: Float[Array, '...'],
  moments: Mapping[str, Float[Array, '...']],
  decay: Float[Array, ''],
  layout: Layout,
  epsilon: float,
) -> tuple[dict[str, Float[Array, '...']], Float[Array, '...']]:
  """Returns the new moments and grad / sqrt(second moment).

  With R the mean of v_row over the rows, the factored second moment of entry
  (i, j) is v_row[i] v_col[j] / R (algorithm 4, with means instead of sums).

  Args:
    grad: float32.
    moments: `v_row`, `v_col`, `v`.
    decay: weight of the old moments.
    layout: of the parameter.
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
  # Row indices within v_row, which no longer has the column dimensions.
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
  """Returns the RMS over the dimensions `averaged`, kept with size 1."""
  return jnp.sqrt(jnp.mean(x * x, averaged, keepdims=True))


def clip_rms(
  update: Float[Array, '...'], averaged: tuple[int, ...], threshold: float
) -> Float[Array, '...']:
  """Returns `update` scaled to an RMS of at most `threshold` (section 6)."""
  return update / jnp.maximum(1.0, rms(update, averaged) / threshold)


def step_size(
  hyper_params: _AdafactorHyperParams,
  param: Float[Array, '...'],
  averaged: tuple[int, ...],
  path: str,
) -> float | Float[Array, '...']:
  """Returns the step size, by default relative to the parameter's RMS.

  Section 8. Stacked parameters have one step size each: the result then has
  the rank of `param`, with size 1 in the dimensions `averaged`.
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
  hyper_params: _AdafactorHyperParams,
) -> float | Float[Array, ''] | None:
  """Returns the fraction of a parameter to subtract; None for no decay."""
  rate = hyper_params.weight_decay_rate
  exponent = hyper_params.weight_decay_rate_lr_exponent
  if not exponent:
    return rate
  return (rate or 1.0) * hyper_params.learning_rate**exponent


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
    """Sets the hyperparameters.

    Args:
      learning_rate: step size, relative to the parameter's RMS; the trainer
        passes the value of its schedule at each step.
      factored: whether to factor second moments at all.
      multiply_by_parameter_scale: whether the step size is relative to the RMS
        of the parameter, for all parameters or by name.
      beta1: momentum; None for no momentum, which then takes no memory.
      decay_rate: exponent of the second moment's decay schedule.
      step_offset: step at which that schedule restarts (finetuning).
      clipping_threshold: maximum RMS of an update, before the step size.
      weight_decay_rate: fraction of the parameter subtracted per step.
      min_dim_size_to_factor: the heuristic factors only if both dimensions
        are at least this large.
      epsilon1: added to the squared gradient.
      epsilon2: lower bound of the parameter RMS in the step size.
      dtype_momentum: dtype of the stored momentum.
      factor_map: factor rules by parameter name.
      logical_factor_rules: factor rules by logical axis; they replace
        `factor_map` where the model names its axes.
      weight_decay_rate_lr_exponent: if set, the weight decay is multiplied by
        learning_rate to this power.
      global_norm_clip_threshold: maximum global norm of the gradients, applied
        first.
      max_parameter_scale: upper bound of the parameter RMS in the step size.
      skip_nan_updates: whether elements that would become NaN keep their
        values (parameters and moments).

    Raises:
      ValueError: a `factor_map` with `factored=False`.
      TypeError: a map that is not an `HParamMap`.
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

  # Two train states have the same tree structure only if their definitions are
  # equal, so equality is by value. Hyperparameters hold dicts and change in
  # `set_param_axes`, so they are not part of the hash.
  def __eq__(self, other: Any) -> bool:
    return self is other or (
      isinstance(other, Adafactor)
      and self.hyper_params == other.hyper_params
      and self.dtype_momentum == other.dtype_momentum
    )

  def __hash__(self) -> int:
    return hash((Adafactor, self.dtype_momentum))

  def _layout(self, path: str, shape: tuple[int, ...]) -> Layout:
    hyper_params = self.hyper_params
    rule = HEURISTIC_RULE
    if not hyper_params.factored:
      rule = None
    elif hyper_params.factor_map:
      rule = hyper_params.factor_map[path]
    return layout(path, shape, rule, hyper_params.min_dim_size_to_factor)

  def init_param_state(self, param: Any, path: str) -> _AdafactorParamState:
    moments = empty_moments(param.shape, self._layout(path, param.shape))
    momentum = unused()
    if self.hyper_params.beta1 is not None:
      momentum = jnp.zeros(param.shape, self.dtype_momentum)
    return _AdafactorParamState(**moments, m=momentum)

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
    """Returns one parameter and its state after the step."""
    layout = self._layout(path, param.shape)
    moments, update = precondition(
      grad.astype(jnp.float32),
      {'v_row': state.v_row, 'v_col': state.v_col, 'v': state.v},
      second_moment_decay(
        step - hyper_params.step_offset, hyper_params.decay_rate
      ),
      layout,
      hyper_params.epsilon1,
    )
    if hyper_params.clipping_threshold is not None:
      update = clip_rms(
        update, layout.averaged, hyper_params.clipping_threshold
      )
    update *= step_size(hyper_params, param, layout.averaged, path)

    momentum = unused()
    if hyper_params.beta1 is not None:
      update = hyper_params.beta1 * state.m + (1 - hyper_params.beta1) * update
      momentum = update.astype(self.dtype_momentum)

    decay = weight_decay(hyper_params)
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
    state: optimizers.OptimizerState,
    grads: PyTree,
  ) -> tuple[PyTree, optimizers.OptimizerState]:
    """Returns (parameters, state) after the step.

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
      # Pascanu, Mikolov & Bengio 2013, section 3.2.
      norm = optax.tree.norm(grads)
      scale = jnp.minimum(1.0, hyper_params.global_norm_clip_threshold / norm)
      grads = {path: grad * scale for path, grad in grads.items()}
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
    """Sets the factor rule of every parameter from its logical axes."""
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
    """Returns the optimizer with its arrays replaced by logical axes or None.

    Full moments are sharded like their parameters; factored moments are small
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
