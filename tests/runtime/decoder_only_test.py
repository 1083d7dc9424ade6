"""Decoder-only models: loss, scores, prediction and generation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from fnet_t5x.networks import gpt2
from fnet_t5x.runtime import decoder_only

TOKENS = np.array([[9, 4, 6, 1, 3, 9, 1, 0], [5, 1, 7, 8, 1, 0, 0, 0]])
BATCH = {
  'decoder_target_tokens': jnp.asarray(TOKENS),
  'decoder_input_tokens': jnp.pad(TOKENS[:, :-1], ((0, 0), (1, 0))),
  'decoder_causal_attention': jnp.array(
    [[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
  ),
  'decoder_loss_weights': jnp.array(
    [[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0, 0, 0]], jnp.float32
  ),
}


def make(bidirectional=True):
  config = gpt2.GPT2Config(
    vocab_size=16, emb_dim=8, num_heads=2, num_layers=1, max_length=8
  )
  model = decoder_only.DecoderOnlyModel(
    gpt2.GPT2(config),
    seqio.PassThroughVocabulary(16, eos_id=15),
    optimizer_def=None,
    inputs_bidirectional_attention=bidirectional,
    loss_normalizing_factor='NUM_REAL_TARGET_TOKENS',
  )
  shapes = {name: value.shape for name, value in BATCH.items()}
  variables = model.get_initial_variables(jax.random.PRNGKey(0), shapes)
  # Large enough for the choices to depend on the prompt.
  return model, jax.tree.map(lambda x: x * 20, variables['params'])


def test_loss_and_scores_are_those_of_the_targets():
  model, params = make()
  logits = model.module.apply(
    {'params': params},
    BATCH['decoder_input_tokens'],
    BATCH['decoder_target_tokens'],
    decoder_causal_attention=BATCH['decoder_causal_attention'],
    enable_dropout=False,
  )
  logits = np.asarray(logits, np.float64)
  logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
  own = np.take_along_axis(logits, TOKENS[..., None], -1)[..., 0]
  want = (own * np.asarray(BATCH['decoder_loss_weights'])).sum(-1)
  scores = model.score_batch(params, BATCH)
  np.testing.assert_allclose(scores, want, rtol=1e-5)
  loss, _ = model.eval_fn(params, BATCH)
  np.testing.assert_allclose(loss, -want.sum() / 6, rtol=1e-5)


@pytest.mark.parametrize('bidirectional', [False, True])
def test_prediction_and_generation_choose_the_same(bidirectional):
  model, params = make(bidirectional)
  predicted = jax.jit(model.predict_batch)(params, BATCH)
  for row, prompt in enumerate(([9, 4, 6, 1], [5, 1])):
    inputs = jnp.array([prompt])
    _, cache, token = model.start_generation(params, inputs, 2, 8)
    for position in range(8 - len(prompt)):
      logits, cache = model.decode_step(params, None, cache, token, 8)
      token = jnp.argmax(logits, -1, keepdims=True)
      assert token[0, 0] == token[1, 0] == predicted[row, position]
      if token[0, 0] == 15:
        break


def test_prefix_is_removed():
  rows = jnp.array([[9, 4, 6, 1, 3], [5, 6, 7, 8, 9]])
  assert decoder_only.remove_prefix(rows, jnp.array([2, 0])).tolist() == [
    [6, 1, 3, 0, 0],
    [5, 6, 7, 8, 9],
  ]


def test_a_task_without_inputs_is_refused_by_what_needs_them():
  model, params = make()
  batch = {k: v for k, v in BATCH.items() if k != 'decoder_causal_attention'}
  with pytest.raises(ValueError, match='PREFIX_ATTENTION'):
    model.eval_fn(params, batch)
  with pytest.raises(ValueError, match='prefix_lm'):
    model.predict_batch(params, batch)
