"""Whole training runs of 50 steps, by T5X and by the runtime.

T5X at commit cc342d4, in an environment where it is importable, from here:

  JAX_PLATFORMS=cpu FNET_T5X_ENGINE=t5x python runs.py > runs.json

Both engines read the same gin files through `run`; the tests compare the
runtime, step by step, with the values recorded from T5X. To train or resume one
case: `python runs.py CASE MODEL_DIR STEPS SAVE_PERIOD`.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import sys
import tempfile

import gin
import jax
import jax.numpy as jnp
import numpy as np
import seqio
import tensorflow as tf
from flax import traverse_util
from tensorboard.backend.event_processing import event_accumulator

import fnet_t5x
from fnet_t5x.compat import decoding, engine, models, utils
from fnet_t5x.compat.train import train  # noqa: F401  (`__main__.train`)

STEPS = 50
VOCAB = 256
VOCABULARY = seqio.PassThroughVocabulary(size=VOCAB, eos_id=1)
LENGTHS = {'inputs': 24, 'targets': 16}
TASK = 'golden_runs'
CASES = {
  'fnet_t5 0.0': ('fnet_t5', 0.0),
  'fnet_t5 0.1': ('fnet_t5', 0.1),
  't5 0.1': ('t5', 0.1),
}
# What is described, and how much it may differ: see `assert_described_alike`.
TOLERANCES = {'initial': 1e-6, 'parameters': 1e-4, 'optimizer': 1e-3}
DECODES = {
  'greedy': (functools.partial(decoding.temperature_sample, topk=1), 1),
  'beam 4': (decoding.beam_search, 4),
  'temperature': (
    functools.partial(decoding.temperature_sample, topk=0, temperature=0.7),
    2,
  ),
}
# Wide enough for Adafactor to factor every matrix except the bias tables.
MODEL_GIN = """
from __gin__ import dynamic_registration
from golden import runs

include 'gin/models/{architecture}_base.gin'

EMBED_DIM = 128
NUM_HEADS = 4
HEAD_DIM = 32
MLP_DIM = 128
NUM_ENCODER_LAYERS = 2
NUM_DECODER_LAYERS = 1
{hybrid}
VOCAB_SIZE = 256
VOCABULARY = @runs.vocabulary()
ACTIVATION_DTYPE = 'float32'
MIXTURE_OR_TASK_NAME = 'golden_runs'
TASK_FEATURE_LENGTHS = {{'inputs': 24, 'targets': 16}}
"""
HYBRID_GIN = """
NUM_ATTENTION_LAYERS = 1
MAX_ENCODER_LENGTH = 32
"""
RUN_GIN = """
from __gin__ import dynamic_registration
import __main__ as train_script
from fnet_t5x.compat import partitioning
from fnet_t5x.compat import trainer
from golden import runs

include 'gin/runs/pretrain.gin'

DROPOUT_RATE = {dropout}
BATCH_SIZE = 8
RANDOM_SEED = 11
WARMUP_STEPS = 20
LEARNING_RATE = 0.2
TRAIN_STEPS = {steps}
EVAL_PERIOD = 50
EVAL_STEPS = 3
STATS_PERIOD = 1
SAVE_PERIOD = {save_period}
MODEL_DIR = '{model_dir}'

