"""Collectives of programs whose collectives are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnet_t5x.planning.collectives import collectives, find_collectives

TRIPS, ROWS, WIDTH = 5, 16, 64
MESH = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ('data', 'model'))
X = PartitionSpec('data', 'model')


def compiled_text(function, *specs_and_shapes, out=None):
  operands = [
    jax.ShapeDtypeStruct(
      shape, dtype, sharding=NamedSharding(MESH, PartitionSpec(*spec))
    )
    for shape, dtype, spec in specs_and_shapes
  ]
  out = out and NamedSharding(MESH, PartitionSpec(*out))
  jitted = jax.jit(function, out_shardings=out)
  return jitted.lower(*operands).compile().as_text()


def mapped(function, in_spec=X, out_spec=X):
  return jax.shard_map(
    function, mesh=MESH, in_specs=in_spec, out_specs=out_spec, check_vma=False
  )


def activations(dtype=jnp.float32):
  return ((ROWS, WIDTH), dtype, ('data', 'model'))


@pytest.mark.parametrize(
  ('kind', 'function', 'out_spec', 'size'),
  [
    # The whole row of 64, for a quarter of the batch.
    (
      'all-gather',
      lambda x: jax.lax.all_gather(x, 'model', axis=1, tiled=True),
      ('data',),
      4 * 4 * WIDTH,
    ),
    ('all-reduce', lambda x: jax.lax.psum(x, 'data'), X, 4 * 4 * WIDTH // 2),
    # The operand is larger than the result.
    (
      'reduce-scatter',
      lambda x: jax.lax.psum_scatter(x, 'data', tiled=True),
      X,
      4 * 4 * WIDTH // 2,
    ),
    (
      'all-to-all',
      lambda x: jax.lax.all_to_all(x, 'model', 0, 1, tiled=True),
      (('data', 'model'),),
      4 * 4 * WIDTH // 2,
    ),
    (
      'collective-permute',
      lambda x: jax.lax.ppermute(x, 'model', [(0, 1), (1, 0)]),
      X,
      4 * 4 * WIDTH // 2,
    ),
  ],
)
def test_each_kind(kind, function, out_spec, size):
  step = mapped(function, out_spec=PartitionSpec(*out_spec))
  expected = [{'kind': kind, 'count': 1, 'bytes': size}]
  assert collectives(compiled_text(step, activations())) == expected


def test_what_stands_in_a_loop_counts_once_a_trip():
  def loop(x):
    def body(x, _):
      y, _ = jax.lax.scan(
        lambda y, _: (jnp.sin(jax.lax.psum(y, 'model')), None), x, None, 3
      )
      return jax.lax.ppermute(y, 'data', [(0, 1)]), None

    return jax.lax.scan(body, x, None, TRIPS)[0]

  found = collectives(compiled_text(mapped(loop), activations()))
  one = 4 * 4 * WIDTH // 2
  assert found == [
    {'kind': 'all-reduce', 'count': 3 * TRIPS, 'bytes': 3 * TRIPS * one},
    {'kind': 'collective-permute', 'count': TRIPS, 'bytes': TRIPS * one},
  ]


def test_a_scanned_network_counts_as_the_unrolled_one():
  def count(unroll):
    def network(x, weights):
      def body(x, w):
        return jnp.tanh(x @ w), None

      return jax.lax.scan(body, x, weights, unroll=unroll)[0]

    weights = ((TRIPS, WIDTH, WIDTH), jnp.float32, (None, 'model', None))
    return collectives(
      compiled_text(network, activations(), weights, out=('data', 'model'))
    )

  # Per product, a quarter of the batch: [4, 64] summed over 'model'.
  size = TRIPS * 4 * 4 * WIDTH
  assert count(1) == [{'kind': 'all-reduce', 'count': TRIPS, 'bytes': size}]
  assert count(1) == count(TRIPS)


def test_of_branches_the_largest_counts():
  def branches(x):
    return jax.lax.cond(
      x[0, 0] > 0,
      lambda x: jax.lax.psum(x, 'data') + jax.lax.psum(x[:1], 'model'),
      lambda x: jax.lax.ppermute(x, 'data', [(0, 1)]),
      x,
    )

  (found,) = collectives(compiled_text(mapped(branches), activations()))
  assert (found['kind'], found['bytes']) == ('all-reduce', 4 * 32 * (4 + 1))


def test_other_types():
  step = mapped(lambda x: jax.lax.ppermute(x, 'data', [(0, 1)]))
  for dtype, size in ((jnp.int8, 1), (jnp.complex64, 8), (jnp.bool_, 1)):
    (found,) = collectives(compiled_text(step, activations(dtype)))
    assert found['bytes'] == size * 4 * WIDTH // 2


def test_a_local_program_has_none():
  assert collectives(compiled_text(jnp.sin, activations())) == []


def test_operations_are_named():
  def named(x):
    with jax.named_scope('encoder'):
      return jax.lax.psum(x, 'data')

  (found,) = find_collectives(compiled_text(mapped(named), activations()))
  assert 'encoder' in found.op_name


# The mesh's rows of devices: 0 to 3 are a slice, and 4 to 7.
TWO_SLICES = [0] * 4 + [1] * 4
SHARD = 4 * 4 * WIDTH // 2


@pytest.mark.parametrize(
  ('axes', 'slices', 'sent'),
  [
    ('model', 1, 0),
    # Four devices, two in each slice: half of the sum each, and the other
    # slice's half of it back.
    ('data', 2, SHARD / 2),
    (('data', 'model'), 2, SHARD / 4),
  ],
)
def test_an_all_reduce_crosses_slices_by_its_devices(axes, slices, sent):
  step = mapped(lambda x: jax.lax.psum(x, axes))
  text = compiled_text(step, activations())
  (found,) = find_collectives(text, TWO_SLICES)
  assert (found.slices, found.slice_bytes) == (slices, sent)
  (row,) = collectives(text, TWO_SLICES)
  assert row.get('slice_bytes', 0) == sent
  # One slice: nothing to tell apart.
  assert collectives(text) == [
    {'kind': 'all-reduce', 'count': 1, 'bytes': SHARD}
  ]


@pytest.mark.parametrize(
  ('function', 'out_spec', 'sent'),
  [
    # Half of the rows go to the other slice.
    (
      lambda x: jax.lax.all_to_all(x, 'data', 1, 0, tiled=True),
      (None, ('model', 'data')),
      SHARD / 2,
    ),
    (lambda x: jax.lax.ppermute(x, 'data', [(1, 2)]), X, SHARD),
    (lambda x: jax.lax.ppermute(x, 'data', [(0, 1), (2, 3)]), X, 0),
    # The other slice's half of the batch, from both devices that have it.
    (
      lambda x: jax.lax.all_gather(x, 'data', tiled=True),
      (None, 'model'),
      4 * SHARD / 2 / 2,
    ),
  ],
)
def test_other_kinds_across_slices(function, out_spec, sent):
  step = mapped(function, out_spec=PartitionSpec(*out_spec))
  (found,) = find_collectives(compiled_text(step, activations()), TWO_SLICES)
  assert found.slice_bytes == sent


def groups_text(written):
  return f"""\
