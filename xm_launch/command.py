"""The command that every host of a pod runs, built from settings.

Pure functions: nothing here starts anything, or imports a cloud's library.
"""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Any

from fnet_t5x.xm_launch import tpu_types

# The commits that README names, checked together with this package's pins.
T5X_COMMIT = 'cc342d419ec3e3e9c4bf1df33c82330cafdc1e16'
AIRIO_COMMIT = '69897df7d9a427b947a9f7bb4164c7782b43e601'

# Our commands, with T5X as their engine: those of T5X for evaluation and
# inference have no flag for cached tasks, nor one that joins the hosts, and its
# `t5x.train` ends in a traceback where SIGTERM stopped and saved the run.
MODULES = {
  'train': 'fnet_t5x.train',
  'eval': 'fnet_t5x.eval',
  'infer': 'fnet_t5x.infer',
}
# The macro that says where a run writes, and the folder in the model's.
OUTPUT_MACROS = {
  'train': ('MODEL_DIR', ''),
  'eval': ('EVAL_OUTPUT_DIR', '/eval'),
  'infer': ('INFER_OUTPUT_DIR', '/infer'),
}
# What of the environment every host needs: a pod is T5X's, never the embedded
# runtime's, and a missing T5X is then an error.
ENVIRONMENT = {'FNET_T5X_ENGINE': 't5x'}
# The flags that settings come from, where their names differ.
FLAGS = {
  'gin_files': 'gin_file',
  'seqio_cache_dirs': 'seqio_additional_cache_dirs',
}
# A shell's words; where gin files are is known on the host alone.
GIN_ROOT = '$(python -m fnet_t5x.gin_root)'


@dataclasses.dataclass(frozen=True)
class Settings:
  """A run, and where it is to run.

  Attributes:
    run_mode: `train`, `eval` or `infer`.
    gin_files: gin files, by the path that starts with `gin/`; later ones
      override earlier ones.
    model_dir: the run's folder, `gs://...`. Evaluation writes to its `eval`,
      inference to its `infer`, unless a binding says otherwise.
    gin_bindings: `NAME=VALUE`, gin's own syntax.
    gin_search_paths: folders on the hosts, searched before the package's.
    checkpoint_step: of `model_dir`, for evaluation and inference.
    tfds_data_dir: where TFDS's datasets are.
    seqio_cache_dirs: where cached tasks are.
    tpu_type: a slice, `v3-32`.
    project: of Google Cloud.
    zone: of Google Cloud, `europe-west4-a`.
    bucket: of Google Cloud, for what a launch uploads, without `gs://`.
    name: of the experiment, or of the TPU.
    t5x_commit: the commit of T5X that hosts install.
    airio_commit: of airio, T5X's import.
  """

  run_mode: str
  gin_files: Sequence[str]
  model_dir: str
  gin_bindings: Sequence[str] = ()
  gin_search_paths: Sequence[str] = ()
  checkpoint_step: int | None = None
  tfds_data_dir: str | None = None
  seqio_cache_dirs: Sequence[str] = ()
  tpu_type: str = 'v3-32'
  project: str | None = None
  zone: str | None = None
  bucket: str | None = None
  name: str = 'fnet-t5x'
  t5x_commit: str = T5X_COMMIT
  airio_commit: str = AIRIO_COMMIT

  @property
  def region(self) -> str:
    """The zone's region: `europe-west4` of `europe-west4-a`."""
    return (self.zone or '').rpartition('-')[0]


def check_text(flag: str, value: Any) -> None:
  """Refuses text that ends a line: a printed script would be another one.

  Raises:
    ValueError: names the flag.
  """
  if isinstance(value, str) and re.search(r'[\x00-\x1f\x7f]', value):
    raise ValueError(
      f'--{flag}={value!r}: a line break or another control character in it; '
      'remove it'
    )


