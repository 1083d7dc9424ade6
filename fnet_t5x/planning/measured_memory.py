r"""Planned and measured memory: `python -m fnet_t5x.planning.measured_memory`.

Plans the training step of a run for one CPU device, as fnet_t5x.plan does, then
runs it with fresh weights and random tokens, and compares the compiler's figure
with the peak growth of the process. Takes the gin files and bindings of a
training command. Linux only.

XLA's CPU compiler calls a library, YNNPACK, for some matrix products, which
allocates about a tenth more than the compiler plans; it is disabled here.

  python -m fnet_t5x.planning.measured_memory \
    --gin_file=gin/models/t5_tiny.gin \
    --gin_file=gin/objectives/span_corruption.gin \
    --gin_file=gin/runs/pretrain.gin --gin.BATCH_SIZE=32
"""

import ctypes
import os
import pathlib
import re
import sys

from fnet_t5x import command_line

_STATUS = pathlib.Path('/proc/self/status')
_STEPS = 3
_LIBC = ctypes.CDLL(None)
# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NO_LIBRARY = '--xla_cpu_experimental_ynn_fusion_type='


def _memory(field: str) -> int:
  """Returns the bytes of a field of /proc/self/status."""
  found = re.search(rf'^{field}:\s+(\d+) kB', _STATUS.read_text(), re.M)
  return int(found[1]) * 1024


def _return_freed_memory() -> None:
  """Makes the allocator return freed memory to the system at once.

  Otherwise each of XLA's threads retains about 60 MB of scratch memory.
  """
  _LIBC.mallopt(_MMAP_THRESHOLD, 2**16)
  _LIBC.mallopt(_TRIM_THRESHOLD, 2**16)


def _reset_peak() -> int:
  """Returns free memory, resets the peak, and returns the bytes in use."""
  _LIBC.malloc_trim(0)
  pathlib.Path('/proc/self/clear_refs').write_text('5')
  return _memory('VmRSS')


def measure(run) -> tuple[int, int]:
  """Returns the planned and the measured bytes of a training step.

  Args:
    run: the run, as `gin_run.configured` yields it; one CPU device.
  """
  import jax
  import numpy as np

  from fnet_t5x.planning import programs, topology

  programs.place(run, topology.parse('cpu:1'))
  planned = programs.train_step(run, 'cpu')
  initializer = run.initializer()
  random = np.random.default_rng(0)
  batch = {
    name: np.ones(x.shape, x.dtype)
    if name.endswith(('segment_ids', 'weights'))
    else random.integers(0, min(x.shape[1], 99), x.shape, x.dtype)
    for name, x in run.batch.items()
  }
  trainer = run.trainer_cls(
    model=run.model,
    train_state=initializer.global_train_state_shape,
    partitioner=run.partitioner,
    eval_names=(),
    summary_dir=None,
    train_state_axes=initializer.train_state_axes,
    rng=jax.random.PRNGKey(0),
  )
  trainer.compile_train(run.batch)
  trainer.train_state = initializer.from_scratch(jax.random.PRNGKey(0))
  # The second step compiles the merging of metrics.
  trainer.train(iter(_STEPS * [batch]), 2)
  held = sum(x.nbytes for x in jax.tree.leaves(trainer.train_state))
  before = _reset_peak() - held
  trainer.train(iter(_STEPS * [batch]), _STEPS)
  return planned.memory, _memory('VmHWM') - before


def main(argv: list[str]) -> int:
  """Prints both figures; returns 1 if they differ by more than 10 %."""
  from absl import flags

  command_line.read_planned_run(argv, __doc__)
  from fnet_t5x.planning import topology

  _return_freed_memory()
  xla_flags = [os.environ.get('XLA_FLAGS', ''), _NO_LIBRARY]
  os.environ['XLA_FLAGS'] = ' '.join(xla_flags)
  topology.prepare([topology.parse('cpu:1')])
  command_line.use_runtime()
  command_line.import_tensorflow()
  from fnet_t5x.planning import gin_run, report

  with gin_run.configured(
    flags.FLAGS.gin_file, flags.FLAGS.gin_bindings, flags.FLAGS.gin_search_paths
  ) as run:
    planned, taken = measure(run)
  print(
    f'planned {report.gib(planned)}, taken {report.gib(taken)}: '
    f'{planned / taken:.3f} of it'
  )
  return 0 if abs(planned / taken - 1) <= 0.1 else 1


if __name__ == '__main__':
  with command_line.one_line_errors():
    sys.exit(main(sys.argv))
