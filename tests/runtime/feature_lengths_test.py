"""Automatic feature lengths."""

import pytest
import seqio
import small_runs

from fnet_t5x.runtime import feature_lengths
from fnet_t5x.tasks import catalog

OBJECTIVE = 'fnet_sotu_prefix_lm'
LENGTHS = {'inputs': 24, 'targets': 12}


def config(name, lengths=None, split='validation'):
  return small_runs.dataset_config(
    split, mixture_or_task_name=name, task_feature_lengths=lengths
  )


def test_lengths_that_are_given_stay():
  cfg = config(OBJECTIVE, LENGTHS)
  assert feature_lengths.with_lengths(cfg, {'inputs': 1, 'targets': 1}) == cfg


def test_longest_examples_of_the_split(capsys):
  found = feature_lengths.with_lengths(config(small_runs.TASK))
  task = seqio.get_mixture_or_task(small_runs.TASK)
  rows = list(task.get_dataset(None, 'validation', shuffle=False))
  assert found.task_feature_lengths == {
    name: max(len(row[name]) for row in rows) for name in ('inputs', 'targets')
  }
  assert str(found.task_feature_lengths) in capsys.readouterr().out


def test_the_evaluator_finds_them_itself():
  cfg = config(small_runs.TASK)
  assert feature_lengths.with_lengths(cfg, measured=False) == cfg


@pytest.mark.parametrize('measured', [True, False])
def test_objectives_take_the_lengths_of_training(measured):
  """SeqIO refuses them: a prefix LM cuts text to the length it is given."""
  found = feature_lengths.with_lengths(config(OBJECTIVE), LENGTHS, measured)
  assert found.task_feature_lengths == LENGTHS


def test_objectives_have_lengths_of_their_own():
  """In evaluation, or if the training data has other features."""
  own = dict(catalog.CATALOG[OBJECTIVE].feature_lengths)
  for trained in (None, {'targets': 7}):
    found = feature_lengths.with_lengths(config(OBJECTIVE), trained)
    assert found.task_feature_lengths == own


def test_others_must_be_given():
  cut = seqio.Task(
    'feature_lengths_cut',
    source=seqio.get_mixture_or_task(small_runs.register().name).source,
    preprocessors=[lambda dataset, sequence_length: dataset],
    output_features={'inputs': seqio.Feature(seqio.ByteVocabulary())},
  )
  with pytest.raises(ValueError, match='TASK_FEATURE_LENGTHS is None, and fea'):
    feature_lengths.with_lengths(config(cut))


def test_an_empty_split():
  empty = seqio.Task(
    'feature_lengths_empty',
    source=seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: (
        seqio.get_mixture_or_task(small_runs.TASK)
        .source.get_dataset('train', shuffle=False)
        .take(0)
      ),
      splits=('validation',),
    ),
    preprocessors=[seqio.preprocessors.tokenize],
    output_features={'inputs': seqio.Feature(seqio.ByteVocabulary())},
  )
  with pytest.raises(ValueError, match='has no examples to find the lengths'):
    feature_lengths.with_lengths(config(empty))
