"""Optimizers under T5X's names: optax optimizers and combinations of several.

An `OptimizerDef` is pure: it creates the state for parameters and maps
(parameters, state, gradients) to new parameters and state. An `Optimizer` holds
a definition together with the current parameters (`target`) and state. The
state dict, which is also the checkpoint layout, is

  {'target': parameters, 'state': {'step': int32, 'param_states': ...}}

Adafactor is in `adafactor.py`. An optax optimizer has its own learning rate (a
float or a schedule): as in T5X, the trainer's schedule is reported but has no
effect on it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.core
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import serialization, traverse_util

PyTree = Any
Flat = dict[str, Any]


@flax.struct.dataclass
class OptimizerState:
  """Number of steps so far (int32 scalar), and the state per parameter."""

  step: jax.Array
  param_states: PyTree


class OptimizerDef:
  """Interface of optimizers; hyperparameters are a flax dataclass."""

  def __init__(self, hyper_params: Any):
    self.hyper_params = hyper_params

  def init_state(self, params: PyTree) -> OptimizerState:
    raise NotImplementedError

  def apply_gradient(
    self,
    hyper_params: Any,
    params: PyTree,
    state: OptimizerState,
    grads: PyTree,
  ) -> tuple[PyTree, OptimizerState]:
    """Returns the parameters and the state after the step."""
    raise NotImplementedError

  def update_hyper_params(self, **hyper_param_overrides) -> Any:
    """Returns this definition's hyperparameters with some replaced.

    `hyper_params=...` replaces all of them before the other overrides apply.
    """
    base = hyper_param_overrides.pop('hyper_params', self.hyper_params)
    return base.replace(**hyper_param_overrides)

  def create(self, target: PyTree) -> Optimizer:
    """Returns an `Optimizer` at step 0 for the parameters `target`."""
    return Optimizer(
      optimizer_def=self, state=self.init_state(target), target=target
    )

  def state_dict(self, target: PyTree, state: OptimizerState) -> dict:
    return {
      'target': serialization.to_state_dict(target),
      'state': serialization.to_state_dict(state),
    }

  def restore_state(
    self, opt_target: PyTree, opt_state: OptimizerState, state_dict: Mapping
  ) -> tuple[PyTree, OptimizerState]:
    """Returns (target, state) with the values of `state_dict`."""
    return (
      serialization.from_state_dict(opt_target, state_dict['target']),
      serialization.from_state_dict(opt_state, state_dict['state']),
    )


class Optimizer(flax.struct.PyTreeNode):
  """An optimizer definition with its current state and parameters."""

  optimizer_def: OptimizerDef = flax.struct.field(pytree_node=False)
  state: OptimizerState
  target: PyTree

  def apply_gradient(self, grads: PyTree, **hyper_param_overrides) -> Optimizer:
    """Returns the optimizer after a step, e.g. with `learning_rate=...`."""
    hyper_params = self.optimizer_def.update_hyper_params(
      **hyper_param_overrides
    )
    target, state = self.optimizer_def.apply_gradient(
      hyper_params, self.target, self.state, grads
    )
    return self.replace(target=target, state=state)

  def state_dict(self) -> dict:
    return self.optimizer_def.state_dict(self.target, self.state)

  def restore_state(self, state: Mapping) -> Optimizer:
    target, new_state = self.optimizer_def.restore_state(
      self.target, self.state, state
    )
    return self.replace(target=target, state=new_state)


def flatten_names(tree: PyTree) -> dict[str, Any]:
  """Returns {'layer/kernel': leaf} for nested dicts, frozen or not."""
  return traverse_util.flatten_dict(flax.core.unfreeze(tree), sep='/')


def unflatten_names(like: PyTree, flat: Mapping[str, Any]) -> PyTree:
  """Inverse of `flatten_names`; frozen if `like` is."""
  tree = traverse_util.unflatten_dict(dict(flat), sep='/')
  if isinstance(like, flax.core.FrozenDict):
    return flax.core.freeze(tree)
  return tree


OptimizerType = Optimizer
OptimizerStateType = OptimizerState | Mapping[str, Any]
OptimizerDefType = OptimizerDef


@flax.struct.dataclass
class _OptaxHyperParams:
  """Learning rate that the trainer passes to every optimizer, unused here."""

  learning_rate: float | None = None


def _dict_path(key_path: Sequence[Any]) -> tuple[str, ...]:
  """Returns the names after the last key that is not a dict key."""
  names: list[str] = []
  for key in key_path:
    if isinstance(key, jax.tree_util.DictKey):
      names.append(str(key.key))
    else:
      names.clear()
  return tuple(names)


class OptaxWrapper(OptimizerDef):
  """`OptimizerDef` of an optax transformation.

  `param_states` is optax's state tree.
  """

  def __init__(self, optax_optimizer: optax.GradientTransformation):
    self.optax_optimizer = optax_optimizer
    super().__init__(_OptaxHyperParams())

  def init_state(self, params: PyTree) -> OptimizerState:
    return OptimizerState(
      step=jnp.zeros((), jnp.int32),
      param_states=self.optax_optimizer.init(params),
    )

  def apply_gradient(
    self,
    hyper_params: Any,
    params: PyTree,
    state: OptimizerState,
    grads: PyTree,
  ) -> tuple[PyTree, OptimizerState]:
    del hyper_params
    updates, param_states = self.optax_optimizer.update(
      grads, state.param_states, params
    )
    return optax.apply_updates(params, updates), OptimizerState(
      step=state.step + 1, param_states=param_states
    )

  def derive_logical_axes(
    self, optimizer: Optimizer, param_logical_axes: PyTree
  ) -> Optimizer:
    """Returns `optimizer` with its arrays replaced by logical axes or None.

    A moment is sharded like its parameter: the one whose path is a suffix of
    the moment's path in optax's state, if the shapes agree. Leaves that match
    no parameter (counters, factored moments) are replicated.
    """
    axes = flatten_names(param_logical_axes)
    shapes = {k: v.shape for k, v in flatten_names(optimizer.target).items()}

    def axes_of(key_path, leaf):
      names = _dict_path(key_path)
      for start in range(len(names)):
        path = '/'.join(names[start:])
        if path in axes and shapes[path] == leaf.shape:
          return axes[path]
      return None

    return optimizer.replace(
      state=OptimizerState(
        step=None,
        param_states=jax.tree_util.tree_map_with_path(
          axes_of, optimizer.state.param_states
        ),
      ),
      target=unflatten_names(optimizer.target, axes),
    )

  def state_dict(self, target: PyTree, state: OptimizerState) -> dict:
    """Drops the empty dicts of optax's stateless transformations.

    Checkpoints cannot hold empty dicts.
    """
    full = super().state_dict(target, state)
    full['state'] = traverse_util.unflatten_dict(
      traverse_util.flatten_dict(full['state'])
    )
    return full

  def restore_state(
    self, opt_target: PyTree, opt_state: OptimizerState, state_dict: Mapping
  ) -> tuple[PyTree, OptimizerState]:
    """Inverse of `state_dict`; restores the empty dicts.

    Raises:
      ValueError: `state_dict` lacks a part of this optimizer's state.
    """
    wanted = traverse_util.flatten_dict(
      serialization.to_state_dict(opt_state), keep_empty_nodes=True, sep='/'
    )
    found = traverse_util.flatten_dict(
      flax.core.unfreeze(state_dict['state']), sep='/'
    )
    missing = [
      path
      for path, leaf in wanted.items()
      if path not in found and leaf is not traverse_util.empty_node
    ]
    if missing:
      raise ValueError(
        f'optimizer state to restore has no {missing[0]!r} '
        f'({len(missing)} entries missing): it was written by another optimizer'
      )
    filled = traverse_util.unflatten_dict({**wanted, **found}, sep='/')
    return (
      serialization.from_state_dict(opt_target, state_dict['target']),
      serialization.from_state_dict(opt_state, filled),
    )


class MultiOptimizer(OptimizerDef):
  """Optimizer that assigns each parameter to the one that selects it.

  A parameter that no traversal selects is not updated, and its state is None.
  The optimizers must keep their state by parameter, as Adafactor does; optax
  optimizers combine through `optax.multi_transform`.
  """

  def __init__(
    self,
    traversals_and_optimizers: Sequence[
      tuple[traverse_util.ModelParamTraversal, OptimizerDef]
    ],
  ):
    self.traversals = tuple(t for t, _ in traversals_and_optimizers)
    self.sub_optimizers = tuple(o for _, o in traversals_and_optimizers)
    super().__init__([o.hyper_params for o in self.sub_optimizers])

  def update_hyper_params(self, **hyper_param_overrides) -> list[Any]:
    """Like the base class; `hyper_params` is a list, overrides apply to all."""
    base = hyper_param_overrides.pop('hyper_params', self.hyper_params)
    return [each.replace(**hyper_param_overrides) for each in base]

  def init_state(self, params: PyTree) -> OptimizerState:
    flat = flatten_names(params)
    states: Flat = dict.fromkeys(flat)
    for names, sub in self._parts(params):
      state = sub.init_state(_take(params, flat, names)).param_states
      states.update(_by_parameter(sub, state, names))
    return OptimizerState(
      step=jnp.zeros((), jnp.int32),
      param_states=unflatten_names(params, states),
    )

  def apply_gradient(
    self,
    hyper_params: Sequence[Any],
    params: PyTree,
    state: OptimizerState,
    grads: PyTree,
  ) -> tuple[PyTree, OptimizerState]:
    """Returns (parameters, state) after the step."""
    flat, flat_grads = flatten_names(params), flatten_names(grads)
    states = _states_of(state.param_states, list(flat))
    new_params, new_states = dict(flat), dict(states)
    for (names, sub), hps in zip(
      self._parts(params), hyper_params, strict=True
    ):
      part, part_state = sub.apply_gradient(
        hps,
        _take(params, flat, names),
        OptimizerState(state.step, _take(params, states, names)),
        _take(params, flat_grads, names),
      )
      new_params.update(flatten_names(part))
      new_states.update(flatten_names(part_state.param_states))
    return unflatten_names(params, new_params), OptimizerState(
      step=state.step + 1, param_states=unflatten_names(params, new_states)
    )

  def set_param_axes(self, param_logical_axes: PyTree):
    flat = flatten_names(param_logical_axes)
    for names, sub in self._parts(param_logical_axes):
      if hasattr(sub, 'set_param_axes'):
        sub.set_param_axes(_take(param_logical_axes, flat, names))
    self.hyper_params = [sub.hyper_params for sub in self.sub_optimizers]

  def derive_logical_axes(
    self, optimizer: Optimizer, param_logical_axes: PyTree
  ) -> Optimizer:
    """Returns `optimizer` with its arrays replaced by logical axes or None."""
    target = optimizer.target
    flat, axes = flatten_names(target), flatten_names(param_logical_axes)
    states = _states_of(optimizer.state.param_states, list(flat))
    state_axes: Flat = dict.fromkeys(flat)
    for names, sub in self._parts(target):
      part = Optimizer(
        optimizer_def=sub,
        state=OptimizerState(None, _take(target, states, names)),
        target=_take(target, flat, names),
      )
      derived = sub.derive_logical_axes(part, _take(target, axes, names))
      state_axes.update(flatten_names(derived.state.param_states))
    return optimizer.replace(
      state=OptimizerState(None, unflatten_names(target, state_axes)),
      target=unflatten_names(target, axes),
    )

  def _parts(self, params: PyTree) -> list[tuple[list[str], OptimizerDef]]:
    """Returns the parameter names of each optimizer.

    Raises:
      ValueError: two optimizers select the same parameter.
    """
    names = flatten_names(params)
    tree = unflatten_names(params, {name: name for name in names})
    taken: set[str] = set()
    parts = []
    for traversal, sub in zip(
      self.traversals, self.sub_optimizers, strict=True
    ):
      selected = list(traversal.iterate(tree))
      twice = sorted(taken.intersection(selected))
      if twice:
        raise ValueError(
          f'MultiOptimizer: two optimizers select the parameter {twice[0]!r}'
        )
      taken.update(selected)
      parts.append((selected, sub))
    return parts


def _take(like: PyTree, flat: Flat, names: Sequence[str]) -> PyTree:
  return unflatten_names(like, {name: flat[name] for name in names})


def _states_of(param_states: PyTree, names: Sequence[str]) -> Flat:
  # Not `flatten_names`: a state may itself be a dict.
  return {
    name: functools.reduce(operator.getitem, name.split('/'), param_states)
    for name in names
  }


def _by_parameter(
  sub: OptimizerDef, param_states: PyTree, names: Sequence[str]
) -> Flat:
  keyed = isinstance(param_states, Mapping)
  states = flatten_names(param_states) if keyed else {}
  if set(states) != set(names):
    raise ValueError(
      f'MultiOptimizer cannot hold {type(sub).__name__}, which keeps no state '
      'by parameter: combine optax optimizers with optax.multi_transform'
    )
  return states


def wrap_optax_optimizer(
  optax_optimizer: Callable[..., optax.GradientTransformation],
) -> Callable[..., OptaxWrapper]:
  """Wraps `optax_optimizer` to return an `OptimizerDef`, same arguments."""

  @functools.wraps(optax_optimizer)
  def wrapped_optimizer(*args, **kwargs) -> OptaxWrapper:
    return OptaxWrapper(optax_optimizer(*args, **kwargs))

  return wrapped_optimizer


def _chain(
  transformations: Sequence[optax.GradientTransformation],
) -> optax.GradientTransformation:
  return optax.chain(*transformations)


adam = wrap_optax_optimizer(optax.adam)
adamw = wrap_optax_optimizer(optax.adamw)
chain = wrap_optax_optimizer(_chain)
lamb = wrap_optax_optimizer(optax.lamb)
lion = wrap_optax_optimizer(optax.lion)
rmsprop = wrap_optax_optimizer(optax.rmsprop)
sgd = wrap_optax_optimizer(optax.sgd)
