"""T5X's `utils`: train states, learning rates, predictions over datasets.

Their configuration is in `checkpoints` and `datasets`: T5X's names for it are
imported from there.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
from clu.data import dataset_iterator
from flax import traverse_util
from jaxtyping import Array, Float, Int

from fnet_t5x import number_ranges
from fnet_t5x.runtime import checkpoints, optimizers, partitioning
from fnet_t5x.runtime import train_state as train_state_lib
from fnet_t5x.runtime.checkpoints import (  # noqa: F401 (T5X's names)
  CheckpointConfig,
  RestoreCheckpointConfig,
  SaveCheckpointConfig,
)
from fnet_t5x.runtime.datasets import (  # noqa: F401 (T5X's names)
  DatasetConfig,
  get_dataset,
  get_training_eval_datasets,
  get_vocabulary,
  verify_matching_vocabs,
)

LearningRateCallable = Callable[[Int[Array, '']], Float[Array, '']]


class TrainStateInitializer:
  """Initialises or restores a train state, sharded as the rules say.

  Attributes:
    global_train_state_shape: the state, of `jax.ShapeDtypeStruct`.
    train_state_axes: the same tree, of partition specs.
  """

  def __init__(
    self,
    optimizer_def: optimizers.OptimizerDef | None,
    init_fn: Callable[..., Mapping],
    input_shapes: Mapping[str, tuple[int, ...]],
    partitioner: partitioning.PjitPartitioner,
    input_types: Mapping[str, object] | None = None,
  ):
    def initialize(rng: jax.Array) -> train_state_lib.TrainState:
      variables = init_fn(
        rng=rng, input_shapes=input_shapes, input_types=input_types
      )
      if optimizer_def is None:
        return train_state_lib.InferenceState.create(variables)
      return train_state_lib.FlaxOptimTrainState.create(
        optimizer_def, variables
      )

    self._initialize = initialize
    self._partitioner = partitioner
    self.global_train_state_shape = jax.eval_shape(
      initialize, jax.random.PRNGKey(0)
    )
    self.train_state_axes = partitioner.get_mesh_axes(
      self.global_train_state_shape
    )

  def from_scratch(self, init_rng: jax.Array) -> train_state_lib.TrainState:
    """Returns a freshly initialised state."""
    return self._partitioner.partition(
      self._initialize,
      in_axis_resources=None,
      out_axis_resources=self.train_state_axes,
    )(init_rng)

  def from_checkpoint(
    self,
    cfg: checkpoints.RestoreCheckpointConfig,
    init_rng: jax.Array | None = None,
    iterator: dataset_iterator.DatasetIterator | None = None,
  ) -> train_state_lib.TrainState:
    """Returns the state that a checkpoint holds.

    Args:
      cfg: which checkpoint, and how.
      init_rng: for what the checkpoint does not give, by `assignment_map` or
        `fallback_to_scratch`.
      iterator: the dataset iterator to move to the saved position.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: it is of another architecture, or leaves something to
        initialise without `init_rng`.
    """
    directory, step = checkpoints.locate(cfg)
    shapes = self.global_train_state_shape
    axes = self.train_state_axes.state_dict()
    shardings = shapes.restore_state(self._partitioner.get_shardings(axes))
    manager = checkpoints.CheckpointManager(directory)
    with contextlib.closing(manager):
      restored = manager.restore(step, shapes, shardings, cfg, iterator)
    flat = traverse_util.flatten_dict(restored, sep='/')
    wanted = traverse_util.flatten_dict(shapes.state_dict(), sep='/')
    if absent := wanted.keys() - flat.keys():
      if init_rng is None:
        raise ValueError(
          f'{cfg.path} gives no {min(absent)}, and there is no seed to '
          'initialise it from'
        )
      scratch = self.from_scratch(init_rng).state_dict()
      flat = traverse_util.flatten_dict(scratch, sep='/') | flat
    return shapes.restore_state(traverse_util.unflatten_dict(flat, sep='/'))


def log_model_info(
  path: str,
  train_state: train_state_lib.TrainState,
  partitioner: partitioning.PjitPartitioner,
) -> int:
  """Writes a line a parameter, and the total; returns the total.

  Args:
    path: of the text file.
    train_state: shapes are enough.
    partitioner: knows the axes.
  """

  def flat(tree):
    return traverse_util.flatten_dict(tree.state_dict()['target'], sep='/')

  logical = flat(partitioner.get_logical_axes(train_state))
  mesh = flat(partitioner.get_mesh_axes(train_state))
  lines, total = [], 0
  for name, parameter in sorted(flat(train_state).items()):
    total += math.prod(parameter.shape)
    axes = ', '.join(
      f'{axis}={size}'
      for axis, size in zip(logical[name], parameter.shape, strict=True)
    )
    lines.append(f'{name:60} ({axes}) over {tuple(mesh[name])}')
  lines.append(f'{total:,} parameters')
  tf.io.gfile.makedirs(os.path.dirname(path))
  with tf.io.gfile.GFile(path, 'w') as f:
    f.write('\n'.join(lines) + '\n')
  return total


def create_learning_rate_scheduler(
  factors: str = 'constant * linear_warmup * rsqrt_decay',
  base_learning_rate: float = 0.5,
  warmup_steps: int = 1000,
  decay_factor: float = 0.5,
  steps_per_decay: int = 20000,
  steps_per_cycle: int = 100000,
  step_offset: int = 0,
  min_learning_rate: float = 1e-8,
) -> LearningRateCallable:
  """Returns a function from the step to its learning rate (float32).

  With s = max(0, step - step_offset), w = warmup_steps, the factors are

    constant                base_learning_rate
    linear_warmup           min(1, s / w)
    linear_decay            base_learning_rate *
                            min(s / w, 1 + decay_factor * (w - s)); it holds
                            its own constant and warmup
    rsqrt_decay             1 / sqrt(max(s, w))
    rsqrt_normalized_decay  sqrt(w / max(s, w))
    decay_every             decay_factor ** floor(s / steps_per_decay)
    cosine_decay            (1 + cos(pi * frac(max(0, s - w) /
                            steps_per_cycle))) / 2, restarting each cycle

  Args:
    factors: names from the table, joined by `*`.
    base_learning_rate: the constant.
    warmup_steps: steps of warmup, and the origin of the decays.
    decay_factor: see `linear_decay` and `decay_every`.
    steps_per_decay: steps between two drops of `decay_every`.
    steps_per_cycle: steps of one cosine cycle.
    step_offset: the step that counts as step 0.
    min_learning_rate: the product is never less than this.

  Raises:
    ValueError: a rate or number of steps below 0, or no finite number; an
      unknown factor, or one that divides by `warmup_steps` while
      that is less than 1.
  """
  number_ranges.check('LEARNING_RATE', base_learning_rate, 0)
  number_ranges.check('WARMUP_STEPS', warmup_steps, 0)
  warmup = float(warmup_steps)

  def linear_decay(step):
    slope = 1.0 + decay_factor * (warmup - step)
    return base_learning_rate * jnp.minimum(step / warmup, slope)

  def cosine_decay(step):
    cycles = jnp.maximum(0.0, (step - warmup) / steps_per_cycle)
    return jnp.maximum(0.0, (1.0 + jnp.cos(jnp.pi * (cycles % 1.0))) / 2.0)

  table = {
    'constant': lambda step: base_learning_rate,
    'linear_warmup': lambda step: jnp.minimum(1.0, step / warmup),
    'linear_decay': linear_decay,
    'rsqrt_decay': lambda step: jax.lax.rsqrt(jnp.maximum(step, warmup)),
    'rsqrt_normalized_decay': lambda step: jnp.sqrt(
      warmup / jnp.maximum(step, warmup)
    ),
    'decay_every': lambda step: decay_factor ** (step // steps_per_decay),
    'cosine_decay': cosine_decay,
  }
  names = [name.strip() for name in factors.split('*')]
  for name in names:
    if name not in table:
      raise ValueError(
        f'unknown learning-rate factor {name!r} in {factors!r}: use '
        f'{", ".join(table)}'
      )
    if warmup < 1 and name in (
      'linear_warmup',
      'linear_decay',
      'rsqrt_decay',
      'rsqrt_normalized_decay',
    ):
      raise ValueError(
        f'warmup_steps is {warmup_steps}, but the learning-rate factor '
        f'{name!r} divides by it: set it to 1 or more, or leave {name!r} out'
      )

  def learning_rate(step: Int[Array, '']) -> Float[Array, '']:
    since = jnp.maximum(0, jnp.asarray(step) - step_offset)
    product = jnp.float32(1.0)
    for name in names:
      product = product * table[name](since)
    return jnp.maximum(product, min_learning_rate).astype(jnp.float32)

  return learning_rate


class StoppedError(Exception):
  """A run over a dataset was told to stop."""


def get_infer_fn(
  infer_step: Callable[..., Any],
  batch_size: int,
  train_state_axes: Any,
  partitioner: partitioning.PjitPartitioner,
  drops_aux: bool = False,
) -> Callable[..., Any]:
  """Returns a function that runs `infer_step` over an enumerated dataset.

  Args:
    infer_step: of parameters, a batch and, if it takes one, `rng`; returns
      outputs, or a pair of outputs and a dictionary of further arrays, each
      with a leading axis of examples.
    batch_size: examples a call.
    train_state_axes: partition specs of the train state.
    partitioner: lays the batches on the mesh.
    drops_aux: whether the further arrays are not returned. Their scores are
      checked all the same.

  Returns:
    A function of (dataset of (index, example), train state, rng, should_stop).
    It returns pairs (index, output), and beside them, where `infer_step` gives
    a pair, the dictionary of lists. It raises ValueError where a score is NaN,
    and StoppedError when `should_stop` says so between two batches.
  """
  partitioner.get_data_layout(batch_size)
  takes_rng = 'rng' in inspect.signature(infer_step).parameters

  def step(params, batch, rng):
    if takes_rng:
      return infer_step(params, batch, rng=rng)
    return infer_step(params, batch)

  partitioned = partitioner.partition(
    step,
    in_axis_resources=(
      train_state_axes.params,
      partitioner.data_partition_spec,
      None,
    ),
    out_axis_resources=None,
  )

  def infer_fn(
    dataset: tf.data.Dataset,
    train_state: train_state_lib.TrainState,
    rng: jax.Array | None = None,
    should_stop: Callable[[], bool] = lambda: False,
  ):
    indices, outputs = [], []
    for index, batch in dataset.batch(batch_size).as_numpy_iterator():
      if should_stop():
        raise StoppedError
      step_rng = None
      if rng is not None:
        step_rng, rng = jax.random.split(rng)
      # One compiled shape: the last batch is filled up, then cut.
      filled = jax.tree.map(lambda x: _fill(x, batch_size), batch)
      result = jax.device_get(partitioned(train_state.params, filled, step_rng))
      result = _cut(result, len(index))
      _check_scores(result)
      if drops_aux:
        result = result[0]
      indices.extend(index.tolist())
      outputs.append(result)
    if not outputs:
      return []
    outputs = jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
    auxiliary = None
    if isinstance(outputs, tuple):
      outputs, auxiliary = outputs
    pairs = list(zip(indices, outputs.tolist(), strict=True))
    if auxiliary is None:
      return pairs
    return pairs, {k: v.tolist() for k, v in auxiliary.items()}

  return infer_fn


def _check_scores(result: Any) -> None:
  """Refuses scores that are no numbers; what goes with them is noise."""
  scores = result[1].get('scores', ()) if isinstance(result, tuple) else result
  if np.any(np.isnan(scores)):
    raise ValueError(
      'the model gives no numbers (NaN): its parameters are broken; take '
      'another checkpoint'
    )


def _cut(outputs: Any, size: int) -> Any:
  return jax.tree.map(lambda x: x[:size], outputs)


def _fill(x: np.ndarray, size: int) -> np.ndarray:
  missing = size - x.shape[0]
  if not missing:
    return x
  return np.concatenate([x, np.repeat(x[:1], missing, axis=0)])
