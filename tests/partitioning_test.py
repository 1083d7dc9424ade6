"""The gin files of gin/partitioning/: rules, collectives and equal losses."""

import functools

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from checkout import ROOT
from flax.linen.partitioning import get_axis_names, logical_to_mesh_axes
from flax.traverse_util import flatten_dict

from fnet_t5x import gin_macros
from fnet_t5x import partitioning as fnet_partitioning
from fnet_t5x.planning.collectives import find_collectives
from fnet_t5x.runtime import adafactor, partitioning, utils
from fnet_t5x.runtime import metrics as metrics_lib

FILES = sorted(path.stem for path in (ROOT / 'gin/partitioning').glob('*.gin'))
# Meshes of two slices: ('replica', 'data', 'model').
SLICES = [
  ('data', (2, 4, 1)),
  ('fully_sharded', (2, 4, 1)),
  ('model_1d', (2, 2, 2)),
  ('sequence_sharded', (2, 2, 2)),
]
# 'data' and 'model_1d' with all meshes are in mesh_test.py.
MESHES = [
  ('data', (8, 1)),
  ('fully_sharded', (8, 1)),
  ('fully_sharded', (4, 2)),
  ('model_1d', (2, 4)),
  ('model_2d', (4, 2)),
  ('model_2d', (2, 4)),
  ('model_2d', (1, 8)),
  ('sequence_sharded', (4, 2)),
  ('sequence_sharded', (2, 4)),
  ('sequence_sharded', (1, 8)),
]


@pytest.fixture(autouse=True)
def _clean_gin():
  gin.clear_config()
  gin.add_config_file_search_path(str(ROOT))
  yield
  gin.clear_config()


def make_partitioner(name, mesh_shape=None):
  gin.parse_config_file(f'gin/partitioning/{name}.gin')
  if mesh_shape:
    # T5X needs it on CPU; the runtime accepts either.
    gin.parse_config(
      f'NUM_PARTITIONS = None\n'
      f'MODEL_PARALLEL_SUBMESH = (1, {mesh_shape[-1]}, 1, 1)\n'
      f'NUM_SLICES = {mesh_shape[0] if len(mesh_shape) == 3 else 1}'
    )
  partitioner = gin_macros.value('PARTITIONER')
  gin.clear_config()
  if mesh_shape:
    assert tuple(partitioner.mesh.shape.values()) == mesh_shape
  return partitioner


def test_the_files_are_these():
  assert FILES == [
    'data',
    'fully_sharded',
    'model_1d',
    'model_2d',
    'sequence_sharded',
  ]
  assert {name for name, _ in MESHES} == set(FILES)


def test_one_slice_is_the_mesh_of_the_partitioner():
  for number in (None, 1):
    assert fnet_partitioning.ici_mesh_shape(number, 2) is None
    assert fnet_partitioning.dcn_mesh_shape(number) is None
  assert make_partitioner('data').mesh.axis_names == ('data', 'model')


def test_a_slice_is_neighboring_devices_and_has_whole_replicas_of_the_model():
  partitioner = make_partitioner('model_1d', (2, 2, 2))
  assert partitioner.mesh.axis_names == ('replica', 'data', 'model')
  for number, of_slice in enumerate(partitioner.mesh.devices):
    ids = {device.id for device in of_slice.flat}
    assert ids == set(range(4 * number, 4 * number + 4))
  assert partitioner.data_mesh_size == 4
  rows = partitioner.data_partition_spec
  assert rows == jax.sharding.PartitionSpec(('replica', 'data'))
  with pytest.raises(ValueError, match=r'Batch size \(6\) must be divisible'):
    partitioner.get_data_layout(6)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'num_slices': 3}, 'NUM_SLICES=3 does not divide the 8 devices'),
    ({'num_slices': 0}, 'NUM_SLICES=0: give a positive integer'),
    ({'num_slices': '2'}, "NUM_SLICES='2': give a positive integer"),
    (
      {'num_slices': 2, 'num_partitions': 8},
      'NUM_PARTITIONS=8 does not divide the 4 devices of a slice',
    ),
    (
      {'num_slices': 2, 'model_parallel_submesh': (1, 3, 1, 1)},
      r'MODEL_PARALLEL_SUBMESH=\(1, 3, 1, 1\) does not divide the 4 devices',
    ),
  ],
)
def test_slices_that_cannot_be_are_one_line(arguments, message):
  with pytest.raises(ValueError, match=message) as error:
    fnet_partitioning.ici_mesh_shape(**arguments)
  assert '\n' not in str(error.value)


