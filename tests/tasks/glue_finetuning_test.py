"""Finetuning on every task of GLUE, from a checkpoint to metrics."""

import json
import math
import pathlib

import gin
import gin_commands
import glue_folders
import jax
import numpy as np
import pytest

import fnet_t5x
from fnet_t5x import gin_macros
from fnet_t5x.benchmarks import glue as sweep
from fnet_t5x.runtime import (
  checkpoints,
  gin_utils,
  partitioning,
  reporting,
  utils,
)
from fnet_t5x.runtime import train as train_lib

ROOT = pathlib.Path(fnet_t5x.__file__).parents[1]
_MODEL = ['gin/models/fnet_tiny.gin', 'gin/vocabularies/file.gin']
_NETWORK = {
  'EMBED_DIM': 16,
  'MLP_DIM': 32,
  'MAX_ENCODER_LENGTH': 32,
  'ACTIVATION_DTYPE': 'float32',
}
_RUN = {
  'TASK_FEATURE_LENGTHS': {'inputs': 32, 'type_ids': 32, 'label': 1},
  'BATCH_SIZE': 8,
  'EPOCHS': 1,
  'EVAL_STEPS': 1,
}
_METRICS = {
  'cola': {'matthews_corrcoef', 'accuracy'},
  'mrpc': {'f1_accuracy_mean', 'f1', 'accuracy'},
  'qqp': {'f1_accuracy_mean', 'f1', 'accuracy'},
  'stsb': {'pearson_corrcoef', 'spearman_corrcoef'},
}
_LEARNING_RATE = 1e-3


@pytest.fixture(autouse=True)
def _command():
  with gin_commands.of_main(train_lib.train):
    yield


def _network(vocabulary):
  path = vocabulary.sentencepiece_model_file
  return {**_NETWORK, 'VOCABULARY_FILE': path}


def _parse(files, bindings):
  gin.clear_config()
  gin_utils.parse_gin_flags(
    [str(ROOT)],
    files,
    [f'{name} = {value!r}' for name, value in bindings.items()],
    finalize_config=False,
  )


def _initializer(model, optimizer):
  return utils.TrainStateInitializer(
    optimizer,
    model.get_initial_variables,
    {'encoder_input_tokens': (8, 32), 'encoder_type_ids': (8, 32)},
    partitioning.PjitPartitioner(num_partitions=1),
  )


def _pretrained(vocabulary, folder):
  """Saves a masked LM at a step of its own; returns path and parameters."""
  _parse(
    [*_MODEL, 'gin/runs/pretrain_encoder.gin'],
    {
      **_network(vocabulary),
      'MIXTURE_OR_TASK_NAME': 'any',
      'TASK_FEATURE_LENGTHS': {},
      'TRAIN_STEPS': 20000,
      'MODEL_DIR': 'any',
    },
  )
  model = gin_macros.value('MODEL')
  initializer = _initializer(model, model.optimizer_def)
  state = initializer.from_scratch(jax.random.PRNGKey(3))
  state = state.replace_step(jax.numpy.asarray(700, jax.numpy.int32))
  manager = checkpoints.CheckpointManager(str(folder), create=True)
  manager.save(state, 'float32')
  manager.close()
  return str(folder / 'checkpoint_700'), jax.device_get(state.params)


def _saved(path):
  """Returns the parameters in a checkpoint of the configured model."""
  cfg = checkpoints.RestoreCheckpointConfig(path=path, mode='specific')
  initializer = _initializer(gin_macros.value('MODEL'), None)
  return jax.device_get(initializer.from_checkpoint(cfg).params)


@pytest.mark.slow
@pytest.mark.parametrize('task', glue_folders.CONFIGS)
def test_every_task_trains_and_evaluates(
  small_vocabulary, tfds_dir, tmp_path, capsys, task
):
  glue_folders.write(tfds_dir, task)
  model_dir = tmp_path / 'model'
  path, pretrained = _pretrained(small_vocabulary, tmp_path / 'pretrained')
  _parse(
    [*_MODEL, 'gin/experiments/glue.gin'],
    {
      **_network(small_vocabulary),
      **_RUN,
      'GLUE_TASK': task,
      'LEARNING_RATE': _LEARNING_RATE,
      'INITIAL_CHECKPOINT_PATH': path,
      'MODEL_DIR': str(model_dir),
    },
  )
  assert gin.get_configurable(train_lib.train)() == 0
  # Not from the checkpoint's step, and with an optimizer of its own.
  assert 'starting from step 0 of' in capsys.readouterr().out
  params = dict(_saved(str(model_dir / 'checkpoint_2')))
  rows = reporting.read_metrics(str(model_dir))
  assert rows[-1]['step'] == 2
  evaluated = {
    row['collection']: row
    for row in rows
    if row['collection'].startswith('inference_eval/')
  }
  parts = ['mnli', 'mnli_mismatched'] if task == 'mnli' else [task]
  assert set(evaluated) == {
    f'inference_eval/fnet_glue_{part}_classification' for part in parts
  }
  for row in evaluated.values():
    names = _METRICS.get(task, {'accuracy'})
    assert names <= set(row)
    assert all(math.isfinite(row[name]) for name in names)
  assert set(sweep.read_metrics(model_dir, task)) == set(sweep.METRICS[task])
  head = params.pop('class_head')
  assert head['kernel'].shape[1] == glue_folders.CONFIGS[task][1]
  # Restored: two steps of AdamW change a parameter by at most about twice the
  # learning rate.
  distances = jax.tree.map(
    lambda a, b: np.max(np.abs(a - b)), params, dict(pretrained)
  )
  assert 0 < max(jax.tree.leaves(distances)) < 3 * _LEARNING_RATE


@pytest.mark.slow
def test_sweep_trains_and_does_not_repeat_itself(
  small_vocabulary, tfds_dir, tmp_path, capsys
):
  glue_folders.write(tfds_dir, 'rte')
  path, _ = _pretrained(small_vocabulary, tmp_path / 'pretrained')
  gin.clear_config()
  output, table = tmp_path / 'sweep', tmp_path / 'glue.json'
  bindings = {**_network(small_vocabulary), **_RUN}
  arguments = [
    f'--checkpoint={path}',
    *(f'--gin_file={file}' for file in _MODEL),
    *(f'--gin={name}={value!r}' for name, value in bindings.items()),
    f'--output={output}',
    f'--tfds_data_dir={tfds_dir}',
    *('--tasks', 'rte', '--learning_rates', '1e-3', '--seeds', '0', '1'),
    f'--json={table}',
  ]

  def run():
    with pytest.raises(SystemExit) as end:
      sweep.main(arguments)
    logs = sorted(output.glob('rte/*/log.txt'))
    assert len(logs) == 2
    said = capsys.readouterr().out
    assert end.value.code == 0, (said, logs[0].read_text())
    return [log.read_text() for log in logs]

  logs = run()
  first = json.loads(table.read_text())
  (row,) = first['rows']
  values = [each['metrics']['accuracy'] for each in first['settings']['runs']]
  assert row['median'] == pytest.approx(np.median(values))
  assert (row['task'], row['metric'], row['seeds']) == ('rte', 'accuracy', 2)
  assert not list(output.glob('rte/*/checkpoint_*'))
  # Nothing is trained again, and the table is the same.
  assert run() == logs
  assert json.loads(table.read_text()) == first
