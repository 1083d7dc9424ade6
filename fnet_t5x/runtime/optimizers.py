"""Optimizers under T5X's interface: a definition, its state, and the pair.

An `OptimizerDef` is pure: it makes a state for parameters and turns
(parameters, state, gradients) into the next pair. An `Optimizer` carries one
definition together with the current parameters (`target`) and state. The
state dict, which is the checkpoint's layout, is

  {'target': parameters, 'state': {'step': int32, 'param_states': ...}}

Adafactor lives in `adafactor.py`; every optax optimizer joins in through
`OptaxWrapper`. An optax optimizer owns its learning rate (a float or a
schedule): the trainer's schedule is reported but does not reach it, as in T5X.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.core
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import serialization, traverse_util

PyTree = Any


@flax.struct.dataclass
class OptimizerState:
  """Steps taken so far (int32 scalar), and what the optimizer remembers."""

  step: jax.Array
  param_states: PyTree


class OptimizerDef:
  """What an optimizer must offer; hyper parameters are a flax dataclass."""

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
    """Returns the parameters and the state one step on."""
    raise NotImplementedError

  def update_hyper_params(self, **hyper_param_overrides) -> Any:
    """Returns this definition's hyper parameters with some replaced.

    `hyper_params=...` replaces all of them before the others apply.
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
    """Returns the optimizer one step on, e.g. with `learning_rate=...`."""
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


OptimizerType = Optimizer
OptimizerStateType = OptimizerState | Mapping[str, Any]
OptimizerDefType = OptimizerDef


def flatten_names(tree: PyTree) -> dict[str, Any]:
  """Returns {'layer/kernel': leaf} for nested dicts, frozen or not."""
  return traverse_util.flatten_dict(flax.core.unfreeze(tree), sep='/')


def unflatten_names(like: PyTree, flat: Mapping[str, Any]) -> PyTree:
  """Undoes `flatten_names`; frozen if `like` is."""
  tree = traverse_util.unflatten_dict(dict(flat), sep='/')
  if isinstance(like, flax.core.FrozenDict):
    return flax.core.freeze(tree)
  return tree


@flax.struct.dataclass
class _OptaxHyperParams:
  """The trainer passes a learning rate to all optimizers: here, unread."""

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
  """An optax transformation as an `OptimizerDef`.

  `param_states` is optax's own state tree.
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

    A moment is laid out like the parameter that it belongs to: the one whose
    path ends the moment's path in optax's state, if their shapes agree. What
    matches no parameter (counters, factored moments) is replicated.
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
    """As the base's, without the empty dicts of optax's stateless parts.

    Checkpoints cannot hold an empty dict.
    """
    full = super().state_dict(target, state)
    full['state'] = traverse_util.unflatten_dict(
      traverse_util.flatten_dict(full['state'])
    )
    return full

  def restore_state(
    self, opt_target: PyTree, opt_state: OptimizerState, state_dict: Mapping
  ) -> tuple[PyTree, OptimizerState]:
    """Undoes `state_dict`, the empty dicts put back.

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


def wrap_optax_optimizer(
  optax_optimizer: Callable[..., optax.GradientTransformation],
) -> Callable[..., OptaxWrapper]:
  """Returns `optax_optimizer` with its arguments, making an `OptimizerDef`."""

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
