"""Small TFDS folders in the real format, for tests of TFDS sources.

TFDS's own writers create the files, so that `tfds.load` and SeqIO's
`TfdsDataSource` read them like any prepared dataset.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import seqio
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, naming, writer
from tensorflow_datasets.core import splits as splits_lib
from tensorflow_datasets.core.utils import gcs_utils, shard_utils

tfds.disable_progress_bar()


def write(
  data_dir: str | os.PathLike[str],
  name: str,
  version: str,
  features: tfds.features.FeaturesDict | Mapping[str, Any],
  splits: Mapping[str, Sequence[Mapping[str, Any]]],
  config: str | None = None,
  num_shards: int = 1,
  ordered: bool = True,
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
    ordered: whether TFDS refuses to read it in another order, as training does.

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
    disable_shuffling=ordered,
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


def write_known(
  data_dir: str | os.PathLike[str],
  tfds_name: str,
  splits: Mapping[str, Sequence[Mapping[str, Any]]],
  ordered: bool = True,
) -> pathlib.Path:
  """Writes a dataset with the features that TFDS's own code defines.

  Args:
    data_dir: what `tfds.load`'s `data_dir`, or --tfds_data_dir, names.
    tfds_name: dataset, config if it has any, and version: 'glue/cola:2.0.0'.
    splits: examples of each split; features that they lack are zero or empty.
    ordered: see `write`.

  Returns:
    The folder, as `write` does.

  Raises:
    AssertionError: if TFDS's code defines another version.
  """
  dataset, _, version = tfds_name.partition(':')
  name, _, config = dataset.partition('/')
  with mock.patch.object(gcs_utils, '_is_gcs_disabled', True):
    builder = tfds.builder(tfds_name, data_dir=data_dir)
    features = builder.info.features
  assert str(builder.version) == version
  filled = {
    split: [{**_empty(features), **example} for example in examples]
    for split, examples in splits.items()
  }
  return write(
    data_dir, name, version, features, filled, config or None, ordered=ordered
  )


def _empty(features: tfds.features.FeaturesDict) -> dict[str, Any]:
  empty = {}
  for name, feature in features.items():
    if isinstance(feature, tfds.features.Sequence):
      empty[name] = []
    elif isinstance(feature, tfds.features.FeaturesDict):
      empty[name] = _empty(feature)
    else:
      number = np.issubdtype(feature.np_dtype, np.number)
      empty[name] = 0 if number else ''
  return empty


def read_task(
  name: str, split: str = 'validation', **lengths: int
) -> list[dict[str, Any]]:
  """Returns a task's examples of a split, in order, with decoded strings."""
  task = seqio.get_mixture_or_task(name)
  dataset = task.get_dataset(
    {'inputs': 512, 'targets': 512, **lengths}, split, shuffle=False
  )
  return [
    {k: v.decode() if isinstance(v, bytes) else v for k, v in example.items()}
    for example in dataset.as_numpy_iterator()
  ]


def evaluate(
  name: str, outputs: Sequence[str], split: str = 'validation'
) -> dict[str, float]:
  """Returns the metrics of a model that predicts these outputs, in order.

  Scores, if the task needs them, are -1 nat per target token.
  """
  task = seqio.TaskRegistry.get(name)
  vocabulary = task.output_features['targets'].vocabulary
  tokens = [[*vocabulary.encode(output), 1] for output in outputs]
  longest = max(map(len, tokens))

  def predict(dataset):
    return [
      (int(i), tokens[int(i)] + [0] * (longest - len(tokens[int(i)])))
      for i, _ in dataset.as_numpy_iterator()
    ]

  def score(dataset):
    return [
      (int(i), -float(example['decoder_loss_weights'].sum()))
      for i, example in dataset.as_numpy_iterator()
    ]

  evaluator = seqio.Evaluator(
    name,
    feature_converter=seqio.EncDecFeatureConverter(pack=False),
    eval_split=split,
    sequence_length={'inputs': 512, 'targets': 512},
  )
  metrics, _ = evaluator.evaluate(
    compute_metrics=True, step=0, predict_fn=predict, score_fn=score
  )
  return metrics.result()[name]
