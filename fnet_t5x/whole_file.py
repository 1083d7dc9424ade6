"""Files that appear whole, or not at all."""

import pathlib


def write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file beside the old one, then replaces that at once.

  Raises:
    OSError: it cannot be written.
  """
  # Always the same name: killed processes leave at most one extra file.
  part = path.with_name(path.name + '.tmp')
  part.write_bytes(content)
  part.replace(path)
