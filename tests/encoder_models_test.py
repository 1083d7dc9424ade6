"""Encoder-only models: losses against NumPy, predictions, refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
from flax.linen import partitioning as flax_partitioning

from fnet_t5x import encoder_models
from fnet_t5x.networks.fnet_config import FNetConfig
from fnet_t5x.runtime import metrics as metrics_lib

VOCAB = 20
VOCABULARY = seqio.PassThroughVocabulary(VOCAB)
MASK, CLS, SEP = 6, 4, 5
MARKS = {'mask_id': MASK, 'cls_id': CLS, 'sep_id': SEP}


class Lookup(nn.Module):
  """A network of two tables, with the methods of `FNet`."""

  config: FNetConfig

  def setup(self):
    def table(name, shape, axes):
      return flax_partitioning.param_with_axes(
        name, nn.initializers.normal(1.0), shape, axes=axes
      )

    self.word = table('word', (VOCAB, 8), ('vocab', 'embed'))
    self.type = table('type', (4, 8), ('types', 'embed'))
    self.pair = table('pair', (8, 2), ('embed', 'pairs'))
    self.dropout = nn.Dropout(0.5)
    self.classes = table('classes', (8, 3), ('embed', 'classes'))

  def encode(self, tokens, type_ids, segments, positions, enable_dropout=True):
    del segments, positions
    x = self.word[tokens]
    if type_ids is not None:
      x = x + self.type[type_ids]
    return self.dropout(x, deterministic=not enable_dropout)

  def __call__(self, encoder_input_tokens, enable_dropout=True, **features):
    return self.encode(
      encoder_input_tokens,
      features.get('encoder_type_ids'),
      None,
      None,
      enable_dropout,
    )

  def pool(self, hidden):
    return jnp.tanh(hidden.sum(1))

  def mlm_logits(self, hidden):
    return hidden @ self.word.T

  def pair_logits(self, pooled):
    return pooled @ self.pair

  def class_logits(self, pooled):
    return pooled @ self.classes[:, : self.config.num_classes]


def config(**changes):
  mixing = ('fourier', 'attention')
  return FNetConfig(**{'num_layers': 2, 'layer_mixing': mixing, **changes})


def model(**options):
  return encoder_models.EncoderOnlyModel(
    Lookup(config()), VOCABULARY, VOCABULARY, None, **{**MARKS, **options}
  )


def classifier(num_classes):
  return encoder_models.ClassificationModel(
    Lookup(config(num_classes=num_classes)),
    VOCABULARY,
    VOCABULARY,
    None,
    feature_converter_cls=seqio.PassThroughFeatureConverter,
  )


def batch_of(pairs=True):
  """Rows of different length, the last only to fill up the batch."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(7, VOCAB, (4, 10))
  weights = np.zeros((4, 10), np.int32)
  for row, predicted in enumerate(([1, 8], [2], [1, 3, 4])):
    weights[row, predicted] = 1
  tokens[1, 6:] = 0
  tokens[3] = 0
  inputs = np.where(weights, MASK, tokens)
  batch = {
    'encoder_input_tokens': inputs,
    'encoder_target_tokens': tokens,
    'encoder_loss_weights': weights,
  }
  if pairs:
    batch['encoder_type_ids'] = (np.arange(10) >= 4) * (tokens != 0)
    batch['next_sentence_labels'] = np.array([[0], [1], [1], [0]])
  return {name: jnp.asarray(x, jnp.int32) for name, x in batch.items()}


def params_of(a_model, batch):
  variables = a_model.get_initial_variables(
    jax.random.PRNGKey(0), {name: x.shape for name, x in batch.items()}
  )
  return variables['params']


def log_softmax(logits):
  logits = logits - logits.max(-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def float64(tree):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), dict(tree))


def reference(params, batch):
  """Returns (mlm loss, mlm accuracy, pair loss, pair accuracy), in float64."""
  p, b = float64(params), {k: np.asarray(v) for k, v in batch.items()}
  hidden = p['word'][b['encoder_input_tokens']]
  if 'encoder_type_ids' in b:
    hidden = hidden + p['type'][b['encoder_type_ids']]
  nats, right = [], []
  for row, position in zip(*np.nonzero(b['encoder_loss_weights']), strict=True):
    log_probs = log_softmax(hidden[row, position] @ p['word'].T)
    target = b['encoder_target_tokens'][row, position]
    nats.append(-log_probs[target])
    right.append(np.argmax(log_probs) == target)
  found = [np.mean(nats), np.mean(right)]
  if 'next_sentence_labels' in b:
    log_probs = log_softmax(np.tanh(hidden.sum(1)) @ p['pair'])[:3]
    labels = b['next_sentence_labels'][:3, 0]
    found += [
      -np.mean(log_probs[np.arange(3), labels]),
      np.mean(log_probs.argmax(-1) == labels),
    ]
  return found


