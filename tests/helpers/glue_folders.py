"""All tasks of GLUE in TFDS's format, with a few made-up examples."""

import pathlib
import random

import tfds_folders

# Texts and number of classes by TFDS config; 1 is a score.
CONFIGS = {
  'cola': (('sentence',), 2),
  'sst2': (('sentence',), 2),
  'mrpc': (('sentence1', 'sentence2'), 2),
  'qqp': (('question1', 'question2'), 2),
  'stsb': (('sentence1', 'sentence2'), 1),
  'mnli': (('hypothesis', 'premise'), 3),
  'qnli': (('question', 'sentence'), 2),
  'rte': (('sentence1', 'sentence2'), 2),
  'wnli': (('sentence1', 'sentence2'), 2),
}


def write(
  data_dir: pathlib.Path, config: str, train: int = 16, validation: int = 10
) -> None:
  """Writes a config's splits.

  Args:
    data_dir: what --tfds_data_dir names.
    config: a key of `CONFIGS`.
    train: number of training examples.
    validation: number of examples of each validation split.
  """
  fields, classes = CONFIGS[config]
  rng = random.Random(config)

  def examples(number):
    return [
      {
        **{
          f: ' '.join(rng.choices('abcdef', k=rng.randint(1, 9)))
          for f in fields
        },
        'label': i % classes if classes > 1 else 5 * rng.random(),
      }
      for i in range(number)
    ]

  names = ['validation']
  if config == 'mnli':
    names = ['validation_matched', 'validation_mismatched']
  splits = {'train': examples(train)}
  splits |= {name: examples(validation) for name in names}
  tfds_folders.write_known(
    data_dir, f'glue/{config}:2.0.0', splits, ordered=False
  )
