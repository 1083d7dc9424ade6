"""Conversion of Hugging Face's T5 and GPT-2: numbers, round trips, refusals."""

import json

import converted_models
import hugging_face_models
import jax.numpy as jnp
import numpy as np
import published_fnets
import pytest
import sentencepiece
import sentencepiece_vocabularies
from checkout import ROOT
from etils import epath
from golden import hugging_face as golden

from fnet_t5x import command_line
from fnet_t5x.convert import (
  checkpoint_leaves,
  hf,
  hf_conversion,
  scanned_layers,
)

safetensors = pytest.importorskip('safetensors.numpy')

T5, GPT2 = hugging_face_models.T5, hugging_face_models.GPT2
RECORDED = json.loads((ROOT / 'tests/golden/hugging_face.json').read_text())
QUERY = 'decoder.block.1.layer.0.SelfAttention.q.weight'
FUSED = 'transformer.h.1.attn.c_attn.weight'


def convert(folder, config, tensors=None, **options):
  tensors = hugging_face_models.tensors(config) if tensors is None else tensors
  hugging_face_models.write(folder / 'hf', tensors, config, **options)
  return hf_conversion.from_hugging_face(folder / 'hf', folder / 'out')


def relative_error(got, want):
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.fixture(scope='module', params=golden.CASES)
def converted(request, tmp_path_factory):
  """Name, network and parameters of a converted case."""
  folder = tmp_path_factory.mktemp('case')
  path = convert(folder, golden.CASES[request.param])
  return request.param, *converted_models.load(path)


def test_numbers_are_those_of_hugging_face(converted):
  """Logits within 1e-5; outputs, greedy and of beams, token for token."""
  name, module, params = converted
  config, want = golden.CASES[name], RECORDED[name]
  inputs, targets = golden.tokens(name)
  theirs, ours = np.arange(config['vocab_size']), config['eos_token_id']
  if name == 'gpt2':
    first = config['bos_token_id']
    theirs[[0, first]] = first, 0
    ours = 0
  logits = converted_models.logits(
    module, params, jnp.asarray(theirs[inputs]), jnp.asarray(targets)
  )
  logits = np.asarray(logits)[..., theirs]
  assert relative_error(logits, np.array(want['logits'])) < 1e-5
  # No token ends a text: the rule is the same in both.
  endless = config['vocab_size']
  searches = [
    ('greedy', None, ours),
    ('beam', golden.BEAMS, ours),
    ('endless_beam', golden.BEAMS, endless),
  ]
  if name == 'gpt2':
    # Here the rules differ: of the 8 best candidates of a step, ours (and
    # T5X's) lets all end, Hugging Face only the first 4, and it also counts
    # beams that are cut at the end as finished.
    del searches[1]
  for key, beams, eos in searches:
    got = converted_models.generate(
      module, params, theirs[inputs], golden.NEW_TOKENS, eos, beams
    )
    end = endless if eos == endless else config['eos_token_id']
    assert converted_models.until(theirs[got], end) == (
      converted_models.until(want[key], end)
    ), key


@pytest.mark.parametrize('name', golden.CASES)
def test_round_trips_are_bit_equal(name, tmp_path, capsys):
  """To a checkpoint and back, from a set of files, and once more."""
  config = golden.CASES[name]
  tensors = hugging_face_models.tensors(config)
  path = convert(tmp_path, config, shards=3)
  options = {'bos_token_id': 18} if name == 'gpt2' else {}
  hf_conversion.to_hugging_face(path, tmp_path / 'back', **options)
  back = safetensors.load_file(tmp_path / 'back/model.safetensors')
  assert back.keys() == tensors.keys()
  for key, value in tensors.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)
  written = json.loads((tmp_path / 'back/config.json').read_text())
  assert {key: written[key] for key in config} == config
  again = hf_conversion.from_hugging_face(
    tmp_path / 'back', tmp_path / 'again', step=5
  )
  assert again.name == 'checkpoint_5'
  first, second = map(converted_models.leaves, (path, again))
  assert second.pop('state/step') == 5 and first.pop('state/step') == 0
  assert first.keys() == second.keys()
  for key, value in first.items():
    np.testing.assert_array_equal(second[key], value, err_msg=key)
  assert f'used: {len(first)} tensors' in capsys.readouterr().out


