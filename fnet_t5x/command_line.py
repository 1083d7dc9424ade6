"""Flags, gin parsing and error lines shared by the entry points.

The flags are T5X's (`--gin_file`, `--gin.NAME=VALUE`, `--gin_search_paths`,
`--gin_bindings`, `--tfds_data_dir`, `--seqio_additional_cache_dirs`).
"""

import contextlib
import inspect
import logging
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence

from absl import flags
from absl import logging as absl_logging

from fnet_t5x import checkpoint_flags, gin_check, number_ranges, t5x_modules
from fnet_t5x.gin_root import gin_root

TRACEBACK_VARIABLE = 'FNET_T5X_TRACEBACK'
# If `0`, a run does not end by suggesting commands; its parent process does.
COMMANDS_VARIABLE = 'FNET_T5X_NEXT_COMMANDS'
# Errors that the user's input causes, and can fix.
INPUT_ERRORS = (
  ValueError,
  KeyError,
  OSError,
  ImportError,
  AttributeError,
  TypeError,
  SyntaxError,
  # A gin value that refers to itself.
  RecursionError,
)
_NO_GIN_FILE = {
  'train': 'no --gin_file given, such as '
  '--gin_file=gin/experiments/quickstart.gin',
  'eval': 'nothing to evaluate: give --model_dir, the folder of a training '
  'run; or --gin_file, such as --gin_file=gin/runs/eval.gin',
  'infer': 'nothing to infer with: give --model_dir, the folder of a training '
  'run; or --gin_file, such as --gin_file=gin/runs/infer.gin',
}
# Both engines accept values out of these ranges, and train badly or save
# nothing.
_RANGES = {
  'LEARNING_RATE': {'minimum': 0},
  'WARMUP_STEPS': {'minimum': 0},
  'DROPOUT_RATE': {'minimum': 0, 'below': 1},
  'LABEL_SMOOTHING': {'minimum': 0, 'below': 1},
  'Z_LOSS': {'minimum': 0},
  'KEEP_CHECKPOINTS': {'minimum': 1, 'whole': True},
}
_HELP = ('--help', '-h', '-help', '--helpfull')
_WIDTH = 80


def define_flags() -> None:
  """Defines T5X's command-line flags."""
  flags.DEFINE_multi_string(
    'gin_file', [], 'Gin file; repeat for several, later ones override.'
  )
  flags.DEFINE_multi_string(
    'gin_bindings', [], 'One gin binding; --gin.NAME=VALUE is short for it.'
  )
  flags.DEFINE_list(
    'gin_search_paths', ['.'], 'Folders to search for gin files.'
  )
  flags.DEFINE_string(
    'tfds_data_dir', None, 'Folder of TFDS datasets, for all tasks.'
  )
  flags.DEFINE_list(
    'seqio_additional_cache_dirs', [], 'Folders of cached tasks.'
  )


def define_process_flags() -> None:
  """Defines T5X's flags for runs of several processes."""
  flags.DEFINE_boolean(
    'multiprocess_gpu',
    False,
    'Join the other processes of the run, on GPU, TPU or CPU: calls '
    'jax.distributed.initialize. On a TPU pod it finds the values of the three '
    'flags below.',
  )
  flags.DEFINE_string(
    'coordinator_address', None, 'Address and port of the first process.'
  )
  flags.DEFINE_integer('process_count', None, 'Number of processes.')
  flags.DEFINE_integer('process_index', None, 'Index of this process.')
  flags.DEFINE_integer(
    'initialization_timeout',
    None,
    'Seconds to wait for the other processes; 300 by default.',
    lower_bound=1,
  )


def rewrite_gin_args(args: Sequence[str]) -> list[str]:
  """Turns `--gin.NAME=VALUE` into `--gin_bindings=NAME = VALUE`.

  Raises:
    ValueError: if an argument starts with `--gin.` and has no `=`.
  """
  rewritten = []
  for arg in args:
    if arg.startswith('--gin.'):
      name, equals, value = arg.removeprefix('--gin.').partition('=')
      if not equals:
        raise ValueError(f'{arg}: use --gin.NAME=VALUE')
      arg = f'--gin_bindings={name} = {value}'
    rewritten.append(arg)
  return rewritten


