"""Training on eight devices equals training on one, for every mesh."""

import numpy as np
import pytest
import small_runs

from fnet_t5x.runtime import metrics as metrics_lib
from fnet_t5x.runtime import partitioning

STEPS = 4


def losses(partitioner, num_microbatches=None):
  """Returns loss and gradient norm of each step, and an evaluation's loss."""
  batches = [small_runs.packed_batch(seed) for seed in range(STEPS)]
  trainer = small_runs.make_trainer(
    small_runs.make_model(dropout_rate=0.1, z_loss=1e-4),
    partitioner,
    batches[0],
    num_microbatches,
  )
  values = []
  for batch in batches:
    metrics, _ = trainer.train(iter([batch]), 1)
    step = metrics_lib.scalars(metrics)
    values += [step['loss'], step['grad_norm']]
  evaluation = metrics_lib.scalars(trainer.eval(batches))
  return [*values, evaluation['cross_ent_per_target_token']]


@pytest.fixture(scope='module')
def on_one_device():
  values = losses(small_runs.one_device())
  # Each step must have changed the network; otherwise the next prove nothing.
  assert len({round(x, 3) for x in values}) == len(values)
  return values


@pytest.mark.slow
@pytest.mark.parametrize(
  ('num_partitions', 'mesh'), [(1, (8, 1)), (2, (4, 2)), (8, (1, 8))]
)
def test_mesh_trains_as_one_device(on_one_device, num_partitions, mesh):
  partitioner = partitioning.PjitPartitioner(num_partitions=num_partitions)
  assert tuple(partitioner.mesh.shape.values()) == mesh
  np.testing.assert_allclose(losses(partitioner), on_one_device, rtol=1e-4)


@pytest.mark.slow
def test_mesh_trains_in_microbatches_as_one_device():
  partitioner = partitioning.PjitPartitioner(num_partitions=2)
  np.testing.assert_allclose(
    losses(partitioner, num_microbatches=2),
    losses(small_runs.one_device(), num_microbatches=2),
    rtol=1e-4,
  )
