"""Partitioning over eight devices (conftest.py) against one device."""

import collections
import copy
import functools
import re

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import partitioning as flax_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from fnet_t5x.runtime import adafactor, optimizers, partitioning, train_state

# A device that knows its slice, as a TPU does.
Tpu = collections.namedtuple('Tpu', 'id slice_index platform')

BATCH, LENGTH, EMBED, MLP, VOCAB = 8, 4, 16, 64, 32


class Network(nn.Module):
  """Embedding, one residual MLP with dropout, tied logits."""

  @nn.compact
  def __call__(self, tokens, rng=None):
    def param(name, shape, axes):
      return flax_partitioning.param_with_axes(
        name, nn.initializers.normal(0.3), shape, jnp.float32, axes=axes
      )

    constrain = flax_partitioning.with_sharding_constraint
    embedding = param('embedding', (VOCAB, EMBED), ('vocab', 'embed'))
    wi = param('wi', (EMBED, MLP), ('embed', 'mlp'))
    wo = param('wo', (MLP, EMBED), ('mlp', 'embed'))
    x = constrain(embedding[tokens], ('batch', 'length', 'embed'))
    hidden = constrain(nn.gelu(x @ wi), ('batch', 'length', 'mlp'))
    if rng is not None:
      keep = jax.random.bernoulli(rng, 0.9, hidden.shape)
      hidden = jnp.where(keep, hidden, 0.0)
    return (x + hidden @ wo) @ embedding.T


def make_batch():
  rng = np.random.default_rng(5)
  return {
    name: rng.integers(0, VOCAB, (BATCH, LENGTH), dtype=np.int32)
    for name in ('inputs', 'targets')
  }


def make_init(optimizer_def):
  def init(rng):
    tokens = jnp.ones((BATCH, LENGTH), jnp.int32)
    variables = flax.core.freeze(Network().init(rng, tokens))
    return train_state.FlaxOptimTrainState.create(optimizer_def, variables)

  return init


def train_step(state, batch):
  def loss_fn(params):
    rng = jax.random.fold_in(jax.random.key(1), state.step)
    logits = Network().apply({'params': params}, batch['inputs'], rng)
    log_probs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probs, batch['targets'][..., None], -1)
    return -jnp.mean(picked)

  loss, grads = jax.value_and_grad(loss_fn)(state.params)
  return state.apply_gradient(grads, learning_rate=0.1), loss


def make_optimizer(name):
  if name == 'adamw':
    return optimizers.adamw(0.01)
  return adafactor.Adafactor(
    min_dim_size_to_factor=8,
    beta1=0.9,
    logical_factor_rules=adafactor.standard_logical_factor_rules(),
  )


@functools.cache
def run_plain(optimizer_name):
  state = make_init(make_optimizer(optimizer_name))(jax.random.key(0))
  step = jax.jit(train_step)
  losses = []
  for _ in range(4):
    state, loss = step(state, make_batch())
    losses.append(float(loss))
  return state, losses


@functools.cache
def run_partitioned(optimizer_name, num_partitions, dims=(1, 1)):
  partitioner = partitioning.PjitPartitioner(
    num_partitions=num_partitions,
    logical_axis_rules=partitioning.standard_logical_axis_rules(*dims),
  )
  init = make_init(make_optimizer(optimizer_name))
  axes = partitioner.get_mesh_axes(jax.eval_shape(init, jax.random.key(0)))
  state = partitioner.partition(init, None, axes)(jax.random.key(0))
  step = partitioner.partition(
    train_step,
    (axes, partitioner.data_partition_spec),
    (axes, None),
    donate_argnums=(0,),
  )
  batch = make_batch()
  compiled = partitioner.compile(step, state, batch)
  losses = []
  for _ in range(4):
    previous = state
    state, loss = compiled(state, batch)
    losses.append(float(loss))
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(previous.params)), (
    'the donated parameters are still there'
  )
  return state, losses, compiled


