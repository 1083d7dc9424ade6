"""The loss in nats per target token, whatever training divides by."""

import jax
import numpy as np
import pytest
import small_runs


def nats_per_token(logits, batch):
  """By float64 NumPy, from the definition."""
  logits = np.asarray(logits, np.float64)
  targets = batch['decoder_target_tokens']
  log_probs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
  nats = -np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
  weights = batch['decoder_loss_weights']
  return np.sum(nats * weights) / np.sum(weights)


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize(
  'factor',
  [
    None,
    37.0,
    'NUM_REAL_TARGET_TOKENS',
    'NUM_TOTAL_TARGET_TOKENS',
    'AVERAGE_PER_SEQUENCE',
  ],
)
def test_nats_per_target_token_under_each_normaliser(factor, packed):
  model = small_runs.bigram_model(
    loss_normalizing_factor=factor, z_loss=0.01, label_smoothing=0.1
  )
  batches = [small_runs.packed_batch(seed) for seed in (1, 2)]
  # Batches of unlike numbers of tokens: a mean of means would be wrong.
  batches[0]['decoder_loss_weights'][:5] = 0
  if not packed:
    batches = [
      {k: v for k, v in b.items() if not k.endswith(('_ids', '_positions'))}
      for b in batches
    ]
  params = {
    'table': np.random.default_rng(0).normal(
      size=(small_runs.VOCAB_SIZE, small_runs.VOCAB_SIZE)
    )
  }
  params = jax.tree.map(np.float32, params)
  name = 'cross_ent_per_target_token'
  parts = [model.eval_fn(params, batch)[1][name] for batch in batches]
  merged = parts[0].merge(parts[1]).compute()
  whole = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
  logits = params['table'][whole['decoder_input_tokens']]
  expected = nats_per_token(logits, whole)
  np.testing.assert_allclose(merged, expected, rtol=1e-5)