def check(settings: Settings, needs: Sequence[str] = ()) -> None:
  """Refuses settings that cannot run, before anything is started.

  Args:
    settings: what the user gave.
    needs: attributes that may not be missing.

  Raises:
    ValueError: one line that names the flag and what to give it.
  """
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    for text in value if isinstance(value, list | tuple) else [value]:
      check_text(FLAGS.get(field.name, field.name), text)
  if settings.run_mode not in MODULES:
    raise ValueError(
      f'--run_mode={settings.run_mode}: use one of {", ".join(MODULES)}'
    )
  tpu_types.parse(settings.tpu_type)
  if not settings.gin_files:
    raise ValueError(
      'no --gin_file given; for example '
      '--gin_file=gin/models/fnet_t5_large.gin (README: Train)'
    )
  # A bucket alone would mix the run's files with everything else there.
  if not re.fullmatch(r'gs://[a-z0-9][\w.-]+/.*[^/]', settings.model_dir):
    raise ValueError(
      f'--model_dir={settings.model_dir}: every host writes to it; give '
      'gs://BUCKET/FOLDER'
    )
  if not re.fullmatch(r'[a-z]([a-z0-9-]{0,61}[a-z0-9])?', settings.name):
    raise ValueError(
      f'--name={settings.name}: use small letters, digits and -, a letter first'
    )
  examples = {
    'project': '--project=my-project (or GOOGLE_CLOUD_PROJECT)',
    'zone': '--zone=europe-west4-a',
    'bucket': '--bucket=my-bucket (or GOOGLE_CLOUD_BUCKET_NAME)',
  }
  for need in needs:
    if not getattr(settings, need):
      raise ValueError(f'no Google Cloud {need} given: {examples[need]}')
  if settings.zone and not re.fullmatch(
    r'[a-z]+-[a-z]+\d+-[a-z]', settings.zone
  ):
    raise ValueError(f'--zone={settings.zone}: no zone; {examples["zone"]}')
  # It becomes part of an image's name, in a printed script too.
  if settings.project and not re.fullmatch(
    r'[a-z0-9][a-z0-9.:-]*', settings.project
  ):
    raise ValueError(
      f"--project={settings.project}: no project's id; {examples['project']}"
    )
  if settings.bucket and not re.fullmatch(r'[a-z0-9][\w.-]+', settings.bucket):
    raise ValueError(
      f"--bucket={settings.bucket}: a bucket's name alone; {examples['bucket']}"
    )
  for commit in (settings.t5x_commit, settings.airio_commit):
    if not re.fullmatch(r'[0-9a-f]{7,40}', commit):
      raise ValueError(f'{commit}: no commit; give its hexadecimal digits')
  for folder in (*settings.seqio_cache_dirs, *settings.gin_search_paths):
    # Both are lists with commas in T5X's flags.
    if ',' in folder:
      raise ValueError(f'{folder}: a folder with a comma in its name')


def bindings(settings: Settings) -> list[str]:
  """Returns the run's gin bindings: the user's, and those of `model_dir`.

  The user's come last, so that they win.
  """
  macro, folder = OUTPUT_MACROS[settings.run_mode]
  made = [f'{macro}={settings.model_dir + folder!r}']
  if settings.checkpoint_step is not None:
    if settings.run_mode == 'train':
      raise ValueError(
        '--checkpoint_step is for eval and infer; training goes on from the '
        'last checkpoint of --model_dir by itself'
      )
    path = f'{settings.model_dir}/checkpoint_{settings.checkpoint_step}'
    made.append(f'CHECKPOINT_PATH={path!r}')
  return [*made, *settings.gin_bindings]


def arguments(settings: Settings) -> list[str]:
  """Returns the command's arguments after the module and its search paths.

  Words as a program receives them: nothing is quoted.
  """
  words = [f'--gin_file={name}' for name in settings.gin_files]
  words += [f'--gin.{binding}' for binding in bindings(settings)]
  if settings.tfds_data_dir:
    words.append(f'--tfds_data_dir={settings.tfds_data_dir}')
  if settings.seqio_cache_dirs:
    folders = ','.join(settings.seqio_cache_dirs)
    words.append(f'--seqio_additional_cache_dirs={folders}')
  return words


def start(settings: Settings) -> str:
  """Returns the command up to its arguments, for a shell on a host.

  `--multiprocess_gpu` is T5X's name for a call of jax.distributed.initialize,
  which finds a TPU pod's hosts by itself; without it the hosts cannot wait for
  one another while a checkpoint is written.
  """
  own = [*map(shlex.quote, settings.gin_search_paths)]
  paths = ','.join([*own, f'"{GIN_ROOT}"'])
  words = [f'python -m {MODULES[settings.run_mode]}']
  if not tpu_types.parse(settings.tpu_type).one_host:
    words.append('--multiprocess_gpu')
  return ' '.join([*words, f'--gin_search_paths={paths}'])


def shell_line(settings: Settings) -> str:
  """Returns the whole command as one line for a POSIX shell."""
  exports = [f'{k}={shlex.quote(v)}' for k, v in ENVIRONMENT.items()]
  return ' '.join(
    ['env', *exports, start(settings), shlex.join(arguments(settings))]
  )
