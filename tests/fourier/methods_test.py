"""Algorithms chosen by 'auto', and sizes of Bluestein's convolution."""

import numpy as np
import pytest

from fnet_t5x.fourier.bluestein import convolution_size
from fnet_t5x.fourier.dft_matrix import dft_matrices
from fnet_t5x.fourier.methods import choose_method

# GPU: the FFT for whole rows, matrices over both axes for ragged rows.
CHOICES = {
  ('cpu', 'whole'): {64: 'fft', 512: 'fft', 4096: 'fft'},
  ('cpu', 'ragged'): {128: 'matmul', 1024: 'matmul', 2048: 'fft'},
  ('cpu', 'features'): {512: 'fft', 768: 'fft', 4096: 'fft'},
  ('gpu', 'whole'): {512: 'fft', 2048: 'fft', 8192: 'fft'},
  ('gpu', 'ragged'): {512: 'matmul', 4096: 'matmul', 8192: 'fft'},
  ('gpu', 'features'): {512: 'matmul', 768: 'matmul', 4096: 'matmul'},
  ('tpu', 'whole'): {512: 'matmul', 4096: 'matmul', 8192: 'fft'},
  ('tpu', 'ragged'): {512: 'matmul', 4096: 'matmul', 8192: 'fft'},
  ('tpu', 'features'): {512: 'matmul', 768: 'matmul', 4096: 'matmul'},
}


@pytest.mark.parametrize(('backend', 'kind'), CHOICES)
def test_auto(backend, kind):
  expected = CHOICES[backend, kind]
  names = ['gpu', 'cuda', 'rocm'] if backend == 'gpu' else [backend]
  for name in names:
    chosen = {
      points: choose_method('auto', points, kind, backend=name)
      for points in expected
    }
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
  # The largest products, at the maximum supported length.
  cosine, sine = dft_matrices(4, 4096, 4093)
  angles = 2 * np.pi * (np.outer(np.arange(4), np.arange(4096)) % 4093) / 4093
  assert np.abs(np.asarray(cosine) - np.cos(angles)).max() < 1e-6
  assert np.abs(np.asarray(sine) - np.sin(angles)).max() < 1e-6


def test_a_length_whose_products_overflow_is_refused():
  with pytest.raises(ValueError, match='46341 is above 46340'):
    dft_matrices(2, 2, 46341)
