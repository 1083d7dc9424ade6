"""Finetuning on every task of GLUE, from a checkpoint to metrics."""

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
from fnet_t5x.runtime import (
  checkpoints,
  gin_utils,
  partitioning,
  reporting,
  utils,
)
from fnet_t5x.runtime import train as train_lib

ROOT = pathlib.Path(fnet_t5x.__file__).parents[1]
_NETWORK = {
  'VOCAB_SIZE': 384,
  'EMBED_DIM': 16,
  'MLP_DIM': 32,
  'MAX_ENCODER_LENGTH': 32,
  'ACTIVATION_DTYPE': 'float32',
}
_LENGTHS = {'inputs': 32, 'type_ids': 32, 'label': 1}
_METRICS = {
  'cola': {'matthews_corrcoef', 'accuracy'},
  'mrpc': {'f1_accuracy_mean', 'f1', 'accuracy'},
  'qqp': {'f1_accuracy_mean', 'f1', 'accuracy'},
  'stsb': {'pearson_corrcoef', 'spearman_corrcoef'},
}
_LEARNING_RATE = 1e-3


def _parse(vocabulary, files, **bindings):
  bindings = {
    **_NETWORK,
    'fnet_t5x.tasks.vocabularies.default_vocabulary.sentencepiece_model_file': (
      vocabulary.sentencepiece_model_file
    ),
    **bindings,
  }
  gin.clear_config()
  gin_utils.parse_gin_flags(
    [str(ROOT)],
    files,
    [f'{name} = {value!r}' for name, value in bindings.items()],
    finalize_config=False,
  )


def _pretrained(vocabulary, folder):
  """Saves a masked LM, at a step of its own; returns path and parameters."""
  _parse(
    vocabulary,
    ['gin/models/fnet_tiny.gin', 'gin/runs/pretrain_encoder.gin'],
    TRAIN_STEPS=20000,
    MIXTURE_OR_TASK_NAME='any',
    TASK_FEATURE_LENGTHS={},
    MODEL_DIR='any',
  )
  model = gin_macros.value('MODEL')
  initializer = utils.TrainStateInitializer(
    model.optimizer_def,
    model.get_initial_variables,
    {'encoder_input_tokens': (8, 32), 'encoder_type_ids': (8, 32)},
    partitioning.PjitPartitioner(num_partitions=1),
  )
  state = initializer.from_scratch(jax.random.PRNGKey(3))
  state = state.replace_step(jax.numpy.asarray(700, jax.numpy.int32))
  manager = checkpoints.CheckpointManager(str(folder), create=True)
  manager.save(state, 'float32')
  manager.close()
  return str(folder / 'checkpoint_700'), jax.device_get(state.params)


def _saved(path):
  """Returns a checkpoint's parameters."""
  model = gin_macros.value('MODEL')
  initializer = utils.TrainStateInitializer(
    None,
    model.get_initial_variables,
    {'encoder_input_tokens': (8, 32), 'encoder_type_ids': (8, 32)},
    partitioning.PjitPartitioner(num_partitions=1),
  )
  cfg = checkpoints.RestoreCheckpointConfig(path=path, mode='specific')
  return jax.device_get(initializer.from_checkpoint(cfg).params)


@pytest.mark.slow
@pytest.mark.parametrize('task', glue_folders.CONFIGS)
def test_every_task_trains_and_evaluates(
  small_vocabulary, tfds_dir, tmp_path, capsys, task
):
  glue_folders.write(tfds_dir, task)
  model_dir = tmp_path / 'model'
  with gin_commands.of_main(train_lib.train):
    path, pretrained = _pretrained(small_vocabulary, tmp_path / 'pretrained')
    _parse(
      small_vocabulary,
      [
        'gin/models/fnet_tiny.gin',
        'gin/experiments/glue.gin',
      ],
      GLUE_TASK=task,
      TASK_FEATURE_LENGTHS=_LENGTHS,
      BATCH_SIZE=8,
      EPOCHS=1,
      EVAL_STEPS=1,
      LEARNING_RATE=_LEARNING_RATE,
      INITIAL_CHECKPOINT_PATH=path,
      MODEL_DIR=str(model_dir),
    )
    assert gin.get_configurable(train_lib.train)() == 0
    said = capsys.readouterr().out
    assert 'starting from step 0 of' in said
    params = _saved(str(model_dir / 'checkpoint_2'))
  rows = reporting.read_metrics(str(model_dir))
  assert rows[-1]['step'] == 2
  parts = ['mnli', 'mnli_mismatched'] if task == 'mnli' else [task]
  evaluated = {
    row['collection']: row
    for row in rows
    if 'inference_eval' in row['collection']
  }
  assert set(evaluated) == {
    f'inference_eval/fnet_glue_{part}_classification' for part in parts
  }
  for row in evaluated.values():
    names = _METRICS.get(task, {'accuracy'})
    assert names <= set(row)
    assert all(math.isfinite(row[name]) for name in names)
  # Started from the checkpoint: two steps of AdamW change a parameter by at
  # most about twice the learning rate. The head is not there.
  head = params.pop('class_head')
  assert head['kernel'].shape[1] == glue_folders.CONFIGS[task][1]
  distances = jax.tree.map(
    lambda a, b: np.max(np.abs(a - b)), params, dict(pretrained)
  )
  largest = max(jax.tree.leaves(distances))
  assert 0 < largest < 3 * _LEARNING_RATE
