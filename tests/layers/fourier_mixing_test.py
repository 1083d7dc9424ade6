import jax
import jax.numpy as jnp
import numpy as np

from fnet_t5x.fourier.mixing import make_mixing_plan
from fnet_t5x.layers.fourier_mixing import FourierMixing


def test_mixes_tokens_but_not_padding_without_parameters():
  x = np.random.default_rng(0).normal(size=(1, 6, 4)).astype(np.float32)
  plan = make_mixing_plan(jnp.array([[1, 1, 1, 1, 1, 0]]))
  got, variables = FourierMixing().init_with_output(jax.random.key(0), x, plan)
  assert not variables
  want = np.fft.fft2(x[0, :5].astype(np.float64), norm='ortho').real
  np.testing.assert_allclose(got[0, :5], want, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(got[0, 5], 0.0)
