"""Exported models: loaded where this package is not, they generate the same."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import flax.core
import gin
import hybrid_folders
import jax
import jax.export
import numpy as np
import pytest
import sentencepiece_vocabularies
import tensorflow as tf
from checkout import ROOT
from flax.traverse_util import flatten_dict, unflatten_dict

from fnet_t5x import command_line, encoder_models, export
from fnet_t5x.runtime import loaded_model, text_generation
from fnet_t5x.runtime.generation_options import GenerationOptions
from fnet_t5x.serving import folder as serving_folder
from fnet_t5x.serving import programs

# Whole words, an opening bracket, a space at the end, another script.
PROMPTS = ['my fellow', 'we must (', 'help ', '国', 'the state: "']
# (JAX's compilation cache imports TensorFlow.)
_ELSEWHERE = """
import importlib.abc, json, pathlib, sys

class Absent(importlib.abc.MetaPathFinder):
  def find_spec(self, name, *_):
    if name.partition('.')[0] in ('fnet_t5x', 'flax', 'seqio', 'gin'):
      raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
found, parent = {}, pathlib.Path(sys.argv[1])
for name, calls in json.loads(sys.argv[2]).items():
  sys.path.insert(0, str(parent / name))
  sys.modules.pop('loader', None)
  import loader
  assert loader.__file__.startswith(str(parent / name))
  model = loader.Model(parent / name)
  found[name] = []
  for method, arguments in calls:
    out = getattr(model, method)(**arguments)
    if method == 'run':
      out = {key: value.tolist() for key, value in out.items()}
    elif method == 'predict':
      out = [out[0], out[1].tolist()]
    elif method == 'score':
      out = out.tolist()
    found[name].append(out)
assert 'fnet_t5x' not in sys.modules and 'flax' not in sys.modules
print(json.dumps(found))
"""
SHARED = 24


def load(folder) -> loaded_model.LoadedModel:
  gin.clear_config()
  try:
    return loaded_model.load(str(folder))
  finally:
    gin.clear_config()


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """A hybrid with pieces, and a T5 and GPT-2s of bytes, by name."""
  parent = tmp_path_factory.mktemp('runs')
  vocabulary = sentencepiece_vocabularies.train(parent)
  hybrid_folders.write_with_pieces(
    parent / 'hybrid', parent / 'pieces.model', vocabulary.extra_ids
  )
  hybrid_folders.write(parent / 't5', 'SCAN_LAYERS = True', model='t5')
  length = f'MAX_LENGTH = {SHARED}'
  hybrid_folders.write(
    parent / 'gpt2',
    f"TASK_FEATURE_LENGTHS = {{'targets': {SHARED}}}",
    length,
    "DECODER_MIXING = ('attention', 'toeplitz')",
    model='gpt2',
  )
  hybrid_folders.write(
    parent / 'prefix',
    "TASK_FEATURE_LENGTHS = {'inputs': 12, 'targets': 8}",
    length,
    'PREFIX_ATTENTION = True',
    model='gpt2',
  )
  return {
    name: load(parent / name) for name in ('hybrid', 't5', 'gpt2', 'prefix')
  }


EXPORTS = {
  'hybrid': {
    'modes': ['generate', 'predict', 'score'],
    'options': GenerationOptions(temperature=0.9, top_k=20),
  },
  't5': {'options': GenerationOptions(num_beams=3, no_repeat_ngram_size=2)},
  'gpt2': {
    'modes': ['generate', 'score'],
    'options': GenerationOptions(temperature=0.0, max_tokens=9),
    'batch_size': 2,
  },
  'prefix': {'modes': ['score']},
}
BYTES = ['ab', 'abc de', 'x']
TARGETS = ['ab', 'bca', 'd']


@pytest.fixture(scope='module')
def elsewhere(runs, tmp_path_factory):
  """Outputs of the exported models in a process without this package."""
  parent = tmp_path_factory.mktemp('exported')
  for name, settings in EXPORTS.items():
    serving_folder.write(
      runs[name], parent / name, platforms=['cpu'], **settings
    )
  texts = {'inputs': BYTES, 'targets': TARGETS}
  pieces = {'inputs': PROMPTS[:3], 'targets': ['we', 'the', '国']}
  calls = {
    'hybrid': [
      ['generate', {'prompts': PROMPTS, 'seed': 3_000_000_000}],
      ['generate', {'prompts': PROMPTS[:1], 'seed': 1, 'sample': 1}],
      ['predict', {'inputs': PROMPTS}],
      ['score', pieces],
    ],
    't5': [['generate', {'prompts': BYTES}]],
    'gpt2': [
      ['generate', {'prompts': BYTES}],
      ['score', {'targets': TARGETS}],
    ],
    'prefix': [['score', texts]],
  }
  done = subprocess.run(
    [sys.executable, '-I', '-c', _ELSEWHERE, str(parent), json.dumps(calls)],
    cwd=parent,
    capture_output=True,
    text=True,
    check=False,
  )
  assert not done.returncode, done.stderr
  return json.loads(done.stdout), parent


def generator(loaded) -> text_generation.TextGenerator:
  return text_generation.TextGenerator(loaded)


@pytest.mark.slow
def test_samples_are_those_of_generate(runs, elsewhere):
  here = generator(runs['hybrid'])
  options = {'temperature': 0.9, 'top_k': 20}
  texts, samples = elsewhere[0]['hybrid'][:2]
  assert texts == here.generate(PROMPTS, seed=3_000_000_000, **options)
  both = here.generate(PROMPTS[0], num_samples=2, seed=1, **options)
  assert samples == both[1:]
  assert len(set(texts)) == len(texts)


@pytest.mark.slow
def test_beams_are_those_of_generate(runs, elsewhere):
  here = generator(runs['t5'])
  (texts,) = elsewhere[0]['t5']
  assert texts == here.generate(BYTES, num_beams=3, no_repeat_ngram_size=2)


@pytest.mark.slow
def test_decoders_share_their_length_with_the_prompt(runs, elsewhere):
  """Three prompts in batches of two: the last is filled up."""
  here = generator(runs['gpt2'])
  texts, _ = elsewhere[0]['gpt2']
  assert texts == here.generate(BYTES, temperature=0, max_tokens=9)
  about = json.loads((elsewhere[1] / 'gpt2/export.json').read_text())
  (tokens,) = about['programs']['generate']['inputs']
  assert tokens['shape'] == [2, SHARED - 9]


@pytest.mark.slow
def test_predictions_are_those_of_the_model(runs, elsewhere):
  loaded = runs['hybrid']
  texts, scores = elsewhere[0]['hybrid'][2]
  batch = features(loaded, PROMPTS, [''] * len(PROMPTS))
  tokens, aux = jax.jit(loaded.model.predict_batch_with_aux)(
    loaded.params, batch
  )
  vocabulary = loaded.model.output_vocabulary
  ended = hybrid_folders.until_eos(np.asarray(tokens))
  assert texts == [vocabulary.decode(row) for row in ended]
  np.testing.assert_allclose(scores, aux['scores'], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['hybrid', 'gpt2', 'prefix'])
def test_scores_are_those_of_the_model(runs, elsewhere, name):
  """Reference: the features that SeqIO's converter makes."""
  inputs, targets = BYTES, TARGETS
  if name == 'hybrid':
    inputs, targets = PROMPTS[:3], ['we', 'the', '国']
  batch = features(runs[name], inputs, targets)
  want = jax.jit(runs[name].model.score_batch)(runs[name].params, batch)
  np.testing.assert_allclose(elsewhere[0][name][-1], want, rtol=1e-5)