def test_scanned_layers_are_unscanned(tmp_path):
  path = convert(tmp_path, T5)
  scanned = scanned_layers.to_scanned(converted_models.leaves(path)).leaves
  checkpoint_leaves.write(epath.Path(tmp_path / 'scanned'), 0, scanned)
  hf_conversion.to_hugging_face(tmp_path / 'scanned', tmp_path / 'back')
  back = safetensors.load_file(tmp_path / 'back/model.safetensors')
  for key, value in hugging_face_models.tensors(T5).items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)
  name = 'target/decoder/decoder/relpos_bias/rel_embedding'
  scanned[name] = scanned[name] + np.arange(2)[:, None].astype(np.float32)
  checkpoint_leaves.write(epath.Path(tmp_path / 'own'), 0, scanned)
  with pytest.raises(ValueError, match='its own position biases'):
    hf_conversion.to_hugging_face(tmp_path / 'own', tmp_path / 'none')
  assert not (tmp_path / 'none').exists()


def test_copies_and_buffers_of_older_files(tmp_path, capsys):
  tensors = hugging_face_models.tensors(T5)
  shared = tensors['shared.weight']
  unused = (
    'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'
  )
  old = {'encoder.embed_tokens.weight': shared, unused: np.ones((32, 2))}
  path = convert(tmp_path / 't5', T5, tensors | old)
  table = converted_models.leaves(path)['target/token_embedder/embedding']
  np.testing.assert_array_equal(table, shared)
  tensors = hugging_face_models.tensors(GPT2)
  old = {
    name.removeprefix('transformer.'): value for name, value in tensors.items()
  }
  old['h.0.attn.bias'] = np.ones((1, 1, 24, 24), np.uint8)
  old['lm_head.weight'] = old['wte.weight']
  path = convert(tmp_path / 'gpt2', GPT2, old)
  table = converted_models.leaves(path)['target/token_embedder/embedding']
  np.testing.assert_array_equal(table[0], old['wte.weight'][18])
  np.testing.assert_array_equal(table[18], old['wte.weight'][0])
  said = capsys.readouterr().out
  for name in (
    unused.replace('block.0', 'block.{0}'),
    'h.{0}.attn.bias',
    'lm_head.weight',
  ):
    assert f'  {name}' in said
  assert '--bos_token_id=18' in said


@pytest.mark.parametrize(
  ('config', 'divides'),
  [
    # As transformers 5 saves T5 1.1 that it has not untied.
    ({'tie_word_embeddings': True, 'scale_decoder_outputs': False}, False),
    ({'tie_word_embeddings': True, 'model_type': 'mt5'}, False),
    ({'tie_word_embeddings': True}, True),
  ],
)
def test_tied_output_layers(config, divides, tmp_path):
  """The division by sqrt(d_model) is that of our tied layer."""
  tensors = hugging_face_models.tensors(T5)
  del tensors['lm_head.weight']
  path = convert(tmp_path, T5 | config, tensors)
  found = converted_models.leaves(path)
  assert ('target/decoder/logits_dense/kernel' not in found) == divides
  text = (path.parent / 'model.gin').read_text()
  assert f'logits_via_embedding = {divides}' in text


