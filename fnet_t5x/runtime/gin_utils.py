"""Gin parsing, with one-line errors, and the saved configuration of a run."""

import contextlib
import difflib
import inspect
import logging as python_logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import gin
import tensorflow as tf
from absl import logging
from clu import metric_writers

from fnet_t5x import (
  gin_binding,
  gin_check,
  gin_syntax,
  t5x_modules,
  t5x_settings,
)
from fnet_t5x.runtime import console, model_directory


def parse_gin_flags(
  gin_search_paths: Sequence[str],
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  skip_unknown: bool | Sequence[str] = False,
  finalize_config: bool = True,
) -> None:
  """Parses gin files, then bindings; later ones override earlier ones.

  Raises:
    FileNotFoundError: a file is in none of the search paths.
    ValueError: a binding's configurable, parameter or macro does not exist, a
      file or binding is not valid gin, or a macro in use has no value.
  """
  for path in gin_search_paths:
    gin.add_config_file_search_path(path)
  for name in gin_files:
    _check_exists(name, gin_search_paths)
  with t5x_modules.served_to_gin() as served:
    for name in gin_files:
      _parse_file(name, gin_search_paths, skip_unknown)
  if served:
    console.print_line(
      f"t5x in the gin files: the embedded runtime's modules ({len(served)})"
    )
  known = sorted(macros_set() | macros_used())
  for binding in gin_bindings:
    _parse_binding(binding, known, skip_unknown)
  gin_check.check_set(macros_used() - macros_set())
  _name_task()
  _expand_homes()
  if finalize_config:
    gin.finalize()
  for line in gin.config_str().splitlines():
    logging.info('%s', line)


def parse_file(name: str, search_paths: Sequence[str]) -> None:
  """Parses one gin file; macros may lack values. Raises as above."""
  for path in search_paths:
    gin.add_config_file_search_path(path)
  _check_exists(name, search_paths)
  with t5x_modules.served_to_gin():
    _parse_file(name, search_paths, False)


def macros_set() -> set[str]:
  """Returns the macros that have a value in the parsed configuration."""
  return set(re.findall(r'^(\w+)\s*=', gin.config_str(), re.M))


def _name_task() -> None:
  """Sets MIXTURE_OR_TASK_NAME to its value if SOURCE and OBJECTIVE define it.

  The saved configuration of the run then contains the name.
  """
  name = macro('MIXTURE_OR_TASK_NAME')
  if isinstance(name, gin.config.ConfigurableReference):
    task = name.scoped_configurable_fn()
    gin.bind_parameter('%MIXTURE_OR_TASK_NAME', task)


def _expand_homes() -> None:
  """Expands `~/` in macros; a shell does not expand it within quotes."""
  for name in macros_set():
    value = macro(name)
    if isinstance(value, str) and value.startswith('~/'):
      gin.bind_parameter(f'%{name}', os.path.expanduser(value))


def macro(name: str) -> Any:
  """Returns a macro's value; None if it is not set."""
  try:
    return gin.query_parameter(f'%{name}')
  except ValueError:
    return None


