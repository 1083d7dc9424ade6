"""Hugging Face's folders: configuration and tensors, without running code."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
# Of a set of files: which of them has which tensor.
INDEX = 'model.safetensors.index.json'
PIECES = 'spiece.model'
_PICKLED = ('pytorch_model.bin', 'pytorch_model.bin.index.json')
_LARGEST_CONFIG = 1 << 20
# Names of all tensors: thousands, in the largest models.
_LARGEST_INDEX = 1 << 24


def check_weights_exist(folder: pathlib.Path) -> None:
  """Raises an error with the remedy if a folder has no safetensors.

  Raises:
    FileNotFoundError: there is no such folder, or it has no weights.
    ValueError: its weights are a pickle.
  """
  if not folder.is_dir():
    raise FileNotFoundError(f'no such folder: {folder}')
  if (folder / WEIGHTS).exists() or (folder / INDEX).exists():
    return
  for name in _PICKLED:
    if (folder / name).exists():
      raise ValueError(
        f'{folder / name} is a pickle, which may run code, and is not read: if '
        'you trust it, save it as safetensors, by transformers: '
        'AutoModelForPreTraining.from_pretrained(FOLDER).save_pretrained(NEW)'
      )
  raise FileNotFoundError(f'{folder} has no {WEIGHTS}')


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """Reads `config.json`.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is not a JSON object.
  """
  path = folder / CONFIG
  if not path.exists():
    raise FileNotFoundError(
      f"{folder} has no {CONFIG}: name a folder of Hugging Face's"
    )
  return _json_object(path, _LARGEST_CONFIG)


def _json_object(path: pathlib.Path, largest: int) -> dict[str, Any]:
  with path.open('rb') as file:
    content = file.read(largest)
  try:
    result = json.loads(content)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is not JSON: {error}') from error
  if not isinstance(result, dict):
    raise ValueError(f'{path} is not a JSON object')
  return result


def check_config(
  config: Mapping[str, Any],
  same: Mapping[str, tuple[Any, ...]],
  where: str,
  whose: str,
) -> None:
  """Checks settings that our network does not have.

  Args:
    config: Hugging Face's configuration.
    same: by name, the values that mean what our network computes; the first is
      that of a configuration without the name.
    where: the file, for the error.
    whose: what has these values, in words.

  Raises:
    ValueError: a setting has another value.
  """
  for name, values in same.items():
    if config.get(name, values[0]) not in values:
      raise ValueError(
        f'{where}: {name} is {config[name]!r}; {whose} {values[0]!r}'
      )


def sizes(
  config: Mapping[str, Any], defaults: Mapping[str, int | None]
) -> dict[str, int]:
  """Returns numbers of a configuration.

  Args:
    config: Hugging Face's configuration.
    defaults: values by name; None for those that must be there.

  Raises:
    ValueError: a number is missing, or is no positive integer.
  """
  result = {}
  for name, default in defaults.items():
    value = config.get(name)
    value = default if value is None else value
    if type(value) is not int or value < 1:
      found = 'is missing' if value is None else f'is {value!r}'
      raise ValueError(f'{CONFIG}: {name} {found}, not a positive integer')
    result[name] = value
  return result


def read_tensors(
  folder: pathlib.Path, is_buffer: Callable[[str], bool]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Reads `model.safetensors`, or a set of files with an index.

  Args:
    folder: the folder.
    is_buffer: whether a tensor, by name, is no parameter, and is not read.

  Returns:
    Tensors by name, in float32; and the names of the others.

  Raises:
    FileNotFoundError: a file is missing.
    ImportError: safetensors is not installed.
    ValueError: a file is truncated or of another kind, lies outside the folder,
      or has other tensors than the index says; or a tensor is no floating-point
      array.
  """
  check_weights_exist(folder)
  files = _files(folder)
  load_library()
  tensors: dict[str, np.ndarray] = {}
  buffers: list[str] = []
  for name, names in files.items():
    _read_file(folder / name, names, is_buffer, tensors, buffers)
  return tensors, buffers


