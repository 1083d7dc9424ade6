"""A train state on the mesh: from scratch, or from a checkpoint."""

import contextlib
from collections.abc import Callable, Mapping

import jax
from clu.data import dataset_iterator
from flax import traverse_util

from fnet_t5x.runtime import checkpoints, optimizers, partitioning
from fnet_t5x.runtime import train_state as train_state_lib


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
