"""What the evaluation tasks have in common: TFDS sources, text to text.

Formats, metrics and names of metrics are T5's (Raffel et al. 2020, arXiv
1910.10683, appendix D; package t5 0.9.4). Test splits without labels are not
registered. Nothing is read before a task is used.
"""

from collections.abc import Callable, Iterable, Mapping

import seqio
import tensorflow as tf

from fnet_t5x.tasks import registration, tfds_source, vocabularies

# T5's cap on a task's share of a mixture (section 3.5.2 of the paper: K).
RATE_CAP = 2**19


# One object: seqio compares the vocabularies of a mixture's tasks when it is
# registered, and equal ones would be read for it.
VOCABULARY = vocabularies.DefaultVocabulary()


def features(targets_end: bool = True) -> dict[str, seqio.Feature]:
  """Inputs and targets in the default vocabulary.

  Args:
    targets_end: whether the targets end in EOS; the inputs do.
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
  """Registers a task of strings: TFDS examples to `inputs` and `targets`.

  Args:
    name: the task's.
    tfds_name: dataset, config and version: 'glue/cola:2.0.0'.
    splits: splits with labels; or TFDS's splits by the names to offer them
      under.
    to_text: makes strings `inputs` and `targets` of the examples, and keeps
      what `postprocess_fn` needs.
    metric_fns: the task's, for seqio's evaluator.
    objective: what it asks of a model, in a line, for the catalogue.
    feature_lengths: default length in tokens by feature, EOS included.
    postprocess_fn: the task's, for seqio's evaluator.

  Returns:
    The catalogue's line.
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
  """Number of training examples, capped; 0 for a task that has none."""
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
  """Registers all of some tasks as one, in proportion to their sizes.

  Rates are numbers of training examples, up to RATE_CAP, read when the mixture
  is used (T5's examples-proportional mixing).
  """
  names = [entry.name for entry in entries]
  seqio.MixtureRegistry.add(name, names, default_rate=_rate)
  return registration.Entry(
    name,
    f'{len(names)} tasks {name}_*',
    'all of them, in proportion to their training examples',
    feature_lengths,
  )
