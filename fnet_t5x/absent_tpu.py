"""Hiding `libtpu` from JAX on machines without a TPU.

`libtpu` is also a compiler, which `fnet_t5x.plan` needs on any machine. But
where it is installed JAX looks for a TPU, and prints errors and C++ stacks if
there is none. Commands that run a model therefore hide it from JAX on machines
without a TPU. GPUs and other plugins are unaffected.
"""

import os
import pathlib
import sys
from collections.abc import Mapping

# Set on machines with a TPU, or by users who want JAX to look for one.
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
# Virtual disks and network cards of Google Cloud VMs: PCI classes 01 and 02.
_OTHER_CLASSES = ('0x01', '0x02')


def hide_library() -> bool:
  """Hides `libtpu` from this process's JAX if there is no TPU.

  To be called before JAX is first used. If the user has set JAX_PLATFORMS,
  nothing is hidden.

  Returns:
    Whether it is hidden, installed or not.
  """
  if os.environ.get('JAX_PLATFORMS') or is_present(os.environ):
    return False
  # Makes the import fail, as if the library were not installed.
  sys.modules['libtpu'] = None
  return True


def is_present(
  environment: Mapping[str, str], root: pathlib.Path = pathlib.Path('/')
) -> bool:
  """Returns whether there are signs of a TPU; True in doubt.

  Args:
    environment: environment variables.
    root: root of the file system.
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