train_script.train.trainer_cls = @runs.watched_trainer
runs.watched_trainer.trainer_cls = @trainer.Trainer
train_script.train.partitioner = @runs.one_device()
runs.one_device.partitioner = @partitioning.PjitPartitioner()
runs.train_arguments.function = @train_script.train
runs.train_arguments.model = %MODEL
"""
T5X_GIN = """
from __gin__ import dynamic_registration
from fnet_t5x.compat import trainer
trainer.Trainer.weight_metrics_computer = @trainer.WeightMetricsComputer()
"""
METRICS = (
  'loss',
  'accuracy',
  'z_loss',
  'cross_ent_loss',
  'learning_rate/current',
)

_watched = {}


def vocabulary():
  return VOCABULARY


def train_arguments(function, model):
  return function, model


def one_device(partitioner):
  """The partitioner, over the first device only: tests simulate eight."""
  partitioner.mesh = jax.sharding.Mesh(
    np.asarray(jax.devices()[:1]).reshape(1, 1), ('data', 'model')
  )
  return partitioner


def _examples(split, shuffle_files, seed=None):
  """Sequences of an artificial language, and the same reversed."""
  del shuffle_files, seed
  random = np.random.RandomState({'train': 0, 'validation': 1}[split])
  rows = []
  for _ in range(200):
    start, stride = random.randint(2, VOCAB, 2)
    steps = np.arange(random.randint(3, 14))
    rows.append((2 + (start + stride * steps) % (VOCAB - 2)).tolist())
  # No generator: its position could not be saved.
  return tf.data.Dataset.from_tensor_slices(
    {
      'inputs': tf.ragged.constant(rows, tf.int32),
      'targets': tf.ragged.constant([row[::-1] for row in rows], tf.int32),
    }
  )


def exact_match(targets, predictions):
  """A SeqIO metric of predictions."""
  same = [t == p for t, p in zip(targets, predictions, strict=True)]
  return {'exact_match': sum(same) / len(same)}


def mean_score(targets, scores):
  """A SeqIO metric of scores."""
  return {'mean_score': float(np.mean(scores))}


if TASK not in seqio.TaskRegistry.names():
  seqio.TaskRegistry.add(
    TASK,
    source=seqio.FunctionDataSource(_examples, ('train', 'validation')),
    preprocessors=[seqio.preprocessors.append_eos],
    output_features={
      name: seqio.Feature(VOCABULARY, add_eos=True) for name in LENGTHS
    },
    metric_fns=[exact_match, mean_score],
  )


def watched_trainer(trainer_cls, **arguments):
  """A trainer whose initial state and batches are kept."""
  trainer = trainer_cls(**arguments)
  state = trainer.train_state
  axes = traverse_util.flatten_dict(
    jax.tree.map(lambda x: x.names, dict(state.params_axes), is_leaf=_is_axes),
    sep='/',
  )
  _watched.update(
    trainer=trainer,
    initial=describe(state.params),
    axes={k.removesuffix('_axes'): list(v) for k, v in axes.items()},
    batches=hashlib.sha256(),
  )
  step = trainer.train

  def digested(batches):
    while True:
      batch = next(batches)
      for name in sorted(batch):
        array = np.asarray(batch[name], np.int32)
        _watched['batches'].update(f'{name} {array.shape}'.encode())
        _watched['batches'].update(array.tobytes())
      yield batch

  trainer.train = lambda batches, *args, **kwargs: step(
    digested(batches), *args, **kwargs
  )
  return trainer


def _is_axes(leaf):
  return hasattr(leaf, 'names')


def describe(tree):
  """Shape, norm and an order-dependent sum of every leaf."""
  flat = traverse_util.flatten_dict(
    jax.tree.map(np.asarray, _plain(tree)), sep='/'
  )
  described = {}
  for name, value in sorted(flat.items()):
    x = value.astype(np.float64).ravel()
    norm = np.sqrt(np.sum(x**2))
    order = np.sum(x * np.cos(np.arange(x.size)))
    described[name] = [list(value.shape), *(_round(v) for v in (norm, order))]
  return described


def assert_described_alike(got, want, tolerance):
  """Checks descriptions of the same leaves.

  Norms and sums may differ by a share of the norm. A share of the sum would be
  too strict: its terms cancel, and rounding depends on the machine.
  """
  assert got.keys() == want.keys()
  for name, (shape, norm, order) in want.items():
    assert got[name][0] == shape, name
    np.testing.assert_allclose(
      got[name][1:], [norm, order], rtol=0, atol=tolerance * norm, err_msg=name
    )


def _plain(tree):
  """A state's mappings and optimizer states as plain dictionaries."""
  if hasattr(tree, 'items'):
    return {k: _plain(v) for k, v in tree.items()}
  if hasattr(tree, '__dataclass_fields__'):
    return {k: _plain(getattr(tree, k)) for k in tree.__dataclass_fields__}
  return tree


def _round(value):
  return float(f'{value:.9g}')


def _metrics(directory, names):
  """Values of the summaries of a collection, by step."""
  events = event_accumulator.EventAccumulator(
    directory, size_guidance={'tensors': 0}
  )
  events.Reload()
  rows = {}
  for name in names:
    tensors = {
      event.step: _round(tf.make_ndarray(event.tensor_proto))
      for event in events.Tensors(name)
    }
    rows[name] = [tensors[step] for step in sorted(tensors)]
  return rows


