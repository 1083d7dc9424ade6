"""Prints the folder that `gin/...` paths start from: a gin search path.

Use: `python -m t5x.train --gin_search_paths=$(python -m fnet_t5x.gin_root)`.
"""

import pathlib

_PACKAGE_DIR = pathlib.Path(__file__).resolve().parent


def gin_root() -> str:
  """Returns the folder holding `gin/`: the package's, or the checkout's."""
  if (_PACKAGE_DIR / 'gin').is_dir():
    return str(_PACKAGE_DIR)
  return str(_PACKAGE_DIR.parent)


if __name__ == '__main__':
  print(gin_root())
