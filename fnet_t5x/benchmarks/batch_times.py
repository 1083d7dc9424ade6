"""Time per batch of our tasks and of t5's, measured in turns.

Batches are made as in training: shuffled, packed, from text or SeqIO's cache.
"""

import importlib
import itertools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio

from fnet_t5x import feature_converters
from fnet_t5x.benchmarks.timing import speedup, time_in_turns
from fnet_t5x.runtime import datasets
from fnet_t5x.tasks import catalog, objective_table, objectives

# Objectives that t5 has too, under the same names.
T5_OBJECTIVES = ('span_corruption', 'prefix_lm')
_COUNTED = ('encoder_input_tokens', 'decoder_target_tokens')
_BATCH_SIZE = 128
_SEED = 0


class Setup(NamedTuple):
  """Settings of an objective's batches.

  Attributes:
    lengths: tokens by task feature.
    converter: feature converter of the model.
    pack: whether several examples share a row.
  """

  lengths: Mapping[str, int]
  converter: type[seqio.FeatureConverter]
  pack: bool


def setup_of(
  name: str, objective_name: str, lengths: Sequence[int] | None = None
) -> Setup:
  """Returns the settings of a task's batches.

  Args:
    name: a task or mixture of the catalogue.
    objective_name: its objective.
    lengths: tokens of inputs and targets; None for the task's own. Features
      aligned with the inputs get their length.
  """
  objective = objective_table.OBJECTIVES.get(objective_name)
  converter = (
    objective.feature_converter if objective else seqio.EncDecFeatureConverter
  )
  defaults = catalog.default_feature_lengths(name)
  if lengths is None:
    chosen = dict(defaults)
  elif converter is seqio.EncDecFeatureConverter:
    chosen = dict(zip(('inputs', 'targets'), lengths, strict=True))
  elif 'inputs' in defaults:
    chosen = {
      k: lengths[0] if v == defaults['inputs'] else v
      for k, v in defaults.items()
    }
  else:
    chosen = {'targets': lengths[1]}
  one_label = issubclass(
    converter, feature_converters.NextSentenceFeatureConverter
  )
  return Setup(chosen, converter, pack=not one_label)


def t5_preprocessors() -> types.ModuleType | None:
  """Returns t5's preprocessors, or None if t5 cannot be imported."""
  try:
    return importlib.import_module('t5.data.preprocessors')
  except ImportError:
    return None


def t5_twin(task: seqio.Task, objective_name: str) -> seqio.Task | None:
  """Returns the task with t5's objective instead of ours, or None."""
  theirs = t5_preprocessors()
  if theirs is None or objective_name not in T5_OBJECTIVES:
    return None
  ours = getattr(objectives, objective_name)
  return task.replace(
    preprocessors=[
      getattr(theirs, objective_name) if step is ours else step
      for step in task.preprocessors
    ]
  )


def batches(
  task: seqio.Task | seqio.Mixture, setup: Setup, use_cached: bool
) -> Iterator[Mapping[str, np.ndarray]]:
  """Returns an endless iterator over training batches."""
  cfg = datasets.DatasetConfig(
    task,
    setup.lengths,
    'train',
    batch_size=_BATCH_SIZE,
    shuffle=True,
    seed=_SEED,
    use_cached=use_cached,
    pack=setup.pack,
  )
  dataset = datasets.get_dataset(cfg, 0, 1, setup.converter)
  return dataset.as_numpy_iterator()


class Draw:
  """A call that draws some batches from an endless stream.

  Attributes:
    rows: sequences drawn so far.
    tokens: tokens in them, without padding.
    places: positions in them, with padding.
  """

  def __init__(
    self, stream: Iterator[Mapping[str, np.ndarray]], num_batches: int
  ):
    self._stream = stream
    self._num_batches = num_batches
    self.rows = self.tokens = self.places = 0

  def __call__(self) -> None:
    for batch in itertools.islice(self._stream, self._num_batches):
      counted = [batch[name] for name in _COUNTED if name in batch]
      self.rows += len(counted[0])
      self.tokens += sum(map(np.count_nonzero, counted))
      self.places += sum(array.size for array in counted)


def make_draws(
  name: str, objective_name: str, setup: Setup, num_batches: int
) -> dict[tuple[str, str], Draw]:
  """Returns a task's calls to time, by side and place it reads from."""
  task = catalog.get(name)
  sides = {'ours': task, 't5': t5_twin(task, objective_name)}
  cached = all(t.cache_dir for t in seqio.get_subtasks(task))
  return {
    (side, place): Draw(batches(which, setup, place == 'cache'), num_batches)
    for place in (('text', 'cache') if cached else ('text',))
    for side, which in sides.items()
    if which is not None
  }


def measure(
  source: str,
  objective_name: str,
  *,
  lengths: Sequence[int] | None = None,
  sequences: int = 8192,
  rounds: int = 5,
) -> list[dict[str, Any]]:
  """Times a task's batches, and t5's, in turns.

  Args:
    source: middle part of the task's name.
    objective_name: last part of the task's name.
    lengths: see `setup_of`.
    sequences: rows per call. SeqIO packs in groups of as many examples as a row
      has tokens: if a call takes only a few groups, its time varies with them.
    rounds: timed calls of each.

  Returns:
    One record per side and place: sequences and tokens per second (medians over
    rounds), `padding`, the fraction of positions that are padding, and
    `speedup` over t5 from the same place (None without t5).
  """
  name = f'fnet_{source}_{objective_name}'
  setup = setup_of(name, objective_name, lengths)
  num_batches = -(-sequences // _BATCH_SIZE)
  draws = make_draws(name, objective_name, setup, num_batches)
  times = time_in_turns(draws, rounds=rounds, seconds=float('inf'))
  rows = []
  for (side, place), draw in draws.items():
    taken, theirs = times[side, place], times.get(('t5', place))
    rate = num_batches * _BATCH_SIZE / float(np.median(taken))
    rows.append(
      {
        'task': name,
        'objective': objective_name,
        'lengths': dict(setup.lengths),
        'packed': setup.pack,
        'side': side,
        'from': place,
        'sequences_per_second': rate,
        'tokens_per_second': rate * draw.tokens / draw.rows,
        'padding': 1 - draw.tokens / draw.places,
        'rounds': len(taken),
        'speedup': None if theirs is None else speedup(theirs, taken),
      }
    )
  return rows


def sources() -> list[str]:
  """Returns the sources of the catalogue that have every objective."""
  suffix = '_span_corruption'
  return [
    name.removeprefix('fnet_').removesuffix(suffix)
    for name in catalog.CATALOG
    if name.endswith(suffix)
  ]


def check_names(source: str, objective_names: Sequence[str]) -> None:
  """Raises ValueError for an unknown source or objective."""
  known = [*objective_table.OBJECTIVES, *objective_table.MIXTURES]
  for flag, name, choices in (
    ('--source', source, sources()),
    *(('--objectives', name, known) for name in objective_names),
  ):
    if name not in choices:
      raise ValueError(f'{flag} {name}: choose from {", ".join(choices)}')
