"""`fnet_t5x.eval` on evaluation tasks, from TFDS folders to `eval.jsonl`."""

import contextlib
import json
import math

import gin
import gin_commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import small_runs
import tfds_folders
from checkout import ROOT

from fnet_t5x import gin_macros
from fnet_t5x.runtime import (
  checkpoints,
  gin_utils,
  utils,
)
from fnet_t5x.runtime import eval as eval_lib
from fnet_t5x.tasks import (
  language_modeling,
  postprocessors,
  text_metrics,
  tfds_source,
)

HELD_OUT = 'fnet_evaluation_test_held_out'
MIXTURE = 'fnet_evaluation_test'
LENGTHS = {'inputs': 24, 'targets': 8}
RUN = f"""
from __gin__ import dynamic_registration
import __main__ as eval_script
import small_runs
include 'gin/models/fnet_t5_tiny.gin'
include 'gin/runs/eval.gin'
include 'gin/sources/evaluation.gin'
TASK_FEATURE_LENGTHS = {LENGTHS}
ACTIVATION_DTYPE = 'float32'
VOCAB_SIZE = 384
EMBED_DIM = 16
NUM_HEADS = 2
HEAD_DIM = 8
MLP_DIM = 16
NUM_ENCODER_LAYERS = 2
NUM_ATTENTION_LAYERS = 1
NUM_DECODER_LAYERS = 1
BATCH_SIZE = 8
eval_script.evaluate.partitioner = @small_runs.one_device()
"""