def one_line(error: BaseException) -> str:
  """Returns an error's message as one line, without gin's call trail.

  Errors such as TypeError, whose messages say little, are prefixed by their
  type and the configurable that raised them.
  """
  message = str(error)
  if isinstance(error, KeyError) and error.args:
    message = str(error.args[0])
  if isinstance(error, RecursionError):
    # Its own message is gin's call trail, of thousands of lines.
    return (
      'a value in the gin files or bindings refers to itself, or is nested too '
      'deeply'
    )
  message, *trail = re.split(r'\n\s*In call to configurable ', message)
  if message.startswith('in user code:'):
    # TensorFlow's traceback of a traced function; its last line is the error.
    message = re.split(r'\n\s*\w+Error: ', message)[-1]
  if type(error).__module__.startswith('tensorflow.'):
    # The error of a Python function in the input pipeline, if any.
    raised = re.findall(r'^(?:\w+\.)*\w+Error: (.+)$', message, re.MULTILINE)
    message = raised[-1] if raised else message
  message = ' '.join(message.split())
  # By name: gin raises its own subclasses, of the same name.
  kind = type(error).__name__
  if kind in ('TypeError', 'KeyError', 'AttributeError') or not message:
    where = f' in {trail[0].split()[0]}' if trail else ''
    return f'{kind}{where}: {message}'
  return message


def _is_input_error(error: Exception) -> bool:
  # TensorFlow only runs the input pipeline, so its errors are about input. By
  # module name, since TensorFlow must not be imported for this.
  from_tensorflow = type(error).__module__.startswith('tensorflow.')
  return from_tensorflow or isinstance(error, (flags.Error, *INPUT_ERRORS))


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Turns an input error inside the block into one line and exit code 1.

  `FNET_T5X_TRACEBACK=1` shows the whole traceback instead.
  """
  try:
    yield
  except Exception as error:
    if os.environ.get(TRACEBACK_VARIABLE) or not _is_input_error(error):
      raise
    sys.stdout.flush()
    sys.stderr.write(f'error: {one_line(error)}\n')
    sys.stderr.write(f'({TRACEBACK_VARIABLE}=1 shows where it came from)\n')
    sys.exit(2 if isinstance(error, flags.Error) else 1)
  except KeyboardInterrupt:
    sys.stderr.write('interrupted\n')
    sys.exit(130)


def search_paths() -> list[str]:
  """Returns the folders to search for gin files."""
  return [*flags.FLAGS.gin_search_paths, gin_root()]


def parse_gin(files: Sequence[str], bindings: Sequence[str]) -> None:
  """Parses gin files and bindings into gin's global configuration.

  Raises:
    ValueError: if a binding names nothing that exists.
    FileNotFoundError: if a file is in none of the search paths.
  """
  from fnet_t5x.runtime import gin_utils

  gin_utils.parse_gin_flags(search_paths(), files, bindings)


def read(
  argv: Sequence[str], description: str, arguments: bool = False
) -> list[str]:
  """Parses the command line by the flags defined so far.

  `--help` prints the description and the flags, and exits.

  Args:
    argv: the command line, starting with the program's name.
    description: the command's docstring, with an example.
    arguments: whether positional arguments are allowed.

  Returns:
    The positional arguments.

  Raises:
    flags.Error: for an unknown flag, or an invalid value.
    ValueError: for a positional argument that is not allowed.
  """
  logging.addLevelName(logging.WARNING, 'warning')
  logging.basicConfig(format='%(levelname)s: %(message)s')
  if any(arg in _HELP for arg in argv[1:]):
    sys.stdout.write(help_text(description))
    sys.exit(0)
  _, *rest = flags.FLAGS(rewrite_gin_args(argv))
  if rest and not arguments:
    raise ValueError(f'no such argument: {" ".join(rest)}')
  return rest


def help_text(description: str) -> str:
  """Returns a command's description and the flags defined so far."""
  own = [
    flag
    for module, defined in flags.FLAGS.flags_by_module_dict().items()
    if not module.startswith('absl.')
    for flag in defined
  ]
  lines = [description.strip(), '', 'flags:']
  for flag in sorted({flag.name: flag for flag in own}.values(), key=_name):
    if flag.boolean:
      lines.append(f'  --[no]{flag.name}')
    else:
      lines.append(f'  --{flag.name}=...')
    # absl appends a line about repetition to the help of multi flags.
    text = (flag.help or '').split(';\n')[0]
    if flag.default not in (None, [], False, ''):
      text += f' (default: {flag.default_as_str})'
    lines += textwrap.wrap(
      text, _WIDTH, initial_indent=6 * ' ', subsequent_indent=6 * ' '
    )
  if 'gin_bindings' in flags.FLAGS:
    lines += ['  --gin.NAME=VALUE', '      Short for --gin_bindings.']
  return '\n'.join(lines) + '\n'


