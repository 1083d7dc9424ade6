"""The training step, with microbatches, and its loop over batches."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Int, PRNGKeyArray

from fnet_t5x.backend import current_backend
from fnet_t5x.planning import flops
from fnet_t5x.runtime import metrics as metrics_lib
from fnet_t5x.runtime import models, partitioning
from fnet_t5x.runtime import train_state as train_state_lib
from fnet_t5x.runtime.actions import (
  ActionMode,
  BaseAction,
  EarlyStoppingAction,
  TerminateOnNanAction,
)

__all__ = [
  'ActionMode',
  'BaseAction',
  'Batch',
  'EarlyStoppingAction',
  'LearningRate',
  'TerminateOnNanAction',
  'Trainer',
  'accumulate_grads_microbatched',
]

Batch = Mapping[str, jax.Array]
LearningRate = Callable[[Int[Array, '']], Float[Array, '']]


class Trainer:
  """Holds the train state, and moves it through batches.

  A step's dropout key is `fold_in(rng, step)`, so a run that was stopped
  continues with the keys it would have had (T5X's derivation).

  Attributes:
    train_state: parameters, optimizer state and step, on the mesh.
    num_microbatches: parts that a batch is cut in; None or 1 for none.
    flops_per_step: what a training step takes on all devices, by the formulas
      of `planning.flops`: the same whether layers are scanned, batches cut, or
      activations computed twice. None before `compile_train`, and for a network
      that has no formula there.
    stop_training: set it, from a signal handler say, and `train` returns
      after the step under way, `eval` after the batch.
  """

  def __init__(
    self,
    model: models.BaseModel,
    train_state: train_state_lib.TrainState,
    partitioner: partitioning.PjitPartitioner,
    eval_names: Iterable[str],
    summary_dir: str | None,
    train_state_axes: Any,
    rng: PRNGKeyArray,
    learning_rate_fn: LearningRate,
    num_microbatches: int | None,
  ):
    del eval_names, summary_dir  # T5X's trainer writes its own summaries.
    self.train_state = train_state
    self.flops_per_step: float | None = None
    self.stop_training = False
    spec = partitioner.data_partition_spec
    train_step = functools.partial(
      _train_step,
      model=model,
      rng=rng,
      learning_rate_fn=learning_rate_fn,
      num_microbatches=num_microbatches,
      data_partition_spec=spec,
    )
    self._partitioner = partitioner
    self.num_microbatches = num_microbatches
    self._config = getattr(getattr(model, 'module', None), 'config', None)
    self._train_step = partitioner.partition(
      train_step,
      in_axis_resources=(train_state_axes, spec),
      out_axis_resources=(train_state_axes, None),
      donate_argnums=(0,),
    )
    self._eval_step = partitioner.partition(
      lambda state, batch: model.eval_fn(state.params, batch)[1],
      in_axis_resources=(train_state_axes, spec),
      out_axis_resources=None,
    )

  def compile_train(self, batch: Batch) -> jax.stages.Compiled:
    """Compiles the training step for batches of this one's shapes.

    Shapes are enough, of the batch and of the state.
    """
    self._train_step = self._partitioner.compile(
      self._train_step, self.train_state, batch
    )
    # Not the compiler's count, which takes the body of a loop once: a loop over
    # layers, microbatches, or both.
    self.flops_per_step = flops.batch_flops(
      self._config, batch, current_backend()
    )
    return self._train_step

  def train(
    self, batches: Iterator[Batch], num_steps: int
  ) -> tuple[metrics_lib.MetricsMap, int]:
    """Takes up to `num_steps` steps.

    Returns:
      The metrics of the steps taken, merged and with their duration, and the
      number of steps taken: fewer where `stop_training` was set.
    """
    jax.block_until_ready(self.train_state)
    start = time.perf_counter()
    metrics, taken = None, 0
    while taken < num_steps and not self.stop_training:
      self.train_state, update = self._train_step(
        self.train_state, next(batches)
      )
      # Two steps under way keep a device busy; more would make a stop wait.
      jax.block_until_ready(metrics)
      metrics = update if metrics is None else _merge(metrics, update)
      taken += 1
    if metrics is None:
      return {}, 0
    metrics = jax.device_get(metrics)
    return _timed(metrics, time.perf_counter() - start, taken), taken

  def eval(self, batches: Iterable[Batch]) -> metrics_lib.MetricsMap:
    """Returns the merged metrics of the batches, without dropout.

    None where there is no batch, or `stop_training` was set.
    """
    start = time.perf_counter()
    metrics, taken = None, 0
    for batch in batches:
      if self.stop_training:
        return {}
      update = self._eval_step(self.train_state, batch)
      metrics = update if metrics is None else _merge(metrics, update)
      taken += 1
    if metrics is None:
      return {}
    metrics = jax.device_get(metrics)
    return _timed(metrics, time.perf_counter() - start, taken)


def accumulate_grads_microbatched(
  model: models.BaseModel,
  train_state: train_state_lib.TrainState,
  batch: Batch,
  dropout_rng: PRNGKeyArray,
  num_microbatches: int | None,
  data_partition_spec: jax.sharding.PartitionSpec,
) -> tuple[Any, metrics_lib.MetricsMap]:
  """Returns gradients summed over microbatches, and their merged metrics.

  Args:
    model: gives the loss.
    train_state: holds the parameters.
    batch: arrays with a leading axis of examples.
    dropout_rng: the step's key; each microbatch takes a split of it.
    num_microbatches: parts to cut the batch in; None or 1 for none.
    data_partition_spec: how a microbatch lies on the mesh.

  Raises:
    ValueError: the microbatches do not divide the batch.
  """
  grad_fn = jax.value_and_grad(model.loss_fn, has_aux=True)
  params = train_state.params
  if num_microbatches is None or num_microbatches <= 1:
    (_, metrics), grads = grad_fn(params, batch, dropout_rng)
    return grads, metrics

  batch_size = next(iter(batch.values())).shape[0]
  if batch_size % num_microbatches:
    raise ValueError(
      f'batch size {batch_size} is not divisible by num_microbatches '
      f'{num_microbatches}'
    )
  size = batch_size // num_microbatches

  def part(index: Int[Array, '']) -> Batch:
    return {
      name: jax.lax.with_sharding_constraint(
        jax.lax.dynamic_slice_in_dim(x, index * size, size),
        data_partition_spec,
      )
      for name, x in batch.items()
    }

  def add_part(carry, index):
    rng, total, metrics = carry
    rng, part_rng = jax.random.split(rng)
    (_, update), grads = grad_fn(params, part(index), part_rng)
    metrics = jax.lax.cond(
      index == 0, lambda: update, lambda: _merge(metrics, update)
    )
    return (rng, jax.tree.map(jnp.add, total, grads), metrics), None

  shapes = jax.eval_shape(lambda: grad_fn(params, part(0), dropout_rng))[0][1]
  empty = {
    k: metrics_lib.shape_obj_to_defined_obj(v) for k, v in shapes.items()
  }
  zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
  (_, grads, metrics), _ = jax.lax.scan(
    add_part, (dropout_rng, zeros, empty), jnp.arange(num_microbatches)
  )
  return grads, metrics


def _train_step(
  train_state: train_state_lib.TrainState,
  batch: Batch,
  *,
  model: models.BaseModel,
  rng: PRNGKeyArray,
  learning_rate_fn: LearningRate,
  num_microbatches: int | None,
  data_partition_spec: jax.sharding.PartitionSpec,
) -> tuple[train_state_lib.TrainState, metrics_lib.MetricsMap]:
  step = train_state.step
  grads, metrics = accumulate_grads_microbatched(
    model,
    train_state,
    batch,
    jax.random.fold_in(rng, step),
    num_microbatches,
    data_partition_spec,
  )
  learning_rate = learning_rate_fn(step)
  new_state = train_state.apply_gradient(grads, learning_rate=learning_rate)
  last = clu_metrics.LastValue.from_model_output
  average = clu_metrics.Average.from_model_output
  return new_state, {
    **metrics,
    'learning_rate/current': last(jnp.asarray([learning_rate])),
    'grad_norm': average(optax.tree.norm(grads)[None]),
  }


@functools.partial(jax.jit, donate_argnums=(0,))
def _merge(
  metrics: metrics_lib.MetricsMap, update: metrics_lib.MetricsMap
) -> metrics_lib.MetricsMap:
  return {name: metrics[name].merge(update[name]) for name in metrics}


def _timed(
  metrics: metrics_lib.MetricsMap, seconds: float, steps: int
) -> metrics_lib.MetricsMap:
  metrics = metrics_lib.set_time_metrics_duration(metrics, seconds)
  return metrics_lib.set_step_metrics_num_steps(metrics, steps)
