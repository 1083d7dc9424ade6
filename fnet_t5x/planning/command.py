"""The command `python -m fnet_t5x.plan`, after its flags are read."""

import json
import pathlib
import shlex
import sys

import jax
from absl import flags

from fnet_t5x import environment
from fnet_t5x.planning import gin_run, plan, report
from fnet_t5x.planning.topology import Topology, devices


def make(topology: Topology) -> int:
  """Plans the run of the flags and returns the exit code.

  Raises:
    ValueError: invalid input.
    FileNotFoundError: a gin file does not exist.
  """
  # Reports an unknown slice before anything slow.
  num_devices = len(devices(topology))
  given = flags.FLAGS
  bindings = given.gin_bindings
  if topology.num_slices > 1:
    bindings = [*bindings, f'NUM_SLICES = {topology.num_slices}']
  plans = []
  for compare in (None, given.compare) if given.compare else (None,):
    with gin_run.configured(
      given.gin_file, bindings, given.gin_search_paths, compare, num_devices
    ) as run:
      plans.append(
        plan.make_plan(
          pathlib.PurePath(compare or given.gin_file[0]).stem,
          run,
          topology,
          decoding=given.decoding,
          decode_batch_size=given.decode_batch_size,
        )
      )
  report.print_plans(plans, given.thorough)
  if given.json:
    content = {
      'command': shlex.join(['python', '-m', 'fnet_t5x.plan', *sys.argv[1:]]),
      'commit': environment.commit(),
      'jax': jax.__version__,
      'gin_files': given.gin_file,
      'gin_bindings': given.gin_bindings,
      'thorough': given.thorough,
      'plans': [each.record() for each in plans],
    }
    pathlib.Path(given.json).write_text(json.dumps(content, indent=2) + '\n')
  complaints = [line for each in plans if (line := report.complaint(each))]
  sys.stdout.flush()
  for line in complaints:
    sys.stderr.write(f'error: {line}\n')
  return 1 if complaints else 0
