"""T5X's pre-Orbax checkpoints, restored into our T5 and our hybrid."""

import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
import tensorstore
from flax import serialization, traverse_util

from fnet_t5x.networks import t5
from fnet_t5x.runtime import models, train
from fnet_t5x.runtime.checkpoints import RestoreCheckpointConfig

STEP = 1_000_000


def t5_model():
  hybrid = small_runs.make_model()
  shared = {
    name: getattr(hybrid.module.config, name)
    for name in t5.T5Config.__dataclass_fields__
  }
  return models.EncoderDecoderModel(
    module=t5.Transformer(t5.T5Config(**shared)),
    input_vocabulary=small_runs.VOCABULARY,
    output_vocabulary=small_runs.VOCABULARY,
    optimizer_def=hybrid.optimizer_def,
  )


def flat(state):
  return traverse_util.flatten_dict(jax.device_get(state.state_dict()), sep='/')


def write(directory, state_dict):
  """A checkpoint in the format of T5X's first checkpointer.

  Arrays are zarr, compressed, in pieces; the small ones are in the msgpack.
  """
  leaves = {}
  for name, array in state_dict.items():
    if array.ndim < 2:
      leaves[name] = array
      continue
    folder = name.replace('/', '.')
    description = {
      'driver': 'zarr',
      'dtype': 'float32',
      'kvstore': {'driver': 'file', 'path': folder},
      'metadata': {
        'compressor': {'id': 'gzip'},
        'shape': list(array.shape),
        'chunks': [max(n // 2, 1) for n in array.shape],
      },
    }
    leaves[name] = description
    opened = tensorstore.open(
      {
        **description,
        'kvstore': {'driver': 'file', 'path': f'{directory}/{folder}'},
      },
      create=True,
    ).result()
    opened.write(array).result()
  nested = traverse_util.unflatten_dict(leaves, sep='/')
  directory.mkdir(exist_ok=True)
  (directory / 'checkpoint').write_bytes(
    serialization.to_bytes({'version': 3, 'optimizer': nested})
  )


@pytest.fixture(scope='module')
def state():
  state = small_runs.make_initializer(t5_model()).from_scratch(
    jax.random.PRNGKey(3)
  )
  return state.replace_step(jnp.asarray(STEP, jnp.int32))


@pytest.fixture(scope='module')
def checkpoint(state, tmp_path_factory):
  directory = tmp_path_factory.mktemp('public') / f'checkpoint_{STEP}'
  write(directory, flat(state))
  return str(directory)


def test_the_baseline_restores_whole(checkpoint, state):
  restored = small_runs.make_initializer(t5_model()).from_checkpoint(
    RestoreCheckpointConfig(path=checkpoint, mode='specific')
  )
  got, want = flat(restored), flat(state)
  assert got.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_the_hybrid_takes_decoder_embeddings_and_what_else_fits(
  checkpoint, state, capsys
):
  initializer = small_runs.make_initializer(small_runs.make_model())
  rng = jax.random.PRNGKey(4)
  restored = initializer.from_checkpoint(
    RestoreCheckpointConfig(
      path=checkpoint,
      mode='specific',
      assignment_map=(),
      fallback_to_scratch=True,
    ),
    rng,
  )
  got, want = flat(restored), flat(state)
  scratch = flat(initializer.from_scratch(rng))
  for name, value in got.items():
    expected = want if name in want else scratch
    np.testing.assert_array_equal(value, expected[name], err_msg=name)
  taken = {name for name in got if name in want}
  assert {n for n in want if n.startswith('target/decoder/')} <= taken
  assert 'target/token_embedder/embedding' in taken
  assert 'target/encoder/layers_1/attention/query/kernel' in taken
  assert got['state/step'] == STEP
  assert capsys.readouterr().out.splitlines() == [
    'not in the checkpoint, initialised (2 arrays):',
    '  encoder/layers_{0}/pre_mixing_layer_norm/scale',
    '  encoder/position_embedder/embedding',
    'in the checkpoint, not used (5 arrays):',
    *(
      f'  encoder/layers_{{0}}/{name}'
      for name in (
        'attention/key/kernel',
        'attention/out/kernel',
        'attention/query/kernel',
        'attention/value/kernel',
        'pre_attention_layer_norm/scale',
      )
    ),
  ]


def test_without_leave_to_start_anew_the_hybrid_refuses(checkpoint):
  with pytest.raises(ValueError, match='another architecture') as error:
    small_runs.make_initializer(small_runs.make_model()).from_checkpoint(
      RestoreCheckpointConfig(path=checkpoint, mode='specific')
    )
  assert '\n' not in str(error.value)


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path):
  directory = tmp_path / 'checkpoint_3'
  directory.mkdir()
  (directory / 'checkpoint').write_bytes(serialization.to_bytes({'a': 1}))
  with pytest.raises(ValueError, match='T5X checkpoint of version 2 or 3'):
    small_runs.make_initializer(t5_model()).from_checkpoint(
      RestoreCheckpointConfig(path=str(directory), mode='specific')
    )


EMBEDDING = 'target.token_embedder.embedding'


def _of_another_shape(folder):
  path = folder / '.zarray'
  described = json.loads(path.read_text())
  described['shape'][0] *= 2
  path.write_text(json.dumps(described))


def _of_another_type(folder):
  path = folder / '.zarray'
  path.write_text(path.read_text().replace('<f4', '<f8'))


@pytest.mark.slow
@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    # Other files do not compensate for a missing chunk.
    (lambda f: (f / '0.1').rename(f / '0.7'), '1 of 4 chunks are missing'),
    (lambda f: (f / '0.1').rename(f / '0.1.tmp'), '1 of 4 chunks are missing'),
    (
      _of_another_type,
      'an array of float64, where the checkpoint says float32',
    ),
    (lambda f: (f / '0.1').unlink(), '1 of 4 chunks are missing'),
    (
      lambda f: [(f / f'{i}.{j}').unlink() for i in '01' for j in '01'],
      '4 of 4 chunks are missing',
    ),
    (lambda f: (f / '.zarray').unlink(), 'missing or damaged'),
    (lambda f: (f / '.zarray').write_text(''), 'missing or damaged'),
    (lambda f: (f / '1.0').write_bytes(b''), 'damaged'),
    (
      lambda f: (f / '1.0').write_bytes((f / '1.0').read_bytes()[:-20]),
      'damaged',
    ),
    (_of_another_shape, r'of shape \(\d+, \d+\), where the checkpoint says'),
    (shutil.rmtree, 'missing or damaged'),
  ],
)
def test_a_broken_download_is_one_line(checkpoint, tmp_path, damage, message):
  copy = tmp_path / f'checkpoint_{STEP}'
  shutil.copytree(checkpoint, copy)
  damage(copy / EMBEDDING)
  with pytest.raises(ValueError, match=message) as error:
    small_runs.make_initializer(t5_model()).from_checkpoint(
      RestoreCheckpointConfig(path=str(copy), mode='specific')
    )
  assert '\n' not in str(error.value)
  assert f'{copy}/{EMBEDDING}: ' in str(error.value)
  assert str(error.value).endswith('fetch the checkpoint again')


