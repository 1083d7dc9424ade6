"""The interface of an optimizer, T5X's: a definition, its state, and the pair.

An `OptimizerDef` is pure: it makes a state for parameters and turns
(parameters, state, gradients) into the next pair. An `Optimizer` carries one
definition together with the current parameters (`target`) and state. The
state dict, which is the checkpoint's layout, is

  {'target': parameters, 'state': {'step': int32, 'param_states': ...}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.core
import flax.struct
import jax
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


def flatten_names(tree: PyTree) -> dict[str, Any]:
  """Returns {'layer/kernel': leaf} for nested dicts, frozen or not."""
  return traverse_util.flatten_dict(flax.core.unfreeze(tree), sep='/')


def unflatten_names(like: PyTree, flat: Mapping[str, Any]) -> PyTree:
  """Undoes `flatten_names`; frozen if `like` is."""
  tree = traverse_util.unflatten_dict(dict(flat), sep='/')
  if isinstance(like, flax.core.FrozenDict):
    return flax.core.freeze(tree)
  return tree
