"""FNet encoder and Transformer decoder: T5-style text generation in JAX.

Importing this package imports neither JAX nor TensorFlow.

  import fnet_t5x

  generator = fnet_t5x.load('runs/quickstart')
  print(generator.generate('My fellow citizens,'))
"""

import pathlib as _pathlib

from fnet_t5x.api import load

__all__ = ['load']
__version__ = '0.1.0'

# In a wheel, gin/, tasks/ and xm_launch/ are folders of this package
# (setup.py's package_dir). In a checkout they are siblings of the package, so
# the checkout's root is added to the package's path: either way the importable
# name is `fnet_t5x.tasks`.
_PACKAGE_DIR = _pathlib.Path(__file__).resolve().parent
if not (_PACKAGE_DIR / 'tasks').is_dir():
  __path__.append(str(_PACKAGE_DIR.parent))
