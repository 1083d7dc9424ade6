"""Compiled programs and their times: compiling apart, warm, medians."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Program:
  """A function compiled for arguments of certain shapes.

  Called, it never compiles again: arguments of another type (a Python number
  for an array) are an error instead of a second compilation inside the clock.

  Attributes:
    compiled: JAX's.
    compile_seconds: tracing, lowering and compiling.
  """

  compiled: Any
  compile_seconds: float

  def __call__(self, *arguments: Any) -> Any:
    """Runs it; results may still be under way."""
    return self.compiled(*arguments)


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of one call.

  Attributes:
    median: over the calls.
    least: of them.
    calls: how many were timed.
  """

  median: float
  least: float
  calls: int


def compile_program(
  function: Callable[..., Any],
  *arguments: Any,
  donate: Sequence[int] = (),
  options: Mapping[str, Any] | None = None,
) -> Program:
  """Compiles a function ahead of its first call.

  Args:
    function: of arrays and trees of them.
    *arguments: arrays or `jax.ShapeDtypeStruct`s.
    donate: numbers of the arguments whose memory the results take.
    options: XLA's, for this program only, such as
      {'xla_gpu_autotune_level': 0}.
  """
  import jax

  start = time.perf_counter()
  lowered = jax.jit(function, donate_argnums=tuple(donate)).lower(*arguments)
  compiled = lowered.compile(compiler_options=dict(options or {}))
  return Program(compiled, time.perf_counter() - start)


def time_calls(
  call: Callable[[], Any],
  *,
  seconds: float = 1.0,
  most: int = 30,
  fewest: int = 3,
) -> Times:
  """Times a call without arguments, after one that is not timed.

  Args:
    call: what it returns is waited for.
    seconds: no new call begins after so many.
    most: at most so many are timed.
    fewest: but so many always are.
  """
  import jax

  jax.block_until_ready(call())
  times: list[float] = []
  begin = time.perf_counter()
  while len(times) < most:
    start = time.perf_counter()
    if len(times) >= fewest and start - begin > seconds:
      break
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  return Times(float(np.median(times)), min(times), len(times))


def time_state_calls(
  program: Callable[..., Any],
  state: Any,
  *arguments: Any,
  seconds: float = 1.0,
  most: int = 30,
  fewest: int = 3,
) -> tuple[Times, Any]:
  """Times `state = program(state, ...)`, whose state may be donated.

  Args:
    program: returns the next state, alone or first in a tuple.
    state: the first one.
    *arguments: after the state.
    seconds: as in `time_calls`; `most` and `fewest` too.
    most: see there.
    fewest: see there.

  Returns:
    The times, and the last state.
  """
  held = [state]

  def call():
    result = program(held[0], *arguments)
    # A named tuple or a dataclass is a state, not a tuple that begins with one.
    held[0] = result[0] if type(result) is tuple else result
    return result

  times = time_calls(call, seconds=seconds, most=most, fewest=fewest)
  return times, held[0]


def repeated(
  function: Callable[..., Any], iterations: int
) -> Callable[..., Any]:
  """Returns a program that applies a function many times, each to the last.

  For what takes microseconds: starting a program takes tens of them. Every
  iteration takes the outcome of the one before, so that none can be left out
  or run beside another.

  Args:
    function: of x and further arguments; returns x's like, or a tuple of it and
      whatever else is to be computed, which the last iteration gives back.
    iterations: a number that is known to the compiler, since a loop that has
      to ask the host after each turn would be slower.
  """
  import jax
  import jax.numpy as jnp

  def run(x, *arguments):
    def body(_, carry):
      x = carry[0] if type(carry) is tuple else carry
      # Were the loop unrolled, XLA would put two turns into one kernel.
      return jax.lax.optimization_barrier(function(x, *arguments))

    first = x
    shapes = jax.eval_shape(function, x, *arguments)
    if type(shapes) is tuple:
      # Not a first call outside of the loop, which would compile twice as long.
      zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[1:])
      first = (x, *zeros)
    return jax.lax.fori_loop(0, iterations, body, first)

  return run
