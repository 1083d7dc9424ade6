"""Memory of a step, and memory available under limits of the host."""

import os
import resource
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest
import small_runs
from checkout import ROOT

from fnet_t5x.runtime import free_memory

GB = 10**9
# Prints the memory available under a limit, before and after taking 500 MB.
UNDER_A_LIMIT = """
import mmap, resource, sys
import jax
from fnet_t5x.runtime import free_memory
device = jax.devices()[0]
jax.block_until_ready(jax.numpy.ones(8) + 1)
limit = getattr(resource, sys.argv[1])
resource.setrlimit(limit, (80 * 10**9, 80 * 10**9))
field = {'RLIMIT_AS': 'VmSize', 'RLIMIT_DATA': 'VmData'}[sys.argv[1]]
def used():
  with open('/proc/self/status') as f:
    return next(int(x.split()[1]) * 1024 for x in f if x.startswith(field))
resource.setrlimit(limit, (used() + 10**9, 80 * 10**9))
print(free_memory.free_bytes(device))
taken = mmap.mmap(-1, 500 * 10**6, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(free_memory.free_bytes(device))
"""
linux = pytest.mark.skipif(sys.platform != 'linux', reason="Linux's limits")


@pytest.mark.slow
@linux
@pytest.mark.parametrize('limit', ['RLIMIT_AS', 'RLIMIT_DATA'])
def test_resource_limits_bound_free_memory(limit):
  said = subprocess.run(
    [sys.executable, '-c', UNDER_A_LIMIT, limit],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  ).stdout
  before, after = map(int, said.split())
  assert before == pytest.approx(GB, rel=0.02)
  assert before - after == pytest.approx(0.5 * GB, rel=0.02)


@linux
def test_free_memory_is_at_most_the_machines():
  pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  free = free_memory.free_bytes(jax.devices()[0])
  assert 0 < free < pages


def write(root, **files):
  for path, text in files.items():
    file = root / path.replace('__', '/')
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
  ('groups', 'folder', 'names'),
  [
    # The limit is the parent group's, in version 2.
    ('0::/job/step', 'job', ('memory.max', 'memory.current', 'inactive_file')),
    # A container sees its group as the root, whatever its name outside.
    (
      '0::/outside/name',
      '',
      ('memory.max', 'memory.current', 'inactive_file'),
    ),
    (
      '5:cpu,cpuacct:/x\n4:memory:/job\n0::/',
      'memory/job',
      (
        'memory.limit_in_bytes',
        'memory.usage_in_bytes',
        'total_inactive_file',
      ),
    ),
  ],
)
def test_control_groups_bound_free_memory(tmp_path, groups, folder, names):
  limit, usage, cached = names
  write(
    tmp_path,
    proc__meminfo='MemTotal: 9000000 kB\nMemAvailable:   8000000 kB\n',
    proc__self__cgroup=groups + '\n',
  )
  group = tmp_path / 'sys/fs/cgroup' / folder
  group.mkdir(parents=True)
  (group / limit).write_text('3000000000\n')
  (group / usage).write_text('1000000000\n')
  # The page cache is reclaimable.
  (group / 'memory.stat').write_text(f'anon 1\n{cached} 400000000\nfile 5\n')
  assert sorted(free_memory.host_limits(tmp_path)) == [
    2_400_000_000,
    8_000_000 * 1024,
  ]


@pytest.mark.parametrize('limit', ['max', '9223372036854771712'])
def test_group_without_a_limit_is_ignored(tmp_path, limit):
  write(tmp_path, proc__self__cgroup='0::/\n')
  group = tmp_path / 'sys/fs/cgroup'
  group.mkdir(parents=True)
  (group / 'memory.max').write_text(limit)
  (group / 'memory.current').write_text('1')
  assert free_memory.host_limits(tmp_path) == []


def test_accelerators_report_their_memory():
  stats = {'bytes_limit': 80 * GB, 'bytes_in_use': 30 * GB}
  gpu = types.SimpleNamespace(platform='gpu', memory_stats=lambda: stats)
  assert free_memory.free_bytes(gpu) == 50 * GB
  silent = types.SimpleNamespace(platform='gpu', memory_stats=lambda: None)
  assert free_memory.free_bytes(silent) is None


