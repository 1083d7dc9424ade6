"""A checkpoint's own record of its files: their sizes and their hashes.

`checkpoint_<step>/checksums.json` is written when all files of a checkpoint
are, and before it gets its name. What it says is not believed: no name in it
leads out of the checkpoint, and no more is read than the file system says.
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
from collections.abc import Iterable, Mapping
from typing import Any

FILE = 'checksums.json'
# Orbax keeps what is ours in its own file, so that a loss of FILE is seen.
ORBAX_FILE = '_CHECKPOINT_METADATA'
CUSTOM_METADATA = {'checksums': FILE}
# Orbax writes it last; it says nothing.
_MARKER = 'commit_success.txt'
# In memory at once: the two multiplied.
_CHUNK = 1 << 22
_THREADS = 16
_LARGEST_JSON = 1 << 26


@dataclasses.dataclass(frozen=True)
class Damage:
  """What is wrong with one file of a checkpoint.

  Attributes:
    file: its name in the checkpoint.
    reason: what to say after the name.
  """

  file: str
  reason: str


def write(directory: str | os.PathLike) -> None:
  """Writes the record of all files that a checkpoint's folder has.

  Args:
    directory: the folder, whole but for its name; local or remote.
  """
  root = _path(directory)
  files = sorted(n for n in names(root) if n not in (FILE, _MARKER))
  found = _parallel(lambda name: _entry(root / name), files)
  (root / FILE).write_bytes(_text(dict(zip(files, found, strict=True))))


def is_recorded(directory: str | os.PathLike) -> bool:
  """Whether a checkpoint has such a record, or has lost it.

  T5X's checkpoints have none, nor have those of older versions.
  """
  root = _path(directory)
  if (root / FILE).exists():
    return True
  try:
    metadata = json.loads(_small(root / ORBAX_FILE))
    return metadata['custom_metadata']['checksums'] == FILE
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return False


def damages(
  directory: str | os.PathLike, contents: bool = True
) -> list[Damage]:
  """Compares a checkpoint's files with their record.

  Args:
    directory: the checkpoint, local or remote; `is_recorded`.
    contents: also compare the hashes, for which all files are read.

  Returns:
    What is wrong, by name; files that are not recorded do not count.
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
  # Orbax writes the time to it after the record is made.
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
    # A disk that fails; what else there is, no other checkpoint mends.
    if error.errno != errno.EIO:
      raise
    return Damage(name, f'cannot be read ({error.strerror})')
  return None


def _entry(path: Any) -> dict[str, Any]:
  """Returns a file's size and hash as the record has them."""
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
  """Returns the record; its last line is the hash of what is before it."""
  body = json.dumps(files, indent=1, sort_keys=True)
  own = hashlib.blake2b(body.encode(), digest_size=32).hexdigest()
  return f'{{"version": 1, "files": {body},\n"blake2b": "{own}"}}\n'.encode()


def _read(root: Any) -> dict[str, dict[str, Any]]:
  """Returns the record.

  Raises:
    ValueError: it is not as it was written, or names what is not its own.
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
    ValueError: it is larger than such a file is.
  """
  with path.open('rb') as f:
    content = f.read(_LARGEST_JSON + 1)
  if len(content) > _LARGEST_JSON:
    raise ValueError(f'{path} has more than {_LARGEST_JSON:,} bytes')
  return content


def names(root: Any, prefix: str = '') -> Iterable[str]:
  """Yields the names of all files below a folder, a path of any kind."""
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
  """Returns a path of this machine, or of `etils` where it is remote."""
  text = os.fspath(directory)
  if '://' not in text:
    # Imported at once: commands look at a folder before anything heavy.
    return pathlib.Path(text)
  from etils import epath

  return epath.Path(text)
