"""Hybrids as Hugging Face folders, against what torch computed of them.

`hybrid_live_test.py` runs torch itself, where it is installed.
"""

import ast
import json
import shutil

import hybrid_folders
import ml_dtypes
import numpy as np
import pytest
import sentencepiece_vocabularies
from checkout import ROOT
from etils import epath

from fnet_t5x import command_line
from fnet_t5x.convert import (
  checkpoint_leaves,
  hybrid_conversion,
  scanned_layers,
)

safetensors = pytest.importorskip('safetensors.numpy')

GOLDEN = json.loads((ROOT / 'tests/golden/hybrid_torch.json').read_text())
CODE = sorted((ROOT / 'fnet_t5x/convert/hybrid_torch').glob('*.py'))
CASE = 'hybrid'


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """A hybrid's model directory, `run`, and the folder `out` made from it."""
  folder = tmp_path_factory.mktemp('hybrid')
  hybrid_folders.write(folder / 'run', *hybrid_folders.CASES[CASE])
  rows = [
    {'step': 4, 'collection': 'train', 'loss': 3.25},
    {
      'step': 5,
      'collection': 'training_eval/a_task',
      'cross_ent_per_target_token': 3.5,
    },
    {'step': 6, 'collection': 'train', 'loss': 1.0},
  ]
  (folder / 'run/metrics.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  hybrid_conversion.to_hugging_face(folder / 'run', folder / 'out')
  return folder


def one_line(error) -> str:
  assert isinstance(error.value, command_line.INPUT_ERRORS)
  line = command_line.one_line(error.value)
  assert '\n' not in line
  return line


@pytest.mark.slow
@pytest.mark.parametrize('case', hybrid_folders.CASES)
def test_torch_computes_the_same(case, tmp_path):
  """Logits within 1e-5 where decoder inputs are real, tokens one by one."""
  model, params = hybrid_folders.write(tmp_path, *hybrid_folders.CASES[case])
  ours = hybrid_folders.outputs(model, params)
  want = np.array(GOLDEN[case]['logits'])
  logits = ours['logits'][..., : hybrid_folders.RECORDED]
  assert np.abs(logits - want).max() < 1e-5 * np.abs(want).max()
  assert ours['greedy'] == GOLDEN[case]['greedy']
  assert ours['beam'] == GOLDEN[case]['beam']


@pytest.mark.parametrize('case', hybrid_folders.CASES)
def test_folder_is_the_recorded_one_and_comes_back(case, tmp_path):
  """Bit-equal, in the layout of unscanned layers."""
  hybrid_folders.write(tmp_path / 'run', *hybrid_folders.CASES[case])
  out = tmp_path / 'out'
  hybrid_conversion.to_hugging_face(tmp_path / 'run', out)
  found = hybrid_folders.content(out)
  assert found == {name: GOLDEN[case][name] for name in found}
  back = hybrid_conversion.from_hugging_face(out, tmp_path / 'back', 5)
  want = hybrid_folders.leaves(tmp_path / 'run/checkpoint_5')
  if case == 'own_biases':
    want = scanned_layers.to_unscanned(want).leaves
  leaves = hybrid_folders.leaves(back)
  assert leaves.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(leaves[name], value, err_msg=name)
  # Its gin file is the model's: the same folder again.
  gin_file = (tmp_path / 'back/model.gin').read_text()
  lines = [line for line in gin_file.splitlines() if ' = ' in line]
  hybrid_folders.write(tmp_path / 'again', *lines)
  hybrid_conversion.to_hugging_face(tmp_path / 'again', tmp_path / 'out2')
  again = hybrid_folders.content(tmp_path / 'out2')
  assert again['config'] == found['config']
  assert again['shapes'] == found['shapes']


def test_code_is_small_and_of_its_own():
  assert [path.name for path in CODE] == [
    'configuration_fnet_t5.py',
    'modeling_fnet_t5.py',
    'tokenization_fnet_t5.py',
  ]
  for path in CODE:
    text = path.read_text()
    assert text.startswith('# Licensed under the Apache License')
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
      names = [alias.name for alias in getattr(node, 'names', ())]
      names.append(getattr(node, 'module', None) or '')
      assert not any(str(name).startswith('fnet_t5x') for name in names)


def test_texts_are_as_long_as_targets(exported):
  config = json.loads((exported / 'out/generation_config.json').read_text())
  assert config == {
    'decoder_start_token_id': 0,
    'eos_token_id': 1,
    'max_length': 8 + 1,
    'pad_token_id': 0,
  }


def test_card_says_what_the_folder_says(exported):
  card = (exported / 'out/README.md').read_text()
  values = {
    name.strip().strip('`'): value.strip()
    for _, name, value, _ in (
      line.split('|') for line in card.splitlines() if line.startswith('| ')
    )
  }
  tensors = safetensors.load_file(exported / 'out/model.safetensors')
  total = sum(x.size for x in tensors.values())
  assert values['parameters'] == f'{total:,}'
  assert values['encoder layers'] == '4: 2 fourier, 2 attention'
  assert values['step'] == '5'
  assert values['MIXTURE_OR_TASK_NAME'] == "`'a_task'`"
  # Not the loss of a later step.
  assert values['training loss'] == '3.2500 at step 4'
  assert values['validation loss of a_task'] == '3.5000 at step 5'
  assert str(ROOT) not in card and str(exported) not in card
  assert 'python -m fnet_t5x.convert.hybrid --from' in card


def test_vocabulary_goes_out_with_its_sentinels_and_comes_back(tmp_path):
  vocabulary = sentencepiece_vocabularies.train(tmp_path, keeps_blanks=True)
  pieces = (tmp_path / 'pieces.model').read_bytes()
  run = tmp_path / 'run'
  hybrid_folders.write_with_pieces(run, tmp_path / 'pieces.model', 4)
  out = hybrid_conversion.to_hugging_face(run, tmp_path / 'out')
  assert (out / 'spiece.model').read_bytes() == vocabulary.sp_model
  assert (out / 'tokenization_fnet_t5.py').exists()
  hybrid_conversion.from_hugging_face(out, tmp_path / 'back')
  assert (tmp_path / 'back/vocabulary.model').read_bytes() == pieces
  assert 'extra_ids = 4' in (tmp_path / 'back/model.gin').read_text()
  # Fewer rows than pieces.
  (tmp_path / 'run/config.gin').write_text(
    (tmp_path / 'run/config.gin').read_text().replace('= 512', '= 264')
  )
  with pytest.raises(ValueError, match='ids, and the embedding 264 rows') as e:
    hybrid_conversion.to_hugging_face(run, tmp_path / 'small')
  one_line(e)
  for name, content, message in (
    ('spiece.model', b'no model', 'spiece.model is not a SentencePiece model'),
    ('spiece.model', pieces, 'does not end with the 4 sentinels'),
  ):
    (out / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as e:
      hybrid_conversion.from_hugging_face(out, tmp_path / 'other')
    one_line(e)
  assert not (tmp_path / 'small').exists()
  assert not (tmp_path / 'other').exists()


def test_other_networks_and_folders_are_refused(exported, tmp_path):
  hybrid_folders.write(tmp_path / 't5', model='t5')
  (tmp_path / 'empty').mkdir()
  bare = tmp_path / 'bare'
  shutil.copytree(exported / 'run', bare)
  (bare / 'config.gin').unlink()
  for source, message in (
    (tmp_path / 't5', 'its network is t5.Transformer'),
    (tmp_path / 'empty', 'holds no config.gin'),
    (bare, 'holds no config.gin'),
    (tmp_path / 'none', 'no such folder'),
  ):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as e:
      hybrid_conversion.to_hugging_face(source, tmp_path / 'out')
    one_line(e)
  assert not (tmp_path / 'out').exists()
  with pytest.raises(FileExistsError):
    hybrid_conversion.to_hugging_face(exported / 'run', exported / 'out')


def test_mixings_that_the_exported_code_lacks_are_refused(tmp_path):
  for mixing in ('toeplitz', 'hartley', 'fourier_gated'):
    run = tmp_path / mixing
    line = f"ENCODER_MIXING = ('linear', '{mixing}', 'fourier', 'none')"
    hybrid_folders.write(run, line)
    with pytest.raises(ValueError, match=f"encoder_mixing has '{mixing}'") as e:
      hybrid_conversion.to_hugging_face(run, tmp_path / 'out')
    one_line(e)
  run = tmp_path / 'decoder'
  hybrid_folders.write(run, "DECODER_NON_ATTENTION_MIXING = 'fourier'")
  with pytest.raises(ValueError, match="decoder_mixing has 'fourier'") as e:
    hybrid_conversion.to_hugging_face(run, tmp_path / 'out')
  one_line(e)
  assert not (tmp_path / 'out').exists()


def test_layers_with_other_activations_are_refused(tmp_path):
  line = "fnet_t5.FNetT5Config.mlp_activations = ('gelu',)"
  hybrid_folders.write(tmp_path / 'run', line)
  with pytest.raises(ValueError, match='mlp_activations') as e:
    hybrid_conversion.to_hugging_face(tmp_path / 'run', tmp_path / 'out')
  one_line(e)
  assert not (tmp_path / 'out').exists()


def test_several_files_are_read(exported, tmp_path):
  """As transformers saves large models: the same checkpoint."""
  folder = tmp_path / 'folder'
  shutil.copytree(exported / 'out', folder)
  tensors = safetensors.load_file(folder / 'model.safetensors')
  (folder / 'model.safetensors').unlink()
  files = {name: f'{i % 2}.safetensors' for i, name in enumerate(tensors)}
  for file in set(files.values()):
    part = {name: x for name, x in tensors.items() if files[name] == file}
    safetensors.save_file(part, folder / file)
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': files}))
  back = hybrid_conversion.from_hugging_face(folder, tmp_path / 'back', 5)
  want = hybrid_folders.leaves(exported / 'run/checkpoint_5')
  leaves = hybrid_folders.leaves(back)
  assert leaves.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(leaves[name], value, err_msg=name)
  (folder / '1.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match=r'lacks 1\.safetensors') as e:
    hybrid_conversion.from_hugging_face(folder, tmp_path / 'back2')
  one_line(e)


def test_checkpoints_in_bfloat16_go_out_in_float32(exported, tmp_path):
  """Of runs with `SaveCheckpointConfig.dtype = 'bfloat16'`."""
  run = tmp_path / 'run'
  run.mkdir()
  shutil.copy(exported / 'run/config.gin', run)
  leaves = {
    name: x.astype(ml_dtypes.bfloat16) if name.startswith('target/') else x
    for name, x in hybrid_folders.leaves(exported / 'run/checkpoint_5').items()
  }
  checkpoint_leaves.write(epath.Path(run), 5, leaves)
  out = hybrid_conversion.to_hugging_face(run, tmp_path / 'out')
  found = safetensors.load_file(out / 'model.safetensors')['shared.weight']
  want = leaves['target/token_embedder/embedding']
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, want.astype(np.float32))


QUERY = 'encoder.layers.2.mixing.q.weight'


def changed_tensor(change):
  def damage(folder):
    tensors = safetensors.load_file(folder / 'model.safetensors')
    change(tensors)
    safetensors.save_file(tensors, folder / 'model.safetensors')

  return damage


def changed_config(**values):
  def damage(folder):
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(config | values))

  return damage


def as_pickle(folder):
  (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')


def truncated(folder):
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda f: (f / 'config.json').unlink(), 'has no config.json'),
    (lambda f: (f / 'config.json').write_text('{'), 'is not JSON'),
    (lambda f: (f / 'config.json').write_text('[]'), 'is not a JSON object'),
    (changed_config(model_type='t5'), "model_type is 't5'"),
    (changed_config(layer_norm_epsilon=1e-5), 'layer_norm_epsilon is 1e-05'),
    (changed_config(fourier_scale='both'), "fourier_scale is 'both'"),
    (changed_config(d_model='24'), "d_model is '24', not a size"),
    (changed_config(extra_ids='4'), "extra_ids is '4', not a number"),
    (changed_config(extra_ids=-1), 'extra_ids is -1, not a number'),
    (changed_config(extra_ids=10**12), 'extra_ids is 1000000000000, not'),
    (changed_config(encoder_mixing=['fourier']), 'names 1 layers'),
    (changed_config(encoder_mixing=['random'] * 4), 'encoder_mixing is'),
    (changed_config(feed_forward_proj='gelu'), "feed_forward_proj is 'gelu'"),
    (changed_tensor(lambda t: t.pop(QUERY)), f'it lacks {QUERY}'),
    (
      changed_tensor(lambda t: t.update({QUERY: t[QUERY].T})),
      rf'{QUERY} is \[24, 18\], not \[18, 24\]',
    ),
    (
      changed_tensor(lambda t: t.update(other=t[QUERY])),
      'other is unknown',
    ),
    (
      changed_tensor(lambda t: t.update({QUERY: t[QUERY] * np.nan})),
      f'{QUERY} holds NaN',
    ),
    (
      changed_tensor(lambda t: t.update({QUERY: t[QUERY].astype(int)})),
      f'{QUERY} is an array of int64',
    ),
    (
      changed_tensor(
        lambda t: t.update(
          {'decoder.embed_tokens.weight': t['shared.weight'] + 1}
        )
      ),
      'decoder.embed_tokens.weight differs from shared.weight',
    ),
    (as_pickle, 'is a pickle, which may run code'),
    (truncated, 'is not a safetensors file, or is truncated'),
  ],
)
def test_damaged_folders_are_one_line_and_nothing_is_written(
  damage, message, exported, tmp_path
):
  folder = tmp_path / 'folder'
  shutil.copytree(exported / 'out', folder)
  damage(folder)
  with pytest.raises((ValueError, FileNotFoundError), match=message) as e:
    hybrid_conversion.from_hugging_face(folder, tmp_path / 'back')
  one_line(e)
  assert [path.name for path in tmp_path.iterdir()] == ['folder']
