"""Table of evaluation tasks; importing it has no side effects."""

import os
import subprocess
import sys

import pytest
import seqio

from fnet_t5x.tasks import evaluation_table

_TABLE = evaluation_table.EVALUATION_TASKS


def test_every_task_is_registered_with_its_features():
  for name, entry in _TABLE.items():
    assert name == entry.name
    assert name.startswith('fnet_')
    task = seqio.get_mixture_or_task(name)
    assert set(entry.feature_lengths) == set(task.output_features)
    if isinstance(task, seqio.Task):
      assert entry.source == f'TFDS {task.source.tfds_dataset.name}'
      assert task.metric_objs or name == 'fnet_super_glue_wsc_train'
      assert task.supports_caching


# Only imports the tasks.
_PROGRAM = """
import sys
from fnet_t5x.tasks import evaluation_table
assert evaluation_table.EVALUATION_TASKS
for module in ('rouge_score', 'sacrebleu', 'nltk'):
  assert module not in sys.modules, module
"""


@pytest.mark.slow
def test_import_reads_downloads_and_trains_nothing(tmp_path):
  process = subprocess.run(
    [sys.executable, '-c', _PROGRAM],
    env={
      **os.environ,
      'HOME': str(tmp_path),
      'FNET_T5X_CACHE_DIR': str(tmp_path / 'cache'),
      'TFDS_DATA_DIR': str(tmp_path / 'tfds'),
      # matplotlib, which TFDS imports if installed, makes folders.
      'MPLCONFIGDIR': str(tmp_path / '.keras'),
    },
    stderr=subprocess.PIPE,
    text=True,
    check=False,
  )
  assert process.returncode == 0, process.stderr[-2000:]
  # Keras, which TensorFlow imports, makes a folder.
  assert {path.name for path in tmp_path.iterdir()} <= {'.keras'}


@pytest.mark.parametrize(
  'name', ['fnet_glue_cola', 'fnet_lambada', 'fnet_glue']
)
def test_missing_data_is_one_clear_line(small_vocabulary, tfds_dir, name):
  task = seqio.get_mixture_or_task(name)
  with pytest.raises(FileNotFoundError, match='set --tfds_data_dir') as error:
    task.get_dataset({'inputs': 8, 'targets': 8}, 'validation', shuffle=False)
  assert '\n' not in str(error.value)
