"""Registration of evaluation tasks: TFDS datasets as text to text.

Formats, metrics and metric names are T5's (Raffel et al. 2020, arXiv
1910.10683, appendix D; package t5 0.9.4). Test splits without labels are not
registered. Nothing is read until a task is used.
"""

from collections.abc import Callable, Iterable, Mapping

import seqio
import tensorflow as tf

from fnet_t5x.tasks import registration, tfds_source, vocabularies

# T5's cap on a task's share of a mixture (section 3.5.2 of the paper: K).
RATE_CAP = 2**19


# A single object: SeqIO compares the vocabularies of a mixture's tasks at
# registration, and comparing distinct objects would load them.
VOCABULARY = vocabularies.DefaultVocabulary()


def features(targets_end: bool = True) -> dict[str, seqio.Feature]:
  """Returns inputs and targets in the default vocabulary.

  Args:
    targets_end: whether the targets end in EOS; the inputs always do.
  """
  return {
    'inputs': seqio.Feature(VOCABULARY, add_eos=True),
    'targets': seqio.Feature(VOCABULARY, add_eos=targets_end),
  }


def register(
  name: str,
  tfds_name: str,
  splits: Iterable[str] | Mapping[str, str],
  to_text: Callable[[tf.data.Dataset], tf.data.Dataset],
  metric_fns: Iterable[Callable],
  objective: str,
  feature_lengths: Mapping[str, int],
  postprocess_fn: Callable | None = None,
) -> registration.Entry:
  """Registers a text-to-text task on a TFDS dataset.

  Args:
    name: name of the task.
    tfds_name: dataset, config and version: 'glue/cola:2.0.0'.
    splits: splits with labels; or a mapping from split name to TFDS's split.
    to_text: maps examples to the strings `inputs` and `targets`, and keeps the
      features that `postprocess_fn` needs.
    metric_fns: metric functions, for SeqIO's evaluator.
    objective: one-line summary of the task, for the catalog.
    feature_lengths: default length in tokens by feature, EOS included.
    postprocess_fn: postprocessor, for SeqIO's evaluator.

  Returns:
    The catalog entry.
  """
  seqio.TaskRegistry.add(
    name,
    source=tfds_source.TfdsSource(tfds_name, splits),
    preprocessors=[
      to_text,
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features=features(),
    postprocess_fn=postprocess_fn,
    metric_fns=list(metric_fns),
  )
  return registration.Entry(
    name, f'TFDS {tfds_name}', objective, feature_lengths
  )


def _rate(task: seqio.Task) -> float:
  """Returns the number of training examples, capped; 0 without such a split."""
  if 'train' not in task.splits:
    return 0.0
  if task.cache_dir:
    examples = task.get_cached_stats('train')['examples']
  else:
    examples = task.num_input_examples('train')
  return float(min(examples, RATE_CAP))


def register_mixture(
  name: str,
  entries: Iterable[registration.Entry],
  feature_lengths: Mapping[str, int],
) -> registration.Entry:
  """Registers a mixture of tasks, in proportion to their sizes.

  T5's examples-proportional mixing: rates are numbers of training examples, at
  most RATE_CAP, looked up when the mixture is used.
  """
  names = [entry.name for entry in entries]
  seqio.MixtureRegistry.add(name, names, default_rate=_rate)
  return registration.Entry(
    name,
    f'{len(names)} tasks {name}_*',
    'all tasks, in proportion to their training examples',
    feature_lengths,
  )