def test_step_needs_temporary_and_new_output_memory():
  """A donated state, 4 MB of other output, and temporary memory."""
  device = jax.local_devices()[0]
  state = jax.device_put(jnp.zeros(10**6, jnp.float32), device)

  def step(state, seed):
    # A sort needs a copy of its input, which no fusion removes.
    table = jnp.sort(seed + jnp.arange(25 * 10**5, dtype=jnp.float32))
    return state + table[0], state * table[-1]

  compiled = jax.jit(step, donate_argnums=0).lower(state, 1.0).compile()
  memory = free_memory.step_memory(compiled, [state])
  found = memory.needed / jax.local_device_count()
  # 4 MB of the second output, and 10 MB of the table.
  assert 14e6 <= found <= 1.1 * (4e6 + 3 * 10e6)
  assert memory.gradients == 4e6 * jax.local_device_count()


def memory(needed, gradients, free):
  return free_memory.StepMemory(
    int(needed * GB), int(gradients * GB), int(free * GB)
  )


def test_line_and_warning_fit_a_terminal():
  assert memory(1.9, 0.2, 6.1).line() == (
    'the training step needs 1.9 GB besides the train state; 6.1 GB free'
  )
  assert memory(1.9, 0.2, 6.1).fits
  large = memory(900, 200, 600)
  assert not large.fits
  lines = large.warning(2**14, 256, 8).splitlines() + [large.line()]
  assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
  ('needed', 'rows', 'parts', 'advice'),
  [
    # 0.5 of gradients and 8 of activations, with 3.6 free: two copies of the
    # gradients leave 2.6, a quarter of the activations fits; one leaves 3.1.
    (8.5, 32, 1, 'NUM_MICROBATCHES=4 or --gin.BATCH_SIZE=8'),
    # Two rows per device on four devices: at most two microbatches.
    (8.5, 8, 4, None),
    (5.5, 8, 4, 'NUM_MICROBATCHES=2 or --gin.BATCH_SIZE=4'),
  ],
)
def test_warning_names_the_first_value_that_fits(needed, rows, parts, advice):
  found = memory(needed, 0.5, 3.6).warning(rows, 1, parts)
  if advice is None:
    assert 'smaller model' in found
    assert '--gin' not in found
  else:
    assert found.endswith(f'Try --gin.{advice}')


@pytest.mark.slow
def test_microbatches_do_reduce_memory():
  """The compiler's own count for the advised microbatches is less."""
  model = small_runs.make_model(emb_dim=64, mlp_dim=256)
  batch = small_runs.packed_batch(seed=0, rows=32)

  def compiled(num_microbatches):
    made = small_runs.make_trainer(
      model, small_runs.one_device(), batch, num_microbatches
    )
    return free_memory.step_memory(
      made.compile_train(batch), made.train_state.params
    )

  whole, parts = compiled(None), compiled(8)
  assert parts.needed < whole.needed / 2
  estimate = 2 * whole.gradients + (whole.needed - whole.gradients) / 8
  assert parts.needed < 1.5 * estimate


def test_out_of_memory_is_one_line():
  with (
    pytest.raises(ValueError, match=r'^Out of memory .*NUM_MICROBATCHES') as e,
    free_memory.exhaustion_named(),
  ):
    jax.block_until_ready(jnp.ones(2**46) + 1)
  assert '\n' not in str(e.value)
  with pytest.raises(ZeroDivisionError), free_memory.exhaustion_named():
    _ = 1 / 0


@pytest.mark.slow
def test_peak_grows_with_allocations():
  before = free_memory.peak_bytes()
  size = before + 300 * 10**6
  taken = bytearray(size)
  assert free_memory.peak_bytes() >= size
  del taken
  unit = 1 if sys.platform == 'darwin' else 1024
  ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  assert free_memory.peak_bytes() == ours
