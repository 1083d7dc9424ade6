"""Conversion of published FNets: what is used, dropped, refused."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import published_fnets
import pytest
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from fnet_t5x import command_line
from fnet_t5x.convert import fnet as fnet_command
from fnet_t5x.convert import (
  fnet_conversion,
  fnet_shapes,
  padding_id,
)
from fnet_t5x.networks import fnet
from fnet_t5x.runtime import checkpoints, train_state

WORD = 'encoder/embedder/word/embedding'
KERNEL = 'encoder/feed_forward_1/intermediate/kernel'


@pytest.mark.parametrize(
  ('layers', 'leaves', 'with_state'), [(12, 112, True), (24, 208, False)]
)
def test_all_leaves_are_accounted_for(
  layers, leaves, with_state, tmp_path, capsys
):
  """At the depths of base and large."""
  arrays = published_fnets.leaves(('fourier',) * layers)
  assert len(arrays) == leaves
  content = published_fnets.msgpack(arrays, with_state)
  path = published_fnets.convert(content, tmp_path, step=7)
  assert path == tmp_path / 'out/checkpoint_7'
  published_fnets.assert_converted(path, arrays, step=7)
  said = capsys.readouterr().out
  total = sum(x.size for x in arrays.values())
  assert f'used: {leaves} tensors, {total:,} parameters' in said
  state = f"the optimizer's state: {2 * leaves + 1} tensors"
  assert (state in said) == with_state
  assert not [p for p in tmp_path.iterdir() if p.name not in ('source', 'out')]


@pytest.mark.slow
@pytest.mark.parametrize(
  'mixings',
  [
    ('attention', 'attention'),
    ('linear', 'linear'),
    ('fourier', 'attention', 'linear'),
  ],
)
def test_architectures_are_derived(mixings):
  """Shapes are those of the whole network; E != D."""
  arrays = published_fnets.leaves(mixings)
  config = fnet_shapes.check(arrays)
  assert config.mixings == mixings
  assert (config.embedding_width, config.emb_dim, config.mlp_dim) == (4, 6, 8)
  assert (config.vocab_size, config.max_length) == (11, 10)
  assert config.type_vocab_size == 4
  if 'attention' in mixings:
    assert config.num_heads == 2
  tokens = jnp.zeros((1, 4), jnp.int32)
  variables = jax.eval_shape(
    lambda: fnet.FNet(config).init(jax.random.PRNGKey(0), tokens)
  )
  want = flatten_dict(variables['params'], sep='/')
  assert fnet_shapes.expected(config) == {n: x.shape for n, x in want.items()}
  assert want.keys() == arrays.keys()


def without(name):
  return lambda arrays: arrays.pop(name)


def added(name):
  return lambda arrays: arrays.update({name: np.zeros((6, 2, 3), np.float32)})


def changed(name, function):
  return lambda arrays: arrays.update({name: function(arrays[name])})


def with_nan(x):
  return np.where(np.arange(x.size).reshape(x.shape) == 1, np.nan, x)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (without(WORD), f'lacks {WORD}'),
    (without(KERNEL), f'lacks {KERNEL}$'),
    (without('classification/output_bias'), 'lacks classification/output_bias'),
    (added('extra/kernel'), 'extra/kernel is unknown'),
    (changed(WORD, np.ravel), r'embedding is \[44\], not of rank 2'),
    (changed(KERNEL, np.transpose), rf'{KERNEL} is \[8, 6\], not \[6, 8\]'),
    (changed(KERNEL, with_nan), f'{KERNEL} holds NaN'),
    (changed(KERNEL, lambda x: x.astype(np.int32)), f'{KERNEL} .*int32'),
    (
      added('encoder/self_attention_1/query/kernel'),
      'lacks encoder/self_attention_1/',
    ),
    (
      lambda arrays: [
        arrays.update({n.replace('_1/', '_2/'): arrays.pop(n)})
        for n in list(arrays)
        if '_1/' in n
      ],
      r'only the layers \[0, 2\]',
    ),
  ],
)
def test_wrong_tensors_are_one_line_and_nothing_is_written(
  change, message, tmp_path
):
  arrays = published_fnets.leaves(('fourier', 'fourier'))
  change(arrays)
  with pytest.raises(ValueError, match=message) as error:
    published_fnets.convert(published_fnets.msgpack(arrays), tmp_path)
  assert '\n' not in str(error.value) and 'source' in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == ['source']


def _tree(target, **others):
  return serialization.msgpack_serialize({'target': target, **others})


ARRAYS = published_fnets.leaves(('fourier',))
WHOLE = published_fnets.msgpack(ARRAYS)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'not a msgpack file of Flax, or is truncated'),
    (b'{"a": 1}', 'not a msgpack file'),
    (WHOLE[: len(WHOLE) // 2], 'truncated'),
    (WHOLE[:-1], 'truncated'),
    (WHOLE + b'x', 'not a msgpack file'),
    (b'\x91' * 2000, 'not a msgpack file'),
    # An array that claims more than the file has.
    (WHOLE.replace(b'\x0b\x04', b'\x7f\x7f', 1), 'not a msgpack file'),
    (_tree([1]), "its 'target' is not a tree"),
    (_tree({}, other={}), 'other is unknown'),
    (_tree({'encoder': 1}), 'encoder is not an array'),
    (_tree({}), 'lacks encoder/embedder/word/embedding'),
  ],
)
def test_wrong_files_are_one_line_and_nothing_is_written(
  content, message, tmp_path
):
  with pytest.raises(ValueError, match=message) as error:
    published_fnets.convert(content, tmp_path)
  assert '\n' not in str(error.value) and 'source' in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == ['source']


def test_a_tree_without_a_state_and_a_target(tmp_path):
  tree = serialization.msgpack_serialize(unflatten_dict(ARRAYS, sep='/'))
  path = published_fnets.convert(tree, tmp_path)
  published_fnets.assert_converted(path, ARRAYS)


@pytest.mark.slow
def test_runs_restore_the_checkpoint(tmp_path):
  path = published_fnets.convert(WHOLE, tmp_path)
  network = fnet.FNet(fnet_shapes.check(ARRAYS))
  tokens = jnp.zeros((1, 4), jnp.int32)
  state = train_state.InferenceState.create(
    jax.jit(network.init)(jax.random.PRNGKey(0), tokens)
  )
  manager = checkpoints.CheckpointManager(str(path.parent))
  restored = manager.restore(
    0,
    jax.eval_shape(lambda: state),
    jax.tree.map(lambda x: x.sharding, state),
    checkpoints.RestoreCheckpointConfig(path=str(path), mode='specific'),
  )
  params = flatten_dict(state.restore_state(restored).params, sep='/')
  assert params.keys() == ARRAYS.keys()
  np.testing.assert_array_equal(params[WORD][0], ARRAYS[WORD][3])
  name = KERNEL.replace('_1', '_0')
  np.testing.assert_array_equal(params[name], ARRAYS[name])


def test_existing_folders_are_kept(tmp_path):
  (tmp_path / 'out').mkdir()
  published_fnets.convert(WHOLE, tmp_path)
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(FileExistsError, match='out exists'):
    published_fnets.convert(WHOLE, tmp_path, step=1)
  assert sorted(tmp_path.rglob('*')) == before


def test_vocabulary_is_exchanged_both_ways(tmp_path):
  pytest.importorskip('safetensors')
  pieces = published_fnets.train_pieces()
  (tmp_path / 'c4.model').write_bytes(pieces)
  arrays = published_fnets.leaves(('fourier',), v=90, d=4)
  content = published_fnets.msgpack(arrays)
  path = published_fnets.convert(
    content, tmp_path, vocabulary=tmp_path / 'c4.model'
  )
  ours = (path.parent / 'vocabulary.model').read_bytes()
  assert ours == padding_id.exchange_pieces(pieces, 'c4.model')
  fnet_conversion.to_hugging_face(path.parent, tmp_path / 'hf')
  theirs = (tmp_path / 'hf/spiece.model').read_bytes()
  assert padding_id.exchange_pieces(theirs, 'hf') == ours
  again = fnet_conversion.from_published(tmp_path / 'hf', tmp_path / 'again')
  published_fnets.assert_converted(again, arrays)
  assert (again.parent / 'vocabulary.model').read_bytes() == ours


def test_a_vocabulary_of_more_pieces_is_refused(tmp_path):
  (tmp_path / 'c4.model').write_bytes(published_fnets.train_pieces())
  with pytest.raises(ValueError, match=r'has 90 pieces, .* 11 rows'):
    published_fnets.convert(WHOLE, tmp_path, vocabulary=tmp_path / 'c4.model')
  assert not (tmp_path / 'out').exists()


def test_errors_of_the_command_are_one_line(tmp_path, capsys, monkeypatch):
  for arguments, message in (
    (['no_file', str(tmp_path / 'out')], 'no such file: no_file'),
    (['x', 'y', '--step=-1'], '--step=-1'),
    ([str(tmp_path), 'y', '--to_hf'], 'holds no checkpoint_<step>'),
  ):
    with pytest.raises(SystemExit) as stop, command_line.one_line_errors():
      fnet_command.main(['fnet', *arguments])
    assert stop.value.code == 1
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith('error: ') and message in line


def test_safetensors_are_asked_for_where_missing(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'safetensors', None)
  (tmp_path / 'model.safetensors').write_bytes(b'')
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(ImportError, match=r'pip install .*convert'):
    fnet_conversion.from_published(tmp_path, tmp_path / 'out')


def test_pickles_are_not_read(tmp_path):
  (tmp_path / 'pytorch_model.bin').write_bytes(b'anything')
  with pytest.raises(ValueError, match=r'is a pickle, .* save it as safetens'):
    fnet_conversion.from_published(tmp_path, tmp_path / 'out')
