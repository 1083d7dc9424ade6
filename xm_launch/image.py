"""Build context of the container image that hosts on Vertex AI run."""

import pathlib

from fnet_t5x.xm_launch import command

T5X_REPOSITORY = 'https://github.com/google-research/t5x'
AIRIO_REPOSITORY = 'https://github.com/google/airio'
# Has git, with which pip fetches T5X, and a compiler.
BASE_IMAGE = 'python:3.11'
EXTRAS = 't5x,tpu'


def install_variables(settings: command.Settings) -> dict[str, str]:
  """Returns install.sh's environment variables: sources of T5X and airio."""
  return {
    'T5X_SOURCE': f'git+{T5X_REPOSITORY}@{settings.t5x_commit}',
    'AIRIO_SOURCE': f'git+{AIRIO_REPOSITORY}@{settings.airio_commit}',
  }


def dockerfile(settings: command.Settings) -> str:
  """Returns the Dockerfile for a context written by `write_context`."""
  exports = ' '.join(f'{k}={v}' for k, v in install_variables(settings).items())
  lines = [
    f'FROM {BASE_IMAGE}',
    'ENV PIP_NO_CACHE_DIR=1 ' + _pairs(command.ENVIRONMENT),
    'COPY source /source',
    f'RUN {exports} bash /source/xm_launch/install.sh /source {EXTRAS}',
    # The run's arguments are the container's, so one image serves all runs of a
    # commit.
    'COPY entrypoint.sh /entrypoint.sh',
    'ENTRYPOINT ["bash", "/entrypoint.sh"]',
  ]
  return '\n'.join(lines) + '\n'


def entrypoint(settings: command.Settings) -> str:
  """Returns the script that a container runs, with the run's arguments."""
  return f'exec {command.start(settings)} "$@"\n'


def write_context(
  settings: command.Settings, files: pathlib.Path, context: pathlib.Path
) -> None:
  """Writes the build context for `docker build`.

  Args:
    settings: settings of the launch.
    files: folder of the repository's files at the commit; it is moved.
    context: an empty folder.
  """
  files.rename(context / 'source')
  (context / 'Dockerfile').write_text(dockerfile(settings))
  (context / 'entrypoint.sh').write_text(entrypoint(settings))


def _pairs(variables: dict[str, str]) -> str:
  return ' '.join(f'{name}={value}' for name, value in variables.items())