def _written(model, params, batch):
  """Decodes and scores of the trained model."""
  decodes = {}
  for name, (decode_fn, number) in DECODES.items():
    writer = models.EncoderDecoderModel(
      module=model.module,
      input_vocabulary=VOCABULARY,
      output_vocabulary=VOCABULARY,
      optimizer_def=None,
      decode_fn=decode_fn,
    )
    tokens, aux = jax.jit(
      functools.partial(
        writer.predict_batch_with_aux,
        num_decodes=number,
        return_all_decodes=True,
      )
    )(params, batch, rng=jax.random.PRNGKey(5))
    decodes[name] = {
      'tokens': tokens.tolist(),
      'scores': [[_round(s) for s in row] for row in aux['scores'].tolist()],
    }
  scores = jax.jit(model.score_batch)(params, batch)
  return {'decodes': decodes, 'scores': [_round(s) for s in scores.tolist()]}


def model_gin(architecture):
  """A gin file's text: a small model, and the task."""
  hybrid = HYBRID_GIN if architecture == 'fnet_t5' else ''
  return MODEL_GIN.format(architecture=architecture, hybrid=hybrid)


def train_case(case, model_dir, steps=STEPS, save_period=None):
  """Trains by the engine in use, and returns the model.

  Where `model_dir` holds a checkpoint, training goes on from there.
  """
  architecture, dropout = CASES[case]
  gin.clear_config()
  gin.add_config_file_search_path(
    str(pathlib.Path(fnet_t5x.__file__).parents[1])
  )
  gin.parse_config(model_gin(architecture))
  gin.parse_config(
    RUN_GIN.format(
      dropout=dropout,
      steps=steps,
      save_period=save_period,
      model_dir=model_dir,
    )
  )
  if engine.USES_T5X:
    gin.parse_config(T5X_GIN)
  configured, model = gin.get_configurable(train_arguments)()
  configured()
  return model


def losses(model_dir):
  """The training loss of every step, for either engine."""
  return _metrics(os.path.join(model_dir, 'train'), ('loss',))['loss']


def step_metrics(model_dir):
  """The training metrics of every step, by name."""
  grad_norm = 'weight_gradient_norm' if engine.USES_T5X else 'grad_norm'
  rows = _metrics(os.path.join(model_dir, 'train'), (*METRICS, grad_norm))
  rows['grad_norm'] = rows.pop(grad_norm)
  return rows


def run(case, model_dir):
  """Trains with the current engine; returns everything that is recorded."""
  model = train_case(case, model_dir)
  state = _watched['trainer'].train_state
  validation = _metrics(
    os.path.join(model_dir, 'training_eval', TASK), METRICS[:4]
  )
  config = utils.DatasetConfig(
    mixture_or_task_name=TASK,
    task_feature_lengths=LENGTHS,
    split='validation',
    batch_size=8,
    shuffle=False,
    seed=0,
  )
  batch = next(
    utils.get_dataset(
      config, 0, 1, model.FEATURE_CONVERTER_CLS
    ).as_numpy_iterator()
  )
  batch = {name: jnp.asarray(value) for name, value in batch.items()}
  params = jax.device_put(jax.device_get(state.params), jax.devices()[0])
  recorded = {
    'initial': _watched['initial'],
    'axes': _watched['axes'],
    'batches': _watched['batches'].hexdigest(),
    'steps': step_metrics(model_dir),
    'validation': validation,
    'parameters': describe(state.params),
    'optimizer': describe(state.param_states),
  }
  if CASES[case][1]:  # Decoding compiles slowly: only for some cases.
    recorded |= _written(model, params, batch)
  return recorded


if __name__ == '__main__':
  # The gin text imports `golden.runs`; it must be this module.
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
  import golden.runs

  if sys.argv[1:]:
    case, model_dir, steps, save_period = sys.argv[1:]
    golden.runs.train_case(case, model_dir, int(steps), int(save_period))
    sys.exit()
  with (
    contextlib.redirect_stdout(sys.stderr),
    tempfile.TemporaryDirectory() as folder,
  ):
    recorded = {
      case: golden.runs.run(case, os.path.join(folder, case.replace(' ', '_')))
      for case in CASES
    }
  print(
    json.dumps(
      {
        'made_by': (
          'T5X cc342d4, tests/golden/runs.py'
          if engine.USES_T5X
          else 'the runtime'
        ),
        'cases': recorded,
      },
      separators=(',', ':'),
    )
  )
