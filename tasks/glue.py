"""GLUE (Wang et al. 2019, arXiv 1804.07461) as text to text.

`fnet_glue_<task>`, and the mixture `fnet_glue`. `fnet_glue_mnli` validates on
the matched split.
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
  """Formats '<prefix> <field>: <its text> ...', and the label as text.

  Args:
    x: text features, and the integer `label`.
    prefix: name of the task.
    fields: names of the text features, in output order.
    labels: text of each label.
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
  """Formats STS-B; the score, rounded to the nearest 0.2, is text ('3.4')."""
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
    'acceptability of a sentence: Matthews correlation',
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
    'paraphrase of a sentence: F1, accuracy',
    _SENTENCES,
    ('not_equivalent', 'equivalent'),
    _F1,
  ),
  _register(
    'qqp',
    'paraphrase of a question: F1, accuracy',
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
    'entailment, genres seen in training: accuracy',
    splits={'train': 'train', 'validation': 'validation_matched'},
    **_MNLI,
  ),
  _register(
    'mnli_mismatched',
    'entailment, unseen genres: accuracy',
    splits={'validation': 'validation_mismatched'},
    **_MNLI,
  ),
  _register(
    'qnli',
    'answerability of a question by a sentence: accuracy',
    ('question', 'sentence'),
    _ENTAILMENT,
    _ACCURACY,
  ),
  _register('rte', 'entailment: accuracy', _SENTENCES, _ENTAILMENT, _ACCURACY),
  _register(
    'wnli',
    'entailment after resolving a pronoun: accuracy',
    _SENTENCES,
    _ENTAILMENT[::-1],
    _ACCURACY,
  ),
)
ENTRIES = (
  *TASKS,
  evaluation.register_mixture('fnet_glue', TASKS, FEATURE_LENGTHS),
)
