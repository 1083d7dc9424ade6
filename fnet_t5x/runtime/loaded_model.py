"""A trained model with its parameters, on one device."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from fnet_t5x.runtime import (
  checkpoints,
  model_directory,
  partitioning,
  utils,
)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
  """The model of a checkpoint.

  Attributes:
    directory: the checkpoint's files.
    model: the model that its configuration defines.
    params: its parameters.
    step: the checkpoint's step.
    task_name: the task or mixture on which it was trained.
    feature_lengths: tokens per feature of the task.
  """

  directory: model_directory.ModelDirectory
  model: Any
  params: PyTree
  step: int
  task_name: str
  feature_lengths: Mapping[str, int]


def load(
  model_dir: str | os.PathLike, checkpoint_step: int | None = None
) -> LoadedModel:
  """Loads a checkpoint, with the configuration saved in its folder.

  Args:
    model_dir: the folder of a training run, or a checkpoint in it.
    checkpoint_step: the checkpoint's step; None for the last one.

  Raises:
    FileNotFoundError: `model_dir` has no configuration or no such checkpoint.
    ValueError: the configuration is not a run's, or would run untrusted code.
  """
  directory = model_directory.locate(model_dir, checkpoint_step)
  configured = model_directory.configure(directory)
  model, lengths = configured.model, configured.feature_lengths
  # One device: with one prompt at a time there is no batch to shard.
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  partitioner.mesh = jax.sharding.Mesh(
    np.asarray(jax.devices()[:1]).reshape(1, 1), partitioning.MESH_AXES
  )
  converter = model.FEATURE_CONVERTER_CLS(pack=False)
  initializer = utils.TrainStateInitializer(
    None,
    model.get_initial_variables,
    {
      name: (1, length)
      for name, length in converter.get_model_feature_lengths(lengths).items()
    },
    partitioner,
  )
  state = initializer.from_checkpoint(
    checkpoints.RestoreCheckpointConfig(
      path=directory.checkpoint, mode='specific'
    )
  )
  return LoadedModel(
    directory=directory,
    model=model,
    params=state.params,
    step=int(state.step),
    task_name=configured.task_name,
    feature_lengths=lengths,
  )
