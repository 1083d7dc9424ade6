"""Microbatches, merged metrics, and what a step reports."""

import pathlib
import types

import gin_commands
import jax
import jax.numpy as jnp
import numpy as np
import planned_runs
import pytest
import small_runs
from flax import traverse_util

import fnet_t5x
from fnet_t5x.planning import gin_run, plan, topology
from fnet_t5x.runtime import metrics as metrics_lib
from fnet_t5x.runtime import partitioning, train_loop, trainer

ROOT = pathlib.Path(fnet_t5x.__file__).parents[1]


@pytest.fixture(scope='module')
def batch():
  return small_runs.packed_batch(seed=7)


@pytest.fixture(scope='module')
def model():
  return small_runs.make_model(loss_normalizing_factor=None, z_loss=1e-4)


@pytest.fixture(scope='module')
def state(model, batch):
  return small_runs.make_trainer(
    model, small_runs.one_device(), batch
  ).train_state


def gradients(model, state, batch, partitioner, num_microbatches):
  """Gradients by name, and the values of the merged metrics."""
  spec = partitioner.data_partition_spec

  def accumulate(params, batch):
    return trainer.accumulate_grads_microbatched(
      model,
      state.replace_params(params),
      batch,
      jax.random.PRNGKey(0),
      num_microbatches,
      spec,
    )

  grads, metrics = partitioner.partition(accumulate, (None, spec), None)(
    jax.device_get(state.params), batch
  )
  metrics = trainer._timed(jax.device_get(metrics), seconds=2.0, steps=1)
  return (
    traverse_util.flatten_dict(jax.device_get(grads), sep='/'),
    train_loop.scalars(metrics),
  )


@pytest.fixture(scope='module')
def whole(model, state, batch):
  """Gradients and metrics of the batch taken at once, on one device."""
  return gradients(model, state, batch, small_runs.one_device(), None)


@pytest.mark.parametrize(
  ('num_microbatches', 'num_partitions'), [(4, None), (2, 2)]
)
def test_microbatches_sum_to_the_batch(
  model, state, batch, whole, num_microbatches, num_partitions
):
  partitioner = (
    partitioning.PjitPartitioner(num_partitions)
    if num_partitions
    else small_runs.one_device()
  )
  split = gradients(model, state, batch, partitioner, num_microbatches)
  assert split[0].keys() == whole[0].keys()
  for name, expected in whole[0].items():
    scale = np.abs(expected).max()
    assert scale > 0, name
    np.testing.assert_allclose(
      split[0][name] / scale, expected / scale, atol=2e-5, err_msg=name
    )
  assert split[1].keys() == whole[1].keys()
  for name, expected in whole[1].items():
    np.testing.assert_allclose(
      split[1][name], expected, rtol=1e-4, err_msg=name
    )


def test_microbatches_take_keys_of_their_own(batch):
  """A step's key is folded from the step, a microbatch's split off it."""
  seen = []

  class Recorder:
    def loss_fn(self, params, batch, dropout_rng):
      jax.debug.callback(
        lambda key: seen.append(np.asarray(key).tolist()), dropout_rng
      )
      return params['w'] * 1.0, {'loss': metrics_lib.Sum(params['w'])}

  state = types.SimpleNamespace(params={'w': jnp.ones(())})
  partitioner = small_runs.one_device()
  key = jax.random.PRNGKey(5)
  partitioner.partition(
    lambda batch: trainer.accumulate_grads_microbatched(
      Recorder(), state, batch, key, 2, partitioner.data_partition_spec
    ),
    (None,),
    None,
  )(batch)
  jax.effects_barrier()
  expected = []
  for _ in range(2):
    key, part = jax.random.split(key)
    expected.append(part.tolist())
  assert sorted(seen) == sorted(expected)


def test_microbatches_must_divide_the_batch(model, state, batch):
  with pytest.raises(ValueError, match=r'8 is not divisible by .* 3'):
    gradients(model, state, batch, small_runs.one_device(), 3)


