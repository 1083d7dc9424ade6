"""The root folder of `gin/...` paths, for use as a gin search path.

T5X's own commands need it as a flag:

  python -m t5x.train --gin_search_paths=$(python -m fnet_t5x.gin_root) ...
"""

import pathlib
import sys

_PACKAGE_DIR = pathlib.Path(__file__).resolve().parent


def gin_root() -> str:
  """Returns the folder that contains `gin/`: the package or the checkout."""
  if (_PACKAGE_DIR / 'gin').is_dir():
    return str(_PACKAGE_DIR)
  return str(_PACKAGE_DIR.parent)


if __name__ == '__main__':
  from fnet_t5x import command_line

  with command_line.one_line_errors():
    command_line.read(sys.argv, __doc__)
    print(gin_root())
