"""SuperGLUE (Wang et al. 2019, arXiv 1905.00537) as text to text.

`fnet_super_glue_<task>`, and the mixture `fnet_super_glue`. WSC is in T5's
form: name the referent of the pronoun. Models are trained on true referents
only (`fnet_super_glue_wsc_train`) and validated on all candidates
(`fnet_super_glue_wsc`).
"""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf

from fnet_t5x.tasks import (
  evaluation,
  glue,
  label_metrics,
  postprocessors,
  text_metrics,
)

VERSION = '1.0.2'
FEATURE_LENGTHS = {'inputs': 512, 'targets': 64}
_SPLITS = ('train', 'validation')
_TRUTH = ('False', 'True')
_ACCURACY = (label_metrics.accuracy,)


@seqio.map_over_dataset
def multirc(x: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Formats MultiRC, without the HTML tags of the passages."""
  parts = ['multirc']
  for field in ('question', 'answer', 'paragraph'):
    parts += [f'{field}:', x[field]]
  text = tf.strings.regex_replace(tf.strings.join(parts, ' '), '<br>', ' ')
  return {
    'inputs': tf.strings.regex_replace(text, '</?b>', ''),
    'targets': tf.gather(tf.constant(_TRUTH), x['label']),
    'idx/paragraph': x['idx']['paragraph'],
    'idx/question': x['idx']['question'],
  }


def record(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Formats ReCoRD: predict the query's placeholder; one example per answer.

  The '@highlight' marks of passages become sentence ends. All examples of a
  query have the same inputs; the metric counts the first.
  """

  def expand(x):
    text = tf.strings.regex_replace(
      x['passage'], r'([.?!"\'])\n@highlight\n', r'\1 '
    )
    text = tf.strings.regex_replace(text, r'\n@highlight\n', '. ')
    entities = tf.strings.reduce_join(x['entities'], separator=', ')
    parts = ['record query:', x['query'], 'entities:', entities]
    example = {
      'inputs': tf.strings.join([*parts, 'passage:', text], ' '),
      'answers': x['answers'],
      'idx/passage': x['idx']['passage'],
      'idx/query': x['idx']['query'],
    }
    answers = tf.data.Dataset.from_tensor_slices(x['answers'])
    return answers.map(lambda answer: {**example, 'targets': answer})

  return dataset.flat_map(expand)


@seqio.map_over_dataset
def _referent(x: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  words = tf.strings.split(x['text'], ' ')
  bare = tf.strings.regex_replace(words, '^[[:punct:]]+|[[:punct:]]+$', '')
  # Some of the dataset's indices are off by a few words, and punctuation may be
  # part of a word: take the nearest occurrence of the pronoun.
  distance = tf.abs(tf.range(tf.size(words)) - x['span2_index'])
  far = tf.where(bare == x['span2_text'], 0, tf.size(words))
  place = tf.argmin(distance + far, output_type=tf.int32)
  marked = tf.strings.regex_replace(
    words[place], r'^([[:punct:]]*)(.*?)([[:punct:]]*)$', r'\1*\2*\3'
  )
  words = tf.concat([['wsc:'], words[:place], [marked], words[place + 1 :]], 0)
  return {
    'inputs': tf.strings.reduce_join(words, separator=' '),
    'targets': x['span1_text'],
    'label': x['label'],
  }


def referent(
  dataset: tf.data.Dataset, true_only: bool = False
) -> tf.data.Dataset:
  """Formats WSC: 'wsc: Bob asked Tom if *he* can help.', and a candidate.

  Args:
    dataset: examples of TFDS's `super_glue/wsc.fixed`.
    true_only: whether to keep only the true referents.
  """
  if true_only:
    dataset = dataset.filter(lambda x: x['label'] == 1)
  return _referent(dataset)


def _register(
  name,
  objective,
  to_text,
  metric_fns,
  postprocess_fn=None,
  config=None,
  splits=_SPLITS,
):
  return evaluation.register(
    f'fnet_super_glue_{name}',
    f'super_glue/{config or name}:{VERSION}',
    splits,
    to_text,
    metric_fns,
    objective,
    FEATURE_LENGTHS,
    postprocess_fn,
  )


def _register_labelled(
  name, objective, fields, labels=_TRUTH, metric_fns=_ACCURACY
):
  return _register(
    name,
    objective,
    functools.partial(
      glue.labelled_text, prefix=name, fields=fields, labels=labels
    ),
    metric_fns,
    functools.partial(postprocessors.label_id, labels=labels),
  )


TASKS = (
  _register_labelled(
    'boolq', 'yes/no answer to a question: accuracy', ('passage', 'question')
  ),
  _register_labelled(
    'cb',
    'entailment: mean F1, accuracy',
    ('hypothesis', 'premise'),
    ('entailment', 'contradiction', 'neutral'),
    (label_metrics.macro_f1_of_three, label_metrics.accuracy),
  ),
  _register_labelled(
    'copa',
    'the more likely cause or effect: accuracy',
    ('choice1', 'choice2', 'premise', 'question'),
    ('choice1', 'choice2'),
  ),
  _register(
    'multirc',
    'correctness of an answer: F1, exact match',
    multirc,
    (label_metrics.multirc,),
    postprocessors.multirc_label,
  ),
  _register(
    'record',
    'the missing entity: exact match, F1',
    record,
    (text_metrics.record,),
    postprocessors.record_answers,
  ),
  _register_labelled(
    'rte',
    'entailment: accuracy',
    ('hypothesis', 'premise'),
    ('entailment', 'not_entailment'),
  ),
  _register_labelled(
    'wic',
    'same sense of a word in two sentences: accuracy',
    ('sentence1', 'sentence2', 'word'),
  ),
  _register(
    'wsc',
    'referent of a pronoun, all candidates: accuracy',
    referent,
    _ACCURACY,
    postprocessors.names_referent,
    'wsc.fixed',
    ('validation',),
  ),
  _register(
    'wsc_train',
    'referent of a pronoun, true ones only: for training',
    functools.partial(referent, true_only=True),
    (),
    config='wsc.fixed',
    splits=('train',),
  ),
)
ENTRIES = (
  *TASKS,
  evaluation.register_mixture('fnet_super_glue', TASKS, FEATURE_LENGTHS),
)
