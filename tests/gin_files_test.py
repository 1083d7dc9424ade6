"""Gin files: each parses, and its models and objectives can be built."""

import importlib.util
import math
import pathlib
import re

import gin
import gin_commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkout import ROOT

from fnet_t5x import gin_macros, saved_config
from fnet_t5x.planning import parameters
from fnet_t5x.runtime import eval as eval_lib
from fnet_t5x.runtime import gin_utils, partitioning, trainer, utils
from fnet_t5x.runtime import infer as infer_lib
from fnet_t5x.runtime import train as train_lib

FILES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / 'gin').rglob('*.gin'))
MODELS = [name for name in FILES if name.startswith('gin/models/')]
SIZES = [pathlib.Path(n).stem for n in FILES if n.startswith('gin/sizes/')]
PUBLISHED_PARAMETERS = {
  f'gin/models/t5_{size}.gin': count
  for size, count in parameters.PUBLISHED.items()
}
# Of FNet's, with the published vocabulary of 32,000 (2105.03824; computed from
# the published checkpoints).
PUBLISHED_ENCODERS = {
  'gin/models/fnet_base.gin': 83_486_722,
  'gin/models/fnet_large.gin': 238_031_106,
}
# Macros that a command line may set, by run file.
SETTABLE = {
  'gin/runs/pretrain.gin': 'MIXTURE_OR_TASK_NAME TASK_FEATURE_LENGTHS '
  'TRAIN_STEPS MODEL_DIR BATCH_SIZE RANDOM_SEED DROPOUT_RATE '
  'USE_CACHED_TASKS EVAL_PERIOD STATS_PERIOD SAVE_PERIOD NUM_SLICES',
  'gin/runs/finetune.gin': 'MIXTURE_OR_TASK_NAME TASK_FEATURE_LENGTHS '
  'TRAIN_STEPS MODEL_DIR BATCH_SIZE RANDOM_SEED DROPOUT_RATE '
  'USE_CACHED_TASKS EVAL_PERIOD STATS_PERIOD SAVE_PERIOD '
  'INITIAL_CHECKPOINT_PATH NUM_SLICES',
  'gin/runs/eval.gin': 'MIXTURE_OR_TASK_NAME TASK_FEATURE_LENGTHS BATCH_SIZE '
  'DROPOUT_RATE USE_CACHED_TASKS CHECKPOINT_PATH EVAL_OUTPUT_DIR NUM_SLICES',
  'gin/runs/infer.gin': 'MIXTURE_OR_TASK_NAME TASK_FEATURE_LENGTHS BATCH_SIZE '
  'DROPOUT_RATE USE_CACHED_TASKS CHECKPOINT_PATH INFER_OUTPUT_DIR NUM_SLICES',
}


@pytest.fixture(autouse=True)
def _clean_gin():
  gin.clear_config()
  gin.add_config_file_search_path(str(ROOT))
  commands = (train_lib.train, eval_lib.evaluate, infer_lib.infer)
  with gin_commands.of_main(*commands):
    yield
  gin.clear_config()


# The stock side of a comparison is T5X's own files.
needs_t5x = pytest.mark.skipif(
  importlib.util.find_spec('t5x') is None,
  reason='T5X is not importable (README: Engines)',
)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[needs_t5x, pytest.mark.t5x])
    if '/t5x_' in name
    else name
    for name in FILES
  ],
)
def test_file_parses_and_says_what_it_provides(name):
  gin.parse_config_file(name)
  head = (ROOT / name).read_text().split('\n\n')[0]
  assert re.search(r'^# \w.*\.$|^# .*:$', head, re.MULTILINE), head
  if not name.startswith(('gin/models/', 'gin/runs/', 'gin/experiments/')):
    assert '# Provides:' in head
  if not name.startswith(('gin/sizes/', 'gin/experiments/', 'gin/objectives/')):
    assert 'Required' in head


@pytest.mark.parametrize(
  'name', [name for name in FILES if name.startswith('gin/experiments/')]
)
def test_head_of_an_experiment_says_its_command(name):
  head = (ROOT / name).read_text().split('\n\n')[0]
  shared = pathlib.Path(name).stem in (
    'common',
    'c4_span_corruption',
    'pile_span_corruption',
  )
  assert (f' --gin_file={name}' in head) == (not shared)


