"""Decoding loops with the cache of scanned layers, which has layers first."""

import jax
import numpy as np
import pytest
import scanned_networks as networks

from fnet_t5x.runtime import decoding, models


@pytest.mark.slow
@pytest.mark.parametrize('decode', networks.DECODES)
def test_scanned_layers_decode_alike(decode):
  plain = networks.hybrid()
  # Doubled: the output of an untrained network hardly depends on its inputs.
  params = jax.tree.map(lambda x: 2 * x, networks.initialise(plain)['params'])
  want = networks.predict(models, decoding, plain, params, decode)
  got = networks.predict(
    models,
    decoding,
    networks.hybrid(scan_layers=True),
    networks.scanned_params(params),
    decode,
  )
  np.testing.assert_array_equal(got[0], want[0])
  np.testing.assert_allclose(got[1], want[1], rtol=1e-5)
  assert len(np.unique(want[0])) > 2
