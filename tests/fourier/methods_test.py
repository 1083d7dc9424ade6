"""Which way 'auto' takes, and the sizes of Bluestein's convolution."""

import numpy as np
import pytest

from fnet_t5x.fourier.bluestein import convolution_size
from fnet_t5x.fourier.dft_matrix import dft_matrices
from fnet_t5x.fourier.methods import choose_method


@pytest.mark.parametrize(
  ('backend', 'points', 'own_lengths', 'expected'),
  [
    ('cpu', 64, False, 'fft'),
    ('cpu', 4096, False, 'fft'),
    ('cpu', 128, True, 'matmul'),
    ('cpu', 2048, True, 'fft'),
    ('gpu', 512, False, 'fft'),
    ('cuda', 512, True, 'matmul'),
    ('cuda', 4096, True, 'fft'),
    ('tpu', 512, False, 'matmul'),
    ('tpu', 4096, True, 'matmul'),
    ('tpu', 8192, False, 'fft'),
  ],
)
def test_auto(backend, points, own_lengths, expected):
  chosen = choose_method(
    'auto', points, own_lengths=own_lengths, backend=backend
  )
  assert chosen == expected


def test_an_explicit_method_is_kept():
  assert choose_method('matmul', 10**6, backend='cpu') == 'matmul'
  assert choose_method('fft', 8, backend='tpu') == 'fft'


def test_convolution_size_is_the_least_smooth_size_that_fits():
  for length in range(1, 600):
    size = convolution_size(length)
    least = 2 * length - 1
    assert least <= size <= max(1.25 * least, 2)
    rest = size
    for prime in (2, 3, 5):
      while rest % prime == 0:
        rest //= prime
    assert rest == 1


def test_large_phases_stay_exact():
  # The largest products, at the longest length we mean to serve.
  cosine, sine = dft_matrices(4, 4096, 4093)
  angles = 2 * np.pi * (np.outer(np.arange(4), np.arange(4096)) % 4093) / 4093
  assert np.abs(np.asarray(cosine) - np.cos(angles)).max() < 1e-6
  assert np.abs(np.asarray(sine) - np.sin(angles)).max() < 1e-6


def test_a_length_whose_products_overflow_is_refused():
  with pytest.raises(ValueError, match='46341 is above 46340'):
    dft_matrices(2, 2, 46341)
