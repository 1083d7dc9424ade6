"""Evaluation and inference runs of a checkpoint over a task."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import small_runs

from fnet_t5x import example_texts, inference_rows
from fnet_t5x.runtime import checkpoints, infer
from fnet_t5x.runtime import eval as eval_lib
from fnet_t5x.runtime import metrics as metrics_lib

# The data axis has one device; 13 examples are three batches and a partial one.
BATCH_SIZE = 4


@pytest.fixture(scope='module')
def model():
  return small_runs.make_model()


def fresh_state(model):
  return small_runs.make_initializer(model).from_scratch(jax.random.PRNGKey(1))


def save(state, directory):
  """Returns the path of a checkpoint of step 3."""
  manager = checkpoints.CheckpointManager(str(directory), create=True)
  with contextlib.closing(manager):
    manager.save(state.replace_step(jnp.asarray(3, jnp.int32)), 'float32')
  return f'{directory}/checkpoint_3'


@pytest.fixture(scope='module')
def params(model):
  return jax.device_get(fresh_state(model).params)


@pytest.fixture(scope='module')
def checkpoint(model, tmp_path_factory):
  return save(fresh_state(model), tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def bigram(tmp_path_factory):
  """Returns a model that compiles fast, and its checkpoint."""
  model = small_runs.bigram_model()
  return model, save(fresh_state(model), tmp_path_factory.mktemp('bigram'))


def arguments(model, checkpoint, output_dir):
  return {
    'model': model,
    'dataset_cfg': small_runs.dataset_config(
      'validation', batch_size=BATCH_SIZE
    ),
    'restore_checkpoint_cfg': checkpoints.RestoreCheckpointConfig(
      path=checkpoint, mode='specific'
    ),
    'partitioner': small_runs.one_device(),
    'output_dir': str(output_dir),
    'summarize_config_fn': lambda *_: None,
  }


@pytest.fixture(scope='module')
def examples():
  """Returns the validation split as NumPy arrays, a padded row per example."""
  task = small_runs.register()
  rows = list(
    task.get_dataset(
      small_runs.LENGTHS, 'validation', shuffle=False
    ).as_numpy_iterator()
  )
  inputs, targets = (
    np.stack([np.pad(r[name], (0, length - len(r[name]))) for r in rows])
    for name, length in small_runs.LENGTHS.items()
  )
  return {
    'encoder_input_tokens': inputs,
    'decoder_target_tokens': targets,
    'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    'decoder_loss_weights': np.int32(targets != 0),
    'text': [r['inputs_pretokenized'].decode() for r in rows],
  }


@pytest.fixture(scope='module')
def log_likelihoods(model, params, examples):
  """Returns nats per target token, in float64 NumPy from the logits."""
  batch = {k: v for k, v in examples.items() if k != 'text'}
  logits = np.float64(jax.jit(model._compute_logits)(params, batch))
  log_probs = logits - np.log(np.sum(np.exp(logits), -1, keepdims=True))
  targets = batch['decoder_target_tokens'][..., None]
  picked = np.take_along_axis(log_probs, targets, -1)[..., 0]
  return picked * batch['decoder_loss_weights']


def read(path):
  with open(path) as f:
    return [json.loads(line) for line in f]


@pytest.mark.slow
def test_evaluation_weighs_every_token_once(
  model, checkpoint, examples, log_likelihoods, tmp_path, capfd
):
  results = eval_lib.evaluate(
    **arguments(model, checkpoint, tmp_path),
    inference_evaluator_cls=seqio.Evaluator,
  )[small_runs.TASK]
  tokens = examples['decoder_loss_weights'].sum()
  loss = -log_likelihoods.sum() / tokens
  assert results['cross_ent_per_target_token'] == pytest.approx(loss, rel=1e-5)
  # SeqIO's own metric, through `score_batch` and the padded last batch.
  mean = log_likelihoods.sum() / small_runs.VALIDATION_EXAMPLES
  assert results['mean_score'] == pytest.approx(mean, rel=1e-5)
  (row,) = read(tmp_path / 'eval.jsonl')
  assert row == {'step': 3, 'task': small_runs.TASK, **results}
  assert f'validation loss {loss:.4f}  acc ' in capfd.readouterr().out


def test_evaluation_of_several_checkpoints(bigram, tmp_path):
  """Each is evaluated as it is alone."""
  model, first = bigram
  other = jax.tree.map(lambda x: 2 * x, fresh_state(model).params)
  second = save(fresh_state(model).replace_params(other), tmp_path / 'second')
  found = {}
  for name, path in (
    ('a', first),
    ('b', second),
    ('both', [first, second]),
  ):
    given = arguments(model, path, tmp_path / name)
    result = eval_lib.evaluate(**given, use_orbax=True)
    rows = read(tmp_path / name / 'eval.jsonl')
    found[name] = [row['loss'] for row in rows]
    assert result[small_runs.TASK]['loss'] == found[name][-1]
  assert found['both'] == found['a'] + found['b']
  assert found['a'] != found['b']


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['predict', 'score', 'predict_with_aux'])
def test_inference_writes_every_example_in_order(
  model, params, checkpoint, examples, log_likelihoods, tmp_path, mode
):
  (path,) = infer.infer(
    mode=mode,
    checkpoint_period=2,
    **arguments(model, checkpoint, tmp_path),
  )
  assert path == f'{tmp_path}/{small_runs.TASK}-{mode}.jsonl-00000-of-00001'
  # No chunk or incomplete file remains.
  assert [str(p) for p in tmp_path.iterdir()] == [path]
  rows = read(path)
  texts = [row['inputs']['inputs_pretokenized'] for row in rows]
  assert texts == examples['text']
  if mode == 'score':
    np.testing.assert_allclose(
      [row['score'] for row in rows], log_likelihoods.sum(-1), rtol=1e-5
    )
    assert all(row.keys() == {'inputs', 'score'} for row in rows)
    return
  batch = {k: v for k, v in examples.items() if k != 'text'}
  decodes, aux = jax.jit(model.predict_batch_with_aux)(params, batch)
  vocabulary = small_runs.VOCABULARY
  expected = [vocabulary.decode(row) for row in decodes.tolist()]
  assert [row['prediction'] for row in rows] == expected
  if mode == 'predict_with_aux':
    np.testing.assert_allclose(
      [row['aux']['scores'] for row in rows], aux['scores'], rtol=1e-4
    )


@pytest.mark.slow
def test_inference_resumes_after_the_last_complete_chunk(
  bigram, tmp_path, monkeypatch
):
  run = {'mode': 'score', **arguments(*bigram, tmp_path / 'a')}
  (whole,) = infer.infer(checkpoint_period=1, **run)
  expected = read(whole)

  run['output_dir'] = str(tmp_path / 'b')
  write, written = infer._write, []

  def dying_write(path, lines):
    if len(written) == 2:
      raise KeyboardInterrupt
    written.append(path)
    write(path, lines)

  monkeypatch.setattr(infer, '_write', dying_write)
  with pytest.raises(KeyboardInterrupt):
    infer.infer(checkpoint_period=1, **run)
  assert len(list((tmp_path / 'b').iterdir())) == 2

  monkeypatch.setattr(
    infer,
    '_write',
    lambda path, lines: (written.append(path), write(path, lines)),
  )
  (path,) = infer.infer(checkpoint_period=1, **run)
  assert read(path) == expected
  # Two chunks before, two after, then the file.
  assert len(written) == len(set(written)) == 5


@pytest.mark.slow
def test_chunks_of_another_size_or_checkpoint_are_not_reused(bigram, tmp_path):
  name = f'{small_runs.TASK}-score.jsonl-00000-of-00001'
  for stale in ('step2-0x4', 'step3-0x8'):
    (tmp_path / f'{name}-{stale}').write_text('{"stale": true}\n')
  (path,) = infer.infer(
    mode='score',
    checkpoint_period=1,
    **arguments(*bigram, tmp_path),
  )
  rows = read(path)
  assert len(rows) == small_runs.VALIDATION_EXAMPLES
  assert all('score' in row for row in rows)


def test_task_without_texts_shows_decoded_inputs(examples):
  task = small_runs.register()
  example = {
    'inputs': examples['encoder_input_tokens'][0],
    'targets': examples['decoder_target_tokens'][0],
  }
  shown = example_texts.texts(example, task.output_features)
  assert shown['inputs'] == examples['text'][0]


def test_every_decode_is_text():
  ids = small_runs.VOCABULARY.encode
  decodes = [[*ids('ab'), 1, 0], [*ids('c'), 1, 0, 0]]
  assert inference_rows.text(decodes, small_runs.VOCABULARY) == ['ab', 'c']


@pytest.mark.slow
def test_last_batch_is_padded_with_empty_rows(model):
  cfg = small_runs.dataset_config('validation', batch_size=BATCH_SIZE)
  batches = list(
    eval_lib.padded_batches(
      cfg, small_runs.register(), seqio.EncDecFeatureConverter
    )
  )
  assert [len(b['decoder_loss_weights']) for b in batches] == [BATCH_SIZE] * 4
  assert not batches[-1]['decoder_loss_weights'][1:].any()
  # An empty row must not give NaN, which would make the sums NaN.
  made = small_runs.make_trainer(model, small_runs.one_device(), batches[-1])
  values = metrics_lib.scalars(made.eval([batches[-1]]))
  assert np.isfinite(values['loss'])


@pytest.mark.parametrize(
  ('changes', 'error', 'message'),
  [
    ({'mode': 'guess'}, ValueError, "mode is 'guess'; use one of predict"),
    ({'batch_size': 0}, ValueError, 'BATCH_SIZE is 0'),
    ({'split': 'tests'}, ValueError, "has no split 'tests'"),
    ({'path': 'nowhere'}, ValueError, 'nowhere is not a checkpoint'),
    (
      {'output_dir': 'file/x'},
      OSError,
      'INFER_OUTPUT_DIR .* cannot be written',
    ),
  ],
)
def test_bad_input_is_one_line(
  model, checkpoint, tmp_path, monkeypatch, changes, error, message
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('')
  kwargs = arguments(model, checkpoint, tmp_path) | {'mode': 'score'}
  for name, value in changes.items():
    if name in kwargs:
      kwargs[name] = value
    elif name == 'path':
      kwargs['restore_checkpoint_cfg'].path = value
    else:
      kwargs['dataset_cfg'] = dataclasses.replace(
        kwargs['dataset_cfg'], **{name: value}
      )
  with pytest.raises(error, match=message) as caught:
    infer.infer(checkpoint_period=1, **kwargs)
  assert '\n' not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['predict', 'score', 'predict_with_aux'])
def test_nan_parameters_are_one_line(model, params, tmp_path, mode):
  broken = fresh_state(model).replace_params(
    jax.tree.map(lambda x: np.full_like(x, np.nan), params)
  )
  checkpoint = save(broken, tmp_path / 'model')
  with pytest.raises(ValueError, match='NaN') as error:
    infer.infer(
      mode=mode,
      checkpoint_period=1,
      **arguments(model, checkpoint, tmp_path / 'out'),
    )
  assert '\n' not in str(error.value)
  assert not list((tmp_path / 'out').glob('*.jsonl*'))
