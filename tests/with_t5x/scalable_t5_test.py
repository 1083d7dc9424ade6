"""T5X's scanned network, and T5X's decoding of ours."""

import json

import jax
import numpy as np
import pytest
import scanned_networks as networks
from checkout import GOLDEN_DIR

from fnet_t5x.runtime import decoding, models

FLOATS = ('first', 'norm')
RECORDED = GOLDEN_DIR / 'scalable_t5.json'


def test_recording_is_t5xs(python):
  got = json.loads(python('scalable_t5.py'))
  want = json.loads(RECORDED.read_text())
  assert got['parameters'].keys() == want['parameters'].keys()
  for name, parameter in want['parameters'].items():
    for key, value in parameter.items():
      near = pytest.approx(value, rel=1e-5) if key in FLOATS else value
      assert got['parameters'][name][key] == near
  for rate, run in want['runs'].items():
    assert got['runs'][rate]['loss'] == pytest.approx(run['loss'], rel=1e-5)
    norms = pytest.approx(run['grad_norms'], rel=1e-4)
    assert got['runs'][rate]['grad_norms'] == norms


@pytest.mark.usefixtures('lax_ranks')
@pytest.mark.parametrize('decode', networks.DECODES)
def test_t5x_decodes_scanned_layers(decode):
  t5x_models = pytest.importorskip('t5x.models')
  t5x_decoding = pytest.importorskip('t5x.decoding')
  plain = networks.hybrid()
  params = jax.tree.map(lambda x: 2 * x, networks.initialise(plain)['params'])
  got = networks.predict(
    t5x_models,
    t5x_decoding,
    networks.hybrid(scan_layers=True),
    networks.scanned_params(params),
    decode,
  )
  want = networks.predict(models, decoding, plain, params, decode)
  np.testing.assert_array_equal(got[0], want[0])
  np.testing.assert_allclose(got[1], want[1], rtol=1e-4)