def layout_of(name, *axes):
  return tuple(
    logical_to_mesh_axes(axes, make_partitioner(name).logical_axis_rules)
  )


def test_sharding_of_each_axis():
  encoder = ('batch', 'encoder_length', 'embed')
  hidden = ('batch', 'encoder_length', 'mlp')
  weight = ('embed', 'mlp')
  for name, want in {
    'data': [('data', None, None), ('data', None, 'model'), (None, 'model')],
    'model_1d': [
      ('data', None, None),
      ('data', None, 'model'),
      (None, 'model'),
    ],
    'model_2d': [
      ('data', None, 'model'),
      ('data', None, 'model'),
      ('data', 'model'),
    ],
    'fully_sharded': [
      ('data', None, None),
      ('data', None, 'model'),
      ('data', 'model'),
    ],
    'sequence_sharded': [
      ('data', 'model', None),
      ('data', 'model', None),
      (None, 'model'),
    ],
  }.items():
    got = [layout_of(name, *axes) for axes in (encoder, hidden, weight)]
    assert got == want, name
  # The decoder's length is not sharded: a decoding step has one token.
  decoder = layout_of('sequence_sharded', 'batch', 'length', 'mlp')
  assert decoder == ('data', None, 'model')


@pytest.mark.slow
@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize(
  'mixing',
  [
    'fourier',
    'linear',
    'attention',
    'toeplitz',
    'toeplitz_gated_dependent',
  ],
)
def test_every_axis_of_every_parameter_has_its_rules(mixing, scan):
  model = small_runs.make_model(
    encoder_mixing=(mixing, 'attention'), scan_layers=scan
  )
  shapes = {'encoder_input_tokens': (1, 8), 'decoder_input_tokens': (1, 8)}
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.PRNGKey(0), shapes)
  )
  axes = flatten_dict(get_axis_names(variables['params_axes']), sep='/')
  assert axes.keys() == flatten_dict(variables['params'], sep='/').keys()
  names = {name for spec in axes.values() for name in spec}
  assert ('layers' in names) == scan
  factored = adafactor.standard_logical_factor_rules()
  for rules in (
    partitioning.standard_logical_axis_rules(),
    fnet_partitioning.sequence_sharded_logical_axis_rules(),
  ):
    assert names <= {logical for logical, _ in rules}
    assert ('layers', None) in rules
  assert names <= set(factored)


def compile_encoder(model, partitioner, batch):
  """Compiles the encoder's forward pass as a training step runs it."""
  initializer = utils.TrainStateInitializer(
    model.optimizer_def,
    model.get_initial_variables,
    {name: x.shape for name, x in batch.items()},
    partitioner,
    {name: x.dtype for name, x in batch.items()},
  )

  def encode(params, tokens, segment_ids, positions):
    return model.module.apply(
      {'params': params},
      tokens,
      segment_ids,
      enable_dropout=False,
      encoder_positions=positions,
      method=model.module.encode,
    )

  rows = partitioner.data_partition_spec
  axes = initializer.train_state_axes.params
  partitioned = partitioner.partition(encode, (axes, rows, rows, rows), rows)
  shapes = initializer.global_train_state_shape.params
  tokens = jax.ShapeDtypeStruct(batch['encoder_input_tokens'].shape, jnp.int32)
  return partitioner.compile(partitioned, shapes, *[tokens] * 3).as_text()