def _name(flag: flags.Flag) -> str:
  return flag.name


def read_run(argv: Sequence[str], run_mode: str, description: str) -> None:
  """Parses the command line of a run, and checks its gin files.

  Imports nothing that they name, so that errors show within a second.
  `--list_macros` prints the macros, and exits.

  Args:
    argv: the command line.
    run_mode: 'train', 'eval' or 'infer'.
    description: for `--help`.

  Raises:
    flags.Error, ValueError, FileNotFoundError: as `read` and
      `gin_check.check`; or if there is no gin file.
  """
  define_flags()
  define_process_flags()
  flags.DEFINE_boolean(
    'list_macros',
    False,
    'Print the macros that --gin.NAME=VALUE can set, with their values in the '
    'given files and bindings, and exit.',
  )
  if run_mode == 'train':
    flags.DEFINE_string(
      'model_dir', None, "The run's folder, short for --gin.MODEL_DIR."
    )
  else:
    checkpoint_flags.define_flags()
  read(argv, description)
  given = flags.FLAGS
  texts = [] if run_mode == 'train' else checkpoint_flags.expand(run_mode)
  if not given.gin_file:
    raise ValueError(_NO_GIN_FILE[run_mode])
  if run_mode == 'train' and given.model_dir is not None:
    folder = os.path.expanduser(given.model_dir)
    given.gin_bindings = [*given.gin_bindings, f'MODEL_DIR = {folder!r}']
  if given.list_macros:
    contents = gin_check.read(
      given.gin_file, given.gin_bindings, search_paths(), texts
    )
    sys.stdout.write(macro_table(contents))
    sys.exit(0)
  contents = gin_check.check(
    run_mode, given.gin_file, given.gin_bindings, search_paths(), texts
  )
  from fnet_t5x.compat import engine

  if engine.engine_name() == 'runtime':
    t5x_modules.check(contents.imports)
  if texts:
    checkpoint_flags.check_text_files(contents.macros)
  for name, limits in _RANGES.items():
    value = name in contents.macros and contents.macros[name].value
    if type(value) in (int, float):
      number_ranges.check(name, value, **limits)


def read_planned_run(argv: Sequence[str], description: str) -> None:
  """Parses the command line of a command that plans a training run.

  It names the run's gin files, which may omit what a plan does not need.

  Raises:
    flags.Error, ValueError, FileNotFoundError: as `read_run`.
  """
  define_flags()
  read(argv, description)
  given = flags.FLAGS
  if not given.gin_file:
    raise ValueError(
      'no --gin_file given; name the gin files of a training run, such as '
      '--gin_file=gin/experiments/small_c4_span_corruption.gin'
    )
  gin_check.read(given.gin_file, given.gin_bindings, search_paths())


def macro_table(contents: gin_check.Contents) -> str:
  """Returns a table of macros: name, value, and the file that sets it."""
  rows = [
    (name, repr(contents.macros[name].value), contents.macros[name].file)
    if name in contents.macros
    else (name, '(not set)', '')
    for name in contents.known
  ]
  widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
  # Values wider than this shift the file of their own row only.
  widths[1] = min(widths[1], 28)
  return ''.join(
    f'{name:<{widths[0]}}  {value:<{widths[1]}}  {file}'.rstrip() + '\n'
    for name, value, file in rows
  )


def start(argv: Sequence[str], run_mode: str, description: str) -> None:
  """Parses the command line of a run, and imports TensorFlow.

  Args:
    argv: the command line.
    run_mode: 'train', 'eval' or 'infer'.
    description: for `--help`.

  Raises:
    flags.Error, ValueError, FileNotFoundError: as `read_run`; or for an
      unknown engine.
  """
  read_run(argv, run_mode, description)
  from fnet_t5x.compat import engine

  if flags.FLAGS.multiprocess_gpu:
    join_processes(engine.USES_T5X)
  # One write: a signal must not interrupt a half-written line.
  sys.stdout.write(
    f'engine: {engine.engine_name()}\nimporting TensorFlow and JAX ...\n'
  )
  sys.stdout.flush()
  import_tensorflow()
  if engine.USES_T5X:
    # T5X reports progress only in its log.
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.INFO)


