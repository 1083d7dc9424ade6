"""Different optimizers for different parameters, or none for some."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from fnet_t5x.runtime.optimizer_def import (
  Optimizer,
  OptimizerDef,
  OptimizerState,
  flatten_names,
  unflatten_names,
)

PyTree = Any
Flat = dict[str, Any]


class MultiOptimizer(OptimizerDef):
  """Gives each parameter to the optimizer whose traversal selects it.

  A parameter that nothing selects stays as it is, and its state is None. The
  optimizers must keep their state by parameter, as Adafactor does; those of
  optax combine through `optax.multi_transform`.
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
    """As the base's; `hyper_params=` is a list, overrides reach all."""
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
    """Returns (parameters, state) one step on."""
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
    """Returns the parameters of each optimizer.

    Raises:
      ValueError: a parameter is selected twice.
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
