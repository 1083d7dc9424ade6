"""Compiled programs and their times: warm medians, without compilation."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Program:
  """A function compiled for arguments of certain shapes.

  Calls never compile: arguments of another type (a Python number for an array)
  are an error, rather than a compilation that would be timed.

  Attributes:
    compiled: JAX's compiled function.
    compile_seconds: time to trace, lower and compile.
  """

  compiled: Any
  compile_seconds: float

  def __call__(self, *arguments: Any) -> Any:
    """Dispatches the program; does not wait for its results."""
    return self.compiled(*arguments)


@dataclasses.dataclass(frozen=True)
class Times:
  """Seconds of one call.

  Attributes:
    median: median over the calls.
    least: minimum over the calls.
    calls: number of timed calls.
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
  """Compiles a function ahead of time.

  Args:
    function: function of arrays and trees of arrays.
    *arguments: arrays or `jax.ShapeDtypeStruct`s.
    donate: indices of arguments to donate.
    options: XLA's options for this program only, such as
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
  max_calls: int = 30,
  min_calls: int = 3,
) -> Times:
  """Times a call without arguments, after one that is not timed.

  Args:
    call: function whose results are waited for.
    seconds: time after which no new call begins.
    max_calls: maximum number of timed calls.
    min_calls: minimum number of timed calls, whatever their time.
  """
  import jax

  jax.block_until_ready(call())
  times: list[float] = []
  begin = time.perf_counter()
  while len(times) < max_calls:
    start = time.perf_counter()
    if len(times) >= min_calls and start - begin > seconds:
      break
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  return Times(float(np.median(times)), min(times), len(times))


def time_state_calls(
  program: Callable[..., Any],
  state: Any,
  *arguments: Any,
  seconds: float = 1.0,
  max_calls: int = 30,
  min_calls: int = 3,
) -> tuple[Times, Any]:
  """Times `state = program(state, ...)`, whose state may be donated.

  Args:
    program: returns the next state, alone or first in a tuple.
    state: the initial state.
    *arguments: further arguments.
    seconds: see `time_calls`.
    max_calls: see `time_calls`.
    min_calls: see `time_calls`.

  Returns:
    The times, and the last state.
  """
  held = [state]

  def call():
    result = program(held[0], *arguments)
    # A named tuple is itself a state, not a tuple that starts with one.
    held[0] = result[0] if type(result) is tuple else result
    return result

  times = time_calls(
    call, seconds=seconds, max_calls=max_calls, min_calls=min_calls
  )
  return times, held[0]


def repeated(
  function: Callable[..., Any], iterations: int
) -> Callable[..., Any]:
  """Returns a program that applies a function repeatedly to its own output.

  For work that takes microseconds, since launching a program takes tens of
  them. Each iteration depends on the one before, so that XLA can neither drop
  iterations nor run them concurrently.

  Args:
    function: function of x and further arguments. Returns an array like x, or a
      tuple of it and further outputs, which are returned from the last
      iteration.
    iterations: number of iterations, a compile-time constant: a loop that asks
      the host after each iteration would be slower.
  """
  import jax
  import jax.numpy as jnp

  def run(x, *arguments):
    def body(_, carry):
      x = carry[0] if type(carry) is tuple else carry
      # Keeps XLA from fusing two iterations if it unrolls the loop.
      return jax.lax.optimization_barrier(function(x, *arguments))

    first = x
    shapes = jax.eval_shape(function, x, *arguments)
    if type(shapes) is tuple:
      # Zeros, since a first call outside the loop would double compile time.
      zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[1:])
      first = (x, *zeros)
    return jax.lax.fori_loop(0, iterations, body, first)

  return run
