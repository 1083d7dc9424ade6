"""Imports of the kit: only packages of a bare accelerator machine."""

import subprocess
import sys

# Every module of the kit, except the one that prepares tokens with the full
# installation. jaxtyping is blocked too, since Flax does not require it. Flax
# itself imports rich, which is therefore blocked for this package only.
_REFUSE = """
import builtins, pkgutil, sys

REFUSED = (
  'clu', 'gin', 'jaxtyping', 'seqio', 't5x', 'tensorboard', 'tensorflow',
  'tensorflow_datasets', 'tensorflow_text', 'sentencepiece', 'matplotlib',
)

class Finder:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in REFUSED:
      raise ImportError(f'{name} is refused')

sys.meta_path.insert(0, Finder())
real_import = builtins.__import__

def guarded(name, globals=None, *arguments, **options):
  importer = (globals or {}).get('__name__', '')
  if name.split('.')[0] == 'rich' and importer.startswith('fnet_t5x'):
    raise ImportError(f'{importer} imports {name}')
  return real_import(name, globals, *arguments, **options)

builtins.__import__ = guarded
"""
_IMPORT_ALL = """
from fnet_t5x.benchmarks import accelerator
from fnet_t5x.benchmarks.accelerator import shape_annotations
assert shape_annotations.provide()
names = [m.name for m in pkgutil.iter_modules(accelerator.__path__)]
for name in names:
  if name not in ('__main__', 'prepared_corpus'):
    __import__(f'{accelerator.__name__}.{name}')
# What is imported when its turn comes.
from fnet_t5x.benchmarks.accelerator import networks
for name in networks.NETWORKS:
  networks.make(name, 'toy', dtype='float32', max_encoder_length=32)
networks.DECODER_ONLY.make('toy', dtype='float32', max_encoder_length=32)
from fnet_t5x.runtime import adafactor, losses
print(' '.join(sorted(names)))
"""


def run(code):
  return subprocess.run(
    [sys.executable, '-c', _REFUSE + code],
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_imports_jax_flax_optax_and_numpy_only():
  ran = run(_IMPORT_ALL)
  assert ran.returncode == 0, ran.stderr
  modules = ran.stdout.split()
  assert {'command', 'mixing', 'sections', 'training'} <= set(modules)


def test_blocked_imports_fail():
  for package, text in (
    ('seqio', 'seqio is refused'),
    ('fnet_t5x.result_table', 'fnet_t5x.result_table imports rich'),
  ):
    ran = run(f'import {package}')
    assert ran.returncode and text in ran.stderr
