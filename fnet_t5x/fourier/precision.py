"""Numerical precision of transforms."""

import jax.numpy as jnp
from jaxtyping import Array


def matmul(
  subscripts: str, matrix: Array, x: Array, dtype: jnp.dtype | None = None
) -> Array:
  """Multiplies in the matrix's dtype, accumulates in at least float32.

  Args:
    subscripts: of the einsum.
    matrix: the first operand.
    x: the second operand.
    dtype: of the result; None for that of the sums. A later conversion may be a
      separate pass over twice the memory.
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
  """Converts to at least float32: FFTs support only float32 and float64."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
