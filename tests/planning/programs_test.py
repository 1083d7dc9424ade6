"""Planned memory equals the arrays' memory; indivisible sizes are named."""

import jax
import planned_runs
import pytest
from planned_runs import FILES

from fnet_t5x.planning import gin_run, programs, remedies, topology

SMALL = (*planned_runs.SMALL, "ACTIVATION_DTYPE = 'float32'")
EIGHT = topology.parse('cpu:8')


def on_first_device(tree) -> int:
  """Bytes of the arrays' shards on the first device."""
  return sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(tree)
    for shard in leaf.addressable_shards
    if shard.device == jax.devices()[0]
  )


@pytest.mark.slow
@pytest.mark.parametrize('partitions', [1, 2])
def test_state_is_as_large_as_planned(partitions):
  with gin_run.configured(
    FILES, (*SMALL, f'NUM_PARTITIONS = {partitions}')
  ) as run:
    programs.place(run, EIGHT)
    planned = programs.state_bytes(run)
    state = run.initializer().from_scratch(jax.random.PRNGKey(0))
    assert planned.parameters == on_first_device(state.params)
    assert planned.gradients == planned.parameters
    assert planned.optimizer == on_first_device(
      (state.param_states, state.step)
    )


@pytest.mark.slow
def test_programs_take_the_state_and_the_batch():
  with gin_run.configured(FILES, (*SMALL, 'NUM_PARTITIONS = 2')) as run:
    programs.place(run, EIGHT)
    state = programs.state_bytes(run)
    step = programs.train_step(run, 'cpu')
    batch = (
      sum(x.size * x.dtype.itemsize for x in run.batch.values())
      // run.partitioner.mesh.shape['data']
    )
    # Unused arguments are dropped, such as the positions.
    assert 0.99 * (state.held + batch) < step.arguments <= state.held + batch
    # Donated: the new state aliases the old one.
    assert step.results < 0.01 * state.held + 4096
    assert step.compiled and step.temporaries > 0
    assert {found['kind'] for found in step.collectives} >= {'all-reduce'}

    prefill, decoding, cache = programs.prefill_and_step(run, 'cpu', 8)
    # Keys and values of both attentions, for two rows on half the heads:
    # [2 rows, 2 heads of 8, 16 targets + 32 inputs]; and counters.
    keys_and_values = 2 * 4 * 2 * 2 * 8 * (16 + 32)
    assert keys_and_values <= cache < keys_and_values + 1024
    assert prefill.cost.flops > decoding.cost.flops > 0
    assert decoding.arguments >= state.parameters + cache


@pytest.mark.slow
def test_only_gradients_cross_slices():
  sent = {}
  for rows in (16, 32):
    bindings = (*SMALL, 'NUM_SLICES = 2', f'BATCH_SIZE = {rows}')
    with gin_run.configured(FILES, bindings, num_devices=8) as run:
      programs.place(run, topology.parse('cpu:4', 2))
      gradients = programs.state_bytes(run).gradients
      found = programs.train_step(run, 'cpu').collectives
    crossing = [each for each in found if 'slice_bytes' in each]
    assert {each['kind'] for each in crossing} == {'all-reduce'}
    sent[rows] = sum(each['slice_bytes'] for each in crossing)
  # Nothing that grows with the rows.
  assert sent[16] == sent[32]
  # Each of a slice's four devices sends a quarter of the sums to the other
  # slice. The gradients of shared embeddings are summed once for each use.
  assert gradients / 4 <= sent[16] < 1.5 * gradients / 4


def test_a_slice_is_a_share_of_the_planned_devices():
  bindings = (*SMALL, 'NUM_SLICES = 2', 'NUM_PARTITIONS = 2')
  # Not those that JAX has here.
  with gin_run.configured(FILES, bindings, num_devices=512) as run:
    assert run.partitioner._ici_mesh_shape == (1, 128, 2)
    assert run.partitioner._dcn_mesh_shape == (2, 1, 1)


def test_slices_need_the_planners_flag():
  with (
    gin_run.configured(FILES, (*SMALL, 'NUM_SLICES = 2'), num_devices=8) as run,
    pytest.raises(ValueError, match='give --num_slices=2, which sets NUM_SLI'),
  ):
    programs.place(run, EIGHT)


@pytest.mark.parametrize(
  ('bindings', 'message'),
  [
    (['NUM_PARTITIONS = 8'], 'NUM_HEADS=4 does not divide over the 8'),
    (['NUM_PARTITIONS = 3'], 'num_partitions=3 does not divide the 8'),
    (['BATCH_SIZE = 12'], r'Batch size \(12\) must be divisible'),
    (
      ['VOCAB_SIZE = 257', 'NUM_PARTITIONS = 2'],
      'VOCAB_SIZE=257 does not divide over the 2',
    ),
    (['NUM_MICROBATCHES = 3'], 'does not divide into NUM_MICROBATCHES=3'),
    (['NUM_MICROBATCHES = 4'], 'a microbatch of 4 examples does not divide'),
  ],
)
def test_what_does_not_divide_is_one_line(bindings, message):
  with gin_run.configured(FILES, (*SMALL, *bindings)) as run:
    with pytest.raises(ValueError, match=message) as error:
      programs.place(run, EIGHT)
    assert '\n' not in str(error.value)


def test_remedies_are_the_least_changes_that_fit():
  with gin_run.configured(
    FILES, (*SMALL, 'BATCH_SIZE = 256', 'EMBED_DIM = 64')
  ) as run:
    programs.place(run, EIGHT)
    state = programs.state_bytes(run)
    activations = 100e6
    allowed = state.held + 2 * state.gradients + 26e6
    found = {
      remedy.change.split('=')[0]: remedy
      for remedy in remedies.remedies(run, state, activations, allowed)
    }
    # A quarter of the activations fits, half does not.
    assert found['NUM_MICROBATCHES'].change == 'NUM_MICROBATCHES=4'
    assert 'NUM_PARTITIONS' not in found
    assert all(each.memory <= allowed for each in found.values())
    rows = int(found['BATCH_SIZE'].change.split('=')[1])
    assert rows % 8 == 0
    held = state.held + state.gradients
    assert held + activations * rows / 256 <= allowed
    assert held + activations * (rows + 8) / 256 > allowed


@pytest.mark.slow
@pytest.mark.parametrize('name', ['data', 'fully_sharded'])
def test_what_is_in_force_already_is_no_remedy(name):
  files = (*FILES, f'gin/partitioning/{name}.gin')
  with gin_run.configured(files, SMALL) as run:
    programs.place(run, EIGHT)
    state = programs.state_bytes(run)
    found = [
      each.change for each in remedies.remedies(run, state, 1e6, allowed=1e12)
    ]
  assert any('fully_sharded' in change for change in found) == (name == 'data')


@pytest.mark.parametrize(
  ('message', 'sizes'),
  [
    (
      'Ran out of memory on HBM, the total memory required for HLO '
      'temporaries (54.03G) exceeds available HBM (30.75G).',
      (54.03 * 2**30, 30.75 * 2**30, False),
    ),
    (
      'Ran out of memory in memory space hbm. Used 700.5M of 15.48G hbm.',
      (700.5 * 2**20, 15.48 * 2**30, True),
    ),
    ('INTERNAL: something else', None),
  ],
)
def test_compilers_complaints_are_read(message, sizes):
  assert programs.sizes_of_error(message) == sizes