def join_processes(uses_t5x: bool) -> None:
  """Joins the other processes of the run, before JAX looks for devices.

  Raises:
    ValueError: if the engine is the embedded runtime, or the address of the
      other processes is unknown.
  """
  if not uses_t5x:
    raise ValueError(
      '--multiprocess_gpu: the embedded runtime runs in one process; for '
      'several, install T5X (README: Engines)'
    )
  import jax

  given = flags.FLAGS
  try:
    timeout = given.initialization_timeout
    jax.distributed.initialize(
      given.coordinator_address,
      given.process_count,
      given.process_index,
      **({'initialization_timeout': timeout} if timeout else {}),
    )
  except ValueError as error:
    raise ValueError(
      f'--multiprocess_gpu: {error} Give --coordinator_address=HOST:PORT, '
      '--process_count and --process_index; on a TPU pod they are found'
    ) from error


def use_runtime() -> None:
  """Selects the embedded runtime, for commands that T5X lacks.

  They read checkpoints of either engine: both write the same.
  """
  os.environ['FNET_T5X_ENGINE'] = 'runtime'


def import_tensorflow() -> None:
  """Imports TensorFlow without start-up messages, and keeps it off GPUs.

  It only reads data here, and GPU memory that it takes is lost to JAX. Its
  libraries print messages while they load, before they read
  TF_CPP_MIN_LOG_LEVEL: those are suppressed, unless the import fails.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  with stderr_held_back():
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    tf.config.set_visible_devices([], 'GPU')


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
  """Discards the block's standard error, unless the block raises."""
  sys.stderr.flush()
  kept = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    except BaseException:
      held.seek(0)
      os.write(kept, held.read())
      raise
    finally:
      sys.stderr.flush()
      os.dup2(kept, 2)
      os.close(kept)


def run(function: Callable[..., object]) -> int:
  """Configures `function` by gin from the command line, and calls it.

  Args:
    function: an engine's `train`, `evaluate` or `infer`; gin files name it
      through `import __main__ as ...`.

  Returns:
    The exit code.
  """
  import gin
  import seqio

  # Its imports register configurables: before gin's configuration is locked.
  from fnet_t5x.tasks import text_notice

  if flags.FLAGS.tfds_data_dir:
    seqio.set_tfds_data_dir_override(flags.FLAGS.tfds_data_dir)
  seqio.add_global_cache_dirs(flags.FLAGS.seqio_additional_cache_dirs)

  configured = gin.configurable(function)
  if function.__name__ != 'train' and flags.FLAGS.model_dir is not None:
    checkpoint_flags.parse_gin(search_paths())
  else:
    parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_bindings)
  _check_configured(function)
  from fnet_t5x.runtime import kept_vocabulary

  kept_vocabulary.use_configured(function.__name__)
  if function.__name__ == 'train':
    _print_text_notice(text_notice.lines)
  result = configured()
  return result if isinstance(result, int) else 0


def _print_text_notice(lines_of: Callable[..., Sequence[str]]) -> None:
  """Prints the notice about a run's text files, with either engine."""
  from fnet_t5x.runtime import gin_utils

  values = [
    gin_utils.macro(name)
    for name in (
      'MIXTURE_OR_TASK_NAME',
      'TASK_FEATURE_LENGTHS',
      'BATCH_SIZE',
      'TRAIN_STEPS',
    )
  ]
  # Other gin files may bind these without macros; the engine checks them.
  if all(values):
    for line in lines_of(*values):
      print(line, flush=True)


def _check_configured(function: Callable[..., object]) -> None:
  """Checks that gin binds every required argument of `function`."""
  import gin

  name = function.__name__
  run_file = dict(gin_check.RUN_FUNCTIONS.values())[name]
  bound = gin.get_bindings(name, resolve_references=False)
  missing = [
    parameter.name
    for parameter in inspect.signature(function).parameters.values()
    if parameter.default is parameter.empty and parameter.name not in bound
  ]
  if missing:
    raise ValueError(
      f'the gin files do not configure {name} ({", ".join(missing)} missing): '
      f'add --gin_file={run_file}'
    )
