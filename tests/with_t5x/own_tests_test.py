"""T5X's own tests on the runtime: which fail, and the table of docs/t5x.md.

`own_tests.py` runs them; `adafactor_test` and `decoding_test`, which take a
minute each, only by hand. Why tests fail is in docs/t5x.md.
"""

import fnmatch
import json
import pathlib
import re

from checkout import ROOT

_ACCUMULATE = 'test_accumulate_grads_microbatched_without_weight_sum'
_INPUTS = 'test_predict_batch_fake_input_shapes_and_types'
# By file; a name that ends in * stands for all tests that begin with it.
LEFT_OUT = {
  'gin_utils': (),
  'losses': (),
  'metrics': (),
  'models': (
    f'EncoderDecoderModelTest.{_INPUTS}*',
    'EncoderDecoderModelTest.test_predict_batch_loop_and_caches_are_equal',
  ),
  'partitioning': (
    'PartitioningTest.test_bounds_from_last_device',
    'PartitioningTest.test_default_mesh',
    'PartitioningTest.test_get_coords',
    'PartitioningTest.test_local_chunker',
  ),
  'train_state': (),
  'trainer': (
    'MetricsManagerTest.*',
    'MutableTrainerTest.*',
    'TrainerRngDeterminismTest.test_rng_determinism',
    f'TrainerTest.{_ACCUMULATE}*',
    'TrainerTest.test_compile_*',
    'TrainerTest.test_eval_noprecompile',
    'TrainerTest.test_eval_precompile',
    'TrainerTest.test_train_*',
  ),
  'utils': (
    'MutableGetInferFnTest.*',
    'OrbaxRestoreTest.test_orbax_restore',
    'TrainStateInitializerTest.test_from_checkpoint*',
    'UtilsTest.test_create_orbax_checkpoint_manager*',
    'UtilsTest.test_get_training_eval_datasets_*',
    'UtilsTest.test_log_model_info_*',
  ),
}


def test_failures_and_the_table_of_the_documents(python, tmp_path):
  path = tmp_path / 'outcomes.json'
  script = pathlib.Path(__file__).with_name('own_tests.py')
  python(script, f'--json={path}', *LEFT_OUT, engine='runtime')
  table = (ROOT / 'docs/t5x.md').read_text()
  for file, by_test in json.loads(path.read_text()).items():
    failed = {name for name, got in by_test.items() if got != 'passed'}
    expected = {
      name
      for name in by_test
      for pattern in LEFT_OUT[file]
      if fnmatch.fnmatchcase(name, pattern)
    }
    assert failed == expected, file
    figures = f'{len(by_test) - len(failed)} of {len(by_test)}'
    row = rf'^\| `{file}_test` \|.*\| {figures} \|$'
    assert re.search(row, table, re.M), f'{file}: {figures} in docs/t5x.md'