def macros_used() -> set[str]:
  """Returns the macros that the parsed configuration refers to."""
  config = re.sub(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", '', _code())
  # Names with a dot are constants, such as %gin.REQUIRED.
  return set(re.findall(r'%(\w+)\b(?!\.)', config))


def sum_fn(var1: Any, var2: Any) -> Any:
  """Returns a sum, for gin files."""
  return var1 + var2


def bool_fn(var1: Any) -> bool:
  """Returns whether a value is true, for gin files."""
  return bool(var1)


def string_split_fn(
  text: str, separator: str, maxsplit: int = -1, index: int | None = None
) -> list[str] | str:
  """Returns the parts of a text, or one of them, for gin files."""
  parts = text.split(separator, maxsplit)
  return parts if index is None else parts[index]


def summarize_gin_config(
  model_dir: str,
  summary_writer: metric_writers.MetricWriter | None,
  step: int,
) -> None:
  """Writes the parsed configuration to `model_dir` and to TensorBoard."""
  config = gin.config_str()
  tf.io.gfile.makedirs(model_dir)
  path = os.path.join(model_dir, model_directory.CONFIG_FILE)
  with tf.io.gfile.GFile(path + '.tmp', 'w') as f:
    f.write(config)
  tf.io.gfile.rename(path + '.tmp', path, overwrite=True)
  if summary_writer is not None:
    summary_writer.write_texts(step, {'config': gin.markdown(config)})
    summary_writer.flush()


def _check_exists(name: str, search_paths: Sequence[str]) -> None:
  if not _exists(name, search_paths):
    raise FileNotFoundError(
      f'gin file {name!r} is in none of {", ".join(search_paths)}; '
      'correct the name, or add --gin_search_paths'
    )


def _exists(name: str, search_paths: Sequence[str]) -> bool:
  return gin_check.find(name, search_paths) is not None or any(
    tf.io.gfile.exists(os.path.join(path, name)) for path in search_paths
  )


def _code() -> str:
  """Returns the parsed configuration without comments."""
  return re.sub(r'^\s*#.*$', '', gin.config_str(), flags=re.M)


def _parse_file(
  name: str, search_paths: Sequence[str], skip_unknown: bool | Sequence[str]
) -> None:
  with gin_syntax.one_line_errors(name):
    _parse_gin(name, search_paths, skip_unknown)


def _parse_gin(
  name: str, search_paths: Sequence[str], skip_unknown: bool | Sequence[str]
) -> None:
  try:
    with _gin_log_off():
      gin.parse_config_file(name, skip_unknown=skip_unknown)
  except OSError as error:
    include = re.search(r'Unable to open file: (.*?)\. Searched', str(error))
    if not include:
      raise
    raise FileNotFoundError(
      f'{_where(error, name)}: includes {include[1]!r}, which is in none of '
      f'{", ".join(search_paths)}; correct the name, or add --gin_search_paths'
    ) from error
  except AttributeError as error:
    selector = re.search(
      r"resolve selector ([\w.]+); <module '(.*?)'", str(error)
    )
    if not selector:
      raise
    remedy = t5x_settings.instead(selector[1]) or (
      'correct the name, or use the command that this file is for'
    )
    raise ValueError(
      f'{_where(error, name)}: {selector[1]} is not in {selector[2]}; {remedy}'
    ) from error
  except t5x_modules.UnservedError as error:
    raise t5x_modules.UnservedError(
      f'{_where(error, name)}: {_first_line(str(error))}'
    ) from error
  except (ImportError, ValueError) as error:
    raise ValueError(
      f'{_where(error, name)}: {_first_line(str(error)).rstrip(".")}'
      f'{_unknown(error) or _absent(error)}'
    ) from error


def _where(error: Exception, name: str) -> str:
  """Returns the file and line of an error, from gin's message."""
  where = re.search(r'In file "(.*?)", line (\d+)', str(error))
  return f'{where[1]}, line {where[2]}' if where else name


def _parse_binding(
  binding: str, known: Sequence[str], skip_unknown: bool | Sequence[str]
) -> None:
  name = binding.partition('=')[0].strip()
  gin_check.check_macro(name, known)
  gin_binding.parse(binding)
  try:
    gin.parse_config(binding, skip_unknown=skip_unknown)
  except ValueError as error:
    raise ValueError(
      f'--gin.{name}: {_first_line(str(error)).rstrip(".")}'
      f'{_unknown(error) or "; correct it, or import it in a gin file"}'
    ) from error


def _unknown(error: Exception) -> str:
  """Returns a suggestion of names close to the unknown one, for a message."""
  parameter = re.search(
    r"Configurable '(.*?)' doesn't have a parameter named '(.*?)'", str(error)
  )
  if parameter and (remedy := t5x_settings.instead(parameter[2])):
    return f'; {remedy}'
  if parameter:
    function = gin.get_configurable(parameter[1])
    # The signature of a class wrapped by gin is (*args, **kwargs).
    target = function.__init__ if inspect.isclass(function) else function
    return _close(parameter[2], list(inspect.signature(target).parameters))
  configurable = re.search(
    r"No configurable matching (?:reference )?'@?([\w.]*)", str(error)
  )
  if not configurable:
    return ''
  bound = re.findall(r'^([\w./]+)\.\w+\s*=', _code(), re.M)
  names = sorted({name.rsplit('/', 1)[-1] for name in bound})
  # A file's `import ... as ...` does not apply to the command line.
  last = configurable[1].rsplit('.', 1)[-1]
  same = [name for name in names if name.rsplit('.', 1)[-1] == last]
  if same:
    return f'; did you mean {", ".join(same)}?'
  return _close(configurable[1], names)


def _absent(error: Exception) -> str:
  """Returns a remedy for a module or name that cannot be found."""
  if "No module named 't5'" in str(error):
    return (
      "; T5's tasks are the package t5's: install it, or leave the import out "
      'and name another task (python -m fnet_t5x.tasks.catalog lists ours)'
    )
  return '; correct it, or import what it names'


def _close(name: str, known: Sequence[str]) -> str:
  close = difflib.get_close_matches(name, known, n=3)
  return f'; did you mean {", ".join(close)}?' if close else ''


def _first_line(text: str) -> str:
  return text.strip().splitlines()[0] if text.strip() else ''


@contextlib.contextmanager
def _gin_log_off() -> Iterator[None]:
  """Suppresses gin's log of every path where it did not find an include."""
  before = python_logging.root.manager.disable
  python_logging.disable(python_logging.ERROR)
  try:
    yield
  finally:
    python_logging.disable(before)
