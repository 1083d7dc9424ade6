"""One training run at a time in a model directory.

Two runs would remove each other's unfinished checkpoints, and mix their rows
in `metrics.jsonl`.
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
# What a file system says that has no locks, such as some network ones.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def held(model_dir: str) -> Iterator[None]:
  """Keeps other runs out of a model directory during the block.

  The lock is the kernel's, on the file `.lock` there. It ends with the
  process, however that ends: a file that is left behind locks nothing. It
  also keeps out other machines where the network file system passes locks on
  (NFS since Linux 2.6.12, unless mounted with `nolock` or `local_lock`).
  Object stores such as `gs://` have no locks: nothing is kept out there.

  Args:
    model_dir: an existing folder.

  Raises:
    ValueError: another run has the lock; the message names its host, its
      process and when it started.
    OSError: the file cannot be opened for writing.
  """
  if fcntl is None or '://' in model_dir:
    yield
    return
  path = os.path.join(model_dir, FILE)
  # Through a link, a folder made by others could have any file emptied.
  lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
  try:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f'MODEL_DIR {model_dir} is in use by another run{_holder(lock)}: wait '
        'until it ends, stop it, or take another MODEL_DIR'
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
  # Who holds it is a help for people. The lock holds on a full disk, too.
  with contextlib.suppress(OSError):
    os.ftruncate(lock, 0)
    os.pwrite(lock, content, 0)


def _holder(lock: int) -> str:
  """Returns who holds the lock, in words; empty where the file does not say."""
  try:
    holder = json.loads(os.pread(lock, _MAX_BYTES, 0))
    host, pid, since = (holder[name] for name in ('host', 'pid', 'since'))
    if not re.fullmatch(r'[\w.-]{1,255}', host) or type(pid) is not int:
      return ''
    datetime.datetime.strptime(since, _TIME)
  # Anyone may have written the file, or nobody yet.
  except (OSError, ValueError, TypeError, KeyError, RecursionError):
    return ''
  return f' (host {host}, process {pid}, since {since})'
