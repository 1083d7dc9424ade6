"""Ahead-of-time compiled programs, and functions repeated in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.benchmarks.accelerator.programs import (
  compile_program,
  repeated,
  time_calls,
  time_state_calls,
)


def test_a_repeated_function_is_applied_to_its_own_output():
  matrix = np.random.default_rng(0).standard_normal((3, 3)) / 2
  x = np.arange(3.0)
  program = compile_program(
    repeated(lambda x, matrix: matrix @ x, 5), jnp.asarray(x), matrix
  )
  want = np.linalg.matrix_power(matrix, 5) @ x
  got = program(jnp.asarray(x), matrix)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_further_outputs_are_those_of_the_last_iteration():
  def step(x, factor):
    return x * factor, {'before': x}

  got, besides = jax.jit(repeated(step, 4))(jnp.float32(3.0), jnp.float32(2.0))
  assert got == 3 * 2**4
  assert besides == {'before': 3 * 2**3}


def test_a_program_never_compiles_again():
  program = compile_program(
    lambda x, rate: x * rate, jnp.ones(3), jnp.float32(2)
  )
  np.testing.assert_array_equal(program(jnp.ones(3), jnp.float32(5)), 5)
  assert program.compile_seconds > 0
  # With `jax.jit` it would compile, and be timed.
  with pytest.raises(TypeError):
    program(jnp.ones(3), 5)
  with pytest.raises(TypeError):
    program(jnp.ones(4), jnp.float32(5))


def test_calls_are_counted_within_their_limits():
  calls = []
  times = time_calls(lambda: calls.append(1), seconds=0.0, min_calls=4)
  assert times.calls == 4 and len(calls) == 5
  times = time_calls(lambda: None, seconds=60.0, max_calls=6)
  assert times.calls == 6
  assert 0 <= times.least <= times.median


def test_a_donated_state_is_passed_from_call_to_call():
  program = compile_program(
    lambda state, more: ({'count': state['count'] + more}, more),
    {'count': jnp.int32(0)},
    jnp.int32(3),
    donate=(0,),
  )
  times, state = time_state_calls(
    program, {'count': jnp.int32(0)}, jnp.int32(3), seconds=0.0, min_calls=2
  )
  # One call is not timed.
  assert times.calls == 2 and state == {'count': 9}
