"""Reuse of freed memory on a CPU: fewer page faults, and when it is off."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from fnet_t5x import host_memory

STEPS = """
import resource, sys
from fnet_t5x import host_memory
if sys.argv[1] == 'keep':
  assert host_memory.keep_freed_memory()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: jnp.fft.rfft2(x).real.sum((1, 2)))
def pages(calls):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for _ in range(calls):
    jax.block_until_ready(step(x))
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
x = jnp.ones((4, 2048, 1024))
pages(20)  # until the heap has grown
print(pages(20))
"""
USERS = ('MALLOC_', 'GLIBC_TUNABLES')


@pytest.fixture
def environment():
  ours = {k: v for k, v in os.environ.items() if not k.startswith(USERS)}
  return ours | {'JAX_PLATFORMS': 'cpu'}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='a setting of glibc')
def test_steps_cause_few_page_faults(environment):
  taken = {
    way: int(
      subprocess.run(
        [sys.executable, '-c', STEPS, way],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
      ).stdout
    )
    for way in ('keep', 'return')
  }
  # 32 MB of half a spectrum, twenty times, in pages of 4 KiB.
  assert taken['return'] > 20 * 8192
  assert taken['keep'] < taken['return'] / 4


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('JAX_PLATFORMS', 'tpu'),
    ('JAX_PLATFORMS', 'cuda,cpu'),
    ('MALLOC_ARENA_MAX', '4'),
    ('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1'),
  ],
)
def test_accelerators_and_the_users_settings_are_left_alone(
  monkeypatch, environment, name, value
):
  monkeypatch.setattr(os, 'environ', environment | {name: value})
  assert not host_memory.keep_freed_memory()


def test_an_accelerators_plugin_is_found_without_jax(monkeypatch, environment):
  del environment['JAX_PLATFORMS']
  monkeypatch.setattr(os, 'environ', environment)
  found = [importlib.metadata.EntryPoint('xla_cuda', 'x', 'jax_plugins')]
  monkeypatch.setattr(importlib.metadata, 'entry_points', lambda group: found)
  assert not host_memory.keep_freed_memory()


TRAIN = """
import runpy, sys
from fnet_t5x import host_memory
def keep():
  print('kept', sorted({'jax', 'tensorflow'} & set(sys.modules)))
host_memory.keep_freed_memory = keep
sys.argv = ['train']
runpy.run_module('fnet_t5x.train', run_name='__main__')
"""


def test_training_keeps_memory_before_any_library_has_threads(environment):
  found = subprocess.run(
    [sys.executable, '-c', TRAIN],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert 'no --gin_file given' in found.stderr
  assert found.stdout.splitlines() == ['kept []']
