"""Remedies for a training step that does not fit, estimated from its compile.

A step holds the train state, at most all gradients, and activations. State and
gradients are computed from each sharding; activations are the rest of the
compiled step, and scale with the number of rows processed at once.
"""

import dataclasses
from collections.abc import Iterator

from fnet_t5x import partitioning as fnet_partitioning
from fnet_t5x.planning import programs
from fnet_t5x.planning.gin_run import Run
from fnet_t5x.runtime import partitioning


@dataclasses.dataclass(frozen=True)
class Remedy:
  """Change to a run, with the memory it would then need.

  Attributes:
    change: gin binding or flag to add.
    memory: estimated bytes per device.
  """

  change: str
  memory: float


def remedies(
  run: Run, state: programs.StateBytes, activations: float, allowed: float
) -> list[Remedy]:
  """Returns the smallest change of each kind that makes a step fit.

  Args:
    run: the run, after `programs.place`.
    state: bytes of its train state.
    activations: bytes of the step beyond state and gradients.
    allowed: bytes available per device.
  """
  kinds = (_microbatches, _remat, _batches, _partitions, _fully_sharded)
  found = []
  for kind in kinds:
    for remedy in kind(run, state, activations):
      if remedy.memory <= allowed:
        found.append(remedy)
        break
  return found


def _microbatches(run, state, activations) -> Iterator[Remedy]:
  parts = run.num_microbatches
  rows = run.batch_size // run.partitioner.data_mesh_size
  # The accumulated gradients are held in addition to those of a microbatch.
  held = state.held + state.gradients * (2 if parts == 1 else 1)
  for factor in range(2, rows // parts + 1):
    if rows % (parts * factor) == 0:
      yield Remedy(
        f'NUM_MICROBATCHES={parts * factor}', held + activations / factor
      )


def _remat(run, state, activations) -> Iterator[Remedy]:
  config = run.config
  if getattr(config, 'remat_policy', None) != 'none':
    return
  layers = config.num_encoder_layers + config.num_decoder_layers
  rows = run.batch_size // run.partitioner.data_mesh_size
  rows //= run.num_microbatches
  tokens = (
    config.num_encoder_layers * run.lengths['encoder_input_tokens']
    + config.num_decoder_layers * run.lengths['decoder_target_tokens']
  )
  size = 2 if 'bfloat16' in str(config.dtype) else 4
  # Each layer's input is kept, plus the activations of one layer.
  kept = rows * tokens * config.emb_dim * size + activations / layers
  yield Remedy("REMAT_POLICY='full'", state.held + state.gradients + kept)


def _batches(run, state, activations) -> Iterator[Remedy]:
  smallest = run.partitioner.data_mesh_size * run.num_microbatches
  for rows in range(run.batch_size // smallest - 1, 0, -1):
    share = rows * smallest / run.batch_size
    yield Remedy(
      f'BATCH_SIZE={rows * smallest}',
      state.held + state.gradients + activations * share,
    )


def _partitions(run, state, activations) -> Iterator[Remedy]:
  """More devices per replica: fewer replicas, each with more rows."""
  given = run.partitioner
  devices = given.mesh.devices.size // given.num_slices
  parts = given.mesh.shape['model']
  while parts * 2 <= devices and devices % (parts * 2) == 0:
    parts *= 2
    partitioner = _partitioner(given, parts, given.logical_axis_rules)
    change = f'NUM_PARTITIONS={parts}'
    yield from _spread(change, run, partitioner, state, activations)


def _fully_sharded(run, state, activations) -> Iterator[Remedy]:
  """Parameters sharded over the data axis too, along embed."""
  change = '--gin_file=gin/partitioning/fully_sharded.gin'
  rules = partitioning.standard_logical_axis_rules(1, 2)
  given = run.partitioner
  partitioner = _partitioner(given, given.mesh.shape['model'], rules)
  yield from _spread(change, run, partitioner, state, activations)


def _spread(change, run, partitioner, state, activations) -> Iterator[Remedy]:
  """Yields the change to another partitioner if it shrinks the train state."""
  other = dataclasses.replace(run, partitioner=partitioner)
  try:
    programs.check_divides(other)
    spread = programs.state_bytes(other)
  except ValueError:
    return
  if spread.held < state.held:
    yield Remedy(change, spread.held + spread.gradients + activations)


def _partitioner(given, parts, rules):
  """Returns a partitioner of the same devices and slices."""
  devices, slices = list(given.mesh.devices.flat), given.num_slices
  made = partitioning.PjitPartitioner(
    num_partitions=parts,
    ici_mesh_shape=fnet_partitioning.ici_mesh_shape(
      slices, parts, num_devices=len(devices)
    ),
    dcn_mesh_shape=fnet_partitioning.dcn_mesh_shape(slices),
    logical_axis_rules=rules,
  )
  made.mesh = made.mesh_of(devices)
  return made