def _files(folder: pathlib.Path) -> dict[str, set[str] | None]:
  """Returns the names of the files, and of their tensors where known."""
  if (folder / WEIGHTS).exists():
    return {WEIGHTS: None}
  index = folder / INDEX
  mapping = _json_object(index, _LARGEST_INDEX).get('weight_map')
  if not isinstance(mapping, dict) or not mapping:
    raise ValueError(f"{index} has no 'weight_map' of tensors to files")
  files: dict[str, set[str] | None] = {}
  for tensor, name in mapping.items():
    # The index of a folder from elsewhere must not make us read other files.
    plain = isinstance(name, str) and name == pathlib.PurePath(name).name
    if not plain or '\\' in name or not name.endswith('.safetensors'):
      raise ValueError(
        f'{index}: {tensor} is in {name!r}, which is no .safetensors file in '
        'this folder'
      )
    files.setdefault(name, set()).add(tensor)
  for name in files:
    if not (folder / name).is_file():
      raise FileNotFoundError(
        f'{folder} lacks {name}, which {INDEX} names: copy it too'
      )
  return files


def _read_file(path, names, is_buffer, tensors, buffers) -> None:
  safetensors = load_library()
  try:
    with safetensors.safe_open(str(path), 'numpy') as file:
      found = set(file.keys())
      if names is not None and found != names:
        name = min(found ^ names)
        has = 'lacks' if name in names else 'has'
        raise ValueError(f'{path} {has} {name}, contrary to {INDEX}')
      for name in sorted(found):
        if is_buffer(name):
          buffers.append(name)
        else:
          tensors[name] = as_float32(file.get_tensor(name), f'{path}: {name}')
  except safetensors.SafetensorError as error:
    raise ValueError(
      f'{path} is not a safetensors file, or is truncated ({error})'
    ) from error


def drop_copies(
  tensors: dict[str, np.ndarray], tied: Mapping[str, str], where: str
) -> list[str]:
  """Removes copies of other tensors, and returns their names.

  Args:
    tensors: by name; changed. A tensor that only its copy has is renamed.
    tied: name of a copy, and of the tensor that it must equal.
    where: the file, for the error.

  Raises:
    ValueError: they differ.
  """
  copies = []
  for name, original in tied.items():
    if name not in tensors:
      continue
    copy = tensors.pop(name)
    if not np.array_equal(copy, tensors.setdefault(original, copy)):
      raise ValueError(
        f'{where}: {name} differs from {original}; the two are tied'
      )
    copies.append(name)
  return copies


def as_float32(array: np.ndarray, name: str) -> np.ndarray:
  """Returns an array in float32.

  Raises:
    ValueError: it is not a floating-point array.
  """
  is_float = np.issubdtype(array.dtype, np.floating)
  if not is_float and array.dtype != ml_dtypes.bfloat16:
    raise ValueError(f'{name} is an array of {array.dtype}, not of floats')
  return np.asarray(array, np.float32)


def load_library():
  """Returns the module `safetensors`.

  Raises:
    ImportError: it is not installed.
  """
  try:
    import safetensors
    import safetensors.numpy
  except ImportError as error:
    raise ImportError(
      "the folder's weights need safetensors: pip install 'fnet_t5x[convert]'"
    ) from error
  return safetensors


def write(
  folder: pathlib.Path,
  tensors: Mapping[str, np.ndarray],
  config: Mapping[str, Any],
) -> None:
  """Writes `config.json` and `model.safetensors`.

  Raises:
    ImportError: safetensors is not installed.
  """
  write_tensors(folder, tensors)
  write_json(folder / CONFIG, config)


def write_tensors(
  folder: pathlib.Path, tensors: Mapping[str, np.ndarray]
) -> None:
  """Writes `model.safetensors`.

  Raises:
    ImportError: safetensors is not installed.
  """
  path = folder / WEIGHTS
  path.touch()
  mode = path.stat().st_mode
  # Transformers refuses files without this entry.
  load_library().numpy.save_file(
    {name: np.ascontiguousarray(x) for name, x in tensors.items()},
    str(path),
    {'format': 'pt'},
  )
  # The library's file is for its owner only, and others may serve the model.
  path.chmod(mode)


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON object, as Hugging Face formats it."""
  path.write_text(json.dumps(content, indent=2, sort_keys=True) + '\n')
