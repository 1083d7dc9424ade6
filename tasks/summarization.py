"""Summarization: CNN/DailyMail and XSum, evaluated with ROUGE.

`fnet_cnn_dailymail` (Hermann et al. 2015, See et al. 2017) and `fnet_xsum`
(Narayan et al. 2018, arXiv 1808.08745). TFDS requires XSum's texts to be
downloaded manually.
"""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf

from fnet_t5x.tasks import evaluation, text_metrics

_SPLITS = ('train', 'validation', 'test')


@seqio.map_over_dataset
def summarize(
  x: Mapping[str, tf.Tensor], article: str, summary: str
) -> dict[str, tf.Tensor]:
  """Formats 'summarize: <article>', and its summary.

  Args:
    x: an example.
    article: name of the feature with the article.
    summary: name of the feature with the summary.
  """
  return {
    'inputs': tf.strings.join(['summarize:', x[article]], ' '),
    'targets': x[summary],
  }


ENTRIES = (
  evaluation.register(
    'fnet_cnn_dailymail',
    'cnn_dailymail:3.4.0',
    _SPLITS,
    functools.partial(summarize, article='article', summary='highlights'),
    [text_metrics.rouge],
    'summary of a news article: ROUGE',
    {'inputs': 512, 'targets': 256},
  ),
  evaluation.register(
    'fnet_xsum',
    'xsum:1.1.0',
    _SPLITS,
    functools.partial(summarize, article='document', summary='summary'),
    [text_metrics.rouge],
    'one-sentence summary of a news article: ROUGE',
    {'inputs': 512, 'targets': 128},
  ),
)
