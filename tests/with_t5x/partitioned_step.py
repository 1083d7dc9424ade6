"""Training steps of a scanned hybrid under each file of gin/partitioning.

Run by a test, once per engine: prints the losses of two steps as JSON.
"""

import json
import sys

import gin
import jax
import numpy as np

from fnet_t5x import gin_macros
from fnet_t5x.compat import engine, trainer, utils
from fnet_t5x.gin_root import gin_root
from fnet_t5x.runtime import partitioning

SIZES = """
NUM_ENCODER_LAYERS = 3
NUM_DECODER_LAYERS = 2
NUM_ATTENTION_LAYERS = 1
EMBED_DIM = 16
NUM_HEADS = 4
HEAD_DIM = 8
MLP_DIM = 32
VOCAB_SIZE = 64
VOCABULARY = None
ACTIVATION_DTYPE = 'float32'
DROPOUT_RATE = 0.0
SCAN_LAYERS = True
REMAT_POLICY = 'minimal'
NUM_PARTITIONS = None
"""


def simulate_slices():
  """Lets T5X take consecutive devices of a CPU for a slice.

  It groups devices by an attribute that only TPUs have.
  """
  from t5x import partitioning as t5x_partitioning

  def hybrid(ici_mesh_shape, dcn_mesh_shape, devices):
    return partitioning.default_mesh(
      None, None, None, ici_mesh_shape, dcn_mesh_shape, devices
    ).devices

  t5x_partitioning.create_hybrid_device_mesh = hybrid


def losses(layout, partitions, slices=1):
  gin.clear_config()
  gin.parse_config_file('gin/models/fnet_t5_tiny.gin')
  gin.parse_config_file(f'gin/partitioning/{layout}.gin')
  gin.parse_config(SIZES)
  gin.parse_config(f'MODEL_PARALLEL_SUBMESH = (1, {partitions}, 1, 1)')
  gin.parse_config(f'NUM_SLICES = {slices}')
  if slices > 1 and engine.USES_T5X:
    simulate_slices()
  model = gin_macros.value('MODEL')
  partitioner = gin_macros.value('PARTITIONER')
  tokens = np.random.default_rng(0).integers(2, 64, (8, 16)).astype(np.int32)
  batch = {
    'encoder_input_tokens': tokens,
    'decoder_input_tokens': np.pad(tokens[:, :-1], ((0, 0), (1, 0))),
    'decoder_target_tokens': tokens,
    'decoder_loss_weights': np.ones_like(tokens),
  }
  initializer = utils.TrainStateInitializer(
    model.optimizer_def,
    model.get_initial_variables,
    {name: x.shape for name, x in batch.items()},
    partitioner,
    {name: x.dtype for name, x in batch.items()},
  )
  run = trainer.Trainer(
    model=model,
    train_state=initializer.from_scratch(jax.random.PRNGKey(0)),
    partitioner=partitioner,
    eval_names=(),
    summary_dir=None,
    train_state_axes=initializer.train_state_axes,
    rng=jax.random.PRNGKey(1),
    learning_rate_fn=lambda step: 0.01,
    num_microbatches=None,
  )
  found = []
  for _ in range(2):
    metrics = run.train(iter([batch]), 1)
    # T5X returns a future of the metrics, the runtime metrics and steps.
    metrics = metrics.result() if hasattr(metrics, 'result') else metrics[0]
    loss = metrics['loss']
    loss = loss.compute() if hasattr(loss, 'compute') else loss.value
    found.append(float(loss))
  return found


if __name__ == '__main__':
  gin.add_config_file_search_path(gin_root())
  cases = [case.split(':') for case in sys.argv[1:]]
  print(json.dumps([losses(name, *map(int, sizes)) for name, *sizes in cases]))