@pytest.mark.slow
@pytest.mark.parametrize('length', [0, 1, 700])
def test_a_cut_file_is_one_line(checkpoint, tmp_path, length):
  copy = tmp_path / f'checkpoint_{STEP}'
  shutil.copytree(checkpoint, copy)
  content = (copy / 'checkpoint').read_bytes()
  (copy / 'checkpoint').write_bytes(content[:length])
  with pytest.raises(ValueError, match='truncated; fetch') as error:
    small_runs.make_initializer(t5_model()).from_checkpoint(
      RestoreCheckpointConfig(path=str(copy), mode='specific')
    )
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'damage',
  [
    lambda f: (f / EMBEDDING / '0.1').unlink(),
    lambda f: (f / 'checkpoint').write_bytes(b''),
  ],
)
def test_a_run_goes_on_from_the_last_whole_one(
  checkpoint, state, tmp_path, damage, capsys
):
  for step in (STEP - 1, STEP):
    shutil.copytree(checkpoint, tmp_path / f'checkpoint_{step}')
  damage(tmp_path / f'checkpoint_{STEP}')
  restored, _ = train._restore_last_readable(
    str(tmp_path),
    small_runs.make_initializer(t5_model()).from_checkpoint,
    itertools.repeat(None),
    save_dataset=False,
  )
  np.testing.assert_array_equal(
    *(jax.tree.leaves(s)[0] for s in (state, restored))
  )
  assert f'checkpoint_{STEP}' in capsys.readouterr().out
  found = sorted(path.name for path in tmp_path.iterdir())
  assert found == [f'checkpoint_{STEP - 1}', f'damaged_checkpoint_{STEP}']