@pytest.mark.parametrize(
  ('model', 'change', 'config', 'message'),
  [
    (T5, {}, {'model_type': 'bert'}, "'bert'; converted are t5, mt5, gpt2, fn"),
    (T5, {}, {'model_type': ['t5']}, 'model_type is'),
    (T5, {QUERY: None}, {}, f'lacks {QUERY}$'),
    (T5, {'lm_head.weight': None}, {}, 'lacks lm_head.weight'),
    (T5, {'shared.weight': None}, {}, 'lacks shared.weight'),
    (T5, {'more.weight': np.ones(2)}, {}, 'more.weight is unknown'),
    (T5, {QUERY: np.ones((8, 6))}, {}, rf'{QUERY} is \[8, 6\], not \[6, 8\]'),
    (T5, {QUERY: np.full((6, 8), np.nan)}, {}, f'{QUERY} holds NaN'),
    (T5, {QUERY: np.ones((6, 8), int)}, {}, f'{QUERY} is .* int64'),
    (T5, {}, {'num_layers': 10**12}, 'num_layers is 10.*, and 3 by the tensor'),
    (T5, {}, {'num_heads': '2'}, "num_heads is '2', not a positive"),
    (T5, {}, {'d_kv': None}, 'd_kv is missing'),
    (T5, {}, {'feed_forward_proj': 'gated-silu'}, "'gated-silu'; T5 1.1 has"),
    (T5, {}, {'tie_word_embeddings': True}, 'lm_head.weight differs from sha'),
    (T5, {}, {'relative_attention_num_buckets': 16}, 'buckets is 16; ours has'),
    (T5, {'decoder.embed_tokens.weight': np.ones((19, 8))}, {}, 'differs from'),
    (GPT2, {FUSED: None}, {}, f'lacks {FUSED.removeprefix("transformer.")}'),
    (GPT2, {FUSED: np.ones((24, 8))}, {}, r'c_attn.weight is \[24, 8\], not'),
    (GPT2, {'lm_head.weight': np.ones((19, 8))}, {}, 'differs from wte.weight'),
    (GPT2, {}, {'activation_function': 'relu'}, "'relu'; ours has 'gelu_new'"),
    (GPT2, {}, {'n_head': 3}, 'n_head 3 does not divide n_embd 8'),
    (GPT2, {}, {'n_embd': 'x'}, "n_embd is 'x'"),
    (GPT2, {}, {'bos_token_id': 50256}, '50256, and the vocabulary has 19 ids'),
  ],
)
def test_wrong_folders_are_one_line_and_nothing_is_written(
  model, change, config, message, tmp_path
):
  tensors = hugging_face_models.tensors(model) | change
  tensors = {n: np.asarray(x) for n, x in tensors.items() if x is not None}
  with pytest.raises(ValueError, match=message) as error:
    convert(tmp_path, model | config, tensors)
  assert '\n' not in str(error.value) and str(tmp_path) in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == ['hf']


def _index(change):
  def apply(folder):
    path = folder / 'model.safetensors.index.json'
    content = json.loads(path.read_text())
    change(content['weight_map'])
    path.write_text(json.dumps(content))

  return apply


def _truncate(folder):
  path = folder / 'model-00002-of-00002.safetensors'
  path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda f: (f / 'config.json').unlink(), 'has no config.json'),
    (lambda f: (f / 'config.json').write_text('{'), 'is not JSON'),
    (lambda f: (f / 'config.json').write_text('[]'), 'is not a JSON object'),
    (_index(lambda m: m.update({QUERY: '../x.safetensors'})), "in '../x.safe"),
    (_index(lambda m: m.update({QUERY: '/x.safetensors'})), "in '/x.safetens"),
    (_index(lambda m: m.update({QUERY: 'x.bin'})), "in 'x.bin', which is no"),
    (_index(lambda m: m.update({QUERY: 7})), 'in 7, which is no'),
    (_index(lambda m: m.update({QUERY: 'x.safetensors'})), 'lacks x.safetenso'),
    (_index(lambda m: m.pop(QUERY)), f'has {QUERY}, contrary to'),
    (
      _index(lambda m: m.update({'z': m[QUERY]})),
      'lacks z, contrary to model.safetensors.index.json',
    ),
    (_index(lambda m: m.clear()), "has no 'weight_map'"),
    (_truncate, 'is not a safetensors file, or is truncated'),
  ],
)
def test_damaged_sets_of_files_are_one_line_and_nothing_is_written(
  damage, message, tmp_path, capsys
):
  tensors = hugging_face_models.tensors(T5)
  hugging_face_models.write(tmp_path / 'hf', tensors, T5, shards=2)
  damage(tmp_path / 'hf')
  with pytest.raises((ValueError, OSError), match=message) as error:
    hf_conversion.from_hugging_face(tmp_path / 'hf', tmp_path / 'out')
  assert '\n' not in str(error.value) and str(tmp_path) in str(error.value)
  assert [p.name for p in tmp_path.iterdir()] == ['hf']


