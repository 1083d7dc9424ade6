"""T5X's `utils` as gin files see it; the work is in the modules named here."""

from fnet_t5x.runtime.checkpoints import (
  CheckpointConfig,
  RestoreCheckpointConfig,
  SaveCheckpointConfig,
)
from fnet_t5x.runtime.datasets import (
  DatasetConfig,
  get_dataset,
  get_training_eval_datasets,
  get_vocabulary,
  verify_matching_vocabs,
)
from fnet_t5x.runtime.inference import get_infer_fn
from fnet_t5x.runtime.initialization import TrainStateInitializer
from fnet_t5x.runtime.learning_rate import create_learning_rate_scheduler

__all__ = [
  'CheckpointConfig',
  'DatasetConfig',
  'RestoreCheckpointConfig',
  'SaveCheckpointConfig',
  'TrainStateInitializer',
  'create_learning_rate_scheduler',
  'get_dataset',
  'get_infer_fn',
  'get_training_eval_datasets',
  'get_vocabulary',
  'verify_matching_vocabs',
]
