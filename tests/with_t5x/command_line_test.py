"""T5X's unmodified commands with our gin files, and ours with T5X's engine."""

import json
import pathlib

import numpy as np
import pytest
from golden import runs

ROOT = pathlib.Path(__file__).parents[2]
TRAIN = {
  'BATCH_SIZE': 8,
  'EVAL_PERIOD': 2,
  'EVAL_STEPS': 1,
  'SAVE_PERIOD': 2,
  'STATS_PERIOD': 1,
}


def arguments(folder, run, *files, **bindings):
  """The command line of a run of the small hybrid."""
  (folder / 'small.gin').write_text(runs.model_gin('fnet_t5'))
  return [
    f'--gin_search_paths={ROOT},{folder}',
    '--gin_file=small.gin',
    f'--gin_file=gin/runs/{run}.gin',
    *(f'--gin_file={name}' for name in files),
    *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
  ]


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_train_resume_finetune_evaluate_and_infer(python, tmp_path):
  model_dir = tmp_path / 'pretrained'

  def pretrain(steps):
    python(
      '-m',
      't5x.train',
      *arguments(
        tmp_path,
        'pretrain',
        **TRAIN,
        TRAIN_STEPS=steps,
        MODEL_DIR=str(model_dir),
      ),
    )

  pretrain(2)
  pretrain(4)
  assert {p.name for p in model_dir.glob('checkpoint_*')} == {
    'checkpoint_0',
    'checkpoint_2',
    'checkpoint_4',
  }
  assert len(runs.losses(str(model_dir))) == 4
  assert list((model_dir / 'training_eval' / runs.TASK).iterdir())

  checkpoint = str(model_dir / 'checkpoint_4')
  finetuned = tmp_path / 'finetuned'
  python(
    '-m',
    't5x.train',
    *arguments(
      tmp_path,
      'finetune',
      **TRAIN,
      TRAIN_STEPS=6,
      MODEL_DIR=str(finetuned),
      INITIAL_CHECKPOINT_PATH=checkpoint,
    ),
  )
  metrics = finetuned / 'inference_eval' / f'{runs.TASK}-metrics.jsonl'
  assert {'exact_match', 'mean_score'} <= rows(metrics)[-1].keys()

  evaluated = tmp_path / 'evaluated'
  python(
    '-m',
    't5x.eval',
    *arguments(
      tmp_path,
      'eval',
      CHECKPOINT_PATH=checkpoint,
      EVAL_OUTPUT_DIR=str(evaluated),
    ),
  )
  (metrics,) = evaluated.glob(f'**/{runs.TASK}-metrics.jsonl')
  assert {'exact_match', 'mean_score'} <= rows(metrics)[-1].keys()

  for mode, keys in (
    ('predict', {'prediction'}),
    ('score', {'score'}),
    ('predict_with_aux', {'prediction', 'aux'}),
  ):
    python(
      '-m',
      't5x.infer',
      *arguments(
        tmp_path,
        'infer',
        CHECKPOINT_PATH=checkpoint,
        INFER_OUTPUT_DIR=str(tmp_path / mode),
        INFER_MODE=mode,
      ),
    )
    written = tmp_path / mode / f'{runs.TASK}-{mode}.jsonl-00000-of-00001'
    assert len(rows(written)) == 200
    assert keys <= rows(written)[0].keys()


def test_inference_writes_the_rows_of_the_runtime(python, tmp_path):
  """The task keeps no texts; T5X's own rows have none."""
  model_dir = tmp_path / 'trained'
  python(
    '-m',
    'fnet_t5x.train',
    *arguments(
      tmp_path,
      'pretrain',
      **TRAIN | {'EVAL_PERIOD': 0},
      TRAIN_STEPS=1,
      MODEL_DIR=str(model_dir),
    ),
    engine='runtime',
  )
  written = []
  for engine, module in (('t5x', 't5x.infer'), ('runtime', 'fnet_t5x.infer')):
    folder = tmp_path / engine
    python(
      '-m',
      module,
      *arguments(
        tmp_path,
        'infer',
        CHECKPOINT_PATH=str(model_dir / 'checkpoint_1'),
        INFER_OUTPUT_DIR=str(folder),
      ),
      engine=engine,
    )
    name = f'{runs.TASK}-predict.jsonl-00000-of-00001'
    written.append(rows(folder / name))
  assert written[0] == written[1]
  assert written[0][0]['inputs'].keys() == {'inputs', 'targets'}


def test_eight_devices_train_as_one(python, tmp_path):
  losses = {}
  for name, devices, mesh in (
    ('one', 1, {}),
    (
      'eight',
      8,
      {'NUM_PARTITIONS': None, 'MODEL_PARALLEL_SUBMESH': (1, 2, 1, 1)},
    ),
  ):
    python(
      '-m',
      't5x.train',
      *arguments(
        tmp_path,
        'pretrain',
        **TRAIN | {'SAVE_PERIOD': None},
        **mesh,
        TRAIN_STEPS=4,
        MODEL_DIR=str(tmp_path / name),
      ),
      devices=devices,
    )
    losses[name] = runs.losses(str(tmp_path / name))
  np.testing.assert_allclose(losses['eight'], losses['one'], rtol=1e-4)


