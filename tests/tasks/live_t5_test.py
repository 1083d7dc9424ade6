"""The Pile's tasks against t5 0.9.4 itself, token for token.

FNET_T5X_PILE_DIR=... pytest tests/tasks/live_t5_test.py -s
"""

import os

import numpy as np
import pytest

from fnet_t5x.tasks import catalog, objectives, pile

_LEAST_DOCUMENTS = 1000

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    pile.VARIABLE not in os.environ, reason=f'{pile.VARIABLE} names no Pile'
  ),
]


@pytest.mark.parametrize(
  ('objective', 'lengths'),
  [
    ('span_corruption', {'inputs': 512, 'targets': 114}),
    ('prefix_lm', {'inputs': 512, 'targets': 512}),
  ],
)
def test_examples_equal_those_of_live_t5(objective, lengths):
  t5 = pytest.importorskip(
    't5.data.preprocessors', reason='needs t5 0.9.4 (pip install --no-deps t5)'
  )
  task = catalog.get(f'fnet_pile_{objective}')
  theirs = getattr(t5, objective)
  ours = getattr(objectives, objective)
  swapped = [theirs if p is ours else p for p in task.preprocessors]
  assert theirs in swapped
  documents = sum(
    1 for _ in task.source.get_dataset('train').as_numpy_iterator()
  )
  assert documents >= _LEAST_DOCUMENTS
  expected, actual = (
    t.get_dataset(lengths, 'train', seed=3).as_numpy_iterator()
    for t in (task.replace(preprocessors=swapped), task)
  )
  count = 0
  for a, b in zip(expected, actual, strict=True):
    np.testing.assert_array_equal(a['inputs'], b['inputs'])
    np.testing.assert_array_equal(a['targets'], b['targets'])
    count += 1
  assert count > _LEAST_DOCUMENTS
  print(f'{task.name}: {documents} documents, {count} examples equal')
