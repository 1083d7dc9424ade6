"""Flags of evaluation and inference: a checkpoint named by its folder."""

import glob
import os
from collections.abc import Mapping, Sequence

from absl import flags

from fnet_t5x import gin_check
from fnet_t5x.runtime import model_directory

_TEXT_TASKS = 'fnet_text_'
_VALIDATION_FILES = 'TEXT_VALIDATION_FILES'
_OUTPUT_DIRS = {'eval': 'EVAL_OUTPUT_DIR', 'infer': 'INFER_OUTPUT_DIR'}


def define_flags() -> None:
  """Defines the command-line flags."""
  flags.DEFINE_string(
    'model_dir',
    None,
    'The folder of a training run, or a checkpoint_<step> in it: model, task, '
    'lengths and vocabulary are those saved there; no --gin_file is needed.',
  )
  flags.DEFINE_integer(
    'checkpoint_step', None, 'Which checkpoint of --model_dir; else the last.'
  )
  flags.DEFINE_string(
    'task',
    None,
    'Task or mixture, short for --gin.MIXTURE_OR_TASK_NAME. `python -m '
    'fnet_t5x.tasks.catalog` lists them.',
  )
  flags.DEFINE_string(
    'split', None, 'Split of the task, short for --gin.SPLIT.'
  )
  flags.DEFINE_integer(
    'num_examples', None, 'The first so many examples of each task; else all.'
  )
  flags.DEFINE_string(
    'output_dir',
    None,
    'Folder of the results; else eval/ or infer/ in --model_dir.',
  )


def expand(run_mode: str) -> list[tuple[str, str]]:
  """Puts what the flags say into --gin_file and --gin_bindings.

  Bindings that are given come after those of the flags.

  Args:
    run_mode: 'eval' or 'infer'.

  Returns:
    The gin that comes before the files: name and text of what is used of the
    configuration in --model_dir.

  Raises:
    FileNotFoundError, ValueError: as `model_directory.locate` and
      `model_directory.read_config`; or flags that do not go together.
  """
  given = flags.FLAGS
  bindings = []
  texts = []
  if given.task is not None:
    bindings.append(f'MIXTURE_OR_TASK_NAME = {given.task!r}')
  if given.split is not None:
    bindings.append(f'SPLIT = {given.split!r}')
  if given.num_examples is not None:
    bindings += _num_examples(run_mode, given.num_examples)
  output_dir = given.output_dir
  if given.model_dir is not None:
    directory = named_directory()
    texts.append(
      (directory.config_file, model_directory.read_config(directory).text)
    )
    bindings.append(f'CHECKPOINT_PATH = {directory.checkpoint!r}')
    output_dir = output_dir or f'{directory.folder}/{run_mode}'
    _, run_file = gin_check.RUN_FUNCTIONS[run_mode]
    given.gin_file = [run_file, *given.gin_file]
  elif given.checkpoint_step is not None:
    raise ValueError(
      '--checkpoint_step chooses a checkpoint of --model_dir; give that too'
    )
  if output_dir is not None:
    folder = os.path.expanduser(output_dir)
    bindings.append(f'{_OUTPUT_DIRS[run_mode]} = {folder!r}')
  given.gin_bindings = [*bindings, *given.gin_bindings]
  return texts


def check_text_files(macros: Mapping[str, gin_check.Macro]) -> None:
  """Refuses a task of text files that are not on this machine any more.

  Args:
    macros: of the configuration, the gin files and the bindings.

  Raises:
    FileNotFoundError: no file is left.
  """
  values = {name: macro.value for name, macro in macros.items()}
  if not str(values.get('MIXTURE_OR_TASK_NAME')).startswith(_TEXT_TASKS):
    return
  name = 'TEXT_FILES'
  if values.get('SPLIT') == 'validation' and values.get(_VALIDATION_FILES):
    name = _VALIDATION_FILES
  patterns = values.get(name)
  if isinstance(patterns, str):
    patterns = [patterns]
  # What is set in another way, or not on this machine, is looked for later.
  if not isinstance(patterns, (list, tuple)) or not all(
    isinstance(p, str) and '://' not in p for p in patterns
  ):
    return
  if patterns and not any(glob.glob(os.path.expanduser(p)) for p in patterns):
    raise FileNotFoundError(
      f'the text of this run is gone: no file matches {" or ".join(patterns)}; '
      f'say where it is: --gin.{name}="\'/data/*.txt\'"'
    )


def named_directory() -> model_directory.ModelDirectory:
  """Returns what --model_dir and --checkpoint_step name.

  Raises:
    FileNotFoundError, ValueError: as `model_directory.locate`.
  """
  given = flags.FLAGS
  return model_directory.locate(given.model_dir, given.checkpoint_step)


def parse_gin(search_paths: Sequence[str]) -> None:
  """Parses the configuration in --model_dir, the gin files and the bindings.

  A task with lengths of its own takes them where --task names it.

  Raises:
    FileNotFoundError, ValueError: as `model_directory.parse`.
  """
  import gin

  given = flags.FLAGS
  directory = named_directory()
  defaults = []
  if given.task is not None:
    saved = model_directory.read_config(directory).macros
    lengths = _own_lengths(given.task, saved.get('TASK_FEATURE_LENGTHS', {}))
    if lengths:
      defaults.append(f'TASK_FEATURE_LENGTHS = {lengths!r}')
  model_directory.parse(
    directory, given.gin_file, given.gin_bindings, search_paths, defaults
  )
  gin.finalize()


def _num_examples(run_mode: str, count: int) -> list[str]:
  from fnet_t5x.compat import engine

  if count < 1:
    raise ValueError(f'--num_examples={count}: give 1 or more')
  if not engine.USES_T5X:
    bindings = [
      f'{gin_check.RUN_FUNCTIONS[run_mode][0]}.num_examples = {count}'
    ]
  elif run_mode == 'infer':
    raise ValueError(
      "--num_examples: T5X's infer takes every example; set "
      'FNET_T5X_ENGINE=runtime'
    )
  else:
    bindings = []
  if run_mode == 'eval':
    bindings.append(f'seqio.Evaluator.num_examples = {count}')
  return bindings


def _own_lengths(task: str, saved: dict[str, int]) -> dict[str, int]:
  """Returns the lengths of an evaluation task, or of other features."""
  from fnet_t5x.tasks import catalog, evaluation_table

  entry = catalog.CATALOG.get(task)
  if entry is None:
    return {}
  if task in evaluation_table.EVALUATION_TASKS or (
    set(entry.feature_lengths) != set(saved)
  ):
    return dict(entry.feature_lengths)
  return {}
