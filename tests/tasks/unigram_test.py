"""The unigram loss, against plain counting."""

import collections
import math

import pytest

from fnet_t5x.tasks import catalog, corpus, unigram


@pytest.mark.slow
def test_unigram_loss_equals_plain_counting(small_corpus):
  name, lengths = 'fnet_sotu_prefix_lm', {'inputs': 40, 'targets': 40}
  task = catalog.get(name)
  tokens = {}
  for split in corpus.SPLITS:
    dataset = task.get_dataset(lengths, split, shuffle=False, seed=5)
    tokens[split] = [
      token
      for example in dataset.as_numpy_iterator()
      for token in example['targets'].tolist()
    ]
  counts = collections.Counter(tokens['train'])
  assert counts[1] > 50  # EOS counts as a target.
  total = len(tokens['train']) + 160 + 100
  losses = [math.log(total / (counts[t] + 1)) for t in tokens['validation']]
  assert unigram.unigram_loss(name, lengths, seed=5) == pytest.approx(
    math.fsum(losses) / len(losses), rel=1e-9
  )


def test_unigram_loss_checks_its_arguments():
  with pytest.raises(ValueError, match='did you mean'):
    unigram.unigram_loss('fnet_sotu_prefix', {'inputs': 8, 'targets': 8})
  with pytest.raises(ValueError, match="'targets' is 0"):
    unigram.unigram_loss('fnet_sotu_prefix_lm', {'inputs': 8, 'targets': 0})
