"""Groups of devices, in the ways compilers write them."""

import pytest

from fnet_t5x.planning import device_groups

ROWS = [[0, 1, 2, 3], [4, 5, 6, 7]]
COLUMNS = [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
  ('written', 'groups'),
  [
    ('replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}', ROWS),
    ('replica_groups={}, to_apply=%add', []),
    ('to_apply=%add', []),
    ('channel_id=1, source_target_pairs={{0,1},{3,2}}', [[0, 1], [3, 2]]),
    ('replica_groups=[2,4]<=[8], dimensions={0}', ROWS),
    ('replica_groups=[4,2]<=[2,4]T(1,0)', COLUMNS),
    (
      'replica_groups=[2,4]<=[2,2,2]T(1,0,2)',
      [[0, 1, 4, 5], [2, 3, 6, 7]],
    ),
    ("replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={1}", ROWS),
    ("replica_groups=mesh['a'=2,'b'=4] {'a'}", COLUMNS),
    ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", [[*ROWS[0], *ROWS[1]]]),
    (
      "replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}",
      ROWS,
    ),
    (
      "replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'c'}",
      COLUMNS,
    ),
    # Halves of an axis of eight: the outer, the middle, the inner.
    ("replica_groups=mesh['a'=8] {'a':(1)2}", COLUMNS),
    (
      "replica_groups=mesh['a'=8] {'a':(2)2}",
      [[0, 2], [1, 3], [4, 6], [5, 7]],
    ),
    (
      "replica_groups=mesh['a'=8] {'a':(4)2}",
      [[0, 1], [2, 3], [4, 5], [6, 7]],
    ),
  ],
)
def test_groups(written, groups):
  assert device_groups.parse(f'channel_id=3, {written}, metadata=') == groups


def test_what_is_written_otherwise_is_not_taken_for_all_devices():
  with pytest.raises(ValueError, match='in an unknown way: replica_groups=<2'):
    device_groups.parse('channel_id=1, replica_groups=<2x4>, metadata={}')