def test_pickles_are_refused_with_a_remedy(tmp_path, capsys):
  (tmp_path / 'hf').mkdir()
  (tmp_path / 'hf/config.json').write_text(json.dumps(T5))
  (tmp_path / 'hf/pytorch_model.bin').write_bytes(b'anything')
  arguments = ['hf', '--from', str(tmp_path / 'hf'), str(tmp_path / 'out')]
  with pytest.raises(SystemExit) as stop, command_line.one_line_errors():
    hf.main(arguments)
  assert stop.value.code == 1
  line = capsys.readouterr().err.splitlines()[0]
  assert 'is a pickle' in line and 'save_pretrained' in line
  assert not (tmp_path / 'out').exists()


def test_errors_of_the_command_are_one_line(tmp_path, capsys):
  hugging_face_models.write(
    tmp_path / 'hf', hugging_face_models.tensors(GPT2), GPT2
  )
  out = str(tmp_path / 'out')
  hf.main(['hf', '--from', str(tmp_path / 'hf'), out])
  (tmp_path / 'out/model.gin').unlink()
  no, none = str(tmp_path / 'no'), str(tmp_path / 'none')
  for arguments, code, message in (
    (['--from', no, none], 1, 'no such folder'),
    (['--from', str(tmp_path / 'hf'), out], 1, 'out exists'),
    (['--to', str(tmp_path / 'hf'), none], 1, 'holds no checkpoint_<step>'),
    (['--to', out, none], 1, 'give --num_heads'),
    (['--to', out, none, '--num_heads=3'], 1, '3 heads do not divide'),
    (['--to', out, none, '--num_heads=2', '--bos_token_id=19'], 1, 'has 19 id'),
    (['--from', 'x', 'y', '--step=-1'], 1, '--step=-1'),
    (['--from', 'x', 'y', '--to', 'x', 'y'], 2, 'give --from FOLDER OUT'),
    ([], 2, 'give --from FOLDER OUT'),
  ):
    with pytest.raises(SystemExit) as stop, command_line.one_line_errors():
      hf.main(['hf', *arguments])
    assert stop.value.code == code, arguments
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith('error: ') and message in line
  assert not (tmp_path / 'none').exists()
  hf.main(['hf', '--to', out, none, '--num_heads=2', '--bos_token_id=18'])
  assert json.loads((tmp_path / 'none/config.json').read_text())['n_head'] == 2


