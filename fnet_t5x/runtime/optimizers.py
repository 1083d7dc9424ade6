"""Optimizers by T5X's names: every optax optimizer, and several at once.

Adafactor lives in `adafactor.py`. An optax optimizer owns its learning rate (a
float or a schedule): the trainer's schedule is reported but does not reach it,
as in T5X.
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

from fnet_t5x.runtime.multi_optimizer import MultiOptimizer
from fnet_t5x.runtime.optimizer_def import (
  Optimizer,
  OptimizerDef,
  OptimizerState,
  flatten_names,
  unflatten_names,
)

__all__ = [
  'MultiOptimizer',
  'OptaxWrapper',
  'Optimizer',
  'OptimizerDef',
  'OptimizerDefType',
  'OptimizerState',
  'OptimizerStateType',
  'OptimizerType',
  'adam',
  'adamw',
  'chain',
  'lamb',
  'lion',
  'rmsprop',
  'sgd',
  'wrap_optax_optimizer',
]

PyTree = Any
OptimizerType = Optimizer
OptimizerStateType = OptimizerState | Mapping[str, Any]
OptimizerDefType = OptimizerDef


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
