"""Complete training runs: their output, stopping and resuming."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
import signal
import time
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import small_runs

from fnet_t5x import command_line
from fnet_t5x.runtime import (
  checkpoints,
  damaged_checkpoints,
  datasets,
  models,
  partitioning,
  reporting,
  train,
  trainer,
  utils,
)

STEPS = range(1, 13)


class StoppedTrainer(trainer.Trainer):
  """Receives a signal during step 8."""

  SIGNAL = signal.SIGTERM

  def train(self, batches, num_steps):
    def stopped():
      for batch in batches:
        if int(self.train_state.step) == 7:
          os.kill(os.getpid(), self.SIGNAL)
        yield batch

    return super().train(stopped(), num_steps)


class InterruptedTrainer(StoppedTrainer):
  SIGNAL = signal.SIGINT


class InterruptedEvaluation(trainer.Trainer):
  """Receives Ctrl-C before the second batch of the evaluation after step 6."""

  def eval(self, batches):
    def interrupted():
      for number, batch in enumerate(batches):
        if number == 1 and int(self.train_state.step) == 6:
          os.kill(os.getpid(), signal.SIGINT)
        yield batch

    return super().eval(interrupted())


class InterruptedPredictions(seqio.Evaluator):
  """Receives SIGTERM before the second batch of the evaluation after step 6."""

  def evaluate(self, *, score_fn, step, **arguments):
    class Watched:
      def __init__(self, dataset):
        self._dataset = dataset

      def batch(self, size):
        return Watched(self._dataset.batch(size))

      def as_numpy_iterator(self):
        for number, batch in enumerate(self._dataset.as_numpy_iterator()):
          assert number < 2 or step != 6
          if number == 1 and step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
          yield batch

    def interrupted(dataset):
      return score_fn(Watched(dataset))

    return super().evaluate(score_fn=interrupted, step=step, **arguments)


class KilledError(Exception):
  pass


class KilledTrainer(trainer.Trainer):
  """Is killed in the evaluation after step 6."""

  def eval(self, batches):
    if int(self.train_state.step) == 6:
      raise KilledError
    return super().eval(batches)


class SharedTrainer(trainer.Trainer):
  """Starts another run in its directory at each of five steps."""

  MODEL_DIR = None
  met: ClassVar = []

  def train(self, batches, num_steps):
    def met():
      for batch in batches:
        if int(self.train_state.step) in (1, 4, 5, 9, 11):
          with pytest.raises(ValueError) as error:
            run(self.MODEL_DIR)
          self.met.append(str(error.value))
        yield batch

    return super().train(met(), num_steps)


def run(model_dir, **changes) -> int:
  return train.train(**small_runs.train_arguments(model_dir, **changes))


def without_times(rows):
  return [
    {k: v for k, v in row.items() if not k.startswith('timing/')}
    for row in rows
  ]


def saved_steps(model_dir):
  return sorted(
    int(path.name.removeprefix('checkpoint_'))
    for path in model_dir.glob('checkpoint_*')
  )


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """Returns the folder of an uninterrupted run."""
  model_dir = tmp_path_factory.mktemp('whole')
  assert run(model_dir) == 0
  return model_dir


def test_run_reports_each_step_and_evaluation_once(whole):
  rows = reporting.read_metrics(whole)
  train_rows = [r for r in rows if r['collection'] == 'train']
  assert [r['step'] for r in train_rows] == list(STEPS)
  evals = [r for r in rows if r['collection'] != 'train']
  task = f'training_eval/{small_runs.TASK}'
  assert [(r['step'], r['collection']) for r in evals] == [
    (6, task),
    (12, task),
  ]
  assert train_rows[-1]['loss'] < train_rows[0]['loss']
  for row in rows:
    assert all(math.isfinite(v) for k, v in row.items() if k != 'collection')
  for name in (
    'accuracy',
    'grad_norm',
    'learning_rate/current',
    'timing/target_tokens_per_second',
    'cross_ent_per_target_token',
  ):
    assert name in train_rows[0], name
  assert train_rows[0]['learning_rate/current'] == pytest.approx(0.1)
  assert 'learning_rate' not in train_rows[0]


def test_run_keeps_the_last_checkpoints(whole):
  assert saved_steps(whole) == [10, 12]


def test_checkpoint_steps_beside_a_period(tmp_path):
  """Between reports, too; a step that has passed is nothing."""
  for name, period, steps in (('a', 3, [2, 4, 90]), ('b', None, [2])):
    run(
      tmp_path / name,
      total_steps=5,
      stats_period=5,
      train_eval_dataset_cfg=None,
      verify_matching_vocabs_fn=None,
      save=checkpoints.SaveCheckpointConfig(
        period=period, checkpoint_steps=steps, keep_dataset_checkpoints=1
      ),
    )
  assert saved_steps(tmp_path / 'a') == [0, 2, 3, 4, 5]
  assert saved_steps(tmp_path / 'b') == [0, 2, 5]


def test_functions_of_t5x_arguments_are_called(tmp_path):
  called = []

  def told(function):
    def call(*args, **kwargs):
      called.append(function.__name__)
      return function(*args, **kwargs)

    return call

  run(
    tmp_path,
    total_steps=1,
    get_dataset_fn=told(datasets.get_dataset),
    train_eval_get_dataset_fn=told(datasets.get_training_eval_datasets),
    train_state_initializer_cls=told(utils.TrainStateInitializer),
    verify_matching_vocabs_fn=told(datasets.verify_matching_vocabs),
    gc_period=1,
  )
  assert called == [
    *2 * ['verify_matching_vocabs'],
    'get_dataset',
    'TrainStateInitializer',
    'get_training_eval_datasets',
  ]


@pytest.mark.slow
def test_hardware_random_numbers(tmp_path):
  """Other numbers than JAX's own, the same each time."""
  before = jax.config.jax_default_prng_impl
  model = small_runs.bigram_model(dropout_rate=0.5)
  losses = []
  try:
    for index, hardware in enumerate((False, True, True)):
      folder = tmp_path / str(index)
      run(
        folder,
        model=model,
        total_steps=1,
        use_hardware_rng=hardware,
        train_eval_dataset_cfg=None,
        save=checkpoints.SaveCheckpointConfig(),
      )
      losses.append(reporting.read_metrics(folder)[-1]['loss'])
  finally:
    jax.config.update('jax_default_prng_impl', before)
  assert losses[0] != losses[1] == losses[2]


