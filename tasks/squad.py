"""SQuAD v1.1 (Rajpurkar et al. 2016, arXiv 1606.05250): `fnet_squad`.

The answer to a question on a paragraph; the metrics take the best match over
all reference answers.
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from fnet_t5x.tasks import evaluation, postprocessors, text_metrics


def _spaced(text: tf.Tensor) -> tf.Tensor:
  """Puts spaces around ASCII punctuation, and collapses whitespace."""
  text = tf.strings.regex_replace(text, '([[:punct:]])', r' \1 ')
  return tf.strings.regex_replace(text, r'\s+', ' ')


@seqio.map_over_dataset
def question_and_context(x: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
  """Formats 'question: <question> context: <paragraph>', the first answer."""
  answers = _spaced(x['answers']['text'])
  inputs = tf.strings.join(
    ['question:', _spaced(x['question']), 'context:', _spaced(x['context'])],
    ' ',
  )
  return {
    'inputs': tf.strings.regex_replace(inputs, r'\s+', ' '),
    'targets': answers[0],
    'answers': answers,
    'id': x['id'],
  }


ENTRIES = (
  evaluation.register(
    'fnet_squad',
    'squad/v1.1:3.0.0',
    ('train', 'validation'),
    question_and_context,
    [text_metrics.squad],
    'answer to a question on a paragraph: exact match, F1',
    {'inputs': 512, 'targets': 64},
    postprocessors.all_answers,
  ),
)
