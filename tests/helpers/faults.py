"""Fault injection at a chosen call to the operating system, in one folder.

`in_python` covers the calls of Python code; `in_c` those of all libraries of a
process that was started with the library of `compile_library` in LD_PRELOAD.
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
  """A fault at one call, found by counting calls.

  Attributes:
    count: calls so far.
  """

  def __init__(self, folder: str, number: int, kill: bool):
    """Sets the fault.

    Args:
      folder: only calls on paths in this folder count.
      number: number of the call with the fault, from 1; 0 for none.
      kill: whether the process is killed before the call; otherwise the disk
        is full from this call on.
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
  """Patches the calls by which Python creates, renames and removes files."""
  fault = Fault(folder, number, kill)

  def wrapped(function, frees):
    @functools.wraps(function)
    def call(path, *args, **kwargs):
      # Files can be removed from a full disk.
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
  """Covers the calls of all libraries, including writes; see `in_python`."""
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
  """Returns the library to preload, or None if there is no C compiler."""
  compiler = shutil.which('cc')
  if compiler is None:
    return None
  library = folder / 'faults.so'
  command = [compiler, '-shared', '-fPIC', '-O1', '-o', library, _SOURCE]
  done = subprocess.run([*command, '-ldl', '-lpthread'], check=False)
  return library if done.returncode == 0 else None
