"""T5X's `utils`: train states, learning rates, inference over datasets.

T5X's names for configurations of datasets and checkpoints are imported from
`datasets` and `checkpoints`.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf
from clu.data import dataset_iterator
from flax import traverse_util
from flax.linen import partitioning as flax_partitioning
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
  """Initializes or restores a train state, sharded by the partitioner's rules.

  Attributes:
    global_train_state_shape: the state, with `jax.ShapeDtypeStruct` leaves.
    train_state_axes: the same tree, with partition specs.
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
    """Returns a newly initialized state."""
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
    """Returns the state of a checkpoint.

    Args:
      cfg: the checkpoint, and how to restore it.
      init_rng: key for initializing what is not restored, due to
        `assignment_map` or `fallback_to_scratch`.
      iterator: dataset iterator, moved to the saved position.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the checkpoint's architecture differs, or something must be
        initialized and `init_rng` is None.
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
          f'{cfg.path} has no {min(absent)}, and there is no seed to '
          'initialize it'
        )
      scratch = self.from_scratch(init_rng).state_dict()
      flat = traverse_util.flatten_dict(scratch, sep='/') | flat
    return shapes.restore_state(traverse_util.unflatten_dict(flat, sep='/'))


def log_model_info(
  path: str,
  train_state: train_state_lib.TrainState,
  partitioner: partitioning.PjitPartitioner,
) -> int:
  """Writes one line per parameter and the total; returns the total.

  Args:
    path: path of the text file.
    train_state: the state, or its shapes.
    partitioner: provides the logical and mesh axes.
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


def override_params_axes_names(
  model_variables: Mapping[str, Any],
  params_axes_names_override: Sequence[tuple[str, Sequence[str | None]]] = (),
) -> flax.core.FrozenDict:
  """Returns a network's variables, with other logical axes of parameters.

  The axes decide how a parameter is sharded, and how Adafactor factors it.

  Args:
    model_variables: `params`, and their axes in `params_axes`.
    params_axes_names_override: pairs of a regular expression for the whole name
      of a parameter, such as '.*/wo/kernel', and its axes; the first match
      counts. It may also name a parameter without axes.

  Raises:
    ValueError: there is no `params_axes`, or the number of axes is not that of
      the parameter.
  """
  variables = dict(flax.core.unfreeze(model_variables))
  if 'params_axes' not in variables:
    raise ValueError(
      "the variables have no 'params_axes' to override: they are those of "
      '`get_initial_variables`, whose network names the axes of its parameters'
    )
  axes = traverse_util.flatten_dict(variables['params_axes'], sep='/')
  params = traverse_util.flatten_dict(variables['params'], sep='/')
  for name, param in params.items():
    names = next(
      (
        tuple(names)
        for pattern, names in params_axes_names_override
        if re.fullmatch(pattern, name)
      ),
      None,
    )
    if names is None:
      continue
    if len(names) != len(param.shape):
      raise ValueError(
        f'{name} has the shape {tuple(param.shape)}, but is given the axes '
        f'{names}: name one for each dimension'
      )
    axes[f'{name}_axes'] = flax_partitioning.AxisMetadata(names=names)
  variables['params_axes'] = traverse_util.unflatten_dict(axes, sep='/')
  return flax.core.freeze(variables)


def get_zeros_batch_like_spec(
  batch_spec: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
  """Returns zeros of the shapes and dtypes of a batch, by feature."""
  return {name: jnp.zeros(x.shape, x.dtype) for name, x in batch_spec.items()}


def get_zeros_batch_like_dataset(
  dataset: tf.data.Dataset, batch_size: int | None = None
) -> dict[str, jax.Array]:
  """Returns zeros like a dataset's batches, without reading it.

  Args:
    dataset: batches, whose shapes are known.
    batch_size: another number of examples; None for that of the dataset.
  """

  def spec(x: tf.TensorSpec) -> jax.ShapeDtypeStruct:
    size, *shape = x.shape
    return jax.ShapeDtypeStruct(
      (batch_size or size, *shape), x.dtype.as_numpy_dtype
    )

  return get_zeros_batch_like_spec(
    {name: spec(x) for name, x in dataset.element_spec.items()}
  )


def round_vocab_size_to_multiple(
  vocabulary: seqio.Vocabulary, divisor: int = 128
) -> int:
  """Returns a vocabulary's size, rounded up to a multiple of `divisor`."""
  return -(-vocabulary.vocab_size // divisor) * divisor


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

  With s = max(0, step - step_offset) and w = warmup_steps, the factors are

    constant                base_learning_rate
    linear_warmup           min(1, s / w)
    linear_decay            base_learning_rate *
                            min(s / w, 1 + decay_factor * (w - s)); includes
                            the constant and the warmup
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
    steps_per_decay: steps between drops of `decay_every`.
    steps_per_cycle: steps per cosine cycle.
    step_offset: the step that counts as step 0.
    min_learning_rate: minimum of the product.

  Raises:
    ValueError: a rate or number of steps is negative or not finite, a factor is
      unknown, or a factor divides by `warmup_steps` and they are less than 1.
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
        f'{name!r} divides by it: set it to at least 1, or omit {name!r}'
      )

  def learning_rate(step: Int[Array, '']) -> Float[Array, '']:
    since = jnp.maximum(0, jnp.asarray(step) - step_offset)
    product = jnp.float32(1.0)
    for name in names:
      product = product * table[name](since)
    return jnp.maximum(product, min_learning_rate).astype(jnp.float32)

  return learning_rate


class StoppedError(Exception):
  """Inference over a dataset was stopped."""


def get_infer_fn(
  infer_step: Callable[..., Any],
  batch_size: int,
  train_state_axes: Any,
  partitioner: partitioning.PjitPartitioner,
  drops_aux: bool = False,
) -> Callable[..., Any]:
  """Returns a function that runs `infer_step` over an enumerated dataset.

  Args:
    infer_step: function of parameters, a batch and optionally `rng`. Returns
      outputs, or outputs and a dictionary of auxiliary arrays, all with a
      leading batch axis.
    batch_size: examples per call.
    train_state_axes: partition specs of the train state.
    partitioner: shards the batches over the mesh.
    drops_aux: whether to omit the auxiliary arrays. Scores among them are
      checked in any case.

  Returns:
    A function of (dataset of (index, example), train state, rng, should_stop).
    It returns pairs (index, output) and, if `infer_step` has auxiliary arrays,
    a dictionary of them as lists. It raises ValueError if a score is NaN, and
    StoppedError if `should_stop`, called before each batch, returns True.
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
      # Only one shape is compiled: the last batch is padded, then cut.
      padded = jax.tree.map(lambda x: _pad_batch(x, batch_size), batch)
      result = jax.device_get(partitioned(train_state.params, padded, step_rng))
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
  """Raises ValueError for NaN scores, whose outputs are meaningless."""
  scores = result[1].get('scores', ()) if isinstance(result, tuple) else result
  if np.any(np.isnan(scores)):
    raise ValueError(
      'the model returns NaN: its parameters are corrupt; use another '
      'checkpoint'
    )


def _cut(outputs: Any, size: int) -> Any:
  return jax.tree.map(lambda x: x[:size], outputs)


def _pad_batch(x: np.ndarray, size: int) -> np.ndarray:
  missing = size - x.shape[0]
  if not missing:
    return x
  return np.concatenate([x, np.repeat(x[:1], missing, axis=0)])
