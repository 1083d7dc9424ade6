"""Metrics of a step: values computed by hand, and merging."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.runtime import metrics as metrics_lib


def compute(metrics, steps=1, seconds=2.0):
  metrics = metrics_lib.set_time_metrics_duration(metrics, seconds)
  metrics = metrics_lib.set_step_metrics_num_steps(metrics, steps)
  return {name: float(metric.compute()) for name, metric in metrics.items()}


def make_metrics():
  logits = jnp.array(
    [[[0, 5, 1], [0, 1, 2], [9, 0, 0]], [[0, 0, 3], [0, 1, 0], [1, 0, 0]]],
    jnp.float32,
  )
  targets = jnp.array([[1, 1, 0], [2, 1, 0]])
  mask = jnp.array([[1, 1, 0], [1, 1, 0]])
  return metrics_lib.compute_base_metrics(
    logits=logits,
    targets=targets,
    mask=mask,
    loss=jnp.float32(12.0),
    z_loss=jnp.float32(2.0),
    segment_ids={
      'encoder': jnp.array([[1, 1, 2], [1, 0, 0]]),
      'decoder': jnp.array([[1, 1, 0], [4, 7, 0]]),
      'absent': None,
    },
  )


def test_base_metrics_by_hand():
  got = compute(jax.jit(make_metrics)())
  devices = jax.device_count()
  want = {
    'accuracy': 3 / 4,
    'loss': 12,
    'loss_per_nonpadding_target_token': 12 / 4,
    'loss_per_all_target_tokens': 12 / 6,
    'z_loss': 2,
    'z_loss_per_all_target_tokens': 2 / 6,
    'cross_ent_loss': 10,
    'cross_ent_loss_per_all_target_tokens': 10 / 6,
    'timing/seconds': 2,
    'timing/seqs': 2,
    'timing/seqs_per_second': 1,
    'timing/seqs_per_second_per_core': 1 / devices,
    'timing/steps_per_second': 1 / 2,
    'timing/target_tokens_per_second': 3,
    'timing/target_tokens_per_second_per_core': 3 / devices,
    'non_padding_fraction/loss_weights': 4 / 6,
    'effective_batch_size/encoder': 3,
    'effective_batch_size/decoder': 3,
    'non_padding_fraction/encoder': 4 / 6,
    'non_padding_fraction/decoder': 4 / 6,
    'non_padding_fraction/overall': 8 / 12,
  }
  assert got == pytest.approx(want, rel=1e-6)


def test_merging_two_steps_adds_counts_and_keeps_averages():
  one = make_metrics()
  both = {name: metric.merge(one[name]) for name, metric in one.items()}
  got, want = compute(both, steps=2, seconds=4.0), compute(one)
  doubled = {'timing/seconds', 'timing/seqs'}
  for name in want:
    factor = 2 if name in doubled else 1
    assert got[name] == pytest.approx(factor * want[name], rel=1e-6), name


def test_without_mask_every_position_counts():
  logits = jnp.array([[[0.0, 1.0], [1.0, 0.0]]])
  metrics = metrics_lib.compute_base_metrics(
    logits, jnp.array([[1, 1]]), None, jnp.float32(3.0)
  )
  got = compute(metrics)
  assert got['accuracy'] == 0.5
  assert got['loss_per_nonpadding_target_token'] == 1.5
  assert 'z_loss' not in got and 'non_padding_fraction/overall' not in got


def test_packed_examples_are_runs_of_one_id():
  ids = jnp.array([[1, 1, 3, 3, 0], [2, 2, 2, 2, 2], [2, 7, 7, 7, 0], [0] * 5])
  assert metrics_lib.count_packed_examples(ids) == 5
  assert metrics_lib.count_packed_examples(ids != 0) == 3


def test_shapes_become_zeros():
  shapes = jax.eval_shape(make_metrics)
  zeros = jax.tree.map(
    metrics_lib.shape_obj_to_defined_obj,
    shapes,
    is_leaf=metrics_lib.is_metric_obj,
  )
  merged = {name: m.merge(zeros[name]) for name, m in make_metrics().items()}
  want = compute(make_metrics())
  assert compute(merged) == pytest.approx(want, rel=1e-6)


def test_rates_without_a_duration_are_refused():
  rate = metrics_lib.TimeRate.from_model_output(numerator=1)
  with pytest.raises(ValueError, match='replace_duration'):
    rate.compute()
  with pytest.raises(ValueError, match='before its duration'):
    rate.replace_duration(1.0).merge(rate)
  with pytest.raises(ValueError, match='replace_steps'):
    metrics_lib.Step(steps=None).compute()


def test_sums_take_numbers_and_arrays():
  total = metrics_lib.Sum.from_model_output(jnp.arange(4.0))
  total = total.merge(metrics_lib.Sum.from_model_output(2.5))
  assert float(total.compute()) == 8.5
  wrapped = metrics_lib.create_metrics_dict({'a': 1.0})
  np.testing.assert_array_equal(wrapped['a'].compute(), 1.0)
