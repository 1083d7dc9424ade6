"""`model-info.txt`: every parameter's name, shape and place on the mesh."""

import math
import os

import tensorflow as tf
from flax import traverse_util

from fnet_t5x.runtime import partitioning
from fnet_t5x.runtime import train_state as train_state_lib


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
