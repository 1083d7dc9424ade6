"""Lock of a model directory: one training run at a time.

Two runs would delete each other's unfinished checkpoints and interleave their
rows in `metrics.jsonl`.
"""

import contextlib
import datetime
import errno
import json
import os
import re
import socket
from collections.abc import Iterator

from fnet_t5x.runtime import console

try:
  import fcntl
except ImportError:  # Windows has no locks of this kind.
  fcntl = None

FILE = '.lock'
_MAX_BYTES = 1024
_TIME = '%Y-%m-%d %H:%M:%S UTC'
# Errors of file systems without locks, such as some network file systems.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def held(model_dir: str) -> Iterator[None]:
  """Holds the lock of a model directory during the block.

  It is a kernel lock on the file `.lock` in the directory. It is released when
  the process ends, however it ends: a leftover file locks nothing. It also
  excludes other machines if the network file system supports locks (NFS since
  Linux 2.6.12, unless mounted with `nolock` or `local_lock`). Object stores
  such as `gs://` have no locks: there, nothing is excluded.

  Args:
    model_dir: an existing folder.

  Raises:
    ValueError: another run holds the lock; the message names its host, process
      and start time.
    OSError: the file cannot be opened for writing.
  """
  if fcntl is None or '://' in model_dir:
    yield
    return
  path = os.path.join(model_dir, FILE)
  # Following a link, a directory made by others could truncate any file.
  lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
  try:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f'MODEL_DIR {model_dir} is in use by another run{_holder(lock)}: wait '
        'until it ends, stop it, or use another MODEL_DIR'
      ) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      console.print_line(
        f'no locks in {model_dir} ({error.strerror}): start no second run there'
      )
    _write(lock, _description())
    try:
      yield
    finally:
      _write(lock, b'')
  finally:
    os.close(lock)


def _description() -> bytes:
  since = datetime.datetime.now(datetime.UTC).strftime(_TIME)
  holder = {'host': socket.gethostname(), 'pid': os.getpid(), 'since': since}
  return json.dumps(holder).encode() + b'\n'


def _write(lock: int, content: bytes) -> None:
  # The content is only for the message: the lock works on a full disk too.
  with contextlib.suppress(OSError):
    os.ftruncate(lock, 0)
    os.pwrite(lock, content, 0)


def _holder(lock: int) -> str:
  """Describes the lock's holder; empty if the file does not name one."""
  try:
    holder = json.loads(os.pread(lock, _MAX_BYTES, 0))
    host, pid, since = (holder[name] for name in ('host', 'pid', 'since'))
    if not re.fullmatch(r'[\w.-]{1,255}', host) or type(pid) is not int:
      return ''
    datetime.datetime.strptime(since, _TIME)
  # The file may be empty, or written by anyone.
  except (OSError, ValueError, TypeError, KeyError, RecursionError):
    return ''
  return f' (host {host}, process {pid}, since {since})'
