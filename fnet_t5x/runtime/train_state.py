"""Train states: parameters, step and optimizer state.

Both classes are pytrees and implement `TrainState`. `state_dict` has the
checkpoint layout (see `optimizers.py`), plus 'flax_mutables' if there are any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import flax.core
import flax.struct
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from flax.linen import partitioning as flax_partitioning

from fnet_t5x.runtime import optimizers

EMPTY_DICT = flax.core.freeze({})
PyTree = Any


@runtime_checkable
class TrainState(Protocol):
  """Interface of the trainer, the checkpoints and the partitioner."""

  @property
  def step(self) -> jax.Array: ...

  @property
  def params(self) -> PyTree: ...

  @property
  def param_states(self) -> PyTree: ...

  @property
  def flax_mutables(self) -> PyTree: ...

  def state_dict(self) -> dict[str, Any]: ...

  def restore_state(self, state_dict: Mapping[str, Any]) -> TrainState: ...

  def replace_params(self, params: PyTree) -> TrainState: ...

  def replace_flax_mutables(self, flax_mutables: PyTree) -> TrainState: ...

  def replace_step(self, step: jax.Array) -> TrainState: ...

  def apply_gradient(
    self, grads, learning_rate, flax_mutables=EMPTY_DICT
  ) -> TrainState: ...

  def as_logical_axes(self) -> TrainState: ...


def _check_axes(axes: PyTree, variables: PyTree):
  named = optimizers.flatten_names(flax_partitioning.get_axis_names(axes))
  missing = set(optimizers.flatten_names(variables)) - set(named)
  if missing:
    raise ValueError(f'Missing axis names for parameters: {missing}')


def _split_variables(
  model_variables: Mapping[str, PyTree],
) -> tuple[PyTree, PyTree | None, FrozenDict, FrozenDict | None]:
  """Returns parameters, their axes, the other collections, and their axes.

  The axes of the collection `name` are in the collection `name_axes`.

  Raises:
    ValueError: a collection of axes does not cover all of its variables.
  """
  axes = {}
  variables = {}
  for name, collection in model_variables.items():
    if name.endswith('_axes'):
      axes[name.removesuffix('_axes')] = collection
    else:
      variables[name] = collection
  for name, collection in axes.items():
    _check_axes(collection, variables[name])
  params = variables.pop('params')
  params_axes = axes.pop('params', None)
  return (
    params,
    params_axes,
    flax.core.freeze(variables),
    flax.core.freeze(axes) if axes else None,
  )


def _mutables_of(state_dict: Mapping[str, Any]) -> FrozenDict:
  return flax.core.freeze(state_dict.get('flax_mutables', {}))


class FlaxOptimTrainState(flax.struct.PyTreeNode):
  """Parameters and optimizer state, with the names of their axes."""

  _optimizer: optimizers.Optimizer
  params_axes: PyTree | None = None
  flax_mutables: FrozenDict = EMPTY_DICT
  flax_mutables_axes: PyTree | None = None

  @classmethod
  def create(
    cls,
    optimizer_def: optimizers.OptimizerDef,
    model_variables: Mapping[str, PyTree],
  ) -> FlaxOptimTrainState:
    """Returns the state at step 0 for the variables of `module.init`.

    Raises:
      ValueError: the optimizer needs logical axes (Adafactor) and the model
        does not name all of them.
    """
    params, params_axes, mutables, mutables_axes = _split_variables(
      model_variables
    )
    if hasattr(optimizer_def, 'set_param_axes'):
      if params_axes is None:
        raise ValueError(
          'The optimizer supports params_axes for model-based partitioning, '
          'but the model is not emitting them.'
        )
      optimizer_def.set_param_axes(
        flax_partitioning.get_axis_names(params_axes)
      )
    return cls(
      optimizer_def.create(params),
      params_axes=params_axes,
      flax_mutables=mutables,
      flax_mutables_axes=mutables_axes,
    )

  @property
  def step(self) -> jax.Array:
    return self._optimizer.state.step

  @property
  def params(self) -> PyTree:
    return self._optimizer.target

  @property
  def param_states(self) -> PyTree:
    return self._optimizer.state.param_states

  def state_dict(self) -> dict[str, Any]:
    state_dict = self._optimizer.state_dict()
    if self.flax_mutables:
      state_dict['flax_mutables'] = flax.core.unfreeze(self.flax_mutables)
    return state_dict

  def restore_state(self, state_dict: Mapping[str, Any]) -> FlaxOptimTrainState:
    return self.replace(
      _optimizer=self._optimizer.restore_state(state_dict),
      flax_mutables=_mutables_of(state_dict),
    )

  def replace_params(self, params: PyTree) -> FlaxOptimTrainState:
    return self.replace(_optimizer=self._optimizer.replace(target=params))

  def replace_flax_mutables(self, flax_mutables: PyTree) -> FlaxOptimTrainState:
    return self.replace(flax_mutables=flax_mutables)

  def replace_step(self, step: jax.Array) -> FlaxOptimTrainState:
    state = self._optimizer.state.replace(step=step)
    return self.replace(_optimizer=self._optimizer.replace(state=state))

  def apply_gradient(
    self, grads: PyTree, learning_rate, flax_mutables: PyTree = EMPTY_DICT
  ) -> FlaxOptimTrainState:
    """Returns the state after a step, with `flax_mutables` as its mutables."""
    return self.replace(
      _optimizer=self._optimizer.apply_gradient(
        grads, learning_rate=learning_rate
      ),
      flax_mutables=flax_mutables,
    )

  def as_logical_axes(self) -> FlaxOptimTrainState:
    """Returns the state with its arrays replaced by axis names or None.

    Raises:
      ValueError: the optimizer does not define the axes of its state.
    """
    optimizer_def = self._optimizer.optimizer_def
    if not hasattr(optimizer_def, 'derive_logical_axes'):
      raise ValueError(
        f'{type(optimizer_def).__name__} has no derive_logical_axes: its state '
        'cannot be partitioned by axis names'
      )
    return FlaxOptimTrainState(
      optimizer_def.derive_logical_axes(
        self._optimizer, flax_partitioning.get_axis_names(self.params_axes)
      ),
      flax_mutables=flax_partitioning.get_axis_names(
        self.flax_mutables_axes or EMPTY_DICT
      ),
    )


class InferenceState(flax.struct.PyTreeNode):
  """Parameters and step only; restores from the checkpoint of a train state."""

  step: jax.Array | None
  params: PyTree
  params_axes: PyTree | None = None
  flax_mutables: FrozenDict = EMPTY_DICT
  flax_mutables_axes: PyTree | None = None

  @classmethod
  def create(cls, model_variables: Mapping[str, PyTree]) -> InferenceState:
    """Returns the state at step 0 for the variables of `module.init`.

    Raises:
      ValueError: the model names the axes of only some parameters.
    """
    params, params_axes, mutables, mutables_axes = _split_variables(
      model_variables
    )
    return cls(
      step=jnp.zeros((), jnp.int32),
      params=flax.core.freeze(params),
      params_axes=params_axes,
      flax_mutables=mutables,
      flax_mutables_axes=mutables_axes,
    )

  @property
  def param_states(self) -> PyTree:
    raise NotImplementedError('InferenceState has no optimizer states.')

  def apply_gradient(self, *args, **kwargs) -> InferenceState:
    raise NotImplementedError(
      'InferenceState does not support `apply_gradient`.'
    )

  def state_dict(self) -> dict[str, Any]:
    state_dict = {
      'target': flax.core.unfreeze(self.params),
      'state': {'step': self.step},
    }
    if self.flax_mutables:
      state_dict['flax_mutables'] = flax.core.unfreeze(self.flax_mutables)
    return state_dict

  def restore_state(self, state_dict: Mapping[str, Any]) -> InferenceState:
    return self.replace(
      step=state_dict['state']['step'],
      params=flax.core.freeze(state_dict['target']),
      flax_mutables=_mutables_of(state_dict),
    )

  def replace_params(self, params: PyTree) -> InferenceState:
    return self.replace(params=params)

  def replace_flax_mutables(self, flax_mutables: PyTree) -> InferenceState:
    return self.replace(flax_mutables=flax_mutables)

  def replace_step(self, step: jax.Array) -> InferenceState:
    return self.replace(step=step)

  def as_logical_axes(self) -> InferenceState:
    """Returns the state with its arrays replaced by axis names or None."""
    return InferenceState(
      step=None,
      params=flax_partitioning.get_axis_names(self.params_axes),
      flax_mutables=flax_partitioning.get_axis_names(
        self.flax_mutables_axes or EMPTY_DICT
      ),
    )
