"""Training metrics of each parameter, its gradient and its update."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jaxtyping import Array, Float

from fnet_t5x.runtime import metrics as metrics_lib
from fnet_t5x.runtime import train_state as train_state_lib


class WeightMetricsComputer:
  """Computes T5X's metrics of parameters (`Trainer.weight_metrics_computer`).

  With w a parameter after the step, u its change by the step, w0 = w - u, g its
  gradient and rms(x) = sqrt(mean(x^2)), they are, by its name,

    weight_rms/<name>                           rms(w)
    weight_max/<name>                           max |w|
    weight_gradient_rms/<name>                  rms(g)
    weight_update_rms/<name>                    rms(u)
    weight_update_divided_by_weight_rms/<name>  rms(u / w0)
    weight_gradient_norm                        norm of the whole gradient
  """

  def compute_metrics(
    self,
    gradients: Mapping[str, Any],
    old_train_state: train_state_lib.TrainState,
    new_train_state: train_state_lib.TrainState,
  ) -> metrics_lib.MetricsMap:
    """Returns the metrics of one step.

    Args:
      gradients: of the parameters, a tree of arrays like them.
      old_train_state: the state before the step.
      new_train_state: the state after it.
    """
    old, new = old_train_state.params, new_train_state.params
    update = jax.tree.map(jnp.subtract, new, old)
    values = {
      **_by_name('weight_rms', _rms, new),
      **_by_name('weight_gradient_rms', _rms, gradients),
      'weight_gradient_norm': optax.tree.norm(gradients),
      **_by_name('weight_update_rms', _rms, update),
      **_by_name(
        'weight_update_divided_by_weight_rms',
        _rms,
        jax.tree.map(jnp.divide, update, old),
      ),
      **_by_name('weight_max', lambda x: jnp.max(jnp.abs(x)), new),
    }
    average = metrics_lib.AveragePerStep.from_model_output
    return {name: average(value) for name, value in values.items()}


def _rms(x: Float[Array, '...']) -> Float[Array, '']:
  return jnp.sqrt(jnp.mean(jnp.square(x)))


def _by_name(
  metric: str, function: Callable[[Array], Array], tree: Mapping[str, Any]
) -> dict[str, Array]:
  flat = traverse_util.flatten_dict(tree, sep='/')
  return {f'{metric}/{name}': function(x) for name, x in flat.items()}
