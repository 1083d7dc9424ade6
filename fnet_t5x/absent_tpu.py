"""The TPU's library on a machine without a TPU: JAX shall not start it.

`libtpu` is a compiler too, which `fnet_t5x.plan` needs anywhere. Where JAX
finds it installed it also looks for the TPU, and without one it prints errors
and C++ stacks. Commands that run a model hide it from JAX in that case; GPUs
and other plugins stay as they are.
"""

import os
import pathlib
import sys
from collections.abc import Mapping

# Set where there is a TPU, or by a user who wants one tried.
_VARIABLES = (
  'TPU_NAME',
  'TPU_WORKER_ID',
  'TPU_WORKER_HOSTNAMES',
  'TPU_ACCELERATOR_TYPE',
  'TPU_PROCESS_ADDRESSES',
  'TPU_LIBRARY_PATH',
  'CLOUD_TPU_TASK_ID',
  'COLAB_TPU_ADDR',
  'JAX_FORCE_TPU_INIT',
)
_GOOGLE = '0x1ae0'
# Virtual disks and network cards of Google's machines: PCI classes 01 and 02.
_OTHER_CLASSES = ('0x01', '0x02')


def hide_library() -> bool:
  """Hides `libtpu` from this process's JAX where there is no TPU.

  Call it before JAX's first use. A JAX_PLATFORMS of the user's stays in force:
  then nothing is hidden.

  Returns:
    Whether it is hidden; whether it was installed does not matter.
  """
  if os.environ.get('JAX_PLATFORMS') or is_present(os.environ):
    return False
  # Python's way to have an import fail. JAX then does what it does where the
  # library is not installed.
  sys.modules['libtpu'] = None
  return True


def is_present(
  environment: Mapping[str, str], root: pathlib.Path = pathlib.Path('/')
) -> bool:
  """Returns whether there are signs of a TPU; in doubt there are.

  Args:
    environment: environment variables.
    root: of the file system.
  """
  if any(name in environment for name in _VARIABLES):
    return True
  devices = root / 'dev'
  if any(devices.glob('accel*')) or any(devices.glob('vfio/[0-9]*')):
    return True
  return any(
    _read(device / 'vendor') == _GOOGLE
    and not _read(device / 'class').startswith(_OTHER_CLASSES)
    for device in (root / 'sys/bus/pci/devices').glob('*')
  )


def _read(path: pathlib.Path) -> str:
  try:
    return path.read_text().strip()
  except OSError:
    return ''
