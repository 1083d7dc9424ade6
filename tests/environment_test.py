"""What is recorded about a machine."""

import os

import pytest

from fnet_t5x import environment


@pytest.mark.skipif(
  not hasattr(os, 'sched_setaffinity'), reason='no such call here'
)
def test_cores_are_those_that_the_process_may_use():
  allowed = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {min(allowed)})
  try:
    assert environment.describe_host()['cpus'] == 1
  finally:
    os.sched_setaffinity(0, allowed)
  assert environment.describe_host()['cpus'] == len(allowed)
