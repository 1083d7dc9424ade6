"""Folder that appears complete, or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator


@contextlib.contextmanager
def create(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary folder, which becomes `out` if the block succeeds.

  Raises:
    FileExistsError: `out` exists and is not an empty folder.
  """
  out = check(out)
  temporary = out.parent / f'.{out.name}.{os.getpid()}.partial'
  temporary.mkdir(parents=True)
  try:
    yield temporary
    temporary.rename(out)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def check(out: pathlib.Path) -> pathlib.Path:
  """Returns the absolute path of a folder that can be created.

  Raises:
    FileExistsError: `out` exists and is not an empty folder.
  """
  out = pathlib.Path(os.path.abspath(out))
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise FileExistsError(f'{out} exists; name a new folder')
  return out
