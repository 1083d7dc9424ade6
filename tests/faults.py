"""Faults at a chosen call to the operating system, in one folder.

`in_python` sees the calls of Python code; `in_c` those of all libraries of the
process, which must have been started with the library of `compile_library` in
LD_PRELOAD.
"""

import builtins
import ctypes
import errno
import functools
import io
import os
import pathlib
import shutil
import signal
import subprocess

_SOURCE = pathlib.Path(__file__).with_name('faults.c')


class Fault:
  """Counts calls, and strikes at one of them.

  Attributes:
    count: calls so far.
  """

  def __init__(self, folder: str, number: int, kill: bool):
    """Sets the fault.

    Args:
      folder: calls on paths in it count.
      number: the call that is struck, from 1; 0 for none.
      kill: the process dies before the call; or else the disk is full from
        this call on.
    """
    self.count = 0
    self._folder = os.path.abspath(folder) + os.sep
    self._number = number
    self._kill = kill

  def called(self, path, dir_fd=None) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
      return
    path = os.fsdecode(path)
    if dir_fd is not None:
      path = os.path.join(os.readlink(f'/proc/self/fd/{dir_fd}'), path)
    if not os.path.abspath(path).startswith(self._folder):
      return
    self.count += 1
    if self._number and self.count >= self._number:
      if self._kill:
        os.kill(os.getpid(), signal.SIGKILL)
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def in_python(folder: str, number: int, kill: bool) -> Fault:
  """Patches what Python makes, renames, opens to write and removes."""
  fault = Fault(folder, number, kill)

  def wrapped(function, frees):
    @functools.wraps(function)
    def call(path, *args, **kwargs):
      # A full disk still lets files go.
      if kill or not frees:
        fault.called(path, kwargs.get('dir_fd'))
      return function(path, *args, **kwargs)

    return call

  for name in ('mkdir', 'rename', 'replace'):
    setattr(os, name, wrapped(getattr(os, name), frees=False))
  for name in ('unlink', 'remove', 'rmdir'):
    setattr(os, name, wrapped(getattr(os, name), frees=True))

  open_file = io.open

  @functools.wraps(open_file)
  def opened(file, mode='r', *args, **kwargs):
    if set(mode) & set('wax+'):
      fault.called(file)
    return open_file(file, mode, *args, **kwargs)

  io.open = builtins.open = opened
  return fault


def in_c(library: str, folder: str, number: int, kill: bool) -> None:
  """The same of every library's calls, and of writes; see `in_python`."""
  loaded = ctypes.CDLL(library)
  loaded.faults_set(
    os.fsencode(os.path.abspath(folder)), ctypes.c_long(number), int(kill)
  )


def calls_in_c(library: str) -> int:
  """Returns how many calls `in_c` has counted."""
  counted = ctypes.CDLL(library).faults_count
  counted.restype = ctypes.c_long
  return counted()


def compile_library(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the library to preload; None where there is no C compiler."""
  compiler = shutil.which('cc')
  if compiler is None:
    return None
  library = folder / 'faults.so'
  command = [compiler, '-shared', '-fPIC', '-O1', '-o', library, _SOURCE]
  done = subprocess.run([*command, '-ldl', '-lpthread'], check=False)
  return library if done.returncode == 0 else None