def test_vocabularies_go_along(tmp_path):
  """T5's with its sentinels; GPT-2's is not ours."""
  sentencepiece_vocabularies.train(tmp_path)
  pieces = tmp_path / 'pieces.model'
  count = len(sentencepiece.SentencePieceProcessor(model_file=str(pieces)))
  config = T5 | {'vocab_size': count + 100}
  tensors = hugging_face_models.tensors(config)
  hugging_face_models.write(tmp_path / 'hf', tensors, config)
  (tmp_path / 'hf/spiece.model').write_bytes(pieces.read_bytes())
  path = hf_conversion.from_hugging_face(tmp_path / 'hf', tmp_path / 'out')
  kept = path.parent / 'vocabulary.model'
  assert kept.read_bytes() == pieces.read_bytes()
  text = (path.parent / 'model.gin').read_text()
  assert f'VOCABULARY_FILE = {str(kept)!r}' in text
  assert 'default_vocabulary.extra_ids = 100' in text
  hf_conversion.to_hugging_face(path, tmp_path / 'back')
  back = tmp_path / 'back'
  assert (back / 'spiece.model').read_bytes() == pieces.read_bytes()
  written = json.loads((back / 'tokenizer_config.json').read_text())
  assert written['extra_ids'] == 100
  hugging_face_models.write(
    tmp_path / 'gpt2', hugging_face_models.tensors(GPT2), GPT2
  )
  for folder, file, message in (
    (tmp_path / 'gpt2', pieces, 'GPT-2 was trained with another vocabulary'),
    (tmp_path / 'hf', path.parent / 'model.gin', 'not a SentencePiece model'),
  ):
    with pytest.raises(ValueError, match=message):
      hf_conversion.from_hugging_face(folder, tmp_path / 'none', file)
  with pytest.raises(
    ValueError, match=rf'has {count} pieces, the embedding 19'
  ):
    hugging_face_models.write(
      tmp_path / 'small', hugging_face_models.tensors(T5), T5
    )
    hf_conversion.from_hugging_face(
      tmp_path / 'small', tmp_path / 'none', pieces
    )
  assert not (tmp_path / 'none').exists()


def test_vocabularies_with_other_ids_are_refused(tmp_path):
  (tmp_path / 'c4.model').write_bytes(published_fnets.train_pieces())
  path = convert(tmp_path, T5 | {'vocab_size': 128})
  with pytest.raises(ValueError, match=r'= \(3, 2, 0\), T5 has \(0, 1, 2\)'):
    hf_conversion.to_hugging_face(
      path, tmp_path / 'none', tmp_path / 'c4.model'
    )
  assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (
      {
        'encoder/layers_0/mixing/kernel': (2, 2),
        'decoder/layers_0/self_attention/query/kernel': (8, 6),
        'decoder/layers_0/mlp/wi_0/kernel': (8, 8),
        'decoder/relpos_bias/rel_embedding': (2, 32),
        'token_embedder/embedding': (9, 8),
      },
      r"no attention in the layers \[0\]: it is a hybrid's",
    ),
    (
      {
        'encoder/layers_0/attention/query/kernel': (8, 6),
        'decoder/layers_0/toeplitz/embed_mixing/kernel': (8, 8),
      },
      r'its decoder has no attention in the layers \[0\]',
    ),
    (
      {
        'decoder/layers_0/self_attention/query/kernel': (8, 8),
        'decoder/layers_1/mixing_scale/scale': (8,),
        'token_embedder/embedding': (9, 8),
      },
      r'it has no attention in the layers \[1\]: it has other mixings',
    ),
    ({'kernel': (2, 2)}, 'its parameters are not those of'),
    ({'decoder/layers_0/mlp/wi/kernel': (8, 8)}, 'lacks token_embedder/embed'),
  ],
)
def test_other_checkpoints_are_refused(names, message, tmp_path):
  leaves = {f'target/{n}': np.ones(s, np.float32) for n, s in names.items()}
  leaves['state/step'] = np.asarray(0, np.int32)
  checkpoint_leaves.write(epath.Path(tmp_path / 'run'), 0, leaves)
  with pytest.raises(ValueError, match=message) as error:
    hf_conversion.to_hugging_face(tmp_path / 'run', tmp_path / 'out')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'out').exists()


def test_fnet_goes_through_the_same_command(tmp_path):
  arrays = published_fnets.leaves(('fourier',), e=6)
  published_fnets.write_hugging_face(
    tmp_path / 'hf', published_fnets.hugging_face(arrays, 1)
  )
  hf.main(['hf', '--from', str(tmp_path / 'hf'), str(tmp_path / 'out')])
  path = tmp_path / 'out/checkpoint_0'
  published_fnets.assert_converted(path, arrays)
  hf.main(['hf', '--to', str(path), str(tmp_path / 'back')])
  config = json.loads((tmp_path / 'back/config.json').read_text())
  assert config['model_type'] == 'fnet'
