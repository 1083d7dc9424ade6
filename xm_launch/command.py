"""Settings of a launch, and the command line that every host of a pod runs.

Pure functions: nothing here starts a process or imports a cloud library.
"""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Any

from fnet_t5x.xm_launch import tpu_types

# The commits named in README, tested with this package's version pins.
T5X_COMMIT = 'cc342d419ec3e3e9c4bf1df33c82330cafdc1e16'
AIRIO_COMMIT = '69897df7d9a427b947a9f7bb4164c7782b43e601'

# Our commands, with T5X as engine: T5X's own for evaluation and inference have
# no flags for cached tasks or for multi-host initialization, and `t5x.train`
# ends in a traceback after SIGTERM has stopped and saved the run.
MODULES = {
  'train': 'fnet_t5x.train',
  'eval': 'fnet_t5x.eval',
  'infer': 'fnet_t5x.infer',
}
# The macro of a run's output folder, and its default within model_dir.
OUTPUT_MACROS = {
  'train': ('MODEL_DIR', ''),
  'eval': ('EVAL_OUTPUT_DIR', '/eval'),
  'infer': ('INFER_OUTPUT_DIR', '/infer'),
}
# Environment of every host: pods always use T5X, so a missing T5X is an error
# instead of a fallback to the embedded runtime.
ENVIRONMENT = {'FNET_T5X_ENGINE': 't5x'}
# Names of the flags of settings, where they differ.
FLAGS = {
  'gin_files': 'gin_file',
  'seqio_cache_dirs': 'seqio_additional_cache_dirs',
}
# Shell syntax, since only the host knows where its gin files are.
GIN_ROOT = '$(python -m fnet_t5x.gin_root)'


