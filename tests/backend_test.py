"""The backend that programs are traced for."""

import jax
import pytest

from fnet_t5x.backend import current_backend, target_backend


def test_the_backend_in_use_is_the_default():
  assert current_backend() == jax.default_backend() == 'cpu'


def test_the_innermost_target_counts_until_its_block_ends():
  with target_backend('tpu'):
    assert current_backend() == 'tpu'
    with target_backend('gpu'):
      assert current_backend() == 'gpu'
    assert current_backend() == 'tpu'
  assert current_backend() == 'cpu'


def test_an_error_ends_the_block_too():
  with pytest.raises(KeyError), target_backend('tpu'):
    raise KeyError
  assert current_backend() == 'cpu'
