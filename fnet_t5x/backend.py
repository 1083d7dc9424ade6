"""The backend that programs are traced for, which may be an absent one."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_TARGET = contextvars.ContextVar('target_backend', default=None)


@contextlib.contextmanager
def target_backend(backend: str) -> Iterator[None]:
  """Traces the block's programs for a backend that is not the one in use.

  Args:
    backend: JAX's name of the platform that will run them.
  """
  token = _TARGET.set(backend)
  try:
    yield
  finally:
    _TARGET.reset(token)


def current_backend() -> str:
  """Returns the platform that programs are traced for."""
  return _TARGET.get() or jax.default_backend()
