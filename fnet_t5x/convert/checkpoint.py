"""Conversion of checkpoints between scanned and unscanned layers."""

import os
import re

from etils import epath

from fnet_t5x.convert import checkpoint_leaves, scanned_layers
from fnet_t5x.runtime import (
  checkpoints,
  console,
  model_directory,
)

LAYOUTS = ('scanned', 'unscanned')


def convert(
  checkpoint: str | os.PathLike,
  output: str | os.PathLike,
  to: str | None = None,
) -> epath.Path:
  """Converts a checkpoint to the other layout, atomically.

  Also copies the configuration and the vocabulary next to it, if any, and sets
  the new layout in the configuration, so `output` is a model directory too.

  Args:
    checkpoint: `.../checkpoint_<step>`, or a folder of them.
    output: the folder to write `checkpoint_<step>` to.
    to: 'scanned' or 'unscanned'; by default the other layout.

  Returns:
    Path of the converted checkpoint.

  Raises:
    DamagedError: the checkpoint is damaged.
    FileNotFoundError: there is no such checkpoint.
    FileExistsError: `output` already has this checkpoint, or the configuration
      or vocabulary of another run.
    ValueError: not a checkpoint of T5 or FNet-T5, or already in layout `to`.
  """
  directory, step = checkpoints.locate(
    checkpoints.RestoreCheckpointConfig(path=str(checkpoint), mode='latest')
  )
  source = epath.Path(directory) / f'{checkpoints.PREFIX}_{step}'
  target = epath.Path(os.path.abspath(output)) / source.name
  if target.exists():
    raise FileExistsError(f'{target} exists; choose another --output')
  leaves = checkpoint_leaves.read(source, lambda: checkpoints.steps(directory))
  try:
    scanned = scanned_layers.is_scanned(leaves)
    to = to or LAYOUTS[scanned]
    if to == LAYOUTS[not scanned]:
      raise ValueError(f'its layers are already {to}')
    convert_leaves = (
      scanned_layers.to_unscanned if scanned else scanned_layers.to_scanned
    )
    result = convert_leaves(leaves)
  except ValueError as error:
    raise ValueError(f'{source}: {error}') from error
  macros = {'SCAN_LAYERS': to == 'scanned'}
  if result.own_biases or to == 'unscanned':
    macros['RELPOS_BIAS_PER_LAYER'] = bool(result.own_biases)
  other_files = _other_files(source.parent, target.parent, macros)
  checkpoint_leaves.write(
    target.parent, step, result.leaves, source / checkpoints.DATASET
  )
  for path, content in other_files.items():
    path.write_bytes(content)
  verb = f'its {model_directory.CONFIG_FILE} sets'
  if target.parent / model_directory.CONFIG_FILE not in other_files:
    verb = 'set'
  console.print_line(f'{target}: {to}; {verb} SCAN_LAYERS = {to == "scanned"}')
  if result.own_biases:
    console.print_line(
      f'position biases differ between layers; {verb} '
      'RELPOS_BIAS_PER_LAYER = True'
    )
  if result.refactored:
    console.print_line(
      f"Adafactor's second moments of {result.refactored} parameters are "
      'factored in only one layout: averaged, or estimated from averages'
    )
  return target


def _other_files(
  source: epath.Path, target: epath.Path, macros: dict[str, bool]
) -> dict[epath.Path, bytes]:
  """Returns the contents of a model directory's other files by new path.

  Args:
    source: the model directory.
    target: the folder to write the files to.
    macros: values to set in the configuration.

  Raises:
    FileExistsError: `target` has such a file with different contents.
  """
  contents = {}
  for name in (model_directory.CONFIG_FILE, model_directory.VOCABULARY_FILE):
    if (source / name).exists():
      contents[target / name] = (source / name).read_bytes()
  config = target / model_directory.CONFIG_FILE
  if config in contents:
    text = contents[config].decode('utf-8')
    for name, value in macros.items():
      text = re.sub(rf'(?m)^{name} = .*$', f'{name} = {value}', text)
    contents[config] = text.encode('utf-8')
  for path, content in contents.items():
    if path.exists() and path.read_bytes() != content:
      raise FileExistsError(
        f'{path} exists and belongs to another run; choose another --output'
      )
  return contents