def test_steps_merge_as_their_averages():
  """Metrics of four steps at once are those of four reports, averaged."""
  model = small_runs.bigram_model(
    loss_normalizing_factor='NUM_REAL_TARGET_TOKENS'
  )
  batches = [small_runs.packed_batch(seed) for seed in range(4)]

  def rate(step):
    return 0.1 * (step + 1)

  def make():
    return small_runs.make_trainer(
      model, small_runs.one_device(), batches[0], learning_rate_fn=rate
    )

  single, merged = make(), make()
  rows = [
    train_loop.scalars(single.train(iter([batch]), 1)[0]) for batch in batches
  ]
  metrics, taken = merged.train(iter(batches), 4)
  assert taken == 4 and int(merged.train_state.step) == 4
  values = train_loop.scalars(metrics)
  for name in ('loss', 'grad_norm'):
    mean = np.mean([row[name] for row in rows])
    assert values[name] == pytest.approx(mean, rel=1e-5), name
  assert values['learning_rate/current'] == pytest.approx(0.4)
  tokens = [batch['decoder_loss_weights'].sum() for batch in batches]
  for name in ('cross_ent_per_target_token', 'accuracy'):
    weighted = np.average([row[name] for row in rows], weights=tokens)
    assert values[name] == pytest.approx(weighted, rel=1e-5), name
  seconds = values['timing/seconds']
  assert values['timing/steps_per_second'] == pytest.approx(4 / seconds)
  assert values['timing/seqs'] == 32


def test_grad_norm_is_that_of_the_gradients(batch):
  model = small_runs.bigram_model(dropout_rate=0.0)
  made = small_runs.make_trainer(model, small_runs.one_device(), batch)
  params = jax.device_get(made.train_state.params)
  grads = jax.grad(lambda p: model.loss_fn(p, batch, None)[0])(params)
  values = train_loop.scalars(made.train(iter([batch]), 1)[0])
  squares = np.sum(np.square(np.float64(grads['table'])))
  assert values['grad_norm'] == pytest.approx(np.sqrt(squares), rel=1e-5)


def test_stop_ends_training_after_the_step_under_way():
  batches = [small_runs.packed_batch(seed) for seed in range(4)]
  made = small_runs.make_trainer(
    small_runs.bigram_model(), small_runs.one_device(), batches[0]
  )

  def stopping():
    yield batches[0]
    made.stop_training = True
    yield batches[1]
    raise AssertionError('a batch was taken after the stop')

  _, taken = made.train(stopping(), 4)
  assert taken == 2 and int(made.train_state.step) == 2
  assert made.train(iter(batches), 4) == ({}, 0)


WIDE = (
  'EMBED_DIM = 96',
  'MLP_DIM = 512',
  'NUM_ENCODER_LAYERS = 3',
  'NUM_DECODER_LAYERS = 2',
  "TASK_FEATURE_LENGTHS = {'inputs': 16, 'targets': 8}",
)


@pytest.mark.parametrize(
  ('scan', 'remat', 'num_microbatches'),
  [(False, 'none', None), (True, 'none', 4), (True, 'full', None)],
)
def test_flops_are_the_planners(scan, remat, num_microbatches):
  bindings = (
    *planned_runs.SMALL,
    *WIDE,
    f'SCAN_LAYERS = {scan}',
    f'REMAT_POLICY = {remat!r}',
    f'NUM_MICROBATCHES = {num_microbatches}',
  )
  with (
    gin_commands.of_main(gin_run.train),
    gin_run.configured(planned_runs.FILES, bindings, [str(ROOT)]) as run,
  ):
    made = None

    def kept(**arguments):
      nonlocal made
      made = trainer_cls(**arguments)
      return made

    trainer_cls, run.trainer_cls = run.trainer_cls, kept
    planned = plan.make_plan(
      'small', run, topology.parse('cpu:1'), decoding=False
    )
  assert made.flops_per_step == pytest.approx(planned.training_flops, rel=0.01)
  # The program's own products, each as often as it is executed.
  executed = planned.train.work.flops
  if remat == 'none':
    assert made.flops_per_step == pytest.approx(executed, rel=0.03)
  else:
    # A forward pass more, which is no progress.
    assert 1.2 < executed / made.flops_per_step < 1.4


def test_flops_of_a_network_without_a_formula_are_left_out(batch):
  made = small_runs.make_trainer(
    small_runs.bigram_model(), small_runs.one_device(), batch
  )
  made.compile_train(batch)
  assert made.flops_per_step is None