@pytest.fixture
def run(small_vocabulary, tmp_path):
  """Parses the run's gin, and returns a function that evaluates a mixture.

  That function returns the metrics of each task in `eval.jsonl`.
  """
  (tmp_path / 'run.gin').write_text(RUN)
  output_dir = tmp_path / 'eval'
  bindings = [
    "MIXTURE_OR_TASK_NAME = ''",
    f'CHECKPOINT_PATH = {str(tmp_path / "checkpoint_3")!r}',
    f'EVAL_OUTPUT_DIR = {str(output_dir)!r}',
  ]

  def evaluate(name):
    gin.parse_config(f'MIXTURE_OR_TASK_NAME = {name!r}')
    gin.get_configurable(eval_lib.evaluate)()
    lines = (output_dir / 'eval.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row.pop('step') for row in rows} == {3}
    return {row.pop('task'): row for row in rows}

  with gin_commands.of_main(eval_lib.evaluate):
    gin_utils.parse_gin_flags(
      ['.', str(ROOT)],
      [str(tmp_path / 'run.gin')],
      bindings,
      finalize_config=False,
    )
    yield evaluate


@pytest.fixture
def model(run, tmp_path):
  """Returns the run's model, and the parameters in its checkpoint."""
  model = gin_macros.value('MODEL')
  shapes = {
    name: (8, length)
    for name, length in model.FEATURE_CONVERTER_CLS(pack=False)
    .get_model_feature_lengths(LENGTHS)
    .items()
  }
  state = utils.TrainStateInitializer(
    model.optimizer_def,
    model.get_initial_variables,
    shapes,
    small_runs.one_device(),
  ).from_scratch(jax.random.PRNGKey(5))
  manager = checkpoints.CheckpointManager(str(tmp_path), create=True)
  with contextlib.closing(manager):
    manager.save(state.replace_step(jnp.asarray(3, jnp.int32)), 'float32')
  return model, jax.device_get(state.params)


def _padded(rows, length):
  return np.array([row + [0] * (length - len(row)) for row in rows], np.int32)


def _log_likelihoods(model, inputs, targets):
  """Returns nats per row of targets, in float64 from the network's logits."""
  model, params = model
  encoder_tokens = _padded(inputs, LENGTHS['inputs'])
  decoder_tokens = _padded(targets, LENGTHS['targets'])
  logits = jax.jit(model.module.apply, static_argnames='enable_dropout')(
    {'params': params},
    encoder_tokens,
    np.pad(decoder_tokens, ((0, 0), (1, 0)))[:, :-1],
    decoder_tokens,
    enable_dropout=False,
  )
  logits = np.asarray(logits, np.float64)
  largest = logits.max(-1, keepdims=True)
  normalizer = largest + np.log(np.exp(logits - largest).sum(-1, keepdims=True))
  picked = np.take_along_axis(
    logits - normalizer, decoder_tokens[..., None], -1
  )[..., 0]
  return (picked * (decoder_tokens != 0)).sum(-1)


def _outputs(model, vocabulary, texts):
  """Returns the model's outputs for these inputs."""
  model, params = model
  inputs = _padded(
    [[*vocabulary.encode(t)[-LENGTHS['inputs'] + 1 :], 1] for t in texts],
    LENGTHS['inputs'],
  )
  batch = {
    'encoder_input_tokens': inputs,
    'decoder_input_tokens': np.zeros((len(texts), LENGTHS['targets']), int),
  }
  decodes = jax.jit(model.predict_batch)(params, batch)
  return [vocabulary.decode(row) for row in np.asarray(decodes).tolist()]


@pytest.mark.slow
def test_three_tasks(model, run, small_vocabulary, tfds_dir):
  encode = small_vocabulary.encode
  texts = ['felow cit izens of the  sen ate\n' * 3, 'house rep ☃', 'war ' * 80]
  contexts = ['the sen ate of peace', 'commerce and the']
  questions = ['who', 'what']
  outputs = _outputs(
    model,
    small_vocabulary,
    [*contexts, *(f'question: {q} context: a sat ' for q in questions)],
  )
  # The model predicts one of two last words, and one of two answers.
  words = [postprocessors.first_word(outputs[0]), 'gain']
  answer = text_metrics.normalize_answer(outputs[2])
  assert words[0] and answer
  answers = [['felow', answer], ['no such answer']]
  for name, split, examples in (
    ('c4/en:3.1.0', 'validation', [{'text': text} for text in texts]),
    (
      'lambada:1.0.0',
      'train',
      [
        {'passage': f'{context} {word}\n'}
        for context, word in zip(contexts, words, strict=True)
      ],
    ),
    (
      'squad/v1.1:3.0.0',
      'validation',
      [
        {
          'question': question,
          'context': 'a sat ',
          'answers': [{'text': a, 'answer_start': 0} for a in expected],
        }
        for question, expected in zip(questions, answers, strict=True)
      ],
    ),
  ):
    tfds_folders.write_known(tfds_dir, name, {split: examples})
  language_modeling.register_held_out_loss(
    HELD_OUT, tfds_source.TfdsSource('c4/en:3.1.0', ['validation']), 'made up'
  )
  tasks = (HELD_OUT, 'fnet_lambada', 'fnet_squad')
  seqio.MixtureRegistry.add(MIXTURE, [(task, 1.0) for task in tasks])
  results = run(MIXTURE)
  assert results.keys() == set(tasks)

  # The windows of held-out text, recomputed.
  inputs, targets = [], []
  for text in texts:
    tokens = encode(text)
    for start in range(0, len(tokens), LENGTHS['targets']):
      context = tokens[max(0, start - LENGTHS['inputs'] + 1) : start]
      inputs.append([*context, 1])
      targets.append(tokens[start : start + LENGTHS['targets']])
  windows = len(inputs)
  assert windows > 16
  inputs += [[*encode(context), 1] for context in contexts]
  targets += [encode(word)[: LENGTHS['targets']] for word in words]
  nats = -_log_likelihoods(model, inputs, targets)
  of_text, of_words = np.split(nats, [windows])

  values = results[HELD_OUT]
  size = sum(len(text.encode()) for text in texts)
  assert values['bits_per_byte'] == pytest.approx(
    of_text.sum() / math.log(2) / size, rel=1e-5
  )
  assert math.log(values['perplexity_per_word']) == pytest.approx(
    of_text.sum() / sum(len(text.split()) for text in texts), rel=1e-5
  )
  # Equals the engine's own teacher-forced loss.
  assert values['cross_ent_per_target_token'] == pytest.approx(
    values['loss_per_token'], rel=1e-5
  )
  values = results['fnet_lambada']
  assert values['accuracy'] == 50
  assert values['perplexity'] == pytest.approx(
    math.exp(of_words.mean()), rel=1e-4
  )
  values = results['fnet_squad']
  expected = text_metrics.squad(answers, outputs[2:])
  assert expected['em'] == 50
  assert (values['em'], values['f1']) == (expected['em'], expected['f1'])