def values_of(metrics):
  kept = {
    name: metric
    for name, metric in metrics.items()
    if not name.startswith('timing/')
  }
  return metrics_lib.scalars(kept)


@pytest.mark.slow
@pytest.mark.parametrize('max_predictions', [None, 3, 9])
@pytest.mark.parametrize('pairs', [True, False])
def test_loss_is_that_of_tokens_and_pairs(pairs, max_predictions):
  batch = batch_of(pairs)
  a_model = model(max_predictions=max_predictions)
  params = params_of(a_model, batch)
  loss, metrics = a_model.eval_fn(params, batch)
  expected = reference(params, batch)
  names = ('mlm_loss', 'mlm_accuracy', 'pair_loss', 'pair_accuracy')
  values = values_of(metrics)
  for name, value in zip(names, expected, strict=False):
    np.testing.assert_allclose(values[name], value, rtol=1e-5)
  np.testing.assert_allclose(loss, sum(expected[::2]), rtol=1e-5)
  np.testing.assert_allclose(values['loss'], loss, rtol=1e-6)
  assert ('pair_loss' in values) == pairs
  assert values['accuracy'] == values['mlm_accuracy']


def test_logits_are_as_many_as_the_predictions():
  batch = batch_of()
  a_model = model(max_predictions=3)
  params = params_of(a_model, batch)
  shapes = {
    getattr(variable.aval, 'shape', ())
    for equation in jax.make_jaxpr(a_model.eval_fn)(params, batch).eqns
    for variable in equation.outvars
  }
  assert (4, 3, VOCAB) in shapes
  assert (4, 10, VOCAB) not in shapes


@pytest.mark.slow
def test_gradient_ignores_all_but_the_predicted_tokens():
  batch = batch_of(pairs=False)
  a_model = model(max_predictions=3)
  params = params_of(a_model, batch)

  def gradient(batch):
    return jax.grad(lambda p: a_model.eval_fn(p, batch)[0])(params)

  other = jnp.where(
    batch['encoder_loss_weights'] > 0, batch['encoder_target_tokens'], 9
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    gradient(batch),
    gradient({**batch, 'encoder_target_tokens': other}),
  )


def test_dropout_needs_a_key():
  batch = batch_of()
  a_model = model()
  params = params_of(a_model, batch)
  plain = a_model.loss_fn(params, batch, None)[0]
  assert plain == a_model.eval_fn(params, batch)[0]
  assert plain != a_model.loss_fn(params, batch, jax.random.PRNGKey(3))[0]


def test_score_is_the_log_likelihood_of_the_predicted_tokens():
  batch = batch_of()
  a_model = model(max_predictions=3)
  params = params_of(a_model, batch)
  scores, details = a_model.score_batch(
    params, batch, return_intermediates=True
  )
  mean, *_ = reference(params, batch)
  np.testing.assert_allclose(-scores.sum() / 6, mean, rtol=1e-5)
  assert scores[3] == 0
  np.testing.assert_array_equal(scores, a_model.score_batch(params, batch))
  np.testing.assert_allclose(
    details['encoder']['token_scores'][0].sum(-1), scores, rtol=1e-6
  )


def test_masks_are_filled_in_with_the_likeliest_tokens():
  batch = batch_of(pairs=False)
  a_model = model(max_predictions=2)
  params = params_of(a_model, batch)
  filled, aux = a_model.predict_batch_with_aux(params, batch)
  p = float64(params)
  log_probs = log_softmax(p['word'][MASK] @ p['word'].T)
  inputs = np.asarray(batch['encoder_input_tokens'])
  np.testing.assert_array_equal(
    filled, np.where(inputs == MASK, log_probs.argmax(), inputs)
  )
  np.testing.assert_allclose(
    aux['scores'], (inputs == MASK).sum(1) * log_probs.max(), rtol=1e-5
  )
  np.testing.assert_array_equal(a_model.predict_batch(params, batch), filled)