@pytest.mark.parametrize('name', SETTABLE)
def test_macros_of_a_run_are_settable(name):
  macros = SETTABLE[name].split()
  gin_utils.parse_gin_flags(
    [str(ROOT)],
    ['gin/models/fnet_t5_tiny.gin', name],
    [
      *(f'{macro} = 7' for macro in macros),
      *(
        f'{macro} = 8'
        for macro in ('MIXTURE_OR_TASK_NAME', 'TASK_FEATURE_LENGTHS')
        if macro not in macros
      ),
    ],
    finalize_config=False,
  )
  assert [gin_macros.value(macro) for macro in macros] == [7] * len(macros)


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_model_objective_and_run_come_in_any_order(order):
  files = (
    'gin/models/fnet_t5_tiny.gin',
    'gin/objectives/span_corruption.gin',
    'gin/runs/pretrain.gin',
  )
  gin_utils.parse_gin_flags(
    [str(ROOT)],
    [files[i] for i in order],
    ["MODEL_DIR = 'x'", 'TRAIN_STEPS = 1'],
    finalize_config=False,
  )
  assert gin_macros.value('MIXTURE_OR_TASK_NAME') == 'fnet_sotu_span_corruption'
  assert gin_macros.value('DROPOUT_RATE') == 0.0


@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
@pytest.mark.parametrize(
  ('source', 'bindings', 'task'),
  [
    ('text', [], 'fnet_text_bart'),
    ('pile', [], 'fnet_pile_bart'),
    ('c4', ["SOURCE = 'c4_json'"], 'fnet_c4_json_bart'),
    ('c4', ["OBJECTIVE = 'ul2'"], 'fnet_c4_ul2'),
    ('c4', ["MIXTURE_OR_TASK_NAME = 'other'"], 'other'),
  ],
)
def test_source_and_objective_name_the_task(source, bindings, task, order):
  files = [f'gin/sources/{source}.gin', 'gin/objectives/bart.gin']
  gin_utils.parse_gin_flags(
    [str(ROOT)], [files[i] for i in order], bindings, finalize_config=False
  )
  # Saved as a run does, and read again.
  assert f'MIXTURE_OR_TASK_NAME = {task!r}' in gin.config_str()
  assert gin_macros.value('MIXTURE_OR_TASK_NAME') == task


@pytest.mark.parametrize(
  'name', [name for name in FILES if name.startswith('gin/objectives/')]
)
@pytest.mark.parametrize('source', ['text', 'c4', 'pile'])
def test_what_a_run_saves_is_read_again(name, source):
  """All configurables of these files are allowed in a saved configuration."""
  gin_utils.parse_gin_flags(
    [str(ROOT)],
    [
      'gin/models/fnet_t5_tiny.gin',
      name,
      f'gin/sources/{source}.gin',
      'gin/runs/pretrain.gin',
    ],
    ["MODEL_DIR = 'x'", 'TRAIN_STEPS = 1'],
    finalize_config=False,
  )
  read = saved_config.read(gin.config_str(), 'config.gin')
  objective = pathlib.Path(name).stem
  task = f'fnet_{source}_{objective}'
  assert read.macros['MIXTURE_OR_TASK_NAME'] == task


def opened(name):
  """The gin files that a reader of one opens, itself and again what repeats."""
  includes = re.findall(
    r"^include '(.+)'$", (ROOT / name).read_text(), re.MULTILINE
  )
  return [name, *(each for include in includes for each in opened(include))]


@pytest.mark.parametrize('name', MODELS)
def test_a_model_is_its_base_and_what_differs(name):
  """As T5X's `t5_1_1/base.gin`: two files, of which one says the numbers."""
  if '_matched_' in name:
    size_file = re.sub('_matched_.*', '.gin', name)
    assert opened(name) == [name, *opened(size_file)]
    own = re.sub('^include .*$', '', (ROOT / name).read_text(), flags=re.M)
    gin.parse_config(own)
    assert gin_utils.macros_set() == {'NUM_ENCODER_LAYERS'}
  else:
    base = re.sub('_[a-z]+.gin$', '_base.gin', name)
    assert opened(name) == list(dict.fromkeys([name, base]))