def test_adamw_trains_alike_under_both_engines(python, tmp_path):
  losses = {}
  for engine in ('t5x', 'runtime'):
    said = python(
      '-m',
      'fnet_t5x.train',
      *arguments(
        tmp_path,
        'pretrain',
        'gin/optimizers/adamw.gin',
        **TRAIN,
        TRAIN_STEPS=4,
        MODEL_DIR=str(tmp_path / engine),
      ),
      engine=engine,
    )
    assert f'engine: {engine}' in said
    losses[engine] = runs.losses(str(tmp_path / engine))
  assert losses['t5x'][-1] < losses['t5x'][0]
  np.testing.assert_allclose(losses['t5x'], losses['runtime'], rtol=1e-4)


def test_our_command_takes_t5x_where_it_is(python, tmp_path):
  said = python(
    '-m',
    'fnet_t5x.train',
    f'--gin_search_paths={ROOT}',
    '--gin_file=gin/experiments/quickstart.gin',
    f'--gin.MODEL_DIR={str(tmp_path / "run")!r}',
    '--gin.TRAIN_STEPS=2',
    '--gin.EVAL_PERIOD=2',
    '--gin.SAVE_PERIOD=2',
    '--gin.STATS_PERIOD=1',
    '--gin.EVAL_STEPS=1',
    engine='',
  )
  assert 'engine: t5x' in said
  assert (tmp_path / 'run' / 'checkpoint_2').is_dir()


@pytest.mark.parametrize('module', ['t5x.train', 'fnet_t5x.train'])
def test_our_t5_and_t5xs_own_have_the_same_losses(python, tmp_path, module):
  """`gin/experiments/stock`, at a size for tests."""
  (tmp_path / 'task.gin').write_text(
    'from __gin__ import dynamic_registration\n'
    'from golden import runs\n'
    'VOCABULARY = @runs.vocabulary()\n'
    "MIXTURE_OR_TASK_NAME = 'golden_runs'\n"
    "TASK_FEATURE_LENGTHS = {'inputs': 24, 'targets': 16}\n"
  )
  sizes = {
    'emb_dim': ('EMBED_DIM', 128),
    'num_heads': ('NUM_HEADS', 4),
    'head_dim': ('HEAD_DIM', 32),
    'mlp_dim': ('MLP_DIM', 128),
    'num_encoder_layers': ('NUM_ENCODER_LAYERS', 2),
    'num_decoder_layers': ('NUM_DECODER_LAYERS', 1),
  }
  losses, configs = {}, {}
  for name, bindings in (
    ('t5x_small', {f'network.T5Config.{k}': v for k, (_, v) in sizes.items()}),
    ('t5_small', dict(sizes.values())),
  ):
    bindings |= TRAIN | {
      'VOCAB_SIZE': 256,
      'ACTIVATION_DTYPE': 'float32',
      'TRAIN_STEPS': 6,
      'WARMUP_STEPS': 20,
      'MODEL_DIR': str(tmp_path / name),
    }
    python(
      '-m',
      module,
      f'--gin_search_paths={ROOT},{tmp_path}',
      f'--gin_file=gin/experiments/stock/{name}.gin',
      '--gin_file=task.gin',
      *(f'--gin.{key}={value!r}' for key, value in bindings.items()),
    )
    losses[name] = runs.losses(str(tmp_path / name))
    configs[name] = config_of(tmp_path / name, [m for m, _ in sizes.values()])
  np.testing.assert_allclose(losses['t5_small'], losses['t5x_small'], rtol=1e-5)
  assert configs['t5_small'] == configs['t5x_small']


# Options that T5X's network does not have.
OF_THE_NETWORK = (
  'ARCHITECTURE',
  'SCAN_LAYERS',
  'REMAT_POLICY',
  'RELPOS_BIAS_PER_LAYER',
  'ATTENTION_IMPLEMENTATION',
)


def config_of(model_dir, sizes):
  """The bindings of a run that are not part of its network."""
  lines = (model_dir / 'config.gin').read_text().replace('\\\n', '').split('\n')
  bindings = dict(
    (part.strip() for part in line.split('=', 1))
    for line in lines
    if '=' in line and not line.startswith('#')
  )
  # T5X's default, which our files set explicitly.
  assert bindings.pop('models.EncoderDecoderModel.decode_fn', '%DECODE_FN')
  assert bindings.pop('DECODE_FN', '@decoding.beam_search') == (
    '@decoding.beam_search'
  )
  # T5X's file configures a vocabulary that the comparison replaces.
  not_compared = (
    'network.',
    't5.',
    'models.EncoderDecoderModel.module',
    'seqio.SentencePieceVocabulary',
  )
  return {
    name: value
    for name, value in bindings.items()
    if not name.startswith(not_compared)
    and name not in (*sizes, *OF_THE_NETWORK, 'MODEL_DIR')
  }
