"""Conversion from and to Hugging Face's FNet."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import published_fnets
import pytest
from flax.traverse_util import unflatten_dict

from fnet_t5x.convert import fnet_conversion
from fnet_t5x.networks import fnet

safetensors = pytest.importorskip('safetensors.numpy')

LAYERS = 2
ARRAYS = published_fnets.leaves(('fourier',) * LAYERS, e=6)
TENSORS = published_fnets.hugging_face(ARRAYS, LAYERS)
WORD = 'fnet.embeddings.word_embeddings.weight'
DENSE = 'fnet.encoder.layer.1.output.dense.weight'


def convert(folder, tensors=TENSORS, **config):
  published_fnets.write_hugging_face(folder / 'hf', tensors, **config)
  return fnet_conversion.from_published(folder / 'hf', folder / 'out')


def test_tensors_are_ours_and_ours_are_the_tensors(tmp_path, capsys):
  """Copies and buffers of older files are dropped, and reported."""
  old = {
    'fnet.embeddings.position_ids': np.arange(10)[None],
    'cls.predictions.decoder.weight': TENSORS[WORD],
    'cls.predictions.decoder.bias': TENSORS['cls.predictions.bias'],
  }
  path = convert(tmp_path, TENSORS | old, hidden_size=6, num_hidden_layers=2)
  published_fnets.assert_converted(path, ARRAYS)
  said = capsys.readouterr().out
  assert 'used: 32 tensors' in said
  for name in old:
    assert f'  {name}\n' in said
  fnet_conversion.to_hugging_face(path, tmp_path / 'back')
  back = safetensors.load_file(tmp_path / 'back/model.safetensors')
  assert back.keys() == TENSORS.keys()
  for name, value in TENSORS.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)
  config = json.loads((tmp_path / 'back/config.json').read_text())
  assert config['intermediate_size'] == 8
  assert config['max_position_embeddings'] == 10
  assert config['vocab_size'] == 11 and config['pad_token_id'] == 3


def test_half_precision_becomes_float32(tmp_path):
  half = {name: x.astype(jnp.bfloat16) for name, x in TENSORS.items()}
  rounded = {
    name: x.astype(jnp.bfloat16).astype(np.float32)
    for name, x in ARRAYS.items()
  }
  published_fnets.assert_converted(convert(tmp_path, half), rounded)


@pytest.mark.parametrize(
  ('change', 'config', 'message'),
  [
    ({WORD: None}, {}, f'lacks {WORD}'),
    ({DENSE: None}, {}, f'lacks {DENSE}'),
    ({'classifier.weight': TENSORS[WORD]}, {}, 'classifier.weight is unknown'),
    ({DENSE: TENSORS[DENSE].T.copy()}, {}, r'output/kernel is \[6, 8\], not'),
    ({DENSE: TENSORS[DENSE] * np.nan}, {}, 'output/kernel holds NaN'),
    ({DENSE: TENSORS[DENSE].astype(int)}, {}, f'{DENSE} is .* int64'),
    (
      {'cls.predictions.decoder.weight': TENSORS[WORD] + 1},
      {},
      'decoder.weight differs from fnet.embeddings',
    ),
    ({}, {'hidden_size': 12}, 'hidden_size is 12, and 6 by the tensors'),
    ({}, {'hidden_act': 'gelu'}, "hidden_act is 'gelu'; .*'gelu_new'"),
    ({}, {'pad_token_id': 0}, 'pad_token_id is 0; .* 3'),
    ({}, {'model_type': 'bert'}, "model_type is 'bert'"),
  ],
)
def test_wrong_folders_are_one_line_and_nothing_is_written(
  change, config, message, tmp_path
):
  tensors = {n: x for n, x in (TENSORS | change).items() if x is not None}
  with pytest.raises(ValueError, match=message) as error:
    convert(tmp_path, tensors, **config)
  assert '\n' not in str(error.value) and str(tmp_path) in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == ['hf']


def test_truncated_weights(tmp_path):
  published_fnets.write_hugging_face(tmp_path / 'hf', TENSORS)
  weights = tmp_path / 'hf/model.safetensors'
  content = weights.read_bytes()
  for size in (0, 7, 100, len(content) - 1):
    weights.write_bytes(content[:size])
    with pytest.raises(ValueError, match=r'\.safetensors .*truncated'):
      fnet_conversion.from_published(tmp_path / 'hf', tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    (published_fnets.leaves(('linear',), e=6), 'only Fourier layers.* linear'),
    (published_fnets.leaves(('fourier',)), 'embeddings of 4 and layers of 6'),
  ],
)
def test_what_hugging_face_lacks_is_refused(arrays, message, tmp_path):
  path = published_fnets.convert(published_fnets.msgpack(arrays), tmp_path)
  with pytest.raises(ValueError, match=message):
    fnet_conversion.to_hugging_face(path, tmp_path / 'hf')
  assert not (tmp_path / 'hf').exists()


@pytest.mark.slow
def test_logits_are_those_of_transformers(tmp_path):
  """In both directions, at the full length and below."""
  transformers = pytest.importorskip('transformers')
  torch = pytest.importorskip('torch')
  torch.manual_seed(0)
  sizes = transformers.FNetConfig(
    vocab_size=40,
    hidden_size=24,
    num_hidden_layers=2,
    intermediate_size=48,
    max_position_embeddings=16,
    initializer_range=0.2,
  )
  theirs = transformers.FNetForPreTraining(sizes).eval()
  # Biases and norms are constants at first.
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  theirs.save_pretrained(tmp_path / 'hf')
  path = fnet_conversion.from_published(tmp_path / 'hf', tmp_path / 'ours')
  found = published_fnets.read(path)
  params = {
    name.removeprefix('target/'): jnp.asarray(x)
    for name, x in found.items()
    if name.startswith('target/')
  }
  network = fnet.FNet(
    fnet.FNetConfig(
      vocab_size=40, emb_dim=24, num_layers=2, mlp_dim=48, max_length=16
    )
  )
  variables = {'params': unflatten_dict(params, sep='/')}

  @jax.jit
  def logits(tokens, types):
    def both(module, tokens, types):
      hidden = module.encode(tokens, types, enable_dropout=False)
      return module.mlm_logits(hidden), module.pair_logits(module.pool(hidden))

    return network.apply(variables, tokens, types, method=both)

  random = np.random.default_rng(0)
  other = transformers.FNetForPreTraining
  for length in (16, 9):
    ids = random.integers(0, 40, (3, length))
    ids[0, length // 2 :] = 3  # Their padding.
    types = random.integers(0, 4, ids.shape)
    ours = np.where(ids == 3, 0, np.where(ids == 0, 3, ids))
    mlm, pair = map(np.array, logits(ours, types))
    mlm[..., [0, 3]] = mlm[..., [3, 0]]
    inputs = {
      'input_ids': torch.tensor(ids),
      'token_type_ids': torch.tensor(types),
    }
    with torch.no_grad():
      want = theirs(**inputs)
    for got, value in (
      (mlm, want.prediction_logits),
      (pair, want.seq_relationship_logits),
    ):
      error = np.abs(got - value.numpy()).max() / np.abs(value.numpy()).max()
      assert error < 1e-5
  back = fnet_conversion.to_hugging_face(path, tmp_path / 'back')
  assert isinstance(back, pathlib.Path)
  again, loaded = other.from_pretrained(back, output_loading_info=True)
  assert not any(loaded.values()), loaded
  with torch.no_grad():
    same = again.eval()(**inputs)
  assert torch.equal(same.prediction_logits, want.prediction_logits)
  assert torch.equal(same.seq_relationship_logits, want.seq_relationship_logits)
