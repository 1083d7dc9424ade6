"""Decoders with causal mixings: invariance, decoding, scan, meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scanned_networks
import seqio
from flax.linen.partitioning import axis_rules
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fnet_t5x.networks import decoder_mixings, decoding, fnet_t5, gpt2
from fnet_t5x.runtime import decoder_only, models
from fnet_t5x.runtime import decoding as runtime_decoding

ALL = ('fourier', 'toeplitz', 'attention', 'none')
FFT = {'fourier_method': 'fft', 'toeplitz_method': 'fft'}
VOCAB, LENGTH = 31, 8


@functools.cache
def hybrid(mixings=ALL, **choices):
  """Returns a hybrid and its parameters."""
  module = scanned_networks.hybrid(
    num_encoder_layers=1,
    encoder_mixing=('attention',),
    num_decoder_layers=len(mixings),
    decoder_mixing=mixings,
    max_decoder_length=12,
    **choices,
  )
  return module, parameters(module, scanned_networks.initialise(module))


@functools.cache
def gpt(mixings=ALL, **choices):
  """Returns a GPT-2 and its parameters."""
  module = gpt2.GPT2(
    gpt2.GPT2Config(
      vocab_size=VOCAB,
      emb_dim=16,
      num_heads=2,
      num_layers=len(mixings),
      max_length=12,
      decoder_mixing=mixings,
      **choices,
    )
  )
  ones = jnp.ones((1, 4), jnp.int32)
  init = jax.jit(functools.partial(module.init, enable_dropout=False))
  return module, parameters(module, init(jax.random.key(0), ones, ones))


def parameters(module, variables):
  """Doubled: untrained outputs hardly depend on the inputs; GPT-2's are small,
  and its position embeddings would hide what mixings do."""
  factor = 8 if isinstance(module, gpt2.GPT2) else 2
  return jax.tree.map(lambda x: factor * x, variables['params'])


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).integers(2, VOCAB, shape))


def shifted(targets):
  return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))


def logits(network, targets, **options):
  """Teacher-forced logits of targets, with inputs for a hybrid."""
  module, params = network
  tokens = shifted(targets), targets
  if isinstance(module, fnet_t5.Transformer):
    inputs = options.pop('inputs', draw(len(targets), 5, seed=9))
    tokens = inputs, *tokens
  return jax.jit(
    lambda params: module.apply(
      {'params': params}, *tokens, enable_dropout=False, **options
    )
  )(params)


def assert_close(got, want, tolerance=1e-5):
  got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
  assert got.shape == want.shape
  assert np.abs(got - want).max() < tolerance * np.abs(want).max()


def test_layouts():
  layout = decoder_mixings.decoder_mixing_layout
  assert layout(2) == ('attention', 'attention')
  assert layout(3, 'fourier') == ('fourier',) * 3
  assert layout(3, 'toeplitz', 1) == ('toeplitz', 'toeplitz', 'attention')
  assert layout(4, 'none', 2, 'mixed') == ('attention', 'none') * 2
  with pytest.raises(ValueError, match='mixing'):
    layout(2, 'hartley')
  with pytest.raises(ValueError, match='num_attention_layers=3 does not fit'):
    layout(2, 'fourier', 3)


@pytest.mark.parametrize(
  ('choices', 'named'),
  [
    ({'decoder_mixing': 'fourier'}, 'DECODER_NON_ATTENTION_MIXING'),
    ({'decoder_mixing': ('fourier',) * 3}, 'names 3 layers of 2'),
    ({'decoder_mixing': ('linear',) * 2}, "decoder_mixing='linear'"),
    ({'fourier_method': 'dct'}, 'fourier_method'),
    ({'toeplitz_filter': 'wide'}, 'toeplitz_filter'),
  ],
)
def test_invalid_configurations(choices, named):
  for config in (
    functools.partial(fnet_t5.FNetT5Config, VOCAB, num_decoder_layers=2),
    functools.partial(gpt2.GPT2Config, num_layers=2),
  ):
    with pytest.raises(ValueError, match=named) as error:
      config(**choices)
    assert '\n' not in str(error.value)


def test_attention_everywhere_is_the_plain_network():
  tokens = draw(2, 5)
  plain = scanned_networks.hybrid()
  named = scanned_networks.hybrid(decoder_mixing=('attention',) * 2)
  params = scanned_networks.initialise(plain)['params']
  np.testing.assert_array_equal(
    logits((named, params), tokens), logits((plain, params), tokens)
  )
  module, params = gpt(('attention',) * 2)
  plain = gpt2.GPT2(module.config.replace(decoder_mixing=None))
  np.testing.assert_array_equal(
    logits((module, params), tokens), logits((plain, params), tokens)
  )


def test_parameters_are_only_where_they_are_used():
  names = {
    '/'.join(name.split('/')[1:3])
    for name in flatten_dict(hybrid()[1], sep='/')
    if name.startswith('decoder/layers_') and 'norm' not in name
  }
  mlp = {f'layers_{i}/mlp' for i in range(4)}
  cross = {f'layers_{i}/encoder_decoder_attention' for i in range(4)}
  assert names == mlp | cross | {'layers_1/toeplitz', 'layers_2/self_attention'}
  assert 'relpos_bias' in hybrid()[1]['decoder']
  without = hybrid(('fourier', 'toeplitz'))[1]
  assert 'relpos_bias' not in without['decoder']


@pytest.mark.slow
@pytest.mark.parametrize('make', [hybrid, gpt])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_invariant_to_padding_and_packing(make, dtype):
  """Rows by FFT, packed ones by matrices."""
  tolerance = {'float32': 1e-5, 'bfloat16': 5e-2}[dtype]
  network = make(**FFT, dtype=jnp.dtype(dtype))
  if dtype == 'bfloat16' and make is hybrid:
    # Not doubled: larger attention logits amplify 8 bits' rounding.
    network = network[0], jax.tree.map(lambda x: x / 2, network[1])
  targets, inputs = draw(2, 5), draw(2, 4, seed=9)
  is_hybrid = make is hybrid
  options = {'inputs': inputs} if is_hybrid else {}
  want = logits(network, targets, **options)
  padded = jnp.pad(targets, ((0, 0), (0, 3)))
  got = logits(network, padded, **options)[:, :5]
  assert_close(got, want, tolerance)

  module, params = network
  ids = jnp.array([[1] * 5 + [2] * 5 + [0] * 2])
  packed = {
    'decoder_input_tokens': shifted(targets).reshape(1, 10),
    'decoder_target_tokens': targets.reshape(1, 10),
  }
  packed = {k: jnp.pad(x, ((0, 0), (0, 2))) for k, x in packed.items()}
  packed['decoder_segment_ids'] = ids
  packed['decoder_positions'] = jnp.array([[*range(5), *range(5), 0, 0]])
  if is_hybrid:
    packed['encoder_input_tokens'] = inputs.reshape(1, 8)
    packed['encoder_segment_ids'] = jnp.array([[1] * 4 + [2] * 4])
  got = module.apply({'params': params}, **packed, enable_dropout=False)
  assert_close(got[0, :10].reshape(2, 5, -1), want, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('mixings', 'choices'),
  [(ALL, {}), (('toeplitz', 'fourier'), {'scan_layers': True, **FFT})],
)
def test_steps_of_a_hybrid_are_teacher_forcing(mixings, choices):
  """After prompts of different lengths, and after none."""
  module, params = network = hybrid(mixings, **choices)
  inputs, targets = draw(3, 5, seed=9), draw(3, LENGTH)
  want = np.asarray(logits(network, targets, inputs=inputs))
  lengths = np.array([3, 0, 5])
  fed = shifted(targets)
  prompts = jnp.where(jnp.arange(LENGTH)[None] <= lengths[:, None], fed, 0)
  step = jax.jit(functools.partial(decoding.step, module))
  encoded = decoding.encode(module, params, inputs)
  for prompted in (True, False):
    cache, positions = decoding.start(
      module, params, encoded, prompts if prompted else 0 * prompts
    )
    at = np.asarray(positions)
    np.testing.assert_array_equal(at, lengths if prompted else 0)
    for _ in range(3):
      token = fed[np.arange(3), at][:, None]
      got, cache = step(params, encoded, cache, token)
      assert_close(got, want[np.arange(3), at])
      at = at + 1


@pytest.mark.slow
@pytest.mark.parametrize(
  ('mixings', 'choices'),
  [(ALL, {}), (('toeplitz', 'fourier'), {'toeplitz_filter': 'network', **FFT})],
)
def test_steps_of_gpt2_are_teacher_forcing(mixings, choices):
  module, params = network = gpt(mixings, **choices)
  targets = draw(2, LENGTH)
  want = np.asarray(logits(network, targets))
  fed, lengths = shifted(targets), np.array([4, 1])
  prompts = jnp.where(jnp.arange(5)[None] <= lengths[:, None], fed[:, :5], 0)
  cache, positions = decoding.start_decoder_only(
    module, params, prompts, length=LENGTH
  )
  np.testing.assert_array_equal(positions, lengths)
  step = jax.jit(functools.partial(decoding.step_decoder_only, module))
  for offset in range(4):
    at = lengths + offset
    got, cache = step(params, cache, fed[np.arange(2), at][:, None])
    assert_close(got, want[np.arange(2), at])


@pytest.mark.slow
@pytest.mark.parametrize('scan', [False, True])
def test_scores_of_beams_are_those_of_teacher_forcing(scan):
  """Beams exchange their caches; each score is a sum of log-probabilities."""
  mixings = ('fourier', 'toeplitz')
  plain, params = hybrid(mixings)
  module, given = plain, params
  if scan:
    module = hybrid(mixings, scan_layers=True)[0]
    given = scanned_networks.scanned_params(params)
  tokens, scores = scanned_networks.predict(
    models, runtime_decoding, module, given, 'beam'
  )
  assert len(np.unique(tokens)) > 2
  batch, beams, length = tokens.shape
  inputs = np.random.default_rng(0).integers(
    2, VOCAB, (batch, scanned_networks.INPUTS)
  )
  inputs[1, 6:] = 0  # As `predict` draws them.
  texts = jnp.asarray(tokens.reshape(-1, length))
  log_probs = jax.nn.log_softmax(
    logits((plain, params), texts, inputs=jnp.repeat(inputs, beams, axis=0))
  )
  each = jnp.take_along_axis(log_probs, texts[..., None], -1)[..., 0]
  want = np.where(texts > 0, each, 0).sum(-1).reshape(batch, beams)
  np.testing.assert_allclose(scores, want, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('packed', [False, True])
def test_scan_and_remat_leave_gradients_unchanged(packed):
  def loss(params, module):
    targets = draw(2, LENGTH)
    batch = {
      'encoder_input_tokens': draw(2, 5, seed=9),
      'decoder_input_tokens': shifted(targets),
      'decoder_target_tokens': targets,
    }
    if packed:
      batch['encoder_segment_ids'] = jnp.array([[1, 1, 2, 2, 2]] * 2)
      batch['decoder_segment_ids'] = jnp.array([[1] * 3 + [2] * 5] * 2)
    out = module.apply({'params': params}, **batch, enable_dropout=False)
    return -jax.nn.log_softmax(out)[..., 3].mean()

  names = ('fourier', 'fourier', 'toeplitz', 'attention', 'none')
  plain, params = hybrid(names, relpos_bias_per_layer=True)
  scanned = hybrid(names, scan_layers=True, remat_policy='minimal')[0]
  calls = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  want, gradients = calls(params, plain)
  got, found = calls(scanned_networks.scanned_params(params), scanned)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  wanted = flatten_dict(gradients, sep='/')
  assert all(np.any(x) for x in wanted.values())
  wanted = scanned_networks.scanned_params(unflatten_dict(wanted, '/'))
  for name, x in flatten_dict(wanted, sep='/').items():
    assert_close(flatten_dict(found, sep='/')[name], x)


@pytest.mark.slow
def test_remat_of_gpt2():
  def gradients(module, params):
    targets = draw(2, LENGTH)

    def loss(params):
      out = logits((module, params), targets)
      return -jax.nn.log_softmax(out)[..., 3].mean()

    return jax.grad(loss)(params)

  # Not attention: gradients of the biases of keys are zero but for rounding.
  mixings = ('fourier', 'toeplitz')
  module, params = gpt(mixings)
  want = gradients(module, params)
  got = gradients(gpt(mixings, remat_policy='minimal')[0], params)
  jax.tree.map(assert_close, got, want)
  assert all(np.any(x) for x in jax.tree.leaves(want))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*with mesh.*:DeprecationWarning')
@pytest.mark.parametrize('shape', [(8, 1), (4, 2)])
def test_decoders_on_meshes_gather_no_rows(shape):
  """Nor do parameters that are sharded over 'model' change the result."""
  module, params = gpt(('fourier', 'toeplitz'), **FFT)
  targets = draw(16, LENGTH)
  mesh = Mesh(np.array(jax.devices()[:8]).reshape(shape), ('data', 'model'))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  whole = NamedSharding(mesh, PartitionSpec())
  rules = [('batch', 'data'), ('joined_kv', 'model'), ('heads', 'model')]
  rules += [('mlp', 'model'), ('kv', None), ('embed', None), ('length', None)]

  def loss(params, targets):
    out = module.apply(
      {'params': params}, shifted(targets), targets, enable_dropout=False
    )
    return -jax.nn.log_softmax(out)[..., 3].mean()

  step = jax.value_and_grad(loss)
  want, gradients = jax.jit(step)(params, targets)
  with mesh, axis_rules(rules):
    jitted = jax.jit(step, in_shardings=(whole, rows), out_shardings=whole)
    compiled = jitted.lower(params, targets).compile()
  if shape == (8, 1):
    assert 'all-gather' not in compiled.as_text()
    assert 'all-to-all' not in compiled.as_text()
  got, found = compiled(params, targets)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  jax.tree.map(assert_close, found, gradients)


def test_prefixes_need_attention():
  network = gpt(('fourier',))
  region = jnp.array([[1, 1, 0, 0]])
  with pytest.raises(ValueError, match='PREFIX_ATTENTION'):
    logits(network, draw(1, 4), decoder_causal_attention=region)
  module, params = gpt(('fourier', 'attention'))
  out = logits((module, params), draw(1, 4), decoder_causal_attention=region)
  assert np.isfinite(out).all()


@pytest.mark.parametrize('make', [hybrid, gpt])
def test_rows_that_are_too_long(make):
  for mixing in ('fourier', 'toeplitz'):
    with pytest.raises(ValueError, match=r'13 tokens.*12') as error:
      logits(make((mixing,)), draw(1, 13))
    assert '\n' not in str(error.value)


@pytest.mark.slow
def test_generation_by_the_decoder_only_model():
  module, params = gpt(('fourier', 'toeplitz', 'attention'))
  vocabulary = seqio.PassThroughVocabulary(size=VOCAB, eos_id=1)
  model = decoder_only.DecoderOnlyModel(
    module, vocabulary, None, runtime_decoding.beam_search
  )
  prompts = np.array([[0, 5, 9, 4, 0, 0, 0, 0], [0, 8, 0, 0, 0, 0, 0, 0]])
  batch = {
    'decoder_input_tokens': jnp.asarray(prompts),
    'decoder_causal_attention': jnp.asarray(
      np.arange(8)[None] <= np.array([[3], [1]])
    ).astype(jnp.int32),
  }
  tokens, aux = model.predict_batch_with_aux(
    params,
    batch,
    return_all_decodes=True,
    num_decodes=3,
    decoder_params={'alpha': 0.0},
  )
  for row, length in enumerate((3, 1)):
    for beam in range(3):
      text = np.asarray(tokens[row, beam])
      text = text[text > 0]
      whole = jnp.asarray([[*prompts[row, 1 : length + 1], *text]])
      log_probs = jax.nn.log_softmax(logits((module, params), whole))[0]
      want = sum(log_probs[length + i, token] for i, token in enumerate(text))
      got = aux['scores'][row, beam]
      np.testing.assert_allclose(got, want, rtol=1e-3)
