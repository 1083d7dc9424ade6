"""Names of TPU slices, and XManager's support of them."""

import pytest

from fnet_t5x.xm_launch import tpu_types


@pytest.mark.parametrize(
  'name, prefix, size, one_host',
  [
    ('v3-8', 'v3', 8, True),
    ('v3-32', 'v3', 32, False),
    ('v4-256', 'v4', 256, False),
    ('v5litepod-16', 'v5litepod', 16, False),
    ('v5p-384', 'v5p', 384, False),
    ('v6e-4', 'v6e', 4, True),
  ],
)
def test_parse(name, prefix, size, one_host):
  tpu = tpu_types.parse(name)
  assert (tpu.generation.prefix, tpu.size) == (prefix, size)
  assert (tpu.name, tpu.one_host) == (name, one_host)


@pytest.mark.parametrize('name', ['v3', 'v3-', 'v3-33', 'v3-x', 'v5p-100', ''])
def test_unknown_names_list_the_known(name):
  with pytest.raises(ValueError, match=r'--tpu_type=.*v\d\w*-\{\d') as error:
    tpu_types.parse(name)
  assert '\n' not in str(error.value)


def test_xmanager_knows_every_generation():
  xm = pytest.importorskip('xmanager.xm', reason='XManager is not installed')
  for generation in tpu_types.GENERATIONS:
    assert xm.ResourceType[generation.resource] in xm.TpuType
