"""Model directory: configuration, vocabulary and checkpoints of a training run.

Heavy imports come after the checks of a local folder, so that a command rejects
one that is not a model directory within a second.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fnet_t5x import saved_config, t5x_modules
from fnet_t5x.runtime import damaged_checkpoints

CONFIG_FILE = 'config.gin'
VOCABULARY_FILE = 'vocabulary.model'
_PREFIX = 'checkpoint_'
_MACROS = ('MODEL', 'MIXTURE_OR_TASK_NAME', 'TASK_FEATURE_LENGTHS')
_VOCABULARY = """from __gin__ import dynamic_registration
from fnet_t5x.tasks import vocabularies
vocabularies.default_vocabulary.sentencepiece_model_file = {!r}
"""


@dataclasses.dataclass(frozen=True)
class ModelDirectory:
  """One checkpoint of a training run, and the files saved with it.

  Attributes:
    folder: the run's MODEL_DIR.
    step: the checkpoint's step.
    checkpoint: `<folder>/checkpoint_<step>`.
    config_file: `<folder>/config.gin`; untrusted, see `parse`.
    vocabulary_file: `<folder>/vocabulary.model`, a SentencePiece model; None if
      there is none, as for byte vocabularies and older versions.
  """

  folder: str
  step: int
  checkpoint: str
  config_file: str
  vocabulary_file: str | None


@dataclasses.dataclass(frozen=True)
class Configured:
  """The objects that a model directory's configuration defines.

  Attributes:
    model: the model, without parameters.
    task_name: the task or mixture on which it was trained.
    feature_lengths: tokens per feature, including EOS.
  """

  model: Any
  task_name: str
  feature_lengths: Mapping[str, int]


def locate(path: str | os.PathLike, step: int | None = None) -> ModelDirectory:
  """Finds a run's checkpoint and configuration.

  Args:
    path: the run's folder, or `.../checkpoint_<step>` in it; local (`~` is
      the home folder) or remote (gs://).
    step: the checkpoint's step; None for the last complete one.

  Raises:
    DamagedError: a file of the checkpoint is missing or truncated.
    FileNotFoundError: there is no such folder, checkpoint or configuration.
    ValueError: `path` and `step` name different checkpoints.
  """
  folder, named = split(os.path.expanduser(os.fspath(path)))
  if named is not None:
    if step is not None and step != named:
      raise ValueError(
        f'{path} is step {named}, but step {step} was requested; specify one '
        'of the two'
      )
    step = named
  if not _is_folder(folder):
    raise FileNotFoundError(
      f'{folder}: no such folder; name the MODEL_DIR of a training run'
    )
  config_file = f'{folder}/{CONFIG_FILE}'
  if not _exists(config_file):
    raise FileNotFoundError(
      f'{folder} holds no {CONFIG_FILE}: name the MODEL_DIR of a training run'
    )
  steps = _steps(folder)
  if not steps:
    raise FileNotFoundError(
      f'{folder} holds no checkpoint: wait until the run has saved one '
      '(SAVE_PERIOD), or name another MODEL_DIR'
    )
  if step is None:
    step = steps[-1]
  elif step not in steps:
    raise FileNotFoundError(
      f'{folder} holds no checkpoint of step {step}: there '
      f'{"are" if len(steps) > 1 else "is"} {", ".join(map(str, steps))}'
    )
  if not _is_remote(folder):
    # Only checks that take no time: restoring reads and checks everything.
    damaged_checkpoints.check(
      f'{folder}/{_PREFIX}{step}', lambda: steps, contents=False, position=False
    )
  vocabulary_file = f'{folder}/{VOCABULARY_FILE}'
  return ModelDirectory(
    folder=folder,
    step=step,
    checkpoint=f'{folder}/{_PREFIX}{step}',
    config_file=config_file,
    vocabulary_file=vocabulary_file if _exists(vocabulary_file) else None,
  )


def split(path: str) -> tuple[str, int | None]:
  """Returns a path's model directory, and the step if it is a checkpoint."""
  path = path.rstrip('/') or '/'
  folder, _, name = path.rpartition('/')
  if not re.fullmatch(rf'{_PREFIX}\d+', name):
    return path, None
  root = '/' if path[0] == '/' else '.'
  return folder or root, int(name.removeprefix(_PREFIX))


def read_config(directory: ModelDirectory) -> saved_config.SavedConfig:
  """Returns the trusted part of the configuration; see `saved_config`.

  Raises:
    ValueError: as in `saved_config.read`, or the file is not text.
  """
  try:
    text = _content(directory.config_file).decode('utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{directory.config_file}: not a text file (byte {error.start} is not '
      'UTF-8); restore the file that the run saved'
    ) from error
  return saved_config.read(text, directory.config_file)


def parse(
  directory: ModelDirectory,
  gin_files: Sequence[str] = (),
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = ('.',),
  defaults: Sequence[str] = (),
) -> None:
  """Parses a run's configuration with gin, without running untrusted code.

  The vocabulary saved by the run takes precedence over the one in the
  configuration, as a cache or corpus may be gone or changed.

  Args:
    directory: the run.
    gin_files: files parsed after the configuration, such as a run file.
    bindings: `NAME=VALUE`, parsed last.
    search_paths: folders in which to search for `gin_files`.
    defaults: bindings parsed between the configuration and `gin_files`.

  Raises:
    ValueError: as in `read_config` and `gin_utils.parse_gin_flags`.
    FileNotFoundError: as in `gin_utils.parse_gin_flags`.
  """
  import gin

  from fnet_t5x.runtime import gin_utils

  saved = read_config(directory)
  try:
    with t5x_modules.served_to_gin():
      gin.parse_config(saved.text)
  except (ImportError, ValueError, AttributeError) as error:
    raise ValueError(
      f'{directory.config_file}: {str(error).strip().splitlines()[0]} '
      '(saved by another version of this package, or by hand?)'
    ) from error
  if directory.vocabulary_file:
    gin.parse_config(_VOCABULARY.format(directory.vocabulary_file))
  if defaults:
    gin.parse_config(list(defaults))
  # Run files set it to None, but the task may be defined in such a module.
  module = saved.macros.get('MIXTURE_OR_TASK_MODULE')
  if module:
    bindings = [f'MIXTURE_OR_TASK_MODULE = {module!r}', *bindings]
  gin_utils.parse_gin_flags(
    search_paths, gin_files, bindings, finalize_config=False
  )


def configure(
  directory: ModelDirectory, overrides: Sequence[str] = ()
) -> Configured:
  """Parses a run's configuration, and constructs the objects it defines.

  Args:
    directory: the run.
    overrides: bindings `NAME=VALUE`, parsed after the configuration.

  Raises:
    ValueError, FileNotFoundError: as in `parse`; or the configuration does not
      set model, task or lengths.
  """
  import gin

  missing = sorted(set(_MACROS) - set(read_config(directory).macros))
  if missing:
    raise ValueError(
      f'{directory.config_file} does not set {", ".join(missing)}: name the '
      'MODEL_DIR of a training run'
    )
  parse(directory, bindings=overrides)
  return Configured(
    *(gin.get_configurable(f'{name}/gin.macro')() for name in _MACROS)
  )


def _steps(folder: str) -> list[int]:
  """Returns the sorted steps of the complete checkpoints in a folder."""
  if _is_remote(folder):
    from fnet_t5x.runtime import checkpoints

    return checkpoints.steps(folder)
  # On a local disk, a checkpoint gets its name once it is complete.
  return sorted(
    int(name.removeprefix(_PREFIX))
    for name in os.listdir(folder)
    if re.fullmatch(rf'{_PREFIX}\d+', name)
    and os.path.isdir(f'{folder}/{name}')
  )


def _is_remote(path: str) -> bool:
  return '://' in path


def _is_folder(path: str) -> bool:
  if _is_remote(path):
    return _gfile().isdir(path)
  return os.path.isdir(path)


def _exists(path: str) -> bool:
  if _is_remote(path):
    return _gfile().exists(path)
  return os.path.isfile(path)


def _content(path: str) -> bytes:
  if _is_remote(path):
    with _gfile().GFile(path, 'rb') as f:
      return f.read()
  with open(path, 'rb') as f:
    return f.read()


def _gfile() -> Any:
  from fnet_t5x import command_line

  command_line.import_tensorflow()
  import tensorflow as tf

  return tf.io.gfile
