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
from collections.abc import Callable, Iterator, Sequence

from absl import flags
from absl import logging as absl_logging

from fnet_t5x.gin_root import gin_root

TRACEBACK_VARIABLE = 'FNET_T5X_TRACEBACK'
# Errors that the user's input causes and the user's input can mend.
INPUT_ERRORS = (
  ValueError,
  KeyError,
  OSError,
  ImportError,
  AttributeError,
  TypeError,
  SyntaxError,
)
# The gin file to add where none of the files given configures the command.
RUN_FILES = {
  'train': 'gin/runs/pretrain.gin',
  'evaluate': 'gin/runs/eval.gin',
  'infer': 'gin/runs/infer.gin',
}


def define_flags() -> None:
  """Defines T5X's command-line flags."""
  flags.DEFINE_multi_string(
    'gin_file', [], 'Gin file; may be repeated, later files override.'
  )
  flags.DEFINE_multi_string(
    'gin_bindings', [], 'One gin binding; --gin.NAME=VALUE is short for it.'
  )
  flags.DEFINE_list(
    'gin_search_paths', ['.'], 'Folders to look for gin files in.'
  )
  flags.DEFINE_string(
    'tfds_data_dir', None, 'Folder of TFDS datasets, for every task.'
  )
  flags.DEFINE_list(
    'seqio_additional_cache_dirs', [], 'Folders holding cached tasks.'
  )


def define_process_flags() -> None:
  """Defines T5X's flags of a run by several processes."""
  flags.DEFINE_boolean(
    'multiprocess_gpu',
    False,
    'Join the other processes of the run, on GPU, TPU or CPU: calls '
    'jax.distributed.initialize. On a TPU pod the three flags below are found.',
  )
  flags.DEFINE_string(
    'coordinator_address', None, 'Address and port of the first process.'
  )
  flags.DEFINE_integer('process_count', None, 'How many processes there are.')
  flags.DEFINE_integer('process_index', None, 'The number of this process.')


def rewrite_gin_args(args: Sequence[str]) -> list[str]:
  """Turns `--gin.NAME=VALUE` into `--gin_bindings=NAME = VALUE`.

  Raises:
    ValueError: an argument starts with `--gin.` and has no `=`.
  """
  rewritten = []
  for arg in args:
    if arg.startswith('--gin.'):
      name, equals, value = arg.removeprefix('--gin.').partition('=')
      if not equals:
        raise ValueError(f'{arg}: write --gin.NAME=VALUE')
      arg = f'--gin_bindings={name} = {value}'
    rewritten.append(arg)
  return rewritten


def one_line(error: BaseException) -> str:
  """Returns an error's message as one line, without gin's call trail.

  The message of an error that names no cause, such as a TypeError, follows its
  type and the configurable that it came from.
  """
  message = str(error.args[0]) if isinstance(error, KeyError) else str(error)
  message, *trail = re.split(r'\n\s*In call to configurable ', message)
  if message.startswith('in user code:'):
    # TensorFlow's traceback of a traced function; its last line counts.
    message = re.split(r'\n\s*\w+Error: ', message)[-1]
  if type(error).__module__.startswith('tensorflow.'):
    # What a Python function in the input pipeline raised, if one did.
    raised = re.findall(r'^(?:\w+\.)*\w+Error: (.+)$', message, re.MULTILINE)
    message = raised[-1] if raised else message
  message = ' '.join(message.split())
  # gin raises subclasses of its own, of the same name.
  kind = type(error).__name__
  if kind in ('TypeError', 'KeyError', 'AttributeError') or not message:
    where = f' in {trail[0].split()[0]}' if trail else ''
    return f'{kind}{where}: {message}'
  return message


def _is_input_error(error: Exception) -> bool:
  # TensorFlow's errors come from its input pipeline, the one thing it does
  # here; an error class of its own must not be imported for it.
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