@pytest.mark.slow
def test_run_prints_plain_lines(tmp_path, capfd):
  # All lines fit a terminal, except paths.
  model_dir = tmp_path / ('long' * 20)
  run(model_dir, total_steps=2)
  out = capfd.readouterr().out
  assert '\x1b' not in out and '\r' not in out
  lines = [line for line in out.splitlines() if str(tmp_path) not in line]
  assert max(map(len, lines)) <= 80, out
  expected = (
    r'69,696 parameters  devices: 8 x cpu  mesh: data=1, model=1',
    r'compiling the training step \(under a minute on a laptop\) \.\.\.',
    r'compiled in [\d.]+ s',
    r'the training step needs \S+ .B besides the train state; \S+ .B free',
    r'step 1/2  loss \d\.\d{4}  acc \d\.\d{3}  lr 1\.0e-01  '
    r'[\d,.]+k? tok/s  \d+m\d\ds left',
    r'compiling the evaluation, then evaluating \.\.\.',
    r'step 2/2  validation loss \d\.\d{4}  acc \d\.\d{3}  '
    r'\d+\.\d{3} bits/byte',
    r'trained 2 steps in \d+m\d\ds; peak memory \S+ .B',
  )
  position = 0
  for pattern in expected:
    found = re.compile(f'^{pattern}$', re.M).search(out, position)
    assert found, (pattern, out)
    position = found.end()


