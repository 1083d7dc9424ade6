"""`libtpu` on machines without a TPU: hidden from JAX, unlike other plugins."""

import os
import subprocess
import sys

import pytest
from checkout import ROOT

from fnet_t5x import absent_tpu

# A stand-in for the library that reports when JAX imports it.
_LIBRARY = """
print('libtpu was imported')
def get_library_path():
  return '/nonexistent/libtpu.so'
"""
_DEVICES = """
import sys
from fnet_t5x import absent_tpu, host_memory
if sys.argv[1] == 'hide':
  absent_tpu.hide_library()
print('kept', host_memory.keep_freed_memory())
import jax
print(jax.devices()[0].platform)
"""


@pytest.fixture
def environment(tmp_path):
  (tmp_path / 'libtpu').mkdir()
  (tmp_path / 'libtpu/__init__.py').write_text(_LIBRARY)

  hidden = ('JAX_', 'TPU_', 'MALLOC_', 'GLIBC_TUNABLES')
  kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
  return {**kept, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)])}


def devices(environment, way):
  return subprocess.run(
    [sys.executable, '-c', _DEVICES, way],
    env=environment,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  ).stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(
  absent_tpu.is_present(os.environ), reason='this machine has a TPU'
)
def test_jax_does_not_start_the_library(environment):
  assert 'libtpu was imported' in devices(environment, 'leave')
  hidden = devices(environment, 'hide')
  assert 'libtpu was imported' not in hidden
  if hidden[-1] == 'cpu' and sys.platform == 'linux':
    # Memory is kept as where there is no library.
    assert hidden[0] == 'kept True'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['TPU_NAME', 'JAX_PLATFORMS'])
def test_the_users_settings_are_kept(environment, name):
  environment[name] = 'cpu'
  assert 'libtpu was imported' in devices(environment, 'hide')


def pci_device(root, vendor, kind):
  device = root / 'sys/bus/pci/devices/0000:00:04.0'
  device.mkdir(parents=True)
  (device / 'vendor').write_text(f'{vendor}\n')
  (device / 'class').write_text(f'{kind}\n')


@pytest.mark.parametrize(
  ('vendor', 'kind', 'present'),
  [
    ('0x1ae0', '0x088000', True),
    ('0x1ae0', '0x120000', True),
    # A network card and a disk of Google Cloud VMs without TPUs.
    ('0x1ae0', '0x020000', False),
    ('0x1ae0', '0x010802', False),
    ('0x10de', '0x030200', False),
  ],
)
def test_tpus_are_recognized_by_their_pci_device(
  tmp_path, vendor, kind, present
):
  pci_device(tmp_path, vendor, kind)
  assert absent_tpu.is_present({}, tmp_path) == present


@pytest.mark.parametrize('name', ['accel0', 'vfio/0'])
def test_tpus_are_recognized_by_their_device_file(tmp_path, name):
  assert not absent_tpu.is_present({}, tmp_path)
  file = tmp_path / 'dev' / name
  file.parent.mkdir(parents=True)
  file.write_text('')
  assert absent_tpu.is_present({}, tmp_path)


def test_a_tpu_vm_is_recognized_by_its_environment(tmp_path):
  assert absent_tpu.is_present({'TPU_WORKER_ID': '0'}, tmp_path)
  assert not absent_tpu.is_present({'HOME': '/'}, tmp_path)
