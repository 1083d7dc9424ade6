"""Parsing of topologies, and messages for invalid ones."""

import importlib.util

import jax
import pytest

from fnet_t5x.planning import topology

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason="libtpu is not installed (pip install 'fnet_t5x[plan]')",
)


@pytest.mark.parametrize(
  ('text', 'backend', 'shape'),
  [
    ('v4:4x4x8', 'tpu', (4, 4, 8)),
    ('v5e:4x4', 'tpu', (4, 4)),
    ('h100:8', 'gpu', (8,)),
    ('cpu:256', 'cpu', (256,)),
  ],
)
def test_topology_is_a_chip_and_a_shape(text, backend, shape):
  parsed = topology.parse(text)
  assert (parsed.backend, parsed.shape) == (backend, shape)
  assert parsed.is_tpu == (backend == 'tpu')


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('v4', 'write a TPU slice as v4:4x4x8'),
    ('v4:4x', 'write a TPU slice as v4:4x4x8'),
    ('b200:8', "unknown chip 'b200'"),
    ('v4:8', 'two or three sides'),
    ('h100:2x4', 'one number'),
    ('cpu:0', 'at least 1'),
    ('cpu:100000', 'at most 4096'),
  ],
)
def test_what_cannot_be_is_one_line(text, message):
  with pytest.raises(ValueError, match=message) as error:
    topology.parse(text)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('v3:4x4', 'no network between slices is known for v3; it is for v4, v5e'),
    ('h100:8', 'no network between slices is known for h100'),
    ('cpu:2049', '2 x cpu:2049: simulated devices are one number, at most'),
  ],
)
def test_slices_that_cannot_be_are_one_line(text, message):
  with pytest.raises(ValueError, match=message) as error:
    topology.parse(text, 2)
  assert '\n' not in str(error.value)


def test_slices_are_written_as_people_do():
  parsed = topology.parse('cpu:4', 2)
  assert (parsed.title, parsed.simulated) == ('2 x cpu:4', 8)
  assert topology.devices(parsed) == jax.devices()[:8]
  assert topology.parse('cpu:4').title == 'cpu:4'


def test_a_missing_compiler_is_named_with_its_remedy(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match=r"pip install 'fnet_t5x\[plan\]'"):
    topology.prepare([topology.parse('v4:4x4x8')])


def test_simulated_devices_are_as_many_as_asked_for():
  assert topology.devices(topology.parse('cpu:4')) == jax.devices()[:4]
  with pytest.raises(ValueError, match='it was in use before'):
    topology.devices(topology.parse('cpu:1024'))


@needs_libtpu
@pytest.mark.parametrize(
  ('text', 'kind', 'count'),
  [
    # Two cores per chip are one device, except on v3.
    ('v4:4x4x8', 'TPU v4', 128),
    ('v5p:4x4x4', 'TPU v5', 64),
    ('v3:4x4', 'TPU v3', 32),
    ('v5e:1x1', 'TPU v5 lite', 1),
  ],
)
def test_tpu_slices_are_the_devices_that_jax_would_show(
  monkeypatch, text, kind, count
):
  parsed = topology.parse(text)
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  monkeypatch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  found = topology.devices(parsed)
  assert (len(found), found[0].device_kind) == (count, kind)
  assert found[0].device_kind.startswith(parsed.chip.device_kind)


@needs_libtpu
def test_two_slices_of_tpus_know_which_they_are(monkeypatch):
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  monkeypatch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  found = topology.devices(topology.parse('v5e:2x2', 2))
  assert [device.slice_index for device in found] == [0] * 4 + [1] * 4


@needs_libtpu
def test_a_slice_that_there_is_not_is_one_line(monkeypatch):
  monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
  monkeypatch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  with pytest.raises(ValueError, match='libtpu knows no such slice') as error:
    topology.devices(topology.parse('v4:3x3x3'))
  assert '\n' not in str(error.value)