@pytest.mark.parametrize(
  ('trainer_cls', 'code', 'line'),
  [
    (StoppedTrainer, 143, 'stopped by SIGTERM at step 8'),
    (InterruptedTrainer, 130, 'stopped at step 8'),
  ],
)
def test_stopped_run_resumes_bit_exactly(
  whole, tmp_path, capfd, trainer_cls, code, line
):
  signals = (signal.SIGTERM, signal.SIGINT)
  handlers = [signal.getsignal(each) for each in signals]
  assert run(tmp_path, trainer_cls=trainer_cls) == code
  assert [signal.getsignal(each) for each in signals] == handlers
  assert saved_steps(tmp_path)[-1] == 8
  out = capfd.readouterr().out
  assert out.endswith(f'{line}; the same command resumes\n')
  assert run(tmp_path) == 0
  rows = [reporting.read_metrics(d) for d in (tmp_path, whole)]
  assert without_times(rows[0]) == without_times(rows[1])


@pytest.mark.slow
def test_second_run_in_a_directory_fails_without_effect(
  whole, tmp_path, monkeypatch
):
  monkeypatch.setattr(SharedTrainer, 'MODEL_DIR', tmp_path)
  monkeypatch.setattr(SharedTrainer, 'met', [])
  assert run(tmp_path, trainer_cls=SharedTrainer) == 0
  assert len(SharedTrainer.met) == 5
  for line in SharedTrainer.met:
    assert re.fullmatch(
      rf'MODEL_DIR {tmp_path} is in use by another run \(host .*, process '
      rf'{os.getpid()}, since .*\): .*',
      line,
    )
  rows = [reporting.read_metrics(d) for d in (tmp_path, whole)]
  assert without_times(rows[0]) == without_times(rows[1])
  assert saved_steps(tmp_path) == saved_steps(whole)


@pytest.mark.slow
@pytest.mark.parametrize('checksums', [True, False])
@pytest.mark.parametrize('file', ['state/_METADATA', 'state/d', 'dataset'])
def test_damaged_checkpoint_loses_only_its_steps(
  whole, tmp_path, capfd, file, checksums
):
  assert run(tmp_path, trainer_cls=StoppedTrainer) == 143
  last = saved_steps(tmp_path)[-1]
  path = tmp_path / f'checkpoint_{last}' / file
  if not checksums:
    # The damage is then found while reading, in the middle of a restore.
    for step in saved_steps(tmp_path):
      small_runs.forget_checksums(tmp_path / f'checkpoint_{step}')
  if file == 'dataset':
    for part in path.iterdir():
      part.write_bytes(part.read_bytes()[:10])
  elif path.is_dir():
    # With one process or several, the data are files in folders named `d`.
    for part in (tmp_path / f'checkpoint_{last}/state').rglob('d/*'):
      part.write_bytes(b'')
  else:
    path.unlink()
  assert run(tmp_path) == 0
  out = capfd.readouterr().out
  assert f'checkpoint_{last} is damaged: ' in out
  assert f'set aside as damaged_checkpoint_{last}' in out
  rows = [reporting.read_metrics(d) for d in (tmp_path, whole)]
  assert without_times(rows[0]) == without_times(rows[1])


@pytest.mark.slow
def test_undetected_damage_leaves_the_last_good_checkpoint(tmp_path, capfd):
  """Such as flipped bits of weights, without checksums."""
  save = checkpoints.SaveCheckpointConfig(period=2, keep=2, save_dataset=True)
  assert run(tmp_path, save=save, total_steps=8) == 0
  assert saved_steps(tmp_path) == [6, 8]
  damaged = tmp_path / 'checkpoint_8'
  state = small_runs.make_initializer(
    small_runs.bigram_model()
  ).from_checkpoint(
    checkpoints.RestoreCheckpointConfig(path=str(damaged), mode='specific'),
    jax.random.PRNGKey(0),
  )
  params = jax.tree.map(lambda x: 1e4 * x, state.params)
  with contextlib.closing(
    checkpoints.CheckpointManager(str(tmp_path / 'other'), create=True)
  ) as manager:
    manager.save(state.replace_params(params), None)
  shutil.rmtree(damaged / 'state')
  (tmp_path / 'other/checkpoint_8/state').rename(damaged / 'state')
  small_runs.forget_checksums(damaged)
  assert run(tmp_path, save=save, total_steps=14) == 0
  losses = {r['step']: r['loss'] for r in reporting.read_metrics(tmp_path)}
  assert losses[9] > 100 * losses[8]
  assert saved_steps(tmp_path) == [6, 8, 12, 14]
  assert 'far above that of checkpoint_6' in capfd.readouterr().out


