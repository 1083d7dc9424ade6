"""Tasks on the Pile (Gao et al. 2020, arXiv 2101.00027).

`fnet_pile_<objective>`, `fnet_pile_held_out` and one held-out task per
component (`fnet_pile_held_out_arxiv`) read the Pile's files:
`train/NN.jsonl.zst`, `val.jsonl.zst`, `test.jsonl.zst`, or Parquet re-uploads.
`fnet_pile_tfds_*` read the TFDS dataset that `pile_builder` makes of them.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf

from fnet_t5x.tasks import (
  document_source,
  language_modeling,
  registration,
  tfds_source,
)

TFDS_NAME = 'fnet_pile:1.0.0'
SPLITS = ('train', 'validation', 'test')
# Values of `meta.pile_set_name`, largest component first (the paper's table 1).
COMPONENTS = (
  'Pile-CC',
  'PubMed Central',
  'Books3',
  'OpenWebText2',
  'ArXiv',
  'Github',
  'FreeLaw',
  'StackExchange',
  'USPTO Backgrounds',
  'PubMed Abstracts',
  'Gutenberg (PG-19)',
  'OpenSubtitles',
  'Wikipedia (en)',
  'DM Mathematics',
  'Ubuntu IRC',
  'BookCorpus2',
  'EuroParl',
  'HackerNews',
  'YoutubeSubtitles',
  'PhilPapers',
  'NIH ExPorter',
  'Enron Emails',
)
# Maximum copies of a document; more are a mistake, and would take forever.
_MAX_COPIES = 1_000_000
# For SeqIO's caching job, which does not read gin.
VARIABLE = 'FNET_T5X_PILE_DIR'
# The original layout first, then those of re-uploads.
_LAYOUTS = {
  'train': ('train/*.jsonl.zst', 'train/*.parquet', 'data/train-*.parquet'),
  'validation': (
    'val.jsonl.zst',
    'val/*.parquet',
    'data/validation-*.parquet',
  ),
  'test': ('test.jsonl.zst', 'test/*.parquet', 'data/test-*.parquet'),
}


@gin.configurable(module='pile')
def files(
  split: str,
  data_dir: str | None = None,
  patterns: Mapping[str, str | Sequence[str]] | None = None,
) -> list[str]:
  """Returns the files of a split.

  Args:
    split: one of `SPLITS`.
    data_dir: folder of the Pile, local or gs://; None takes the environment
      variable FNET_T5X_PILE_DIR.
    patterns: globs within that folder, by split; override the published
      layouts.

  Raises:
    FileNotFoundError: the folder is not set, or has no matching file.
    ValueError: `patterns` is not a mapping from splits.
  """
  if not isinstance(patterns or {}, Mapping) or set(patterns or {}) - set(
    SPLITS
  ):
    raise ValueError(
      f'PILE_FILES is {patterns!r}; it must be a dict of globs by split '
      f'({", ".join(SPLITS)}), such as '
      "{'train': 'part-*.jsonl.zst'}"
    )
  data_dir = data_dir or os.environ.get(VARIABLE)
  if not data_dir:
    raise FileNotFoundError(
      'the folder of fnet_pile_* is not set: set PILE_DIR to the folder with '
      'train/*.jsonl.zst and val.jsonl.zst'
    )
  names = {**_LAYOUTS, **(patterns or {})}[split]
  names = [names] if isinstance(names, str) else names
  return document_source.matching_files(
    [os.path.join(data_dir, name) for name in names],
    f'the Pile, split {split!r}',
    "set PILE_DIR to its folder, or PILE_FILES = {'train': ...} to its files",
  )


@gin.configurable(module='pile')
def component_weights(
  components: Sequence[str] | None = None,
  weights: Mapping[str, float] | None = None,
) -> dict[str, float]:
  """Returns the number of copies of each document, by component.

  Args:
    components: `meta.pile_set_name` of the components to use; None uses all.
    weights: copies per document by component, 1 by default. The fractional part
      is the share of documents that get one more copy, chosen by a hash of the
      text.

  Returns:
    The weights by component; empty if every document is used once.

  Raises:
    ValueError: unknown component, an invalid weight, or weights that are all 0.
  """
  if isinstance(components, str):
    raise ValueError(
      f'PILE_COMPONENTS is {components!r}; it must be a list, such as '
      f'[{components!r}]'
    )
  if weights is not None and not isinstance(weights, Mapping):
    raise ValueError(
      f'PILE_WEIGHTS is {weights!r}; it must be a dict of weights by component,'
      " such as {'ArXiv': 2.0}"
    )
  for name in [*(components or ()), *(weights or {})]:
    if name not in COMPONENTS:
      close = difflib.get_close_matches(name, COMPONENTS, n=3, cutoff=0.4)
      raise ValueError(
        f'the Pile has no component {name!r} (PILE_COMPONENTS, PILE_WEIGHTS): '
        f'use one of {", ".join(close or COMPONENTS)}'
      )
  for name, weight in (weights or {}).items():
    # Written so that NaN fails, too.
    if not (
      isinstance(weight, int | float)
      and not isinstance(weight, bool)
      and 0 <= weight <= _MAX_COPIES
    ):
      raise ValueError(
        f'PILE_WEIGHTS[{name!r}] is {weight!r}; it must be a number from 0 to '
        f'{_MAX_COPIES:,}'
      )
  if not components and not weights:
    return {}
  chosen = {
    name: float((weights or {}).get(name, 1.0))
    for name in components or COMPONENTS
  }
  if not any(chosen.values()):
    raise ValueError(
      'PILE_WEIGHTS leaves no document: raise the weight of a component above 0'
    )
  return chosen


def select_components(
  dataset: tf.data.Dataset, weights: Mapping[str, float]
) -> tf.data.Dataset:
  """Repeats each document according to its component's weight.

  Args:
    dataset: examples with `text` and `component`.
    weights: weight by component; other components are dropped. If empty, all
      documents are used once.
  """
  if not weights:
    return dataset
  # Not a lookup table, since iterators with one cannot be saved.
  names = tf.constant(list(weights))
  values = tf.constant(list(weights.values()), tf.float64)
  buckets = 1 << 30

  def copies(example):
    weight = tf.reduce_sum(tf.where(example['component'] == names, values, 0.0))
    uniform = (
      tf.strings.to_hash_bucket_strong(example['text'], buckets, [17, 42])
      / buckets
    )
    count = tf.floor(weight + uniform)
    return tf.data.Dataset.from_tensors(example).repeat(
      tf.cast(count, tf.int64)
    )

  return dataset.flat_map(copies)


class ComponentSource(seqio.DataSource):
  """Documents of another source, weighted by component."""

  def __init__(
    self, source: seqio.DataSource, components: Sequence[str] | None = None
  ):
    """Makes a source.

    Args:
      source: a source of examples with `text` and `component`.
      components: components to use; they take precedence over gin's.
    """
    super().__init__(splits=SPLITS)
    self._source = source
    self._components = components

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    return self._source.list_shards(split)

  def get_dataset(self, *args, **kwargs) -> tf.data.Dataset:
    """Returns the source's dataset, weighted by component."""
    if self._components is None:
      weights = component_weights()
    else:
      weights = dict.fromkeys(self._components, 1.0)
    return select_components(self._source.get_dataset(*args, **kwargs), weights)


def _register_held_out(
  name: str, source: seqio.DataSource, summary: str
) -> list[registration.Entry]:
  """Registers held-out loss on the whole Pile, and on each component."""
  entries = [
    language_modeling.register_held_out_loss(
      f'fnet_{name}_held_out', ComponentSource(source), summary
    )
  ]
  for component in COMPONENTS:
    slug = '_'.join(re.findall(r'[a-z0-9]+', component.lower()))
    entries.append(
      language_modeling.register_held_out_loss(
        f'fnet_{name}_held_out_{slug}',
        ComponentSource(source, [component]),
        f'{summary}: {component}',
      )
    )
  return entries


FILE_SOURCE = document_source.DocumentFileSource(files, SPLITS)
TFDS_SOURCE = tfds_source.TfdsSource(TFDS_NAME, SPLITS)
ENTRIES = []
for _name, _summary, _source in (
  ('pile', 'the Pile', FILE_SOURCE),
  ('pile_tfds', f'TFDS {TFDS_NAME}', TFDS_SOURCE),
):
  ENTRIES += registration.register(_name, _summary, ComponentSource(_source))
  ENTRIES += _register_held_out(_name, _source, _summary)
