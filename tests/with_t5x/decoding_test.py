"""T5X's unmodified `predict_batch_with_aux` uses our fast path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from fnet_t5x.networks import fnet_t5
from fnet_t5x.runtime import decoding, models

pytestmark = pytest.mark.usefixtures('lax_ranks')

# All sizes differ, so that shapes identify arrays.
BATCH, INPUTS, TARGETS, EMBED, HEADS, KV, VOCAB = 3, 11, 7, 20, 2, 5, 37
DECODES = {
  'greedy': ('temperature_sample', {'topk': 1}, 1),
  'sampled': ('temperature_sample', {'topk': 0, 'temperature': 0.8}, 2),
  'beam': ('beam_search', {}, 4),
}
PROMPTS = np.array([[0, 5, 9, 0, 0, 0, 0], [0] * 7, [0, 8, 0, 0, 0, 0, 0]])


ATTENTION, CAUSAL = ('attention',) * 2, ('fourier', 'toeplitz')


@functools.cache
def module(mixing=ATTENTION):
  return fnet_t5.Transformer(
    fnet_t5.FNetT5Config(
      vocab_size=VOCAB,
      emb_dim=EMBED,
      num_heads=HEADS,
      num_encoder_layers=2,
      num_decoder_layers=2,
      head_dim=KV,
      mlp_dim=24,
      mlp_activations=('gelu', 'linear'),
      encoder_mixing=('fourier', 'attention'),
      max_encoder_length=16,
      decoder_mixing=mixing,
    )
  )


def make_model(models, decoding, decode, mixing):
  function, options, _ = DECODES[decode]
  vocabulary = seqio.PassThroughVocabulary(size=VOCAB, eos_id=1)
  return models.EncoderDecoderModel(
    module=module(mixing),
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    optimizer_def=None,
    decode_fn=functools.partial(getattr(decoding, function), **options),
  )


def make_batch(prompted):
  inputs = np.random.default_rng(0).integers(2, VOCAB, (BATCH, INPUTS))
  inputs[1, 6:] = 0
  return {
    'encoder_input_tokens': jnp.asarray(inputs, jnp.int32),
    'decoder_input_tokens': jnp.asarray(
      PROMPTS if prompted else np.zeros((BATCH, TARGETS)), jnp.int32
    ),
  }


@functools.cache
def make_params(mixing):
  ones = jnp.ones((2, INPUTS)), *[jnp.ones((2, TARGETS))] * 2
  variables = module(mixing).init(
    jax.random.key(2), *ones, enable_dropout=False
  )
  # Doubled: the output of an untrained network hardly depends on its inputs.
  return jax.tree.map(lambda x: 2 * x, variables['params'])


def predictor(models, decoding, decode, prompted, mixing=ATTENTION):
  model = make_model(models, decoding, decode, mixing)
  return functools.partial(
    model.predict_batch_with_aux,
    make_params(mixing),
    make_batch(prompted),
    rng=jax.random.PRNGKey(4),
    return_all_decodes=True,
    num_decodes=DECODES[decode][2],
    prompt_with_targets=prompted,
  )


@pytest.fixture
def theirs():
  t5x_models = pytest.importorskip('t5x.models')
  t5x_decoding = pytest.importorskip('t5x.decoding')
  return functools.partial(predictor, t5x_models, t5x_decoding)


# With prompts of different lengths, T5X's beam search continues full rows (see
# `runtime.decoding.beam_search`).
@pytest.mark.parametrize(
  ('decode', 'prompted'),
  [
    ('greedy', False),
    ('greedy', True),
    ('sampled', False),
    ('sampled', True),
    ('beam', False),
  ],
)
def test_decodes_are_the_runtimes(theirs, decode, prompted):
  tokens, aux = jax.jit(theirs(decode, prompted))()
  ours = predictor(models, decoding, decode, prompted)
  want_tokens, want_aux = jax.jit(ours)()
  np.testing.assert_array_equal(tokens, want_tokens)
  np.testing.assert_allclose(aux['scores'], want_aux['scores'], rtol=1e-4)


@pytest.mark.parametrize(
  ('decode', 'prompted'), [('greedy', True), ('beam', False)]
)
def test_caches_of_causal_mixings_are_expanded_to_beams(
  theirs, decode, prompted
):
  tokens, aux = jax.jit(theirs(decode, prompted, CAUSAL))()
  ours = predictor(models, decoding, decode, prompted, CAUSAL)
  want_tokens, want_aux = jax.jit(ours)()
  np.testing.assert_array_equal(tokens, want_tokens)
  np.testing.assert_allclose(aux['scores'], want_aux['scores'], rtol=1e-4)


@pytest.mark.parametrize('decode', DECODES)
def test_a_step_neither_reads_the_encoder_nor_copies_its_projections(
  theirs, decode
):
  jaxpr = jax.make_jaxpr(theirs(decode, False))()
  (loop,) = [
    equation
    for equation in jaxpr.jaxpr.eqns
    if equation.primitive.name == 'while' and _is_decoding(equation)
  ]
  shapes = [var.aval.shape for var in loop.invars]
  # Once per example, not per beam; and already projected.
  projections = [shape for shape in shapes if sorted(shape[1:]) == [2, 5, 11]]
  assert projections == 4 * [(BATCH, HEADS, KV, INPUTS)]
  assert not [s for s in shapes if s[-2:] == (INPUTS, EMBED)]


def _is_decoding(equation):
  """The decoding loop carries the network's cache."""
  return any(var.aval.shape[-2:] == (TARGETS, KV) for var in equation.invars)