def test_each_restore_has_an_iterator_of_its_own(tmp_path):
  # A shuffled pipeline that a failed restore has advanced cannot be restored to
  # an earlier position.
  for step in (2, 4):
    (tmp_path / f'checkpoint_{step}').mkdir()
  given = []

  def from_checkpoint(cfg, iterator):
    given.append(iterator)
    if cfg.path.endswith('_4'):
      raise damaged_checkpoints.DamagedError(f'{cfg.path} is damaged')
    return 'state'

  found = train._restore_last_readable(
    str(tmp_path), from_checkpoint, iter(['first', 'second']), True
  )
  assert given == ['first', 'second']
  assert found == ('state', 'second')
  assert (tmp_path / 'damaged_checkpoint_4').is_dir()


@pytest.mark.slow
def test_interrupted_evaluation_is_run_on_resume(whole, tmp_path):
  assert run(tmp_path, trainer_cls=InterruptedEvaluation) == 130
  assert saved_steps(tmp_path)[-1] == 6
  assert reporting.read_metrics(tmp_path)[-1]['collection'] == 'train'
  assert run(tmp_path) == 0
  rows = [reporting.read_metrics(d) for d in (tmp_path, whole)]
  assert without_times(rows[0]) == without_times(rows[1])


@pytest.mark.slow
def test_interrupted_predictions_are_run_on_resume(tmp_path):
  changes = {'infer_eval_dataset_cfg': small_runs.dataset_config('validation')}
  folders = [tmp_path / name for name in ('whole', 'stopped')]
  assert run(folders[0], **changes) == 0
  code = run(
    folders[1], inference_evaluator_cls=InterruptedPredictions, **changes
  )
  assert code == 143
  # Loss and predictions of step 6 are due; the signal comes during the latter.
  last = reporting.read_metrics(folders[1])[-1]
  assert (last['step'], last['collection']) == (
    6,
    f'training_eval/{small_runs.TASK}',
  )
  assert run(folders[1], **changes) == 0
  rows = [reporting.read_metrics(folder) for folder in folders]
  assert without_times(rows[0]) == without_times(rows[1])
  assert sum(r['collection'].startswith('inference') for r in rows[1]) == 2


@pytest.mark.slow
def test_stopped_run_without_checkpoints_says_so(tmp_path, capfd):
  save = checkpoints.SaveCheckpointConfig(period=None)
  run(tmp_path, save=save, trainer_cls=InterruptedTrainer)
  assert capfd.readouterr().out.endswith(
    'stopped at step 8; no checkpoint was saved (SAVE_PERIOD)\n'
  )


@pytest.mark.slow
def test_bits_per_byte_is_that_of_the_targets_text(whole):
  config = small_runs.dataset_config('validation', pack=True)
  batches = datasets.get_training_eval_datasets(
    config, 0, 1, 2, models.EncoderDecoderModel.FEATURE_CONVERTER_CLS
  )[small_runs.TASK]
  tokens, text = 0, b''
  for batch in batches.as_numpy_iterator():
    for row in batch['decoder_target_tokens']:
      tokens += np.count_nonzero(row)
      # Not by seqio's decoder, which stops at the first EOS of a packed row.
      text += bytes(int(i) - 3 for i in row if 3 <= i < 259)
  assert text.decode().isalpha()
  row = reporting.read_metrics(whole)[-1]
  nats = np.float64(row['cross_ent_per_target_token']) * tokens
  expected = nats / np.log(2) / len(text)
  assert row['bits_per_byte'] == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_killed_evaluation_is_run_on_resume(whole, tmp_path):
  save = checkpoints.SaveCheckpointConfig(period=6, save_dataset=True)
  with pytest.raises(KilledError):
    run(tmp_path, save=save, trainer_cls=KilledTrainer)
  assert run(tmp_path, save=save) == 0
  rows = [reporting.read_metrics(d) for d in (tmp_path, whole)]
  assert without_times(rows[0]) == without_times(rows[1])


