"""A task, a hybrid and configurations small enough to train in a test.

The task needs neither a corpus nor a vocabulary file: its texts are synthetic,
and its vocabulary is bytes.
"""

import functools
import json
import pathlib
import random

import flax.linen as nn
import jax
import numpy as np
import seqio
import tensorflow as tf
from flax.linen import partitioning as flax_partitioning

from fnet_t5x.networks import fnet_t5
from fnet_t5x.runtime import (
  adafactor,
  checkpoints,
  datasets,
  decoding,
  models,
  partitioning,
  trainer,
  utils,
)

TASK = 'small_runs_echo'
LENGTHS = {'inputs': 24, 'targets': 16}
VOCABULARY = seqio.ByteVocabulary()
VALIDATION_EXAMPLES = 13
EVAL_STEPS = 2
# The next multiple of eight, so that it divides over every mesh.
VOCAB_SIZE = 264


def _examples(split, shuffle_files, seed=None):
  """Yields words as inputs, and their first letters as targets."""
  del shuffle_files, seed
  rng = random.Random(split)
  count = {'train': 50, 'validation': VALIDATION_EXAMPLES}[split]
  rows = []
  for _ in range(count):
    words = [
      ''.join(rng.choices('abcdef', k=rng.randint(1, 4)))
      for _ in range(rng.randint(1, 4))
    ]
    rows.append((' '.join(words), ''.join(word[0] for word in words)))
  inputs, targets = zip(*rows, strict=True)
  return tf.data.Dataset.from_tensor_slices(
    {'inputs': list(inputs), 'targets': list(targets)}
  )


def mean_score(targets, scores):
  """A SeqIO metric, to give an evaluator something to compute."""
  return {'mean_score': float(sum(scores)) / len(targets)}


def register() -> seqio.Task:
  """Registers the task, once per process, and returns its name."""
  if TASK not in seqio.TaskRegistry.names():
    seqio.TaskRegistry.add(
      TASK,
      source=seqio.FunctionDataSource(
        _examples,
        splits=('train', 'validation'),
        num_input_examples={'train': 50, 'validation': VALIDATION_EXAMPLES},
      ),
      preprocessors=[
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos,
      ],
      output_features={
        name: seqio.Feature(VOCABULARY, add_eos=True)
        for name in ('inputs', 'targets')
      },
      metric_fns=[mean_score],
    )
  return seqio.TaskRegistry.get(TASK)


def dataset_config(split='train', **changes) -> datasets.DatasetConfig:
  register()
  return datasets.DatasetConfig(
    **{
      'mixture_or_task_name': TASK,
      'task_feature_lengths': LENGTHS,
      'split': split,
      'batch_size': 8,
      'shuffle': split == 'train',
      'seed': 3,
      **changes,
    }
  )


class Bigram(nn.Module):
  """A network that predicts from the previous token; compiles fast."""

  dropout_rate: float = 0.1

  @nn.compact
  def __call__(
    self,
    encoder_input_tokens,
    decoder_input_tokens,
    decoder_target_tokens,
    enable_dropout=True,
    **unused_kwargs,
  ):
    del encoder_input_tokens, decoder_target_tokens
    # Floats if a run gives no dtypes, as T5X initialises with.
    decoder_input_tokens = decoder_input_tokens.astype(int)
    table = flax_partitioning.param_with_axes(
      'table',
      nn.initializers.normal(0.1),
      (VOCAB_SIZE, VOCAB_SIZE),
      axes=('embed', 'vocab'),
    )
    return nn.Dropout(self.dropout_rate)(
      table[decoder_input_tokens], deterministic=not enable_dropout
    )


def bigram_model(dropout_rate=0.1, **loss) -> models.EncoderDecoderModel:
  """Returns a `Bigram` model, for tests that do not depend on the network."""
  return model_of(Bigram(dropout_rate), **loss)


def make_model(
  loss_normalizing_factor='NUM_REAL_TARGET_TOKENS', z_loss=0.0, **network
) -> models.EncoderDecoderModel:
  """Returns a hybrid: one Fourier, one attention and one decoder layer."""
  config = fnet_t5.FNetT5Config(
    **{
      'vocab_size': VOCAB_SIZE,
      'emb_dim': 16,
      'num_heads': 8,
      'head_dim': 4,
      'mlp_dim': 32,
      'mlp_activations': ('gelu', 'linear'),
      'num_encoder_layers': 2,
      'num_decoder_layers': 1,
      'dropout_rate': 0.0,
      'encoder_mixing': ('fourier', 'attention'),
      'max_encoder_length': 32,
      **network,
    }
  )
  return model_of(
    fnet_t5.Transformer(config=config),
    loss_normalizing_factor=loss_normalizing_factor,
    z_loss=z_loss,
  )


