"""The types that transforms are computed in."""

import jax.numpy as jnp
from jaxtyping import Array


def matmul(
  subscripts: str, matrix: Array, x: Array, dtype: jnp.dtype | None = None
) -> Array:
  """Multiplies in the matrix's type, adds in at least float32.

  Args:
    subscripts: of the einsum.
    matrix: its first operand.
    x: its second one.
    dtype: of the result; None for that of the sums. A conversion afterwards
      may be a pass of its own through twice the memory.
  """
  total = jnp.promote_types(matrix.dtype, jnp.float32)
  # TPUs and GPUs would otherwise round float32 operands to bfloat16 or TF32.
  precision = 'highest' if matrix.dtype == total else 'default'
  return jnp.einsum(
    subscripts,
    matrix,
    x.astype(matrix.dtype),
    precision=precision,
    preferred_element_type=total if dtype is None else dtype,
  )


def widen(x: Array) -> Array:
  """Converts to float32 at least: FFTs exist in float32 and float64 only."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
