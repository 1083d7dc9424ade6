"""Command-line flags shared by the launchers."""

import os
import sys
from collections.abc import Sequence

from absl import flags

from fnet_t5x import command_line, gin_check
from fnet_t5x.xm_launch import command, source

_PREFIX = '--gin.'


def define() -> None:
  """Defines the flags of a run and of Google Cloud."""
  flags.DEFINE_string('run_mode', 'train', 'train, eval or infer.')
  flags.DEFINE_string(
    'model_dir', None, 'Folder of the run, gs://bucket/folder.'
  )
  flags.DEFINE_integer(
    'checkpoint_step', None, 'For eval and infer: step of the checkpoint.'
  )
  flags.DEFINE_string('tpu_type', 'v3-32', 'TPU slice: v3-32, v4-256, ...')
  flags.DEFINE_string(
    'project', os.environ.get('GOOGLE_CLOUD_PROJECT'), 'Google Cloud project.'
  )
  flags.DEFINE_string('zone', None, 'Google Cloud zone, europe-west4-a.')
  flags.DEFINE_string(
    'name', 'fnet-t5x', 'Name of the experiment, or of the TPU.'
  )
  flags.DEFINE_string(
    'commit', 'HEAD', 'The commit of this repository that hosts install.'
  )
  flags.DEFINE_string(
    't5x_commit', command.T5X_COMMIT, 'The commit of T5X that hosts install.'
  )
  flags.DEFINE_boolean(
    'dry_run', False, 'Print what would run, without running it.'
  )


def parse(argv: Sequence[str], description: str) -> None:
  """Reads the command line.

  Args:
    argv: the command line.
    description: description, for --help.

  Raises:
    flags.Error: an unknown flag, or an invalid value.
    ValueError: an argument that is not a flag.
  """
  command_line.define_flags()
  define()
  command_line.read(argv, description)


def settings(needs: Sequence[str], **more) -> command.Settings:
  """Makes settings from the flags, and checks them.

  Args:
    needs: names of required attributes of the settings.
    **more: attributes from a launcher's own flags.

  Raises:
    ValueError: a flag is missing or invalid.
  """
  given = flags.FLAGS
  if not given.model_dir:
    raise ValueError('no --model_dir given: gs://BUCKET/FOLDER')
  # T5X's default, '.', is the checkout itself.
  paths = [path for path in given.gin_search_paths if path != '.']
  made = command.Settings(
    run_mode=given.run_mode,
    gin_files=given.gin_file,
    # --gin.NAME=VALUE arrives as `NAME = VALUE`.
    gin_bindings=[
      '='.join(part.strip() for part in binding.split('=', 1))
      for binding in given.gin_bindings
    ],
    gin_search_paths=paths,
    model_dir=given.model_dir.rstrip('/'),
    checkpoint_step=given.checkpoint_step,
    tfds_data_dir=given.tfds_data_dir,
    seqio_cache_dirs=given.seqio_additional_cache_dirs,
    tpu_type=given.tpu_type,
    project=given.project,
    zone=given.zone,
    name=given.name,
    t5x_commit=given.t5x_commit,
    **more,
  )
  command.check(made, needs)
  return made


def checked_source(made: command.Settings) -> source.Source:
  """Returns the commit that hosts install, after checking its gin files.

  Raises:
    ValueError: no such commit, or invalid gin.
    FileNotFoundError: the commit does not have a gin file.
  """
  packed = source.Source(flags.FLAGS.commit)
  with packed.files() as folder:
    try:
      contents = gin_check.check(
        made.run_mode,
        made.gin_files,
        command.bindings(made),
        [*made.gin_search_paths, str(folder)],
        elsewhere=[gin_check.T5X],
      )
    except FileNotFoundError as error:
      said = str(error).replace(str(folder), f'commit {packed.commit[:12]}')
      raise FileNotFoundError(f'{said}, or commit it') from None
  for name in contents.unseen:
    t5x = name.startswith(f'{gin_check.T5X}/')
    why = ' (T5X is not importable)' if t5x else ''
    sys.stderr.write(
      f'note: {name} cannot be read here{why}: its macros are checked only on '
      'the hosts\n'
    )
  uncommitted = packed.uncommitted()
  if uncommitted:
    sys.stderr.write(
      f'note: hosts install commit {packed.commit[:12]}, without the changes '
      f'to {", ".join(uncommitted[:3])}{"..." if uncommitted[3:] else ""}\n'
    )
  return packed