def bindings_of(*files):
  """Bindings and macros by name, as gin's text."""
  gin.clear_config()
  for name in files:
    gin.parse_config_file(name)
  return dict(
    re.findall(
      r'^([\w./]+) = (.+)$', gin.config_str(max_line_length=200), re.MULTILINE
    )
  )


@pytest.mark.parametrize('order', [(0, 1), (1, 0)])
def test_encoder_is_pretrained_as_published(order):
  files = ('gin/models/fnet_base.gin', 'gin/runs/pretrain_encoder.gin')
  bound = bindings_of(*(files[i] for i in order))
  for name, value in {
    'ADAM_BETA1': '0.9',
    'ADAM_BETA2': '0.999',
    'ADAM_EPSILON': '1e-06',
    'BATCH_SIZE': '256',
    'DROPOUT_RATE': '0.1',
    'LEARNING_RATE': '0.0001',
    'MAX_PREDICTIONS': '80',
    'OPTIMIZER': '@optimizers.adamw()',
    'PACK': 'False',
    'WARMUP_STEPS': '10000',
    'WEIGHT_DECAY': '0.01',
  }.items():
    assert bound[name] == value, name
  assert bound['utils.create_learning_rate_scheduler.factors'] == (
    "'linear_decay'"
  )


@pytest.mark.parametrize('name', ['masked_lm', 'masked_lm_nsp'])
def test_what_a_run_of_an_encoder_saves_is_read_again(name):
  gin_utils.parse_gin_flags(
    [str(ROOT)],
    [
      'gin/models/fnet_tiny.gin',
      f'gin/objectives/{name}.gin',
      'gin/runs/pretrain_encoder.gin',
    ],
    ["MODEL_DIR = 'x'", 'TRAIN_STEPS = 20000', 'VOCABULARY = None'],
    finalize_config=False,
  )
  text = saved_config.read(gin.config_str(), 'config.gin').text
  gin.clear_config()
  gin.parse_config(text)
  assert gin_macros.value('MODEL').module.config.num_layers == 2


@pytest.mark.parametrize('size', SIZES)
def test_t5_and_the_hybrid_differ_in_the_network_alone(size):
  t5 = bindings_of(f'gin/models/t5_{size}.gin')
  hybrid = bindings_of(f'gin/models/fnet_t5_{size}.gin')
  assert t5.pop('ARCHITECTURE') == '@t5.Transformer()'
  for name, value in t5.items():
    name = name.replace('t5.T5Config.', 'fnet_t5.FNetT5Config.')
    if name != 't5.Transformer.config':
      assert hybrid[name] == value, name
  assert {name for name in hybrid.keys() - t5.keys() if '.' not in name} == {
    'ARCHITECTURE',
    'ATTENTION_LAYOUT',
    'DECODER_ATTENTION_LAYOUT',
    'DECODER_MIXING',
    'DECODER_NON_ATTENTION_MIXING',
    'ENCODER_MIXING',
    'ENCODER_OUTPUT_RATE',
    'ENCODER_POSITION_EMBEDDING',
    'FOURIER_LENGTHS',
    'FOURIER_METHOD',
    'FOURIER_SCALE',
    'GATED_CONVOLUTION_WIDTH',
    'MAX_DECODER_LENGTH',
    'MAX_ENCODER_LENGTH',
    'NON_ATTENTION_MIXING',
    'NUM_ATTENTION_LAYERS',
    'NUM_DECODER_ATTENTION_LAYERS',
    'TOEPLITZ_FILTER',
    'TOEPLITZ_METHOD',
  }


@pytest.mark.parametrize('size', SIZES)
def test_numbers_of_a_size_are_its_models(size):
  """After any other model, a file of gin/sizes/ makes it one of that size."""
  other = 'large' if size == 'tiny' else 'tiny'
  for architecture in ('t5', 'fnet_t5'):
    assert bindings_of(
      f'gin/models/{architecture}_{other}.gin', f'gin/sizes/{size}.gin'
    ) == bindings_of(f'gin/models/{architecture}_{size}.gin')


