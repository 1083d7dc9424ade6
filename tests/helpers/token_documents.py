"""Documents of random tokens, and an objective's examples of them."""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import seqio
import tensorflow as tf

VOCABULARY = seqio.ByteVocabulary(extra_ids=100)
FIRST_SENTINEL = VOCABULARY.vocab_size - 1
FEATURES = {k: seqio.Feature(VOCABULARY) for k in ('inputs', 'targets')}


def dataset(documents) -> tf.data.Dataset:
  return tf.data.Dataset.from_generator(
    lambda: ({'targets': d} for d in documents),
    output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )


def random_documents(lengths: Iterable[int], seed: int = 0) -> list[list[int]]:
  """Returns documents of given lengths in tokens: bytes, no special ids."""
  rng = np.random.default_rng(seed)
  return [rng.integers(3, 259, n).tolist() for n in lengths]


def joined(sequences) -> list[int]:
  return list(itertools.chain.from_iterable(sequences))


def examples(
  objective,
  documents,
  lengths: Mapping[str, int],
  seed: int = 0,
  features: Mapping[str, seqio.Feature] = FEATURES,
  **parameters,
) -> list[dict[str, list[int]]]:
  """Returns the objective's examples, as lists."""
  with seqio.map_seed_manager(seed):
    made = objective(
      dataset(documents),
      sequence_length=lengths,
      output_features=features,
      **parameters,
    )
  return [
    {k: v.tolist() for k, v in example.items()}
    for example in made.as_numpy_iterator()
  ]