def features(loaded, inputs, targets) -> dict[str, np.ndarray]:
  """Returns a batch of texts, each with EOS, by SeqIO's converter."""
  vocabulary = loaded.model.output_vocabulary

  def ids(text, end=True):
    return [*vocabulary.encode(text), *([vocabulary.eos_id] if end else [])]

  rows = {'inputs': inputs, 'targets': targets}
  rows = {name: rows[name] for name in loaded.feature_lengths}
  dataset = tf.data.Dataset.from_generator(
    lambda: (
      # No target: none of its EOS either.
      {n: ids(text, end=bool(text)) for n, text in zip(rows, row, strict=True)}
      for row in zip(*rows.values(), strict=True)
    ),
    output_signature={n: tf.TensorSpec([None], tf.int32) for n in rows},
  )
  converter = loaded.model.FEATURE_CONVERTER_CLS(pack=False)
  examples = converter(dataset, loaded.feature_lengths)
  return next(examples.batch(len(inputs)).as_numpy_iterator())


@pytest.mark.slow
def test_too_long_a_row_is_refused_by_name(elsewhere):
  path = elsewhere[1] / 'gpt2/loader.py'
  spec = importlib.util.spec_from_file_location('loader', path)
  loader = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(loader)
  model = loader.Model(path.parent)
  room = SHARED - 9
  with pytest.raises(ValueError, match=f'row 1 of tokens has {room + 1} ids'):
    model.generate(['a', 'b' * (room + 1)])
  with pytest.raises(ValueError, match='row 0 of tokens has 0 ids'):
    model.generate([''])


