"""Parsing gin files, and keeping a run's configuration beside its results."""

import difflib
import os
import re
from collections.abc import Sequence

import gin
import tensorflow as tf
from absl import logging
from clu import metric_writers

CONFIG_FILE = 'config.gin'


def parse_gin_flags(
  gin_search_paths: Sequence[str],
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  skip_unknown: bool | Sequence[str] = False,
  finalize_config: bool = True,
) -> None:
  """Parses gin files, then bindings; later ones override earlier ones.

  Raises:
    FileNotFoundError: no search path holds one of the files.
    ValueError: a binding names no configurable, parameter or macro.
  """
  for path in gin_search_paths:
    gin.add_config_file_search_path(path)
  for name in gin_files:
    if not _exists(name, gin_search_paths):
      raise FileNotFoundError(
        f'gin file {name!r} is in none of {", ".join(gin_search_paths)}; '
        'name one of the gin/ folder, or add --gin_search_paths'
      )
  try:
    gin.parse_config_files_and_bindings(
      gin_files,
      [],
      skip_unknown=skip_unknown,
      finalize_config=False,
    )
    known = macros_set() | macros_used()
    for binding in gin_bindings:
      _check_macro(binding, sorted(known))
    gin.parse_config(gin_bindings, skip_unknown=skip_unknown)
  except OSError as error:
    # gin's message lists its readers; the missing include is all one needs.
    raise FileNotFoundError(f'gin include not found: {error}') from error
  except SyntaxError as error:
    raise ValueError(
      f'gin syntax, {error.filename or "in a binding"}'
      f' line {error.lineno}: {error.msg}'
    ) from error
  missing = sorted(macros_used() - macros_set())
  if missing:
    raise ValueError(
      f'{", ".join(missing)} not set: give --gin.{missing[0]}=..., or a '
      "--gin_file that sets it (each file's head says what it provides)"
    )
  if finalize_config:
    gin.finalize()
  for line in gin.config_str().splitlines():
    logging.info('%s', line)


def macros_set() -> set[str]:
  """Returns the macros that the parsed configuration gives a value."""
  return set(re.findall(r'^([A-Z][A-Z0-9_]*)\s*=', gin.config_str(), re.M))


def macros_used() -> set[str]:
  """Returns the macros that the parsed configuration refers to."""
  return set(re.findall(r'%([A-Z][A-Z0-9_]*)\b', gin.config_str()))


def summarize_gin_config(
  model_dir: str,
  summary_writer: metric_writers.MetricWriter | None,
  step: int,
) -> None:
  """Writes the parsed configuration to `model_dir` and to TensorBoard."""
  config = gin.config_str()
  tf.io.gfile.makedirs(model_dir)
  path = os.path.join(model_dir, CONFIG_FILE)
  with tf.io.gfile.GFile(path + '.tmp', 'w') as f:
    f.write(config)
  tf.io.gfile.rename(path + '.tmp', path, overwrite=True)
  if summary_writer is not None:
    summary_writer.write_texts(step, {'config': gin.markdown(config)})
    summary_writer.flush()


def _exists(name: str, search_paths: Sequence[str]) -> bool:
  return any(
    tf.io.gfile.exists(os.path.join(path, name)) for path in search_paths
  )


def _check_macro(binding: str, known: Sequence[str]) -> None:
  """Refuses a macro that no gin file declares: gin would ignore a typo."""
  name = binding.split('=')[0].strip()
  if not re.fullmatch(r'[A-Z][A-Z0-9_]*', name) or name in known:
    return
  close = difflib.get_close_matches(name, known, n=3)
  hint = f'; did you mean {", ".join(close)}?' if close else ''
  raise ValueError(
    f'--gin.{name}: no gin file of this run has the macro {name}{hint}'
  )
