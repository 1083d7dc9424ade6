"""Writes small TFDS folders of real format, for tests of TFDS sources.

TFDS's own writers make the files, so that `tfds.load` and SeqIO's
`TfdsDataSource` read them as they read a prepared dataset.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, naming, writer
from tensorflow_datasets.core import splits as splits_lib
from tensorflow_datasets.core.utils import shard_utils

tfds.disable_progress_bar()


def write(
  data_dir: str | os.PathLike[str],
  name: str,
  version: str,
  features: tfds.features.FeaturesDict | Mapping[str, Any],
  splits: Mapping[str, Sequence[Mapping[str, Any]]],
  config: str | None = None,
  num_shards: int = 1,
) -> pathlib.Path:
  """Writes a dataset of few examples, as if TFDS had prepared it.

  Args:
    data_dir: what `tfds.load`'s `data_dir`, or --tfds_data_dir, names.
    name: dataset, as TFDS spells it: 'c4'.
    version: '3.1.0'.
    features: TFDS features by name: `tfds.features.Text()`, `np.int32`,
      `tfds.features.ClassLabel(names=[...])` and so on.
    splits: examples of each split, as `features` encodes them. They are written
      in this order.
    config: config of the dataset: 'en'.
    num_shards: files of each split; fewer where it has fewer examples.

  Returns:
    The folder: data_dir/name[/config]/version.
  """
  folder = pathlib.Path(data_dir, name, config or '', version)
  folder.mkdir(parents=True)
  info = tfds.core.DatasetInfo(
    builder=tfds.core.dataset_info.DatasetIdentity(
      name=name,
      version=tfds.core.Version(version),
      data_dir=str(folder),
      module_name=__name__,
      config_name=config,
    ),
    features=tfds.features.FeaturesDict(dict(features)),
    disable_shuffling=True,
  )
  info.set_file_format('tfrecord')
  serializer = example_serializer.ExampleSerializer(
    info.features.get_serialized_info()
  )
  infos = []
  for split, examples in splits.items():
    template = naming.ShardedFileTemplate(
      dataset_name=name,
      data_dir=folder,
      split=split,
      filetype_suffix='tfrecord',
    )
    split_writer = writer.Writer(
      serializer=serializer,
      filename_template=template,
      hash_salt=split,
      disable_shuffling=True,
      example_writer=writer.ExampleWriter(info.file_format),
      shard_config=shard_utils.ShardConfig(
        num_shards=min(num_shards, len(examples))
      ),
    )
    for key, example in enumerate(examples):
      split_writer.write(key, info.features.encode_example(example))
    shard_lengths, num_bytes = split_writer.finalize()
    infos.append(
      splits_lib.SplitInfo(
        name=split,
        shard_lengths=shard_lengths,
        num_bytes=num_bytes,
        filename_template=template,
      )
    )
  info.set_splits(splits_lib.SplitDict(infos))
  info.write_to_directory(folder)
  return folder
