"""Section 1: the device's ceilings: bandwidth of copies, FLOP/s of products.

All later figures are compared with these two, measured in the same run.
"""

from __future__ import annotations

from collections.abc import Mapping

from fnet_t5x.benchmarks.accelerator.bench import Bench, Setting
from fnet_t5x.benchmarks.accelerator.programs import (
  compile_program,
  repeated,
  time_calls,
)


def copy_bytes(setting: Setting) -> int:
  """Returns the size of the array to copy.

  Far larger than any cache: 50 MB on an H100, some hundred on server CPUs.
  """
  if setting.toy:
    return 2**24
  return 2**28 if setting.backend == 'cpu' else 2**30


def matmul_sizes(setting: Setting) -> tuple[int, ...]:
  """Returns the sizes n of products of [n, n] matrices."""
  if setting.toy:
    return (256,)
  return (2048,) if setting.backend == 'cpu' else (4096, 8192)


def run(bench: Bench) -> None:
  """Measures a copy, then products."""
  size = copy_bytes(bench.setting)
  bench.case(
    {'case': 'copy', 'bytes': size},
    lambda: measure_copy(bench.setting, size),
    kind='copy',
    needs_bytes=3 * size,
  )
  for n in matmul_sizes(bench.setting):
    bench.case(
      {'case': 'matmul', 'size': n, 'dtype': bench.setting.dtype},
      lambda n=n: measure_matmul(bench.setting, n),
      kind='matmul',
      needs_bytes=8 * 4 * n**2,
    )


def measure_copy(setting: Setting, size: int) -> Mapping[str, float]:
  """Times repeated in-place updates of an array.

  Returns:
    `bytes_per_second` counts both reads and writes.
  """
  import jax.numpy as jnp

  iterations = setting.iterations
  x = jnp.zeros(size // 4, jnp.float32)
  program = compile_program(repeated(lambda x: x + 1.0, iterations), x)
  times = time_calls(lambda: program(x), seconds=setting.timing_seconds)
  seconds = times.median / iterations
  return {
    'bytes_per_second': 2.0 * size / seconds,
    'run_seconds': seconds,
    'compile_seconds': program.compile_seconds,
  }


def measure_matmul(setting: Setting, n: int) -> Mapping[str, float]:
  """Times a chain of products of random [n, n] matrices.

  Random, since devices draw less power, and clock higher, on zeros.
  """
  import jax
  import jax.numpy as jnp

  iterations = setting.iterations
  keys = jax.random.split(jax.random.key(setting.seed))
  # A kernel with entries of size 1 / sqrt(n) keeps products of order one.
  x, kernel = (jax.random.normal(key, (n, n)) for key in keys)
  x = x.astype(setting.dtype)
  kernel = (kernel / jnp.sqrt(n)).astype(setting.dtype)

  program = compile_program(repeated(jnp.dot, iterations), x, kernel)
  times = time_calls(lambda: program(x, kernel), seconds=setting.timing_seconds)
  seconds = times.median / iterations
  return {
    'flops_per_second': 2.0 * n**3 / seconds,
    'run_seconds': seconds,
    'compile_seconds': program.compile_seconds,
  }


def copy_rate(bench: Bench) -> float | None:
  """Returns the copy's bytes per second, measured now if necessary."""
  return _rate(bench, 'copy', 'bytes_per_second')


def matmul_rate(bench: Bench) -> float | None:
  """Returns the FLOP/s of the fastest product, measured now if necessary."""
  return _rate(bench, 'matmul', 'flops_per_second')


def _rate(bench, case, field):
  """Returns a rate from the results; measures it in this section if missing."""
  rates = _rates(bench, case, field)
  if not rates:
    run(bench)
    rates = _rates(bench, case, field)
  return max(rates, default=None)


def _rates(bench, case, field):
  return [
    row['result'][field]
    for row in bench.results.rows()
    if row['status'] == 'ok'
    and row['labels'].get('case') == case
    and field in row['result']
  ]