@pytest.mark.slow
def test_finished_run_does_not_train_again(whole, capfd):
  before = (whole / 'metrics.jsonl').read_text()
  assert run(whole) == 0
  assert 'nothing to train' in capfd.readouterr().out
  assert (whole / 'metrics.jsonl').read_text() == before
  with pytest.raises(ValueError, match=r'TRAIN_STEPS is 3, but .* step 12'):
    run(whole, total_steps=3)


@pytest.mark.slow
def test_run_without_checkpoints_restarts(tmp_path):
  changes = {
    'total_steps': 2,
    'save': checkpoints.SaveCheckpointConfig(period=None),
    'run_eval_before_training': True,
  }
  run(tmp_path, **changes)
  first = reporting.read_metrics(tmp_path)
  run(tmp_path, **changes)
  assert [r['step'] for r in first] == [0, 1, 2, 2]
  second = reporting.read_metrics(tmp_path)
  assert without_times(second) == without_times(first)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('poisoned_update', 'stopped_at', 'what'),
  [
    # After the sixth update, step 7's loss is NaN: detected by the loss.
    (5, 7, r'the loss \(nan\)'),
    # The fifth update is saved at once: detected by the parameters.
    (4, 5, 'a parameter or optimizer state'),
  ],
)
def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
  tmp_path, capsys, poisoned_update, stopped_at, what
):
  def learning_rate(step):
    return jnp.where(step == poisoned_update, jnp.nan, 0.1)

  with (
    pytest.raises(SystemExit) as stop,
    command_line.one_line_errors(),
  ):
    run(tmp_path, learning_rate_fn=learning_rate)
  assert stop.value.code == 1
  kept = 5 if stopped_at > 5 else 0
  line = capsys.readouterr().err.splitlines()[0]
  assert re.fullmatch(
    rf'error: {what} is not finite at step {stopped_at}: stopped; the '
    rf'checkpoint of step {kept} is kept\..*',
    line,
  )
  assert saved_steps(tmp_path)[-1] == kept
  # Every line is JSON, including the one with the NaN.
  rows = [json.loads(x) for x in (tmp_path / 'metrics.jsonl').open()]
  assert rows[-1]['step'] == stopped_at


def test_indivisible_batch_size_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'Batch size \(12\) must be divisible'):
    run(
      tmp_path,
      train_dataset_cfg=small_runs.dataset_config(batch_size=12),
      partitioner=partitioning.PjitPartitioner(num_partitions=1),
    )


@pytest.mark.slow
@pytest.mark.parametrize('part', ['', 'state.orbax'])
def test_full_disk_at_a_new_folder_ends_the_run(
  whole, tmp_path, monkeypatch, capfd, part
):
  make = os.mkdir

  def mkdir(path, *args, **kwargs):
    if 'checkpoint_5.orbax' in str(path) and part in str(path):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return make(path, *args, **kwargs)

  start = time.monotonic()
  with monkeypatch.context() as patch:
    patch.setattr(os, 'mkdir', mkdir)
    with pytest.raises(OSError) as error:
      run(tmp_path)
  # Orbax's timeout for such a folder is 300 s.
  assert time.monotonic() - start < 100
  assert re.fullmatch(
    rf'the disk of {tmp_path} is full \(\S+ .B free\), or your quota there: '
    r'stopped; the checkpoint of step 0 is kept\. Free some space, or .*',
    str(error.value),
  )
  assert 'Traceback' not in capfd.readouterr().err
  assert checkpoints.steps(str(tmp_path)) == [0]
  assert run(tmp_path) == 0
  rows = [reporting.read_metrics(d) for d in (tmp_path, whole)]
  assert without_times(rows[0]) == without_times(rows[1])


def test_unwritable_model_dir_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match=r'MODEL_DIR .*cannot be written') as error:
    run(tmp_path / 'file' / 'model')
  assert '\n' not in str(error.value)


def test_checkpoint_of_another_architecture_stays_untouched(tmp_path, whole):
  before = {p: p.read_bytes() for p in whole.rglob('*') if p.is_file()}
  with pytest.raises(ValueError, match='written by another architecture'):
    run(whole, model=small_runs.make_model())
  after = {p: p.read_bytes() for p in whole.rglob('*') if p.is_file()}
  assert after == before
