"""Display of a task's examples: `python -m fnet_t5x.show`.

  python -m fnet_t5x.show --task=fnet_sotu_span_corruption --n=3

Given the gin files and bindings of a run, it shows the examples that the run
trains on: MIXTURE_OR_TASK_NAME and TASK_FEATURE_LENGTHS come from the run.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from fnet_t5x import command_line, gin_check

if __name__ == '__main__':
  with command_line.one_line_errors():
    command_line.define_flags()
    flags.DEFINE_string('task', None, 'Task or mixture.')
    flags.DEFINE_integer('n', 3, 'Number of examples.', lower_bound=1)
    flags.DEFINE_string('split', 'train', 'Split.')
    flags.DEFINE_integer('seed', 0, 'Seed of the order and the objective.')
    command_line.read(sys.argv, __doc__)
    gin_check.read(
      flags.FLAGS.gin_file,
      flags.FLAGS.gin_bindings,
      command_line.search_paths(),
    )
  command_line.import_tensorflow()

import numpy as np
import rich.console
import rich.text
import seqio

from fnet_t5x.runtime import gin_utils
from fnet_t5x.tasks import catalog


def pieces(
  ids: Sequence[int], vocabulary: seqio.Vocabulary
) -> list[tuple[str, bool]]:
  """Splits ids into text and special tokens.

  Args:
    ids: token ids.
    vocabulary: their vocabulary; its sentinels are its last `extra_ids`. Ids of
      a `PassThroughVocabulary` are shown as numbers.

  Returns:
    Pairs (text, is_special). Special tokens are sentinels ('<extra_id_0>' is
    the last id), EOS ('</s>') and runs of padding ('·').
  """
  if isinstance(vocabulary, seqio.PassThroughVocabulary):
    return [(' '.join(str(i) for i in ids), True)]
  last = vocabulary.vocab_size - 1

  def mark(token):
    if token > last - vocabulary.extra_ids:
      return f'<extra_id_{last - token}>'
    return {vocabulary.eos_id: '</s>', vocabulary.pad_id: '·'}.get(token)

  shown = []
  for name, group in itertools.groupby((int(i) for i in ids), key=mark):
    if name is None:
      shown.append((vocabulary.decode(list(group)), False))
    elif name == '·':
      shown.append((name, True))
    else:
      shown += [(name, True) for _ in group]
  return shown


def statistics(
  examples: Sequence[Mapping[str, np.ndarray]],
  features: Mapping[str, seqio.Feature],
  lengths: Mapping[str, int],
) -> dict[str, dict[str, float]]:
  """Computes statistics of a task's examples.

  Args:
    examples: unpadded examples.
    features: the task's output features.
    lengths: length in tokens by feature.

  Returns:
    By feature: 'tokens', the mean per example; 'padding', the share of the
    length that is padding without packing; 'tokens_per_byte' of the text,
    excluding special tokens.
  """
  result = {}
  for name, length in lengths.items():
    vocabulary = features[name].vocabulary
    total = sum(len(e[name]) for e in examples)
    shown = [p for e in examples for p in pieces(e[name], vocabulary)]
    texts = [text for text, is_mark in shown if not is_mark]
    size = sum(len(text.encode()) for text in texts)
    plain = sum(len(vocabulary.encode(text)) for text in texts)
    result[name] = {
      'tokens': total / len(examples),
      'padding': 1 - total / (len(examples) * length),
      'tokens_per_byte': plain / size if size else 0.0,
    }
  return result


def show(
  task_name: str, count: int, split: str = 'train', seed: int = 0
) -> None:
  """Prints examples of a task, and their statistics.

  Args:
    task_name: task or mixture.
    count: number of examples.
    split: name of the split.
    seed: seed of the order and the objective.

  Raises:
    ValueError: unknown task or split, invalid lengths, or no example.
  """
  task = catalog.get(task_name)
  lengths = gin_utils.macro('TASK_FEATURE_LENGTHS')
  if lengths is None:
    lengths = catalog.default_feature_lengths(task_name)
  catalog.check_feature_lengths(task_name, lengths)
  if split not in task.splits:
    raise ValueError(
      f'{task_name} has no split {split!r}; it has {", ".join(task.splits)}'
    )
  dataset = task.get_dataset(lengths, split, seed=seed, num_epochs=1)
  examples = list(dataset.take(count).as_numpy_iterator())
  if not examples:
    raise ValueError(
      f'{task_name}, split {split!r}, has no examples; check its corpus'
    )
  console = rich.console.Console(highlight=False, soft_wrap=True)
  for number, example in enumerate(examples, 1):
    for name, length in lengths.items():
      ids = example[name]
      console.print(
        f'── {number} {name}, {len(ids)} of {length} tokens', style='bold'
      )
      line = rich.text.Text()
      for text, is_mark in pieces(ids, task.output_features[name].vocabulary):
        line.append(f' {text} ' if is_mark else text, 'cyan' if is_mark else '')
      console.print(line)
    console.print()
  values = statistics(examples, task.output_features, lengths)
  for name, counted in values.items():
    console.print(
      f'{name}: {counted["tokens"]:.1f} tokens per example, '
      f'{counted["padding"]:.1%} padding without packing, '
      f'{counted["tokens_per_byte"]:.3f} tokens per byte of text'
    )


def main() -> None:
  """Shows the task given on the command line."""
  if flags.FLAGS.tfds_data_dir:
    seqio.set_tfds_data_dir_override(flags.FLAGS.tfds_data_dir)
  command_line.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_bindings)
  task_name = flags.FLAGS.task or gin_utils.macro('MIXTURE_OR_TASK_NAME')
  if not task_name:
    raise ValueError(
      'no --task given; `python -m fnet_t5x.tasks.catalog` lists them'
    )
  show(task_name, flags.FLAGS.n, flags.FLAGS.split, flags.FLAGS.seed)


if __name__ == '__main__':
  with command_line.one_line_errors():
    # A run's gin files bind the arguments of `__main__.train`.
    from fnet_t5x.compat.train import train  # noqa: F401

    main()
