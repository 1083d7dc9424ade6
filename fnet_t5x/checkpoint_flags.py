"""Command-line flags of evaluation and inference."""

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
    'Folder of a training run, or a checkpoint_<step> in it. Model, task, '
    'lengths and vocabulary are those saved there; no --gin_file is needed.',
  )
  flags.DEFINE_integer(
    'checkpoint_step',
    None,
    'Step of the checkpoint in --model_dir; the last by default.',
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
    'num_examples',
    None,
    'Number of examples per task, from the first; all by default.',
  )
  flags.DEFINE_string(
    'output_dir',
    None,
    'Folder for the results; eval/ or infer/ in --model_dir by default.',
  )


def expand(run_mode: str) -> list[tuple[str, str]]:
  """Translates the flags to entries of --gin_file and --gin_bindings.

  The user's own bindings come last and override those of the flags.

  Args:
    run_mode: 'eval' or 'infer'.

  Returns:
    Gin to be parsed before the files: name and text of the saved configuration
    in --model_dir, reduced to what may be used of it.

  Raises:
    FileNotFoundError, ValueError: as `model_directory.locate` and
      `model_directory.read_config`; or if flags exclude each other.
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
      '--checkpoint_step needs --model_dir, the folder of the checkpoint'
    )
  if output_dir is not None:
    folder = os.path.expanduser(output_dir)
    bindings.append(f'{_OUTPUT_DIRS[run_mode]} = {folder!r}')
  given.gin_bindings = [*bindings, *given.gin_bindings]
  return texts


def check_text_files(macros: Mapping[str, gin_check.Macro]) -> None:
  """Checks that a text task's files still exist.

  Args:
    macros: of the configuration, the gin files and the bindings.

  Raises:
    FileNotFoundError: if no file is left.
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
  # References and remote files are resolved later, when gin is parsed.
  if not isinstance(patterns, (list, tuple)) or not all(
    isinstance(p, str) and '://' not in p for p in patterns
  ):
    return
  if patterns and not any(glob.glob(os.path.expanduser(p)) for p in patterns):
    raise FileNotFoundError(
      f'no file matches {" or ".join(patterns)}, the text of this run; give '
      f'its present path: --gin.{name}="\'/data/*.txt\'"'
    )


def named_directory() -> model_directory.ModelDirectory:
  """Returns the directory that --model_dir and --checkpoint_step name.

  Raises:
    FileNotFoundError, ValueError: as `model_directory.locate`.
  """
  given = flags.FLAGS
  return model_directory.locate(given.model_dir, given.checkpoint_step)


def parse_gin(search_paths: Sequence[str]) -> None:
  """Parses the configuration in --model_dir, the gin files and the bindings.

  If --task names a task that has its own feature lengths, those apply.

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
    raise ValueError(f'--num_examples={count}: must be at least 1')
  if not engine.USES_T5X:
    bindings = [
      f'{gin_check.RUN_FUNCTIONS[run_mode][0]}.num_examples = {count}'
    ]
  elif run_mode == 'infer':
    raise ValueError(
      "--num_examples: T5X's infer always runs on all examples; set "
      'FNET_T5X_ENGINE=runtime'
    )
  else:
    bindings = []
  if run_mode == 'eval':
    bindings.append(f'seqio.Evaluator.num_examples = {count}')
  return bindings


def _own_lengths(task: str, saved: dict[str, int]) -> dict[str, int]:
  """Returns a task's lengths if the saved ones do not apply, else {}.

  They do not apply to evaluation tasks, and to tasks with other features.
  """
  from fnet_t5x.tasks import catalog, evaluation_table

  entry = catalog.CATALOG.get(task)
  if entry is None:
    return {}
  if task in evaluation_table.EVALUATION_TASKS or (
    set(entry.feature_lengths) != set(saved)
  ):
    return dict(entry.feature_lengths)
  return {}