def model_of(module, **loss) -> models.EncoderDecoderModel:
  """Returns a model of any network, with Adafactor."""
  return models.EncoderDecoderModel(
    module=module,
    input_vocabulary=VOCABULARY,
    output_vocabulary=VOCABULARY,
    optimizer_def=adafactor.Adafactor(
      logical_factor_rules=adafactor.standard_logical_factor_rules()
    ),
    decode_fn=decoding.beam_search,
    **loss,
  )


def one_device() -> partitioning.PjitPartitioner:
  """Returns a partitioner for the first device only."""
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  partitioner.mesh = jax.sharding.Mesh(
    np.asarray(jax.devices()[:1]).reshape(1, 1), ('data', 'model')
  )
  return partitioner


def packed_batch(seed: int, rows: int = 8) -> dict[str, np.ndarray]:
  """Returns rows of three packed examples of random lengths, and padding."""
  rng = np.random.default_rng(seed)
  batch = {}
  for name, length in (('encoder_input', 24), ('decoder_target', 16)):
    tokens, ids, positions = np.zeros((3, rows, length), np.int32)
    for row in range(rows):
      start = 0
      for segment in (1, 2, 3):
        stop = start + rng.integers(2, length // 3 + 1)
        tokens[row, start : stop - 1] = rng.integers(3, 20, stop - start - 1)
        tokens[row, stop - 1] = VOCABULARY.eos_id
        ids[row, start:stop] = segment
        positions[row, start:stop] = np.arange(stop - start)
        start = stop
    side = name.split('_')[0]
    batch |= {
      f'{name}_tokens': tokens,
      f'{side}_segment_ids': ids,
      f'{side}_positions': positions,
    }
  targets = batch['decoder_target_tokens']
  shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  batch['decoder_input_tokens'] = np.where(
    batch['decoder_positions'] == 0, 0, shifted
  )
  batch['decoder_loss_weights'] = (targets != 0).astype(np.int32)
  return batch


def forget_checksums(checkpoint: pathlib.Path) -> None:
  """Turns a checkpoint of the runtime into one like T5X's."""
  (checkpoint / 'checksums.json').unlink()
  metadata = checkpoint / '_CHECKPOINT_METADATA'
  content = json.loads(metadata.read_text())
  metadata.write_text(json.dumps(content | {'custom_metadata': {}}))


def make_initializer(
  model: models.BaseModel,
  partitioner: partitioning.PjitPartitioner | None = None,
  batch: dict[str, np.ndarray] | None = None,
) -> utils.TrainStateInitializer:
  """Returns an initializer of train states, by default on one device."""
  batch = batch or packed_batch(seed=0)
  return utils.TrainStateInitializer(
    model.optimizer_def,
    model.get_initial_variables,
    {name: x.shape for name, x in batch.items()},
    partitioner or one_device(),
    {name: x.dtype for name, x in batch.items()},
  )


def make_trainer(
  model,
  partitioner,
  batch,
  num_microbatches=None,
  learning_rate_fn=None,
  **arguments,
) -> trainer.Trainer:
  """Returns a trainer with a fresh state, for batches like this one."""
  initializer = make_initializer(model, partitioner, batch)
  return trainer.Trainer(
    model=model,
    train_state=initializer.from_scratch(jax.random.PRNGKey(0)),
    partitioner=partitioner,
    eval_names=(),
    summary_dir=None,
    train_state_axes=initializer.train_state_axes,
    rng=jax.random.PRNGKey(1),
    learning_rate_fn=learning_rate_fn or (lambda step: 0.01),
    num_microbatches=num_microbatches,
    **arguments,
  )


def train_arguments(
  model_dir,
  save=None,
  trainer_cls=trainer.Trainer,
  learning_rate_fn=lambda step: 0.1,
  **changes,
) -> dict:
  """Returns arguments of `train`: twelve steps of a bigram model."""
  return {
    'model': bigram_model(loss_normalizing_factor='NUM_REAL_TARGET_TOKENS'),
    'train_dataset_cfg': dataset_config(pack=True),
    'train_eval_dataset_cfg': dataset_config('validation', pack=True),
    'checkpoint_cfg': checkpoints.CheckpointConfig(
      save=save
      or checkpoints.SaveCheckpointConfig(period=5, keep=2, save_dataset=True)
    ),
    'partitioner': one_device(),
    'trainer_cls': functools.partial(
      trainer_cls, learning_rate_fn=learning_rate_fn, num_microbatches=None
    ),
    'model_dir': str(model_dir),
    'total_steps': 12,
    'eval_steps': EVAL_STEPS,
    'eval_period': 6,
    'stats_period': 1,
    'random_seed': 0,
    'summarize_config_fn': lambda *_: None,
    **changes,
  }