@dataclasses.dataclass(frozen=True)
class Settings:
  """A run, and the TPU slice to run it on.

  Attributes:
    run_mode: `train`, `eval` or `infer`.
    gin_files: paths of gin files, starting with `gin/`; later ones override
      earlier ones.
    model_dir: folder of the run, `gs://...`. Evaluation writes to its subfolder
      `eval`, inference to `infer`, unless a binding overrides it.
    gin_bindings: `NAME=VALUE`, in gin's syntax.
    gin_search_paths: folders on the hosts, searched before the package's.
    checkpoint_step: step of the checkpoint in `model_dir`, for evaluation and
      inference.
    tfds_data_dir: folder of TFDS datasets.
    seqio_cache_dirs: folders of cached tasks.
    tpu_type: TPU slice, `v3-32`.
    num_slices: number of such slices; sets the macro NUM_SLICES.
    project: Google Cloud project.
    zone: Google Cloud zone, `europe-west4-a`.
    bucket: Google Cloud bucket for uploads, without `gs://`.
    name: name of the experiment, or of the TPU.
    t5x_commit: the commit of T5X that hosts install.
    airio_commit: the commit of airio, a dependency of T5X.
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
  num_slices: int = 1
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
  """Refuses control characters: a line break could alter a printed script.

  Raises:
    ValueError: names the flag.
  """
  if isinstance(value, str) and re.search(r'[\x00-\x1f\x7f]', value):
    raise ValueError(
      f'--{flag}={value!r}: contains a line break or another control character;'
      ' remove it'
    )


def check(settings: Settings, needs: Sequence[str] = ()) -> None:
  """Checks settings, before anything is started.

  Args:
    settings: settings of the launch.
    needs: names of required attributes.

  Raises:
    ValueError: one line that names the flag and a valid value.
  """
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    for text in value if isinstance(value, list | tuple) else [value]:
      check_text(FLAGS.get(field.name, field.name), text)
  if settings.run_mode not in MODULES:
    raise ValueError(
      f'--run_mode={settings.run_mode}: use one of {", ".join(MODULES)}'
    )
  _check_slices(settings)
  if not settings.gin_files:
    raise ValueError(
      'no --gin_file given; for example '
      '--gin_file=gin/models/fnet_t5_large.gin (README: Train)'
    )
  # The root of a bucket would mix the run's files with everything else.
  if not re.fullmatch(r'gs://[a-z0-9][\w.-]+/.*[^/]', settings.model_dir):
    raise ValueError(
      f'--model_dir={settings.model_dir}: every host writes to it; use '
      'gs://BUCKET/FOLDER'
    )
  if not re.fullmatch(r'[a-z]([a-z0-9-]{0,61}[a-z0-9])?', settings.name):
    raise ValueError(
      f'--name={settings.name}: use lower-case letters, digits and -, starting '
      'with a letter'
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
    raise ValueError(f'--zone={settings.zone}: not a zone; {examples["zone"]}')
  # Becomes part of an image's name, including in a printed script.
  if settings.project and not re.fullmatch(
    r'[a-z0-9][a-z0-9.:-]*', settings.project
  ):
    raise ValueError(
      f'--project={settings.project}: not a project id; {examples["project"]}'
    )
  if settings.bucket and not re.fullmatch(r'[a-z0-9][\w.-]+', settings.bucket):
    raise ValueError(
      f'--bucket={settings.bucket}: not the name of a bucket; '
      f'{examples["bucket"]}'
    )
  for commit in (settings.t5x_commit, settings.airio_commit):
    if not re.fullmatch(r'[0-9a-f]{7,40}', commit):
      raise ValueError(f'{commit}: not a commit; use its hexadecimal digits')
  for folder in (*settings.seqio_cache_dirs, *settings.gin_search_paths):
    # T5X's flags take both as comma-separated lists.
    if ',' in folder:
      raise ValueError(
        f'{folder}: the name of the folder contains a comma; rename it'
      )


def _check_slices(settings):
  tpu, count = tpu_types.parse(settings.tpu_type), settings.num_slices
  if count < 1:
    raise ValueError(f'--num_slices={count}: give a positive integer')
  if count > 1 and not tpu.generation.multislice:
    known = [g.prefix for g in tpu_types.GENERATIONS if g.multislice]
    raise ValueError(
      f'--num_slices={count}: slices of {tpu.generation.prefix} cannot be '
      f'joined; those of {", ".join(known)} can'
    )
  for binding in settings.gin_bindings:
    if re.match(r'NUM_SLICES\s*=', binding):
      raise ValueError(
        f'--gin.{binding}: use --num_slices, which also creates the slices'
      )


def bindings(settings: Settings) -> list[str]:
  """Returns the gin bindings: those from other settings, then the user's.

  The user's come last, so they take precedence.
  """
  macro, folder = OUTPUT_MACROS[settings.run_mode]
  made = [f'{macro}={settings.model_dir + folder!r}']
  if settings.checkpoint_step is not None:
    if settings.run_mode == 'train':
      raise ValueError(
        '--checkpoint_step is for eval and infer; training resumes from the '
        'latest checkpoint in --model_dir automatically'
      )
    path = f'{settings.model_dir}/checkpoint_{settings.checkpoint_step}'
    made.append(f'CHECKPOINT_PATH={path!r}')
  if settings.num_slices > 1:
    made.append(f'NUM_SLICES={settings.num_slices}')
  return [*made, *settings.gin_bindings]


def arguments(settings: Settings) -> list[str]:
  """Returns the command's arguments, unquoted.

  Without the module and the search paths, which `start` has.
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
  """Returns the command without its arguments, for a shell on a host.

  `--multiprocess_gpu` is T5X's flag to call jax.distributed.initialize, which
  detects the hosts of a TPU pod automatically; without it, hosts cannot
  synchronize while writing a checkpoint.
  """
  own = [*map(shlex.quote, settings.gin_search_paths)]
  paths = ','.join([*own, f'"{GIN_ROOT}"'])
  words = [f'python -m {MODULES[settings.run_mode]}']
  one_host = tpu_types.parse(settings.tpu_type).one_host
  if settings.num_slices > 1 or not one_host:
    words.append('--multiprocess_gpu')
  return ' '.join([*words, f'--gin_search_paths={paths}'])


def shell_line(settings: Settings) -> str:
  """Returns the complete command as one line for a POSIX shell."""
  exports = [f'{k}={shlex.quote(v)}' for k, v in ENVIRONMENT.items()]
  return ' '.join(
    ['env', *exports, start(settings), shlex.join(arguments(settings))]
  )
