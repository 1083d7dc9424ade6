"""WMT translation from English, evaluated with sacreBLEU.

T5's three language pairs: `fnet_wmt_en_de` (validated on newstest2013, tested
on newstest2014), `fnet_wmt_en_fr` (WMT 2014) and `fnet_wmt_en_ro` (WMT 2016).
"""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf

from fnet_t5x.tasks import evaluation, text_metrics

_LANGUAGES = {
  'de': 'German',
  'en': 'English',
  'fr': 'French',
  'ro': 'Romanian',
}


@seqio.map_over_dataset
def translate(
  x: Mapping[str, tf.Tensor], source: str, target: str
) -> dict[str, tf.Tensor]:
  """Formats 'translate English to German: <text>', and the translation.

  Args:
    x: the text by language code.
    source: code of the language to translate from.
    target: code of the language to translate to.
  """
  prefix = f'translate {_LANGUAGES[source]} to {_LANGUAGES[target]}:'
  return {
    'inputs': tf.strings.join([prefix, x[source]], ' '),
    'targets': x[target],
  }


def _register(target: str, tfds_name: str):
  return evaluation.register(
    f'fnet_wmt_en_{target}',
    tfds_name,
    ('train', 'validation', 'test'),
    functools.partial(translate, source='en', target=target),
    [text_metrics.bleu],
    f'translation from English to {_LANGUAGES[target]}: BLEU',
    {'inputs': 256, 'targets': 256},
  )


ENTRIES = (
  _register('de', 'wmt_t2t_translate/de-en:1.0.0'),
  _register('fr', 'wmt14_translate/fr-en:1.0.0'),
  _register('ro', 'wmt16_translate/ro-en:1.0.0'),
)