def test_classes_against_numpy():
  batch = {**batch_of(), 'labels': jnp.array([2, 0, 1, 0], jnp.int32)}
  a_model = classifier(3)
  params = params_of(a_model, batch)
  p, b = float64(params), {k: np.asarray(v) for k, v in batch.items()}
  hidden = p['word'][b['encoder_input_tokens']]
  hidden += p['type'][b['encoder_type_ids']]
  log_probs = log_softmax(np.tanh(hidden.sum(1)) @ p['classes'])
  nats = -log_probs[np.arange(4), b['labels']]
  loss, metrics = a_model.eval_fn(params, batch)
  np.testing.assert_allclose(loss, nats[:3].mean(), rtol=1e-5)
  values = values_of(metrics)
  right = log_probs.argmax(-1) == b['labels']
  np.testing.assert_allclose(values['accuracy'], right[:3].mean(), rtol=1e-6)
  np.testing.assert_allclose(values['cross_ent_per_target_token'], loss)
  classes, aux = a_model.predict_batch_with_aux(params, batch)
  np.testing.assert_array_equal(classes, log_probs.argmax(-1))
  np.testing.assert_allclose(aux['scores'], log_probs.max(-1), rtol=1e-5)
  np.testing.assert_allclose(
    a_model.score_batch(params, batch), -nats, rtol=1e-5
  )


def test_regression_against_numpy():
  batch = {**batch_of(), 'labels': jnp.array([2.5, 0.0, 1.25, 0.0])}
  a_model = classifier(1)
  params = params_of(a_model, batch)
  p, b = float64(params), {k: np.asarray(v) for k, v in batch.items()}
  hidden = p['word'][b['encoder_input_tokens']]
  hidden += p['type'][b['encoder_type_ids']]
  numbers = np.tanh(hidden.sum(1)) @ p['classes'][:, 0]
  errors = (numbers - b['labels']) ** 2
  loss, metrics = a_model.eval_fn(params, batch)
  np.testing.assert_allclose(loss, errors[:3].mean(), rtol=1e-5)
  values = values_of(metrics)
  assert values['mean_squared_error'] == pytest.approx(float(loss))
  assert 'accuracy' not in values
  np.testing.assert_allclose(
    a_model.predict_batch(params, batch), numbers, rtol=1e-5
  )


@pytest.mark.parametrize(
  ('mixing', 'lengths', 'mixed'),
  [
    (('fourier', 'attention'), 'padded', 'fourier'),
    (('fourier', 'attention'), 'exact', None),
    (('attention', 'none'), 'padded', None),
    (('attention', 'linear'), 'padded', 'linear'),
    (('random', 'none'), 'exact', None),
  ],
)
def test_packed_rows_are_refused_where_they_would_mix(mixing, lengths, mixed):
  a_model = encoder_models.EncoderOnlyModel(
    Lookup(config(layer_mixing=mixing, fourier_lengths=lengths)),
    VOCABULARY,
    VOCABULARY,
    None,
    **MARKS,
  )
  shapes = dict.fromkeys(
    ('encoder_input_tokens', 'encoder_segment_ids'), (1, 8)
  )
  if mixed is None:
    a_model.get_initial_variables(jax.random.PRNGKey(0), shapes)
    return
  with pytest.raises(ValueError, match=f'{mixed}.*PACK'):
    a_model.get_initial_variables(jax.random.PRNGKey(0), shapes)


def test_marks_are_the_first_sentinels_by_default():
  vocabulary = seqio.ByteVocabulary(extra_ids=5)
  a_model = encoder_models.EncoderOnlyModel(
    Lookup(config()), vocabulary, vocabulary, None
  )
  last = vocabulary.vocab_size - 1
  assert (a_model.mask_id, a_model.cls_id, a_model.sep_id) == (
    last,
    last - 1,
    last - 2,
  )


@pytest.mark.parametrize(
  ('options', 'named'),
  [
    ({'max_predictions': 0}, 'MAX_PREDICTIONS'),
    ({'z_loss': -1}, 'Z_LOSS'),
    ({'label_smoothing': 1}, 'LABEL_SMOOTHING'),
    ({'mask_id': VOCAB}, 'mask_id'),
  ],
)
def test_options_out_of_range(options, named):
  with pytest.raises(ValueError, match=named):
    model(**options)


def test_a_classifier_needs_classes():
  with pytest.raises(ValueError, match='NUM_CLASSES'):
    classifier(None)
