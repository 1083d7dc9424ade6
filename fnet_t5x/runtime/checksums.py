"""Checksum record of a checkpoint: the sizes and hashes of its files.

`checkpoint_<step>/checksums.json` is written after all other files of a
checkpoint and before it gets its final name. Its content is not trusted: names
must not lead out of the checkpoint, and sizes do not bound what is read.
"""

import concurrent.futures
import dataclasses
import errno
import functools
import hashlib
import json
import os
import pathlib
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

FILE = 'checksums.json'
# Orbax stores this in its own metadata file, so that a missing FILE is noticed.
ORBAX_FILE = '_CHECKPOINT_METADATA'
CUSTOM_METADATA = {'checksums': FILE}
# Written last by Orbax; holds no information.
_MARKER = 'commit_success.txt'
# Memory in use is at most the product of the two.
_CHUNK = 1 << 22
_THREADS = 16
_LARGEST_JSON = 1 << 26
_METADATA_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Damage:
  """Damage to one file of a checkpoint.

  Attributes:
    file: its name in the checkpoint.
    reason: the predicate of a message whose subject is the file.
  """

  file: str
  reason: str


def write(directory: str | os.PathLike) -> None:
  """Writes the record of all files in a checkpoint's folder.

  Args:
    directory: the folder, complete but not yet renamed; local or remote.
  """
  root = _path(directory)
  files = sorted(n for n in names(root) if n not in (FILE, _MARKER))
  found = _parallel(lambda name: _entry(root / name), files)
  (root / FILE).write_bytes(_text(dict(zip(files, found, strict=True))))


def wait_for_metadata(directory: str | os.PathLike) -> None:
  """Waits for Orbax's own metadata, which a thread of its own writes.

  Args:
    directory: as in `write`, which would otherwise record an earlier content.

  Raises:
    TimeoutError: they are still missing after a minute.
  """
  root = _path(directory)
  deadline = time.monotonic() + _METADATA_SECONDS
  while not _is_announced(root):
    if time.monotonic() > deadline:
      raise TimeoutError(f'{root / ORBAX_FILE} was not written')
    time.sleep(0.002)


def is_recorded(directory: str | os.PathLike) -> bool:
  """Whether a checkpoint has a checksum record, or had one that is now missing.

  Checkpoints of T5X and of older versions have none.
  """
  root = _path(directory)
  return (root / FILE).exists() or _is_announced(root)


def _is_announced(root: Any) -> bool:
  """Whether Orbax's metadata say that there is a record."""
  try:
    metadata = json.loads(_small(root / ORBAX_FILE))
    return metadata['custom_metadata']['checksums'] == FILE
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return False


def damages(
  directory: str | os.PathLike, contents: bool = True
) -> list[Damage]:
  """Compares the files of a checkpoint with their record.

  Args:
    directory: the checkpoint, local or remote; `is_recorded` holds.
    contents: whether to compare hashes too, which reads all files.

  Returns:
    The damages, sorted by file name; files not in the record are ignored.
  """
  root = _path(directory)
  try:
    recorded = _read(root)
  except FileNotFoundError:
    return [Damage(FILE, 'is missing')]
  except IsADirectoryError:
    return [Damage(FILE, 'is a folder')]
  except (ValueError, RecursionError):
    return [Damage(FILE, 'is not what was saved')]
  compare = functools.partial(_damage, root, contents)
  found = _parallel(lambda item: compare(*item), sorted(recorded.items()))
  return [damage for damage in found if damage]


def _damage(
  root: Any, contents: bool, name: str, entry: Mapping[str, Any]
) -> Damage | None:
  path, size = root / name, entry['bytes']
  if path.is_dir():
    return Damage(name, 'is a folder')
  if not path.exists():
    return Damage(name, 'is missing')
  # Orbax adds the commit time to its metadata after the record is written.
  if name != ORBAX_FILE:
    if (found := _size(path)) != size:
      return Damage(
        name,
        f'is empty ({size:,} bytes were saved)'
        if found == 0
        else f'has {found:,} bytes ({size:,} were saved)',
      )
    if not contents:
      return None
  try:
    if _entry(path) != entry:
      return Damage(name, 'is not what was saved (its checksum differs)')
  except ValueError:
    return Damage(name, 'is not what was saved')
  except OSError as error:
    # A failing disk. For any other error, another checkpoint is no remedy.
    if error.errno != errno.EIO:
      raise
    return Damage(name, f'cannot be read ({error.strerror})')
  return None


def _entry(path: Any) -> dict[str, Any]:
  """Returns the record's entry of a file: its size and hash."""
  digest = hashlib.blake2b(digest_size=32)
  size = 0
  if path.name == ORBAX_FILE:
    content = _small(path)
    timeless = re.sub(
      rb'("commit_timestamp_nsecs": ?)(null|\d+)', rb'\1null', content
    )
    digest.update(timeless)
    size = len(timeless)
  else:
    with path.open('rb') as f:
      while chunk := f.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
  return {'bytes': size, 'blake2b': digest.hexdigest()}


def _text(files: Mapping[str, Any]) -> bytes:
  """Returns the record as JSON, ending with the hash of the file table."""
  body = json.dumps(files, indent=1, sort_keys=True)
  own = hashlib.blake2b(body.encode(), digest_size=32).hexdigest()
  return f'{{"version": 1, "files": {body},\n"blake2b": "{own}"}}\n'.encode()


def _read(root: Any) -> dict[str, dict[str, Any]]:
  """Returns the record.

  Raises:
    ValueError: it has changed since it was written, or names a file outside the
      checkpoint.
  """
  if (root / FILE).is_dir():
    raise IsADirectoryError(FILE)
  content = _small(root / FILE)
  record = json.loads(content)
  files = record.get('files') if isinstance(record, dict) else None
  if not isinstance(files, dict) or _text(files) != content:
    raise ValueError(FILE)
  for name, entry in files.items():
    parts = name.split('/')
    if not all(parts) or '..' in parts or '\\' in name or '\0' in name:
      raise ValueError(name)
    if not isinstance(entry, dict) or not isinstance(entry.get('bytes'), int):
      raise ValueError(name)
  return files


def _small(path: Any) -> bytes:
  """Returns a file's content.

  Raises:
    ValueError: it is larger than `_LARGEST_JSON`.
  """
  with path.open('rb') as f:
    content = f.read(_LARGEST_JSON + 1)
  if len(content) > _LARGEST_JSON:
    raise ValueError(f'{path} has more than {_LARGEST_JSON:,} bytes')
  return content


def names(root: Any, prefix: str = '') -> Iterable[str]:
  """Yields the relative names of all files below `root`, of any path type."""
  for path in (root / prefix).iterdir():
    name = f'{prefix}/{path.name}' if prefix else path.name
    if path.is_dir():
      yield from names(root, name)
    else:
      yield name


def _parallel(function, items: Iterable[Any]) -> list[Any]:
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(function, items))


def _size(path: Any) -> int:
  stat = path.stat()
  return stat.st_size if isinstance(path, pathlib.Path) else stat.length


def _path(directory: str | os.PathLike) -> Any:
  """Returns a `pathlib` path, or one of `etils` for remote directories."""
  text = os.fspath(directory)
  if '://' not in text:
    # Fast to import: commands check a folder before importing anything heavy.
    return pathlib.Path(text)
  from etils import epath

  return epath.Path(text)
