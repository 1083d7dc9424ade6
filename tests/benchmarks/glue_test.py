"""The sweep over GLUE: its runs, its summary, and resuming."""

import json

import glue_folders
import pytest

from fnet_t5x.benchmarks import glue
from fnet_t5x.tasks import glue_classification


def _options(output, *more):
  return glue.parse(
    [
      '--checkpoint=c/checkpoint_7',
      '--gin_file=gin/models/fnet_tiny.gin',
      f'--output={output}',
      *more,
    ]
  )


def test_tasks_and_metrics_are_those_registered():
  assert set(glue.METRICS) == set(glue_folders.CONFIGS)
  for task, names in glue.METRICS.items():
    name = f'fnet_glue_{task}_classification'
    objects = glue_classification.seqio.TaskRegistry.get(name).metric_objs
    # Pearson's and Spearman's correlation are one function.
    assert len(objects) == (1 if task in ('stsb', 'mnli') else len(names))
    assert set(glue.PAPER[task]) <= set(names)


def test_every_run_has_its_folder_and_settings(tmp_path):
  options = _options(tmp_path, '--gin=BATCH_SIZE=8')
  found = glue.runs(('cola', 'rte'), (1e-5, 3e-5), (0, 1, 2))
  assert len({run.folder for run in found}) == 12
  assert glue.bindings_of(found[-1], options) == [
    "GLUE_TASK = 'rte'",
    'LEARNING_RATE = 3e-05',
    'RANDOM_SEED = 2',
    "INITIAL_CHECKPOINT_PATH = 'c/checkpoint_7'",
    'KEEP_CHECKPOINTS = 1',
    'BATCH_SIZE = 8',
  ]


def test_median_of_seeds_at_the_best_learning_rate():
  def values(mcc, accuracy):
    return {'matthews_corrcoef': mcc, 'accuracy': accuracy}

  run = glue.Run
  metrics = {
    run('cola', 1e-5, 0): values(40, 75),
    run('cola', 1e-5, 1): values(50, 78),
    run('cola', 1e-5, 2): values(48, 79),
    # The best run, but not the best median.
    run('cola', 3e-5, 0): values(60, 80),
    run('cola', 3e-5, 1): values(0, 69),
    run('cola', 3e-5, 2): values(0, 69),
    # One seed failed.
    run('cola', 9e-5, 0): values(70, 90),
    run('rte', 1e-5, 0): {'accuracy': 60},
    run('rte', 3e-5, 0): {'accuracy': 60},
  }
  rows = glue.summary(metrics)
  chosen = [
    (r['task'], r['metric'], r['learning_rate'], r['median']) for r in rows
  ]
  assert chosen == [
    ('cola', 'matthews_corrcoef', 1e-5, 48),
    ('cola', 'accuracy', 1e-5, 78),
    ('rte', 'accuracy', 1e-5, 60),
  ]
  assert (rows[0]['minimum'], rows[0]['maximum'], rows[0]['seeds']) == (
    40,
    50,
    3,
  )
  assert glue.average(rows) == (78 + 60) / 2


def _evaluated(folder, task, steps):
  """Writes what SeqIO's logger does, one line per evaluation."""
  path = folder / 'inference_eval'
  path.mkdir(parents=True, exist_ok=True)
  lines = [json.dumps({'step': step, **values}) for step, values in steps]
  name = f'fnet_glue_{task}_classification-metrics.jsonl'
  (path / name).write_text('\n'.join(lines) + '\n')


def test_last_evaluation_counts(tmp_path):
  _evaluated(tmp_path, 'mnli', [(5, {'accuracy': 40}), (9, {'accuracy': 60})])
  with pytest.raises(ValueError, match='mnli_mismatched'):
    glue.read_metrics(tmp_path, 'mnli')
  _evaluated(tmp_path, 'mnli_mismatched', [(9, {'accuracy': 55})])
  assert glue.read_metrics(tmp_path, 'mnli') == {
    'accuracy': 60,
    'mismatched_accuracy': 55,
  }


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--learning_rates', '0'], '--learning_rates'),
    (['--seeds', '1', '1'], 'twice'),
    (['--output='], '--output is not given'),
    (['--tasks', 'snli'], 'snli'),
    (['--json=/no/such/folder/x.json'], '--json'),
  ],
)
def test_invalid_arguments_are_one_line(tmp_path, capsys, arguments, message):
  with pytest.raises(SystemExit):
    _options(tmp_path, *arguments)
  error = capsys.readouterr().err
  assert message in error and error.count('\n') == 1


def test_failure_of_the_first_run_ends_the_sweep(tmp_path, capsys):
  with pytest.raises(SystemExit):
    glue.main(
      [
        '--checkpoint=c/checkpoint_7',
        '--gin_file=no_such.gin',
        f'--output={tmp_path}',
        *('--tasks', 'rte'),
      ]
    )
  assert 'rte/lr_1e-05_seed_0' in capsys.readouterr().err
  log = (tmp_path / 'rte/lr_1e-05_seed_0/log.txt').read_text()
  assert 'no_such.gin' in log