@pytest.mark.slow
def test_programs_of_other_platforms_choose_their_own_mixing(runs, elsewhere):
  """A TPU multiplies by matrices where others transform."""
  loaded = runs['hybrid']
  program = programs.make(
    'generate', loaded.model, loaded.feature_lengths, GenerationOptions()
  )
  arrays = flatten_dict(flax.core.unfreeze(loaded.params), sep='/')
  file = elsewhere[1] / 'hybrid/generate.cpu.jax'
  texts = {
    'cpu': jax.export.deserialize(bytearray(file.read_bytes())).mlir_module()
  }
  for platform, name in (('gpu', 'cuda'), ('tpu', 'tpu')):
    exported = serving_folder.export(program, arrays, platform, None)
    assert exported.platforms == (name,)
    # Fails for kernels that are not guaranteed to stay.
    assert exported.serialize()
    texts[platform] = exported.mlir_module()
  assert [name for name, text in texts.items() if '.fft' in text] == [
    'cpu',
    'gpu',
  ]


@pytest.mark.slow
def test_readme_has_what_the_programs_take(elsewhere):
  _, parent = elsewhere
  readme = (parent / 'hybrid/README.md').read_text()
  for word in ('## generate', '`noise` | [batch, 3] | uint32', 'tokens` | ['):
    assert word in readme
  assert '## score' in (parent / 'gpt2/README.md').read_text()
  for name in EXPORTS:
    for file in ('README.md', 'export.json'):
      text = (parent / name / file).read_text()
      assert str(ROOT) not in text and str(parent) not in text
  files = (p for p in (parent / 'prefix').iterdir() if p.is_file())
  assert sorted(p.name for p in files) == [
    *('README.md', 'export.json', 'loader.py', 'model.safetensors'),
    'score.cpu.jax',
  ]


@pytest.mark.slow
def test_models_and_options_that_do_not_fit_are_refused(runs, tmp_path):
  def refused(name, match, **settings):
    with pytest.raises(ValueError, match=match):
      serving_folder.write(runs[name], tmp_path / 'out', **settings)
    assert not list(tmp_path.iterdir())

  encoder = encoder_models.EncoderOnlyModel(None, None, None, None)
  params = flatten_dict(flax.core.unfreeze(runs['gpt2'].params), sep='/')
  first = next(iter(params))
  params[first] = params[first] * np.nan
  params = unflatten_dict(params, sep='/')
  runs = runs | {
    'broken': dataclasses.replace(runs['gpt2'], params=params),
    'encoder': dataclasses.replace(runs['gpt2'], model=encoder),
  }
  refused('broken', f'checkpoint_5: {first} holds NaN')
  refused('encoder', 'EncoderOnlyModel, which generates no text')
  refused('gpt2', 'targets only: use --mode=generate', modes=['predict'])
  options = GenerationOptions(max_tokens=9)
  refused('hybrid', 'max_tokens=9 exceeds the 8 tokens', options=options)
  options = GenerationOptions(max_tokens=SHARED)
  refused('gpt2', f'={SHARED} exceeds the {SHARED - 1} tok', options=options)


@pytest.mark.parametrize(
  ('arguments', 'code', 'line'),
  [
    (['--output_dir=out'], 1, 'no --model_dir given; name the folder of a'),
    (['--model_dir=run'], 1, 'no --output_dir given; name a folder to write'),
    (['--model_dir=run', '--output_dir=full'], 1, 'full exists; name a new'),
    (
      ['--model_dir=none', '--output_dir=out'],
      1,
      'none: no such folder; name the MODEL_DIR',
    ),
    (
      ['--model_dir=run', '--output_dir=out', '--checkpoint_step=7'],
      1,
      'run holds no checkpoint of step 7: there is 5',
    ),
    (['--mode=translate'], 2, 'translate: choose from generate, predict, s'),
    (['--platform=cuda'], 2, 'cuda: choose from cpu, gpu, tpu'),
    (
      ['--model_dir=run', '--output_dir=out', '--batch_size=0'],
      1,
      '--batch_size is 0; it must be at least 1',
    ),
    (['--num_beams=2', '--top_k=3'], 1, '--num_beams and --top_k exclude'),
  ],
)
def test_bad_flags_are_one_line(
  tmp_path, monkeypatch, capsys, arguments, code, line
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full/file').write_text('')
  (tmp_path / 'run/checkpoint_5').mkdir(parents=True)
  (tmp_path / 'run/config.gin').write_text('')
  monkeypatch.delenv('FNET_T5X_TRACEBACK', raising=False)
  before = sorted(tmp_path.rglob('*'))
  with pytest.raises(SystemExit) as exit_, command_line.one_line_errors():
    export.main(['export', *arguments])
  assert exit_.value.code == code
  errors = capsys.readouterr().err.splitlines()
  assert errors[0].startswith('error: ') and line in errors[0]
  assert sorted(tmp_path.rglob('*')) == before
