"""Metrics of each parameter, compared with float64 NumPy."""

import types

import numpy as np
import pytest
import small_runs

from fnet_t5x.runtime import metrics, weight_metrics


def rms(x):
  return np.sqrt(np.mean(np.square(np.float64(x))))


def test_metrics_of_a_step():
  rng = np.random.default_rng(0)
  old, new, gradients = (
    {
      'a': {'b': rng.standard_normal((3, 4)).astype(np.float32)},
      'c': rng.standard_normal(5).astype(np.float32),
    }
    for _ in range(3)
  )
  found = metrics.scalars(
    metrics.set_step_metrics_num_steps(
      weight_metrics.WeightMetricsComputer().compute_metrics(
        gradients,
        types.SimpleNamespace(params=old),
        types.SimpleNamespace(params=new),
      ),
      1,
    )
  )
  expected = {}
  for name, w0, w, g in (
    ('a/b', old['a']['b'], new['a']['b'], gradients['a']['b']),
    ('c', old['c'], new['c'], gradients['c']),
  ):
    update = np.float64(w) - w0
    expected |= {
      f'weight_rms/{name}': rms(w),
      f'weight_max/{name}': np.max(np.abs(w)),
      f'weight_gradient_rms/{name}': rms(g),
      f'weight_update_rms/{name}': rms(update),
      f'weight_update_divided_by_weight_rms/{name}': rms(update / w0),
    }
  squares = np.sum(np.square(np.float64(gradients['a']['b'])))
  squares += np.sum(np.square(np.float64(gradients['c'])))
  expected['weight_gradient_norm'] = np.sqrt(squares)
  assert found == {k: pytest.approx(v, rel=1e-5) for k, v in expected.items()}


def test_trainer_reports_them():
  batch = small_runs.packed_batch(seed=0)
  trainer = small_runs.make_trainer(
    small_runs.bigram_model(),
    small_runs.one_device(),
    batch,
    weight_metrics_computer=weight_metrics.WeightMetricsComputer(),
  )
  before = np.asarray(trainer.train_state.params['table'])
  found, _ = trainer.train(iter([batch]), 1)
  values = metrics.scalars(found)
  after = np.asarray(trainer.train_state.params['table'])
  assert values['weight_rms/table'] == pytest.approx(rms(after), rel=1e-5)
  assert values['weight_update_rms/table'] == pytest.approx(
    rms(np.float64(after) - before), rel=1e-3
  )
  assert values['weight_gradient_norm'] == pytest.approx(values['grad_norm'])
