"""Launcher of runs on Vertex AI, through XManager.

  python -m fnet_t5x.xm_launch.launch --run_mode=train --tpu_type=v3-32 \\
    --gin_file=... --model_dir=gs://bucket/run --project=my-project \\
    --bucket=my-bucket --zone=europe-west4-a

The image has this repository and T5X, each at a given commit. With --dry_run
the launcher prints the plan, and needs neither XManager nor credentials.
"""

import asyncio
import hashlib
import json
import os
import pathlib
import shlex
import sys
import tempfile

from absl import flags

from fnet_t5x import command_line
from fnet_t5x.xm_launch import command, image, launch_flags, source, tpu_types

NEEDS = ('project', 'bucket', 'zone')


def image_tag(settings: command.Settings, packed: source.Source) -> str:
  """Returns the image's name, which is unique to its contents."""
  content = image.dockerfile(settings) + image.entrypoint(settings)
  digest = hashlib.sha256(content.encode()).hexdigest()
  return f'gcr.io/{settings.project}/fnet_t5x:{packed.commit[:12]}-{digest[:8]}'


def check_tpu(settings: command.Settings) -> None:
  """Checks that XManager's Vertex AI executor supports the slice.

  Raises:
    ValueError: it does not; names supported ones and the other launcher.
  """
  if not _tpu(settings).generation.vertex:
    known = [g.prefix for g in tpu_types.GENERATIONS if g.vertex]
    raise ValueError(
      f'--tpu_type={settings.tpu_type}: XManager supports {" and ".join(known)}'
      ' on Vertex AI; for others use python -m fnet_t5x.xm_launch.tpu_vm'
    )


def _tpu(settings: command.Settings) -> tpu_types.TpuType:
  return tpu_types.parse(settings.tpu_type)


def packageable(context: pathlib.Path, tag: str):
  """Returns the image for XManager to build and push, an `xm.Packageable`."""
  from xmanager import xm, xm_local

  return xm.dockerfile_container(
    executor_spec=xm_local.Vertex.Spec(push_image_tag=tag), path=str(context)
  )


def executor(settings: command.Settings):
  """Returns the executor of the job, an `xm_local.Vertex` with the slice."""
  from xmanager import xm, xm_local

  tpu = _tpu(settings)
  resource = xm.ResourceType[tpu.generation.resource]
  return xm_local.Vertex(requirements=xm.JobRequirements({resource: tpu.size}))


def job(settings: command.Settings, executable):
  """Returns the `xm.Job` that runs a packaged image."""
  from xmanager import xm

  return xm.Job(
    executable=executable,
    executor=executor(settings),
    name=settings.run_mode,
    args=command.arguments(settings),
  )


def plan(settings: command.Settings, packed: source.Source) -> str:
  """Returns the steps of a launch, as a readable shell script."""
  tpu, tag = _tpu(settings), image_tag(settings, packed)
  archive = shlex.join(packed.archive_command())
  arguments = command.arguments(settings)
  spec = {
    'displayName': settings.name,
    'workerPoolSpecs': [
      {
        'machineSpec': {
          'machineType': 'cloud-tpu',
          'acceleratorType': tpu.generation.resource,
          'acceleratorCount': tpu.size,
        },
        'replicaCount': 1,
        'containerSpec': {'imageUri': tag, 'args': arguments},
      }
    ],
  }
  return '\n'.join(
    [
      '# The image, built by docker here, or by Cloud Build without docker',
      f'{archive} >source.tar.gz',
      'mkdir -p context/source',
      'tar -xzf source.tar.gz -C context/source',
      'cat >context/Dockerfile <<"EOF"',
      f'{image.dockerfile(settings)}EOF',
      'cat >context/entrypoint.sh <<"EOF"',
      f'{image.entrypoint(settings)}EOF',
      f'docker build --tag {tag} context',
      f'docker push {tag}',
      '',
      f'# The job, in {settings.region} of {settings.project}, staged in '
      f'gs://{settings.bucket}',
      json.dumps(spec, indent=2),
      '',
      '# The command that every host then runs',
      command.shell_line(settings),
    ]
  )


async def _launch(settings: command.Settings, context, tag: str) -> None:
  from xmanager import xm_local
  from xmanager.cloud import vertex

  vertex.set_default_client(vertex.Client(settings.project, settings.region))
  async with xm_local.create_experiment(settings.name) as experiment:
    [executable] = experiment.package([packageable(context, tag)])
    await experiment.add(job(settings, executable))


def launch(settings: command.Settings, packed: source.Source) -> None:
  """Builds and pushes the image, and starts the job.

  Raises:
    ValueError: XManager is not installed, or there are no Google Cloud
      credentials.
  """
  # XManager reads these from the environment; its API takes neither.
  os.environ['GOOGLE_CLOUD_PROJECT'] = settings.project
  os.environ['GOOGLE_CLOUD_BUCKET_NAME'] = settings.bucket
  try:
    from google.auth import exceptions
    from xmanager import xm_local  # noqa: F401
  except ImportError as error:
    raise ValueError(
      f"XManager is not installed ({error}): pip install 'fnet_t5x[launch]'"
    ) from error
  with tempfile.TemporaryDirectory() as folder:
    context = pathlib.Path(folder) / 'context'
    context.mkdir()
    files = pathlib.Path(folder) / 'files'
    packed.extract(files)
    image.write_context(settings, files, context)
    try:
      asyncio.run(_launch(settings, context, image_tag(settings, packed)))
    except exceptions.DefaultCredentialsError as error:
      raise ValueError(
        'no Google Cloud credentials: run '
        '`gcloud auth application-default login`'
      ) from error


def main(argv: list[str]) -> None:
  """Launches the run given on the command line."""
  flags.DEFINE_string(
    'bucket',
    os.environ.get('GOOGLE_CLOUD_BUCKET_NAME'),
    "Google Cloud bucket for the job's staging files.",
  )
  launch_flags.parse(argv, __doc__)
  settings = launch_flags.settings(NEEDS, bucket=flags.FLAGS.bucket)
  check_tpu(settings)
  packed = launch_flags.checked_source(settings)
  if flags.FLAGS.dry_run:
    print(plan(settings, packed))
  else:
    launch(settings, packed)


if __name__ == '__main__':
  with command_line.one_line_errors():
    main(sys.argv)
