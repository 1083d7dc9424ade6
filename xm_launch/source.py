"""Archive of this repository at a commit, for hosts to install."""

import contextlib
import pathlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator

from fnet_t5x.gin_root import gin_root


class Source:
  """The checkout that this package runs from, at one commit.

  Attributes:
    root: the checkout.
    commit: the commit's 40 hexadecimal digits.
    tag: short name of the commit.
  """

  def __init__(self, commit: str = 'HEAD'):
    """Looks the commit up.

    Raises:
      ValueError: there is no checkout, or no such commit.
    """
    self.root = pathlib.Path(gin_root())
    if not (self.root / 'setup.py').is_file():
      raise ValueError(
        f'{self.root} is not a git checkout, which hosts install: launch from '
        'a clone of the repository'
      )
    self.commit = self._git(
      'rev-parse', '--verify', '--quiet', f'{commit}^{{commit}}'
    )
    self.tag = f'fnet_t5x-{self.commit[:12]}'

  def _git(self, *words: str) -> str:
    done = subprocess.run(
      ['git', '-C', str(self.root), *words],
      capture_output=True,
      text=True,
      check=False,
    )
    if done.returncode:
      said = ' '.join(done.stderr.split()) or f'{words[-1]}: no such commit'
      raise ValueError(f'git {words[0]} in {self.root}: {said}')
    return done.stdout.strip()

  def uncommitted(self) -> list[str]:
    """Returns files with uncommitted changes, which hosts will not have."""
    changed = self._git('status', '--porcelain', '--untracked-files=all')
    return [line[3:] for line in changed.splitlines()]

  def archive_command(self) -> list[str]:
    """Returns the command that prints the commit's files as a .tar.gz."""
    words = ('archive', '--format=tar.gz', self.commit)
    return ['git', '-C', str(self.root), *words]

  def archive(self, path: pathlib.Path) -> None:
    """Writes the commit's files to a .tar.gz."""
    with path.open('wb') as f:
      subprocess.run(self.archive_command(), stdout=f, check=True)

  def extract(self, folder: pathlib.Path) -> None:
    """Extracts the commit's files into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
      path = pathlib.Path(scratch) / 'source.tar.gz'
      self.archive(path)
      with tarfile.open(path) as tar:
        tar.extractall(folder, filter='data')

  @contextlib.contextmanager
  def files(self) -> Iterator[pathlib.Path]:
    """Yields a temporary folder with the commit's files, as hosts see them."""
    with tempfile.TemporaryDirectory() as folder:
      self.extract(pathlib.Path(folder))
      yield pathlib.Path(folder)
