"""TensorStore's JSON: same results, without the leak."""

import gc
import sys

import pytest
import tensorstore as ts
from orbax.checkpoint._src.serialization import tensorstore_utils, types

from fnet_t5x.runtime import tensorstore_json

READ, WRITE = types.IoDirection.READ, types.IoDirection.WRITE


@pytest.fixture(autouse=True, scope='module')
def _counts(tmp_path_factory):
  """TensorStore counts from the first use of a driver."""
  base = tmp_path_factory.mktemp('counts')
  array = ts.open(
    {'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': str(base)}},
    dtype=ts.float32,
    shape=[1000],
    create=True,
  ).result()
  array.write(range(1000)).result()
  array.read().result()


def kvstore(name):
  return ts.KvStore.Spec({'driver': 'memory', 'path': f'{name}/'})


@pytest.mark.parametrize('direction', [READ, WRITE])
def test_numbers_are_orbax_own(direction):
  expected = tensorstore_json.orbax_raw_bytes(direction)
  assert expected > 1000
  assert tensorstore_json.raw_bytes(direction) == expected


def test_orbax_asks_us():
  tensorstore_json.avoid_leaks()
  assert (
    tensorstore_utils.get_tensorstore_raw_bytes is tensorstore_json.raw_bytes
  )
  assert tensorstore_json.raw_bytes() == tensorstore_json.raw_bytes(WRITE)
  # Calling it twice does not recurse.
  tensorstore_json.avoid_leaks()
  assert kvstore(1).to_json() == {'driver': 'memory', 'path': '1/'}


def test_json_of_specs_is_tensorstore_own():
  # More specs than the cache holds, each twice.
  for i in (*range(20), *range(20), 19):
    spec = kvstore(i)
    own = tensorstore_json.spec_to_json(spec)
    assert own['path'] == f'{i}/'
    assert tensorstore_json.remembered_json(spec) == own
    # Callers may change the returned value.
    tensorstore_json.remembered_json(spec)['path'] = 'changed'
  whole = tensorstore_json.remembered_json(spec, include_defaults=True)
  assert whole == tensorstore_json.spec_to_json(spec, include_defaults=True)
  assert len(whole) > len(own)


@pytest.mark.slow
@pytest.mark.parametrize(
  'ask',
  [
    tensorstore_json.raw_bytes,
    lambda: tensorstore_json.remembered_json(kvstore('same')),
  ],
)
def test_nothing_is_left_behind(ask):
  calls = 200
  ask()
  gc.collect()
  before = sys.getallocatedblocks()
  for _ in range(calls):
    ask()
  gc.collect()
  # TensorStore's dictionaries leave 4 (a spec) to 200 (metrics) per call.
  assert sys.getallocatedblocks() - before < calls


def test_samples_with_labels_count_and_comments_do_not():
  lines = [
    '# HELP a_bytes_read bytes read',
    '# UNIT a_bytes_read 7',
    'a_bytes_read 3',
    'b_bytes_read{driver="x y"} 4',
    'b_bytes_read_count 100',
    'a_bytes_written 50',
  ]
  assert tensorstore_json.total(lines, '_bytes_read') == 7
  assert tensorstore_json.total([], '_bytes_read') == 0
