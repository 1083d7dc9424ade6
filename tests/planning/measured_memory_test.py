"""Planned memory of a training step equals its measured memory."""

import re
import subprocess
import sys

import pytest
from planned_runs import FILES, SMALL, arguments

RUN = arguments(
  FILES,
  (
    *SMALL,
    # Enough rows for the step to dominate the memory of the measurement.
    'BATCH_SIZE = 256',
    "TASK_FEATURE_LENGTHS = {'inputs': 64, 'targets': 32}",
  ),
)


@pytest.mark.slow
@pytest.mark.skipif(
  sys.platform != 'linux', reason='reads the account of a Linux kernel'
)
def test_a_step_takes_what_was_planned():
  found = subprocess.run(
    [sys.executable, '-m', 'fnet_t5x.planning.measured_memory', *RUN],
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 0, found.stdout + found.stderr
  share = re.search(r'planned .* taken .*: ([\d.]+) of it', found.stdout)[1]
  assert float(share) == pytest.approx(1, abs=0.1)
