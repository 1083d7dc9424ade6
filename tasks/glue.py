"""GLUE (Wang et al. 2019, arXiv 1804.07461) as text to text.

`fnet_glue_<task>`, and the mixture `fnet_glue`. The validation split of
`fnet_glue_mnli` is the matched one.
"""

import functools
from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from fnet_t5x.tasks import evaluation, label_metrics, postprocessors

VERSION = '2.0.0'
FEATURE_LENGTHS = {'inputs': 512, 'targets': 16}
_SPLITS = ('train', 'validation')
_ENTAILMENT = ('entailment', 'not_entailment')
_ACCURACY = (label_metrics.accuracy,)
_F1 = (label_metrics.binary_f1, label_metrics.accuracy)


@seqio.map_over_dataset
def labelled_text(
  x: Mapping[str, tf.Tensor],
  prefix: str,
  fields: Sequence[str],
  labels: Sequence[str],
) -> dict[str, tf.Tensor]:
  """'<prefix> <field>: <its text> ...', and the label in words.

  Args:
    x: the fields, and the label's number under `label`.
    prefix: the task's name.
    fields: names of the text features, in the order of the text.
    labels: the labels in words, by number.
  """
  parts = [prefix]
  for field in fields:
    parts += [f'{field}:', x[field]]
  return {
    'inputs': tf.strings.join(parts, ' '),
    'targets': tf.gather(tf.constant(labels), x['label']),
  }


@seqio.map_over_dataset
def similarity(x: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """STS-B: two sentences, and their similarity to the nearest 0.2, as '3.4'."""
  return {
    'inputs': tf.strings.join(
      ['stsb sentence1:', x['sentence1'], 'sentence2:', x['sentence2']], ' '
    ),
    'targets': tf.strings.as_string(tf.round(x['label'] * 5) / 5, precision=1),
  }


def _register(
  name, objective, fields, labels, metric_fns, config=None, splits=_SPLITS
):
  config = config or name
  return evaluation.register(
    f'fnet_glue_{name}',
    f'glue/{config}:{VERSION}',
    splits,
    functools.partial(
      labelled_text, prefix=config, fields=fields, labels=labels
    ),
    metric_fns,
    objective,
    FEATURE_LENGTHS,
    functools.partial(postprocessors.label_id, labels=labels),
  )


_MNLI = {
  'fields': ('hypothesis', 'premise'),
  'labels': ('entailment', 'neutral', 'contradiction'),
  'metric_fns': _ACCURACY,
  'config': 'mnli',
}
_SENTENCES = ('sentence1', 'sentence2')
TASKS = (
  _register(
    'cola',
    'is the sentence acceptable: Matthews correlation',
    ('sentence',),
    ('unacceptable', 'acceptable'),
    (label_metrics.matthews_corrcoef,),
  ),
  _register(
    'sst2',
    'sentiment of a sentence: accuracy',
    ('sentence',),
    ('negative', 'positive'),
    _ACCURACY,
  ),
  _register(
    'mrpc',
    'do two sentences say the same: F1, accuracy',
    _SENTENCES,
    ('not_equivalent', 'equivalent'),
    _F1,
  ),
  _register(
    'qqp',
    'do two questions ask the same: F1, accuracy',
    ('question1', 'question2'),
    ('not_duplicate', 'duplicate'),
    _F1,
  ),
  evaluation.register(
    'fnet_glue_stsb',
    f'glue/stsb:{VERSION}',
    _SPLITS,
    similarity,
    (label_metrics.correlations,),
    'similarity of two sentences: correlations',
    FEATURE_LENGTHS,
    postprocessors.number,
  ),
  _register(
    'mnli',
    'entailment, same genres: accuracy',
    splits={'train': 'train', 'validation': 'validation_matched'},
    **_MNLI,
  ),
  _register(
    'mnli_mismatched',
    'entailment, other genres: accuracy',
    splits={'validation': 'validation_mismatched'},
    **_MNLI,
  ),
  _register(
    'qnli',
    'does the sentence answer the question: accuracy',
    ('question', 'sentence'),
    _ENTAILMENT,
    _ACCURACY,
  ),
  _register('rte', 'entailment: accuracy', _SENTENCES, _ENTAILMENT, _ACCURACY),
  _register(
    'wnli',
    'entailment by a pronoun: accuracy',
    _SENTENCES,
    _ENTAILMENT[::-1],
    _ACCURACY,
  ),
)
ENTRIES = (
  *TASKS,
  evaluation.register_mixture('fnet_glue', TASKS, FEATURE_LENGTHS),
)
