"""Models refuse tasks of another kind by a line that names what takes them."""

import types

import pytest
import seqio

from fnet_t5x import feature_converters, gin_check, gin_root, model_tasks
from fnet_t5x.tasks import objective_table

_CONVERTERS = {
  'DecoderOnlyModel': seqio.DecoderFeatureConverter,
  'EncoderDecoderModel': seqio.EncDecFeatureConverter,
  'EncoderOnlyModel': feature_converters.PretrainingFeatureConverter,
}
_MODELS = {
  'DecoderOnlyModel': 'gpt2_tiny',
  'EncoderDecoderModel': 'fnet_t5_tiny',
  'EncoderOnlyModel': 'fnet_tiny',
}
_ENCODER_TASKS = ('masked_lm', 'masked_lm_nsp')


def expected(model, objective):
  """What the line names; None if the model takes the objective."""
  if objective == 'causal_lm':
    return None if model == 'DecoderOnlyModel' else 'gin/models/gpt2_base.gin'
  if objective in _ENCODER_TASKS:
    return None if model == 'EncoderOnlyModel' else 'gin/models/fnet_base.gin'
  if model == 'EncoderOnlyModel':
    return 'gin/models/fnet_t5_base.gin'
  return None


@pytest.mark.parametrize('model', _CONVERTERS)
@pytest.mark.parametrize('name', objective_table.OBJECTIVES)
def test_features(model, name):
  features = objective_table.OBJECTIVES[name].features(seqio.ByteVocabulary())
  named = expected(model, name)
  made = types.SimpleNamespace(FEATURE_CONVERTER_CLS=_CONVERTERS[model])
  if named is None:
    model_tasks.check_features(made, f'fnet_sotu_{name}', features)
    return
  with pytest.raises(ValueError, match=named) as error:
    model_tasks.check_features(made, f'fnet_sotu_{name}', features)
  assert f'fnet_sotu_{name}' in str(error.value)


@pytest.mark.parametrize('model', _MODELS)
@pytest.mark.parametrize(
  'name',
  ['bart', 'causal_lm', 'masked_lm', 'masked_lm_nsp', 'span_corruption'],
)
def test_gin_files(model, name):
  """Before anything is imported, so with either engine."""
  files = [
    f'gin/models/{_MODELS[model]}.gin',
    f'gin/objectives/{name}.gin',
    'gin/runs/pretrain.gin',
  ]
  given = ("MODEL_DIR = 'x'", 'TRAIN_STEPS = 9')
  named = expected(model, name)
  if named is None:
    gin_check.check('train', files, given, [gin_root.gin_root()])
    return
  with pytest.raises(ValueError, match=named) as error:
    gin_check.check('train', files, given, [gin_root.gin_root()])
  assert '\n' not in str(error.value)
  # A task of another name is checked by its features.
  gin_check.check(
    'train',
    files,
    [*given, "MIXTURE_OR_TASK_NAME = 'mine'"],
    [gin_root.gin_root()],
  )


def test_models_with_a_converter_of_their_own_are_not_checked():
  made = types.SimpleNamespace(
    FEATURE_CONVERTER_CLS=seqio.PassThroughFeatureConverter
  )
  model_tasks.check_features(made, 'mine', {'targets'})
