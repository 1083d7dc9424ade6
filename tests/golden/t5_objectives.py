"""Golden examples of T5's preprocessors, for t5_objectives.json.

Run in an environment with t5 0.9.4 (`pip install --no-deps t5==0.9.4`, and
babel, nltk, rouge-score etc. for its imports):

  python tests/golden/t5_objectives.py
"""

import functools
import importlib.metadata
import json
import pathlib

import gin
import numpy as np
import seqio
import tensorflow as tf
from t5.data import preprocessors

# (objective, lengths, parameters, gin bindings). Odd and short lengths, one
# token left over, no merging, packing, and density 0.5, a special case of T5's
# lengths.
CASES = [
  ('span_corruption', {'inputs': 64, 'targets': 20}, {}, ''),
  (
    'span_corruption',
    {'inputs': 31, 'targets': 31},
    {'noise_density': 0.5},
    '',
  ),
  (
    'span_corruption',
    {'inputs': 47, 'targets': 40},
    {
      'mean_noise_span_length': 8.0,
      'noise_density': 0.3,
      'merge_examples_to_reduce_padding': False,
    },
    '',
  ),
  (
    'span_corruption',
    {'inputs': 64, 'targets': 20},
    {'reserved_for_packing': 21},
    'random_spans_noise_mask.random_roll = True',
  ),
  ('prefix_lm', {'inputs': 64, 'targets': 64}, {}, ''),
  ('prefix_lm', {'inputs': 12, 'targets': 12}, {'noise_density': 0.2}, ''),
]
SEED = 23


def main():
  rng = np.random.default_rng(5)
  lengths = [200, 1, 63, 17, 130, 2]
  documents = [rng.integers(3, 259, n).tolist() for n in lengths]
  vocabulary = seqio.ByteVocabulary(extra_ids=100)
  features = {k: seqio.Feature(vocabulary) for k in ('inputs', 'targets')}
  cases = []
  for name, sequence_length, parameters, bindings in CASES:
    gin.clear_config()
    gin.parse_config(f'preprocessors.{bindings}' if bindings else '')
    objective = functools.partial(getattr(preprocessors, name), **parameters)
    with seqio.map_seed_manager(SEED):
      dataset = objective(
        tf.data.Dataset.from_generator(
          lambda: ({'targets': d} for d in documents),
          output_signature={'targets': tf.TensorSpec([None], tf.int32)},
        ),
        sequence_length=sequence_length,
        output_features=features,
      )
    cases.append(
      {
        'objective': name,
        'sequence_length': sequence_length,
        'parameters': parameters,
        'gin': bindings,
        'examples': [
          {k: v.tolist() for k, v in example.items()}
          for example in dataset.as_numpy_iterator()
        ],
      }
    )
  golden = {
    'command': 'python tests/golden/t5_objectives.py',
    'versions': {
      package: importlib.metadata.version(package)
      for package in ('t5', 'seqio', 'tensorflow')
    },
    'seed': SEED,
    'vocabulary': 'seqio.ByteVocabulary(extra_ids=100)',
    'documents': documents,
    'cases': cases,
  }
  path = pathlib.Path(__file__).with_suffix('.json')
  path.write_text(json.dumps(golden, separators=(',', ':')) + '\n')


if __name__ == '__main__':
  main()
