"""Optimizers with a smaller learning rate for some parameters."""

import re
from typing import Any

import gin
import jax

from fnet_t5x import number_ranges
from fnet_t5x.compat import optimizers

_ENCODER = 'encoder/.*'


class ScaledOptimizer(optimizers.OptimizerDef):
  """An optimizer whose updates of some parameters are multiplied by a number.

  Updates of Adafactor and of optax's optimizers are proportional to the
  learning rate, so this scales the rate; that includes weight decay. Layout and
  values of the state are the optimizer's own: checkpoints do not depend on the
  scale, and moments are kept for frozen parameters too.
  """

  def __init__(
    self, optimizer: optimizers.OptimizerDef, scale: float, parameters: str
  ):
    super().__init__(optimizer.hyper_params)
    self._optimizer = optimizer
    self._scale = scale
    self._parameters = re.compile(parameters)

  def __getattr__(self, name: str) -> Any:
    # Methods that only some optimizers have: `set_param_axes` and
    # `derive_logical_axes`, which engines look for.
    if name.startswith('_'):
      raise AttributeError(name)
    return getattr(self._optimizer, name)

  def init_state(self, params):
    return self._optimizer.init_state(params)

  def update_hyper_params(self, **hyper_param_overrides):
    return self._optimizer.update_hyper_params(**hyper_param_overrides)

  def state_dict(self, target, state):
    return self._optimizer.state_dict(target, state)

  def restore_state(self, opt_target, opt_state, state_dict):
    return self._optimizer.restore_state(opt_target, opt_state, state_dict)

  def apply_gradient(self, hyper_params, params, state, grads):
    """Returns (parameters, state) after the step.

    Raises:
      ValueError: no parameter has such a name.
    """
    updated, state = self._optimizer.apply_gradient(
      hyper_params, params, state, grads
    )
    matched = []

    def scale(path, old, new):
      name = '/'.join(str(key.key) for key in path)
      if not self._parameters.fullmatch(name):
        return new
      matched.append(name)
      # A frozen parameter stays, even where its gradient is not finite.
      return old if self._scale == 0 else old + self._scale * (new - old)

    updated = jax.tree_util.tree_map_with_path(scale, params, updated)
    if not matched:
      raise ValueError(
        f'no parameter is called {self._parameters.pattern}: nothing has the '
        f'learning rate scaled by {self._scale}'
      )
    return updated, state


@gin.configurable(module='scaled_optimizers')
def scale_encoder(
  optimizer: optimizers.OptimizerDef, scale: float
) -> optimizers.OptimizerDef:
  """Returns an optimizer with another learning rate for the encoder.

  Args:
    optimizer: the optimizer.
    scale: factor of the encoder's learning rate (ENCODER_LEARNING_RATE_SCALE):
      1 for that of the other parameters, 0 to freeze it.

  Raises:
    ValueError: the scale is negative.
  """
  number_ranges.check('ENCODER_LEARNING_RATE_SCALE', scale, 0)
  if scale == 1:
    return optimizer
  return ScaledOptimizer(optimizer, scale, _ENCODER)
