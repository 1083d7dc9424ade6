"""TFDS datasets as task sources, with clear errors for missing ones.

A dataset prepared by TFDS is in `DATA_DIR/name[/config]/version`. DATA_DIR,
local or remote (gs://), is --tfds_data_dir, else $TFDS_DATA_DIR, else
~/tensorflow_datasets.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import gin
import seqio
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.utils import file_utils

_INFO_FILE = 'dataset_info.json'


@dataclasses.dataclass(frozen=True)
class TfdsOptions:
  """Options of TFDS sources; see `tfds_options`."""

  versions: Mapping[str, str]
  download: bool


@gin.configurable
def tfds_options(
  versions: Mapping[str, str] | None = None, download: bool = False
) -> TfdsOptions:
  """Returns the options of all TFDS sources, for gin.

  They take effect when a dataset is read, not when its task is registered.

  Args:
    versions: versions that override the tasks', by dataset and config:
      {'c4/en': '3.0.1', 'cnn_dailymail': '3.3.0'}.
    download: whether TFDS may download and prepare missing datasets.

  Raises:
    ValueError: a value of the wrong type, such as 'False'.
  """
  if not isinstance(download, bool):
    raise ValueError(
      f'tfds_options.download is {download!r}; it must be True or False'
    )
  if versions is not None and not isinstance(versions, Mapping):
    raise ValueError(
      f'tfds_options.versions is {versions!r}; it must be a dict of versions '
      "by name, such as {'c4/en': '3.0.1'}"
    )
  for name, version in (versions or {}).items():
    if not isinstance(version, str):
      raise ValueError(
        f'tfds_options.versions[{name!r}] is {version!r}; it must be a string, '
        "such as '3.0.1'"
      )
  return TfdsOptions(versions or {}, download)


class _Loader(seqio.LazyTfdsLoader):
  """Reads gin and --tfds_data_dir at each use; SeqIO's reads them only once."""

  @property
  def name(self) -> str:
    dataset, _, version = super().name.partition(':')
    return f'{dataset}:{tfds_options().versions.get(dataset, version)}'

  @property
  def data_dir(self) -> str | None:
    own = self._data_dir_override
    try:
      return super().data_dir
    finally:
      self._data_dir_override = own


class TfdsSource(seqio.TfdsDataSource):
  """SeqIO's TFDS source, without implicit downloads and with clear errors.

  Nothing is read before the first use. At that point `name`, `tfds_options` and
  --tfds_data_dir determine the dataset's folder.
  """

  def __init__(
    self,
    name: str,
    splits: Iterable[str] | Mapping[str, str] | None = None,
    caching_permitted: bool = True,
  ):
    """Makes a source.

    Args:
      name: dataset, config and version: 'c4/en:3.1.0'.
      splits: the splits to offer, or a mapping from split name to TFDS's split
        or slice ({'validation': 'train[:1%]'}); None offers all.
      caching_permitted: whether SeqIO's caching job may cache it.
    """
    if splits is not None and not isinstance(splits, Mapping):
      splits = {split: split for split in splits}
    super().__init__(name, splits=splits, caching_permitted=caching_permitted)
    self._split_map = splits
    self._tfds_dataset = _Loader(name, split_map=splits, read_only=True)

  @property
  def splits(self) -> Iterable[str]:
    if not self._splits:
      self._find()
    return super().splits

  def get_dataset(self, split: str | None = None, *args, **kwargs):
    """See `seqio.TfdsDataSource.get_dataset`.

    Raises:
      FileNotFoundError: the dataset, or this version of it, is missing.
      ValueError: it has no such split.
    """
    self._check_split(split or 'train')
    return super().get_dataset(split, *args, **kwargs)

  def num_input_examples(self, split: str) -> int | None:
    self._check_split(split)
    return super().num_input_examples(split)

  def list_shards(self, split: str) -> list[str]:
    self._check_split(split)
    return [file.filename for file in self.tfds_dataset.files(split)]

  def _check_split(self, split: str) -> None:
    self._find()
    there = self._tfds_dataset.info.splits
    offered = self._split_map or dict.fromkeys(there)
    missing = split
    if split in offered:
      missing = offered[split] or split
      try:
        there[missing]
        return
      except (KeyError, ValueError):
        offered = there
    raise ValueError(
      f"{self._tfds_dataset.name} has no split '{missing}'; it has"
      f' {", ".join(offered)}'
    )

  def _find(self) -> None:
    """Checks that the dataset exists; downloads it if allowed.

    Raises:
      FileNotFoundError: it does not exist; the message has the remedy.
    """
    loader = self._tfds_dataset
    dataset, _, version = loader.name.partition(':')
    data_dirs = file_utils.list_data_dirs(loader.data_dir)
    found = sorted({v for d in data_dirs for v in _versions(d, dataset)})
    if any(v.match(version) for v in found):
      return
    if tfds_options().download:
      builder = tfds.builder(loader.name, data_dir=loader.data_dir)
      builder.download_and_prepare()
      return
    where = ' or '.join(str(d) for d in data_dirs)
    if found:
      raise FileNotFoundError(
        f'{where} has {dataset} in version {", ".join(map(str, found))}, not'
        f' {version}: set tfds_options.versions = {{{dataset!r}:'
        f" '{found[-1]}'}} in gin to read that, or --tfds_data_dir to a folder"
        f' that has {version}'
      )
    raise FileNotFoundError(
      f'no TFDS dataset {loader.name} in {where}{_beside(data_dirs, dataset)}:'
      f' set --tfds_data_dir to the folder that has {dataset}/{version}, or'
      ' tfds_options.download = True in gin to have TFDS download it'
    )


def _versions(
  data_dir: epath.PathLike, dataset: str
) -> list[tfds.core.Version]:
  folder = epath.Path(data_dir, dataset)
  if not folder.is_dir():
    return []
  return [
    tfds.core.Version(path.name)
    for path in folder.iterdir()
    if tfds.core.Version.is_valid(path.name) and (path / _INFO_FILE).exists()
  ]


def _beside(data_dirs: Iterable[epath.PathLike], dataset: str) -> str:
  """Returns a hint on what exists: missing folders, or other configs."""
  name = dataset.partition('/')[0]
  missing = [str(d) for d in data_dirs if not epath.Path(d).is_dir()]
  if missing:
    return f' ({", ".join(missing)} is not a folder)'
  for data_dir in data_dirs:
    if (folder := epath.Path(data_dir, name)).is_dir():
      return (
        f' ({name} exists with'
        f' {", ".join(sorted(p.name for p in folder.iterdir()))})'
      )
  return ''
