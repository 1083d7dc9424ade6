"""Tasks on the shipped corpus (State of the Union addresses).

`fnet_sotu_<objective>` and `fnet_sotu_held_out`. Nothing is read, and no
vocabulary trained, until one of them is used.
"""

import os
from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from fnet_t5x.tasks import corpus, language_modeling, registration


class AddressDataSource(seqio.DataSource):
  """One example per address, with `id` and `text`; every address is a shard.

  The number of examples is deliberately not reported: SeqIO would then keep the
  texts in a tf.data cache, and every saved iterator would include all of them.
  """

  def __init__(self):
    super().__init__(splits=corpus.SPLITS)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    return [os.fspath(p) for p in corpus.document_paths(split)]

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused_kwargs,
  ) -> tf.data.Dataset:
    paths = self.list_shards(split)
    dataset = tf.data.Dataset.from_tensor_slices(np.array(paths, dtype=str))
    if shard_info:
      dataset = dataset.shard(shard_info.num_shards, shard_info.index)
    if shuffle:
      dataset = dataset.shuffle(len(paths), seed=seed)

    def read(path):
      name = tf.strings.split(path, os.sep)[-1]
      return {
        'id': tf.strings.regex_replace(name, r'\.txt$', ''),
        'text': tf.io.read_file(path),
      }

    return dataset.map(read)


_SUMMARY = 'State of the Union addresses'
_SOURCE = AddressDataSource()
ENTRIES = [
  *registration.register('sotu', _SUMMARY, _SOURCE),
  language_modeling.register_held_out_loss(
    'fnet_sotu_held_out', _SOURCE, _SUMMARY
  ),
]