@pytest.mark.parametrize(
  ('binding', 'mixing'),
  [
    (
      "NON_ATTENTION_MIXING = 'none'",
      ('none', 'none', 'attention', 'attention'),
    ),
    (
      "ENCODER_MIXING = ('linear', 'attention', 'none', 'fourier')",
      ('linear', 'attention', 'none', 'fourier'),
    ),
    (
      "NON_ATTENTION_MIXING = 'toeplitz_gated'",
      ('toeplitz_gated', 'toeplitz_gated', 'attention', 'attention'),
    ),
  ],
)
def test_mixing_of_other_layers_and_of_all(binding, mixing):
  model = build('gin/models/fnet_t5_tiny.gin', 'VOCABULARY = None', binding)
  assert model.module.config.layer_mixing == mixing


@pytest.mark.parametrize(
  ('name', 'layers'), [('fnet_t5_tiny', 2), ('gpt2_tiny', 4)]
)
def test_mixing_of_a_decoder(name, layers):
  def mixing(*bindings):
    gin.clear_config()
    model = build(f'gin/models/{name}.gin', 'VOCABULARY = None', *bindings)
    return model.module.config.decoder_layer_mixing

  assert mixing() == ('attention',) * layers
  other = "DECODER_NON_ATTENTION_MIXING = 'fourier'"
  assert mixing(other) == ('fourier',) * layers
  assert mixing(other, 'NUM_DECODER_ATTENTION_LAYERS = 1') == (
    *('fourier',) * (layers - 1),
    'attention',
  )
  given = ('toeplitz', 'none', 'attention', 'fourier')[:layers]
  assert mixing(f'DECODER_MIXING = {given}') == given


def build(name, *bindings):
  gin.parse_config_file(name)
  gin.parse_config(['DROPOUT_RATE = 0.0', *bindings])
  return gin_macros.value('MODEL')


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_parameters_are_as_many_as_published(name):
  model = build(name, 'VOCABULARY = None', 'VOCAB_SIZE = 32128')
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(
      jax.random.PRNGKey(0),
      {'encoder_input_tokens': (1, 8), 'decoder_input_tokens': (1, 8)},
    )
  )
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(variables['params']))
  if name in PUBLISHED_PARAMETERS:
    assert count == PUBLISHED_PARAMETERS[name]
  # The hybrid has learned positions, and most layers lack attention.
  baseline = PUBLISHED_PARAMETERS.get(name.replace('fnet_t5', 't5'))
  if 'fnet_t5' in name and baseline:
    assert 0.5 * baseline < count < baseline
  if name.endswith('_matched_parameters.gin'):
    size = name.split('_')[2]
    assert count == pytest.approx(parameters.PUBLISHED[size], rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize('name', PUBLISHED_ENCODERS)
def test_parameters_of_encoders_are_as_many_as_published(name):
  model = build(name, 'VOCABULARY = None', 'VOCAB_SIZE = 32000')
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(
      jax.random.PRNGKey(0), {'encoder_input_tokens': (1, 8)}
    )
  )
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(variables['params']))
  assert count == PUBLISHED_ENCODERS[name]


@pytest.mark.parametrize('size', ['base', 'large', 'tiny'])
def test_hybrid_from_fnet_has_its_encoder_and_t5s_decoder(size):
  fnet = build(f'gin/models/fnet_{size}.gin', 'VOCABULARY = None')
  gin.clear_config()
  t5 = build(f'gin/models/t5_{size}.gin', 'VOCABULARY = None')
  gin.clear_config()
  hybrid = build(f'gin/models/fnet_encoder_t5_{size}.gin', 'VOCABULARY = None')
  config = hybrid.module.config
  assert config.encoder == fnet.module.config
  # The number of encoder layers has no effect in a decoder's configuration.
  layers = config.decoder.num_encoder_layers
  assert config.decoder == t5.module.config.replace(num_encoder_layers=layers)


def test_what_a_run_from_fnet_saves_is_read_again():
  gin_utils.parse_gin_flags(
    [str(ROOT)],
    [
      'gin/models/fnet_encoder_t5_tiny.gin',
      'gin/objectives/prefix_lm.gin',
      'gin/runs/pretrain.gin',
      'gin/optimizers/adamw.gin',
      'gin/runs/start_from_fnet.gin',
    ],
    [
      "MODEL_DIR = 'x'",
      'TRAIN_STEPS = 1',
      'VOCABULARY = None',
      "INITIAL_CHECKPOINT_PATH = 'y/checkpoint_1'",
      'ENCODER_LEARNING_RATE_SCALE = 0.5',
      'ENCODER_VOCAB_SIZE = 384',
    ],
    finalize_config=False,
  )
  text = saved_config.read(gin.config_str(), 'config.gin').text
  gin.clear_config()
  gin.parse_config(text)
  model = gin_macros.value('MODEL')
  assert model.module.config.encoder.vocab_size == 384
  assert model.module.config.decoder.vocab_size == 8192
  assert gin_macros.value('PACK') is False
  assert type(model.optimizer_def).__name__ == 'ScaledOptimizer'


