"""T5X's settings that gin files of pods have, on the embedded runtime."""

import gin
import pytest
import seqio

from fnet_t5x import saved_config
from fnet_t5x.runtime import checkpoints, datasets, gin_utils, utils

HEADER = """from __gin__ import dynamic_registration
import seqio
from t5x import checkpoints
from t5x import gin_utils
from t5x import partitioning
from t5x import trainer
from t5x import utils
from t5x.examples.scalable_t5 import network
"""


def parse(folder, text):
  path = folder / 'run.gin'
  path.write_text(HEADER + text)
  gin_utils.parse_gin_flags(['.'], [str(path)], [], finalize_config=False)


def test_settings_that_are_taken(tmp_path):
  parse(
    tmp_path,
    'utils.SaveCheckpointConfig:\n'
    '  checkpoint_steps = [3]\n  keep_dataset_checkpoints = 3\n'
    '  state_transformation_fns = []\n'
    'utils.RestoreCheckpointConfig:\n'
    "  path = ['a', 'b']\n  strict = False\n  mode = 'all'\n"
    'utils.DatasetConfig.num_prefetch_threads = 2\n',
  )
  save = gin.get_configurable(checkpoints.SaveCheckpointConfig)()
  assert save.checkpoint_steps == [3]
  restore = gin.get_configurable(checkpoints.RestoreCheckpointConfig)()
  assert (restore.path, restore.strict) == (['a', 'b'], False)
  config = gin.get_configurable(datasets.DatasetConfig)
  assert config('task', {}, 'train', 1, False, 0).num_prefetch_threads == 2
  with pytest.raises(ValueError, match='num_workers is 4: the embedded'):
    config('task', {}, 'train', 1, False, 0, num_workers=4)


@pytest.mark.parametrize(
  ('setting', 'message'),
  [
    (
      'utils.SaveCheckpointConfig.checkpointer_cls = @checkpoints.Checkpointer',
      r"line 9: checkpoints.Checkpointer is not in .*T5X's on Orbax: leave it",
    ),
    (
      'utils.SaveCheckpointConfig.checkpointer_cls = '
      '@checkpoints.SaveBestCheckpointer',
      'SaveBestCheckpointer is not in .*set SaveCheckpointConfig.keep = None',
    ),
    (
      'utils.RestoreCheckpointConfig.checkpointer_cls = None',
      "line 9: .* doesn't have a parameter named 'checkpointer_cls'; the runt",
    ),
    ('network.T5Config.param_scan_axis = 0', 'axis 1 of a parameter'),
    ('utils.DatasetConfig.runtime_preprocessors = []', "the task's preproc"),
  ],
)
def test_settings_that_are_refused_with_a_remedy(tmp_path, setting, message):
  with pytest.raises(ValueError, match=message) as error:
    parse(tmp_path, f'{setting}\n')
  assert '\n' not in str(error.value)


def test_a_missing_module_of_t5s_tasks_has_a_remedy(tmp_path):
  with pytest.raises(ValueError, match=r"line 9: .*T5's tasks are the package"):
    parse(tmp_path, 'from t5.data import mixtures\n')


def test_functions_in_values(tmp_path):
  parse(
    tmp_path,
    'FIRST = @gin_utils.string_split_fn()\ngin_utils.string_split_fn:\n'
    "  text = 'a/b/c'\n  separator = '/'\n  maxsplit = 1\n  index = 1\n"
    'SUM = @gin_utils.sum_fn()\n'
    'gin_utils.sum_fn:\n  var1 = 3\n  var2 = 4\n'
    'BOOL = @gin_utils.bool_fn()\ngin_utils.bool_fn.var1 = %SUM\n'
    'SIZE = @utils.round_vocab_size_to_multiple()\n'
    'utils.round_vocab_size_to_multiple:\n'
    '  vocabulary = @seqio.ByteVocabulary()\n  divisor = 50\n',
  )
  # A model directory may have them: they have no effects.
  saved = saved_config.read(gin.config_str(), 'config.gin').text
  gin.clear_config()
  gin.parse_config(saved)
  for name, value in (('FIRST', 'b/c'), ('SUM', 7), ('BOOL', True)):
    assert gin.get_configurable(f'{name}/gin.macro')() == value
  # 259 ids.
  assert gin.get_configurable('SIZE/gin.macro')() == 300
  assert gin_utils.string_split_fn('a b', ' ') == ['a', 'b']
  assert (
    utils.round_vocab_size_to_multiple(seqio.PassThroughVocabulary(128)) == 128
  )