@pytest.mark.slow
@pytest.mark.parametrize(
  ('optimizer_name', 'num_partitions', 'dims'),
  [
    ('adafactor', 1, (1, 1)),
    ('adafactor', 2, (1, 1)),
    ('adafactor', 8, (1, 1)),
    ('adafactor', 2, (2, 2)),
    ('adamw', 2, (1, 1)),
  ],
)
def test_every_mesh_equals_one_device(optimizer_name, num_partitions, dims):
  want, want_losses = run_plain(optimizer_name)
  got, losses, _ = run_partitioned(optimizer_name, num_partitions, dims)
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
  for ours, theirs in zip(
    jax.tree.leaves(got), jax.tree.leaves(want), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_state_is_laid_out_by_the_rules_and_stays_so():
  state, _, compiled = run_partitioned('adamw', 2)
  want = {
    'embedding': PartitionSpec('model', None),
    'wi': PartitionSpec(None, 'model'),
    'wo': PartitionSpec('model', None),
  }
  moments = state.param_states[0]
  for tree in (state.params, moments.mu, moments.nu):
    for name, spec in want.items():
      sharding = NamedSharding(tree[name].sharding.mesh, spec)
      assert tree[name].sharding.is_equivalent_to(sharding, 2), name
  assert state.params['wi'].addressable_shards[0].data.shape == (
    EMBED,
    MLP // 2,
  )
  assert state.step.sharding.is_fully_replicated
  # The shard of [batch, length, mlp] per device on the mesh (4, 2).
  assert re.search(rf'f32\[2,{LENGTH},{MLP // 2}\]', compiled.as_text())
  assert f'f32[{BATCH},{LENGTH},' not in compiled.as_text()


def test_constraints_in_the_network_reach_the_compiler():
  partitioner = partitioning.PjitPartitioner(num_partitions=2)

  def fn(x):
    return flax_partitioning.with_sharding_constraint(2 * x, ('batch', 'mlp'))

  x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
  lowered = partitioner.partition(fn, None, None).lower(x)
  assert '[{"data"}, {"model"}]' in lowered.as_text()
  assert 'f32[2,4]' in lowered.compile().as_text()


def test_static_arguments_and_prefixes():
  partitioner = partitioning.PjitPartitioner(num_partitions=2)
  fn = partitioner.partition(
    lambda scale, tree: jax.tree.map(lambda x: scale * x, tree),
    in_axis_resources=(partitioner.data_partition_spec,),
    out_axis_resources={'a': PartitionSpec('model'), 'b': None},
    static_argnums=(0,),
  )
  got = fn(3, {'a': np.ones((8, 2)), 'b': np.ones(4)})
  np.testing.assert_array_equal(got['a'], 3 * np.ones((8, 2)))
  assert got['a'].addressable_shards[0].data.shape == (4, 2)
  assert got['b'].sharding.is_fully_replicated


@pytest.mark.parametrize(
  ('arguments', 'shape'),
  [
    ({'num_partitions': 1}, (8, 1)),
    ({'num_partitions': 4}, (2, 4)),
    ({'model_parallel_submesh': (1, 2, 1, 1)}, (4, 2)),
    ({'num_partitions': 1, 'model_parallel_submesh': (2, 4, 1, 1)}, (1, 8)),
  ],
)
def test_mesh_and_data_layout(arguments, shape):
  partitioner = partitioning.PjitPartitioner(**arguments)
  assert partitioner.mesh.axis_names == ('data', 'model')
  assert partitioner.mesh.devices.shape == shape
  assert partitioner.data_partition_spec == PartitionSpec('data')
  layout = partitioner.get_data_layout(16)
  assert (layout.batch_size, layout.shard_id, layout.num_shards) == (16, 0, 1)
  assert partitioner.get_data_layout().batch_size == shape[0]


@pytest.mark.parametrize(
  ('dims', 'axes', 'want'),
  [
    ((1, 1), ('embed', 'mlp'), PartitionSpec(None, 'model')),
    ((1, 2), ('embed', 'mlp'), PartitionSpec('data', 'model')),
    (
      (2, 1),
      ('batch', 'length', 'embed'),
      PartitionSpec('data', None, 'model'),
    ),
    ((2, 2), ('embed', 'mlp'), PartitionSpec('data', 'model')),
    ((2, 2), ('embed',), PartitionSpec('model')),
    ((1, 1), ('heads', 'relpos_buckets'), PartitionSpec('model', None)),
  ],
)
def test_standard_rules(dims, axes, want):
  rules = partitioning.standard_logical_axis_rules(*dims)
  assert flax_partitioning.logical_to_mesh_axes(axes, rules) == want


def test_additional_rules_come_last():
  extra = (('color', 'model'), ('embed', 'data'))
  rules = partitioning.standard_logical_axis_rules(additional_rules=extra)
  assert tuple(rules[-2:]) == extra


def test_moving_a_state_to_its_devices():
  partitioner = partitioning.PjitPartitioner(num_partitions=2)
  state = make_init(optimizers.adamw(0.01))(jax.random.key(0))
  axes = partitioner.get_mesh_axes(state)
  moved = partitioner.move_params_to_devices(state, axes)
  assert moved.params['wi'].sharding.spec == PartitionSpec(None, 'model')
  np.testing.assert_array_equal(moved.params['wi'], state.params['wi'])


def test_axis_names_are_leaves():
  names = partitioning.AxisNames('embed', None)
  assert names == ('embed', None) and isinstance(names, tuple)
  assert repr(names) == "AxisNames('embed', None)"
  assert jax.tree.leaves({'a': names, 'b': ('c', 'd')}) == [names, 'c', 'd']
  copied = copy.deepcopy(partitioning.AxisNames('mlp'))
  assert copied == ('mlp',) and type(copied) is partitioning.AxisNames


class Replicated(partitioning.BasePartitioner):
  """A partitioner of a user's: states are whole on every device."""

  def get_mesh_axes(self, train_state):
    return jax.tree.map(lambda _: PartitionSpec(), train_state)

  def partition(
    self, fn, in_axis_resources, out_axis_resources, *_, donate_argnums=()
  ):
    return partitioning.PjittedFnWithContext(
      jax.jit(
        fn,
        in_shardings=self.get_shardings(in_axis_resources),
        out_shardings=self.get_shardings(out_axis_resources),
        donate_argnums=donate_argnums,
      ),
      self.mesh,
    )

  def compile(self, partitioned_fn, *args):
    return partitioned_fn.lower(*args).compile()


def test_own_partitioner():
  partitioner = Replicated(num_partitions=2)
  assert partitioner.data_mesh_size == 4
  state = make_init(optimizers.adamw(0.01))(jax.random.key(0))
  axes = partitioner.get_mesh_axes(state)
  step = partitioner.partition(
    train_step, (axes, partitioner.data_partition_spec), (axes, None)
  )
  new_state, _ = partitioner.compile(step, state, make_batch())(
    partitioner.move_params_to_devices(state, axes), make_batch()
  )
  assert new_state.params['wi'].sharding.is_fully_replicated
  want, _ = jax.jit(train_step)(state, make_batch())
  np.testing.assert_allclose(
    new_state.params['wi'], want.params['wi'], rtol=1e-4, atol=1e-6
  )
  with pytest.raises(TypeError, match='abstract'):
    partitioning.BasePartitioner(num_partitions=1)


def undivisible_parameter():
  class Odd(nn.Module):
    @nn.compact
    def __call__(self, x):
      kernel = flax_partitioning.param_with_axes(
        'kernel', nn.initializers.ones, (4, 6), axes=('embed', 'heads')
      )
      return x @ kernel

  variables = flax.core.freeze(Odd().init(jax.random.key(0), jnp.ones((1, 4))))
  state = train_state.InferenceState.create(variables)
  partitioning.PjitPartitioner(num_partitions=4).get_mesh_axes(state)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: partitioning.PjitPartitioner(num_partitions=3).mesh,
      'num_partitions=3 does not divide the 8 cpu devices',
    ),
    (
      lambda: (
        partitioning.PjitPartitioner(model_parallel_submesh=(1, 5, 1, 1)).mesh
      ),
      r'model_parallel_submesh=\(1, 5, 1, 1\) does not divide the 8',
    ),
    (partitioning.PjitPartitioner, 'num_partitions or model_parallel_submesh'),
    (
      lambda: partitioning.PjitPartitioner(1, logical_axis_rules=[('a', 'b')]),
      "map 'a' to 'b'",
    ),
    (
      lambda: partitioning.PjitPartitioner(2).get_data_layout(6),
      r'Batch size \(6\) must be divisible by .* mesh size \(4\)',
    ),
    (
      undivisible_parameter,
      "'target/kernel': its axis 'heads' of size 6 .* 4 devices .* 'model'",
    ),
    (
      lambda: partitioning.standard_logical_axis_rules(3, 1),
      'activation_partitioning_dims=3',
    ),
  ],
)
def test_bad_input_is_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_tpus_know_their_slice():
  devices = [Tpu(n, (7, 3)[n % 2], 'tpu') for n in range(4)]
  found = partitioning.slice_of_devices(devices, 2)
  assert [found[device] for device in devices] == [1, 0, 1, 0]
  with pytest.raises(ValueError, match='4 tpu devices are in 2 slices, not in'):
    partitioning.slice_of_devices(devices, 4)


@pytest.mark.parametrize(
  ('ici', 'dcn', 'message'),
  [
    ((4, 1), (2, 1, 1), r'ici_mesh_shape=\(4, 1\): give the sizes of the axes'),
    ((1, 2, 1), (2, 1, 1), 'has 2 devices, and each of the 2 slices has 4'),
    ((1, 1, 4), (1, 1, 2), "spreads 'model' over slices"),
    ((1, 1, 1), (3, 1, 1), '8 devices do not divide into 3 slices'),
  ],
)
def test_shapes_that_are_not_the_devices_are_one_line(ici, dcn, message):
  partitioner = partitioning.PjitPartitioner(
    num_partitions=1, ici_mesh_shape=ici, dcn_mesh_shape=dcn
  )
  with pytest.raises(ValueError, match=message) as error:
    partitioner.mesh  # noqa: B018
  assert '\n' not in str(error.value)