def parse_gin(files: Sequence[str], bindings: Sequence[str]) -> None:
  """Parses gin files and bindings into gin's global configuration.

  Raises:
    ValueError: a binding names nothing that exists.
    FileNotFoundError: no search path holds one of the files.
  """
  from fnet_t5x.runtime import gin_utils

  gin_utils.parse_gin_flags(
    [*flags.FLAGS.gin_search_paths, gin_root()], files, bindings
  )


def read_flags(argv: Sequence[str]) -> None:
  """Reads the command line, which names at least one gin file.

  Raises:
    ValueError: an argument that there is not, or no gin file.
  """
  logging.addLevelName(logging.WARNING, 'warning')
  logging.basicConfig(format='%(levelname)s: %(message)s')
  define_flags()
  define_process_flags()
  rest = flags.FLAGS(rewrite_gin_args(argv))
  if len(rest) > 1:
    raise ValueError(f'no such argument: {" ".join(rest[1:])}')
  if not flags.FLAGS.gin_file:
    raise ValueError(
      'no --gin_file given; for a first run: '
      '--gin_file=gin/experiments/quickstart.gin'
    )


def start(argv: Sequence[str]) -> None:
  """Reads the command line and imports TensorFlow: what must come first.

  Raises:
    ValueError: an argument that there is not, no gin file, or no such engine.
    FileNotFoundError: a gin file that no search path holds.
  """
  read_flags(argv)
  from fnet_t5x.compat import engine

  if flags.FLAGS.multiprocess_gpu:
    join_processes(engine.USES_T5X)
  import_tensorflow()
  from fnet_t5x.runtime import console

  console.say(f'engine: {engine.engine_name()}')
  if engine.USES_T5X:
    # T5X tells how a run goes by its log alone.
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(absl_logging.INFO)


def join_processes(uses_t5x: bool) -> None:
  """Joins the other processes of the run, before JAX looks for devices.

  Raises:
    ValueError: the engine is the embedded runtime, or it is not known where
      the other processes are.
  """
  if not uses_t5x:
    raise ValueError(
      '--multiprocess_gpu: the embedded runtime is one process; several are '
      "T5X's job: install it (README: Engines)"
    )
  import jax

  given = flags.FLAGS
  try:
    jax.distributed.initialize(
      given.coordinator_address, given.process_count, given.process_index
    )
  except ValueError as error:
    raise ValueError(
      f'--multiprocess_gpu: {error} Give --coordinator_address=HOST:PORT, '
      '--process_count and --process_index; on a TPU pod they are found'
    ) from error


def use_runtime() -> None:
  """Chooses the runtime, for commands that are its own.

  Whichever engine trained: both write the same checkpoints.
  """
  os.environ['FNET_T5X_ENGINE'] = 'runtime'


def import_tensorflow() -> None:
  """Imports TensorFlow without its start-up notes, and keeps it off GPUs.

  It reads data here and nothing else; what it takes of a GPU, JAX lacks. Its
  libraries write notes while they load, before they read TF_CPP_MIN_LOG_LEVEL:
  they are held back, and shown if the import fails.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  with stderr_held_back():
    import tensorflow as tf
    import tensorflow_text  # noqa: F401

    tf.config.set_visible_devices([], 'GPU')


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
  """Drops what the block writes to standard error, unless it raises."""
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

  if flags.FLAGS.tfds_data_dir:
    seqio.set_tfds_data_dir_override(flags.FLAGS.tfds_data_dir)
  seqio.add_global_cache_dirs(flags.FLAGS.seqio_additional_cache_dirs)

  configured = gin.configurable(function)
  parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_bindings)
  _check_configured(function)
  result = configured()
  return result if isinstance(result, int) else 0


def _check_configured(function: Callable[..., object]) -> None:
  """Refuses gin files that leave an argument of `function` out."""
  import gin

  name = function.__name__
  bound = gin.get_bindings(name, resolve_references=False)
  missing = [
    parameter.name
    for parameter in inspect.signature(function).parameters.values()
    if parameter.default is parameter.empty and parameter.name not in bound
  ]
  if missing:
    raise ValueError(
      f'the gin files do not configure {name} ({", ".join(missing)} missing): '
      f'add --gin_file={RUN_FILES[name]}'
    )