@pytest.mark.slow
@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize(('name', 'mesh'), MESHES)
def test_collectives_of_the_encoder(name, mesh, scan):
  if scan and name in ('data', 'model_1d'):
    layers = {'num_encoder_layers': 3, 'scan_layers': True}
    model = small_runs.make_model(
      encoder_mixing=('fourier', 'fourier', 'attention'), **layers
    )
  elif scan:
    pytest.skip('the layers are the same')
  else:
    model = small_runs.make_model()
  text = compile_encoder(
    model, make_partitioner(name, mesh), small_runs.packed_batch(0)
  )
  found = find_collectives(text)
  if name == 'data':
    assert not found
  mixing = [each for each in found if '/fourier/' in each.op_name]
  allowed = {
    'model_2d': {'all-to-all'},
    'sequence_sharded': {'all-to-all'},
  }.get(name, set())
  assert {each.kind for each in mixing} == allowed


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'mesh'), SLICES)
def test_the_encoder_sends_nothing_to_another_slice(name, mesh):
  text = compile_encoder(
    small_runs.make_model(),
    make_partitioner(name, mesh),
    small_runs.packed_batch(0),
  )
  found = find_collectives(text, slices=[0] * 4 + [1] * 4)
  assert bool(found) == (name != 'data')
  crossing = {each.op_name for each in found if each.slices > 1}
  if name == 'fully_sharded':
    # XLA splits the look-up of sharded embeddings over all devices.
    assert {op.rpartition('encoder/')[2] for op in crossing} <= {
      'token_embedder/gather'
    }
  else:
    assert not crossing


MIXINGS = ('toeplitz', 'hartley', 'toeplitz_gated_dependent', 'fourier_gated')


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'mesh'),
  [('data', (8, 1)), ('model_1d', (2, 4)), ('sequence_sharded', (2, 4))],
)
def test_collectives_of_other_mixings(name, mesh):
  model = small_runs.make_model(
    encoder_mixing=MIXINGS, num_encoder_layers=4, emb_dim=32
  )
  text = compile_encoder(
    model, make_partitioner(name, mesh), small_runs.packed_batch(0)
  )
  found = [
    each
    for each in find_collectives(text)
    if '/encoder/layers_' in each.op_name
  ]
  # One activation of a device that is not sharded over 'model'.
  whole = 4 * 8 // mesh[0] * 24 * 32
  gathered = [
    each.op_name.rpartition('/')[0].rpartition('/')[2]
    for each in found
    if each.kind == 'all-gather' and each.bytes >= whole
  ]
  if name == 'data':
    assert not found
  # Toeplitz's output where only its heads are sharded; or its input where only
  # tokens are, to project it to heads.
  assert (
    gathered
    == {
      'data': [],
      'model_1d': ['toeplitz'],
      'sequence_sharded': ['embed_mixing'],
    }[name]
  )
  mixed = {
    each.kind
    for each in found
    if {'hartley', 'fourier'} & set(each.op_name.split('/'))
    and each.bytes >= whole // mesh[1]
  }
  assert mixed == (set() if name == 'data' else {'all-to-all'})


@functools.cache
def one_device(**network):
  return losses(small_runs.one_device(), **network)


def losses(partitioner, **network):
  """Returns loss and gradient norm of a step, and the loss after it."""
  trainer = small_runs.make_trainer(
    small_runs.make_model(dropout_rate=0.1, z_loss=1e-4, **network),
    partitioner,
    small_runs.packed_batch(0),
  )
  found = []
  for seed in range(2):
    batch = small_runs.packed_batch(seed)
    metrics = metrics_lib.scalars(trainer.train(iter([batch]), 1)[0])
    found += [metrics['loss'], metrics['grad_norm']]
  return found


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'mesh'),
  [each for each in MESHES if each[0] not in ('data', 'model_1d')] + SLICES,
)
def test_trains_as_one_device(name, mesh):
  partitioner = make_partitioner(name, mesh)
  np.testing.assert_allclose(losses(partitioner), one_device(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'mesh'),
  [('model_1d', (2, 4)), ('model_2d', (2, 4)), ('sequence_sharded', (2, 4))],
)
def test_other_mixings_train_as_on_one_device(name, mesh):
  network = {'encoder_mixing': MIXINGS, 'num_encoder_layers': 4}
  found = losses(make_partitioner(name, mesh), **network)
  np.testing.assert_allclose(found, one_device(**network), rtol=1e-4)