@pytest.mark.parametrize(
  ('size', 'numbers'),
  [
    ('base', (768, 12, 12)),
    ('medium', (1024, 16, 24)),
    ('large', (1280, 20, 36)),
    ('xl', (1600, 25, 48)),
  ],
)
def test_sizes_of_gpt2_are_the_published_ones(size, numbers):
  """`networks/gpt2_test.py` counts parameters of these numbers."""
  model = build(f'gin/models/gpt2_{size}.gin', 'VOCABULARY = None')
  config = model.module.config
  got = (config.emb_dim, config.num_heads, config.num_layers)
  assert (*got, config.max_length) == (*numbers, 1024)
  assert config.feed_forward_width == 4 * config.emb_dim


@pytest.mark.parametrize('mixing', ['attention', 'linear', 'random', 'none'])
def test_other_encoders_are_one_macro_away(mixing):
  model = build(
    'gin/models/fnet_tiny.gin',
    'VOCABULARY = None',
    f'NON_ATTENTION_MIXING = {mixing!r}',
  )
  assert model.module.config.mixings == (mixing, mixing)


@pytest.mark.slow
@pytest.mark.parametrize('name', [n for n in MODELS if n.endswith('_tiny.gin')])
def test_tiny_model_takes_a_step(name):
  model = build(
    name,
    'VOCABULARY = None',
    'VOCAB_SIZE = 256',
    'ACTIVATION_DTYPE = "float32"',
  )
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(2, 256, (8, 12)), jnp.int32)
  batch = {
    'encoder_input_tokens': tokens,
    'decoder_input_tokens': jnp.pad(tokens[:, :-1], ((0, 0), (1, 0))),
    'decoder_target_tokens': tokens,
    'decoder_loss_weights': jnp.ones_like(tokens),
    'encoder_target_tokens': tokens,
    'encoder_loss_weights': jnp.ones_like(tokens),
    'encoder_type_ids': jnp.zeros_like(tokens),
    'next_sentence_labels': tokens[:, :1] % 2,
  }
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  initializer = utils.TrainStateInitializer(
    model.optimizer_def,
    model.get_initial_variables,
    {name: x.shape for name, x in batch.items()},
    partitioner,
    {name: x.dtype for name, x in batch.items()},
  )
  state = initializer.from_scratch(jax.random.PRNGKey(0))
  before = jax.device_get(state.params)
  run = trainer.Trainer(
    model=model,
    train_state=state,
    partitioner=partitioner,
    eval_names=(),
    summary_dir=None,
    train_state_axes=initializer.train_state_axes,
    rng=jax.random.PRNGKey(1),
    learning_rate_fn=lambda step: 0.01,
    num_microbatches=None,
  )
  # AdamW's rate is 0 in the first step of its warm-up.
  metrics, taken = run.train(iter([batch, batch]), 2)
  assert taken == 2
  # Untrained, the loss is about log(256) nats per token.
  assert 4 < float(metrics['loss'].compute()) < 9
  changed = jax.tree.map(
    lambda a, b: bool(np.any(a != b)),
    before,
    jax.device_get(run.train_state.params),
  )
  assert all(jax.tree.leaves(changed))


def test_objective_parameters_reach_the_objectives():
  gin.parse_config_file('gin/objectives/span_corruption.gin')
  gin.parse_config(['NOISE_DENSITY = 0.3', 'MEAN_NOISE_SPAN_LENGTH = 5.0'])
  bound = gin.get_bindings('span_corruption')
  assert bound['noise_density'] == 0.3
  assert bound['mean_noise_span_length'] == 5.0
  gin.clear_config()
  gin.parse_config_file('gin/objectives/prefix_lm.gin')
  gin.parse_config('NOISE_DENSITY = 0.1')
  assert gin.get_bindings('prefix_lm')['noise_density'] == 0.1