HloModule step

ENTRY %main (x: f32[8,4]) -> f32[8,4] {{
  %x = f32[8,4]{{1,0}} parameter(0)
  ROOT %sum = f32[8,4]{{1,0}} all-reduce(%x), to_apply=%add, \
replica_groups={written}
}}
"""


@pytest.mark.parametrize(
  ('written', 'slices', 'devices'),
  [
    ('{{0,1},{2,3},{4,5},{6,7}}', 1, 2),
    ('{}', 2, 4),
    ('[4,2]<=[2,4]T(1,0)', 2, 1),
    ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", 2, 2),
  ],
)
def test_groups_that_have_devices_of_both_slices_cross(
  written, slices, devices
):
  (found,) = find_collectives(groups_text(written), TWO_SLICES)
  assert (found.slices, found.devices_per_slice) == (slices, devices)


# Text of the TPU compiler for two slices: a reduce-scatter in each, and the
# hosts' exchange of the parts.
SLICES_TEXT = """\
HloModule step

ENTRY %main (x: f32[64,4]) -> f32[16,4] {
  %x = f32[64,4]{1,0:T(8,128)} parameter(0)
  %token = token[] after-all()
  %part = f32[16,4]{1,0:T(8,128)} reduce-scatter(%x), channel_id=1, \
replica_groups={{0,1,2,3}}, use_global_device_ids=true, dimensions={0}
  %send = (f32[16,4]{1,0:T(8,128)}, u32[], token[]) send(%part, %token), \
channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",\
_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[16,4]{1,0:T(8,128)}, u32[], token[]) recv(%token), \
channel_id=1, is_host_transfer=true, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true
  %done = (f32[16,4]{1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=1
  ROOT %sum = f32[16,4]{1,0:T(8,128)} get-tuple-element(%done), index=0
}
"""


def test_transfers_of_the_tpu_compiler_cross_slices():
  assert collectives(SLICES_TEXT, TWO_SLICES) == [
    {
      'kind': 'all-reduce',
      'count': 1,
      'bytes': 4 * 16 * 4,
      'slice_bytes': 4 * 16 * 4,
      'within_slice': False,
    },
    {'kind': 'reduce-scatter', 'count': 1, 'bytes': 4 * 64 * 4},
  ]


# Text of the TPU compiler: tiled layouts, pairs of -start and -done, an
# asynchronous call.
TPU_TEXT = """\
HloModule step, is_scheduled=true

%async_computation (param: bf16[8,4]) -> bf16[8,16] {
  %param = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %all-gather.1 = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%param), \
dimensions={1}
}

ENTRY %main (x: bf16[8,4]) -> bf16[8,16] {
  %x = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %permute = (bf16[8,4]{1,0:T(8,128)(2,1)}, bf16[8,4]{1,0:T(8,128)(2,1)}, \
u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), \
source_target_pairs={{0,1}}
  %moved = bf16[8,4]{1,0:T(8,128)(2,1)} collective-permute-done(%permute)
  %start = ((bf16[8,4]{1,0:T(8,128)(2,1)}), bf16[8,16]{1,0:T(8,128)(2,1)}) \
async-start(%moved), calls=%async_computation
  ROOT %done = bf16[8,16]{1,0:T(8,128)(2,1)} async-done(%start), \
calls=%async_computation
}
"""


def test_asynchronous_pairs_count_once():
  assert collectives(TPU_TEXT) == [
    {'kind': 'all-gather', 'count': 1, 'bytes': 2 * 8 * 16},
    {'kind': 'collective-permute', 'count': 1, 'bytes': 2 * 8 * 4},
  ]


def test_what_is_no_program():
  with pytest.raises(ValueError, match='compiled HLO module'):
    collectives('ENTRY of a diary')
