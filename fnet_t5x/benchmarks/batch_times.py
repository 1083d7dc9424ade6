"""Times the batches of tasks, and of t5's, in turns.

A batch is made as in training: shuffled, packed, from text or SeqIO's cache.
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

# What t5 has too, under the same name.
T5_OBJECTIVES = ('span_corruption', 'prefix_lm')
_COUNTED = ('encoder_input_tokens', 'decoder_target_tokens')
_BATCH_SIZE = 128
_SEED = 0


class Setup(NamedTuple):
  """How an objective's batches are made.

  Attributes:
    lengths: tokens by task feature.
    converter: what makes model features.
    pack: whether several examples share a row.
  """

  lengths: Mapping[str, int]
  converter: type[seqio.FeatureConverter]
  pack: bool


def setup_of(
  name: str, objective_name: str, lengths: Sequence[int] | None = None
) -> Setup:
  """Returns how a task's batches are made.

  Args:
    name: a task or mixture of the catalogue.
    objective_name: its objective.
    lengths: tokens of inputs and targets; None takes the task's own. Features
      that belong to the inputs, position by position, get their length.
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
  """t5's own, or None where t5 or something it needs is not installed."""
  try:
    return importlib.import_module('t5.data.preprocessors')
  except ImportError:
    return None


def t5_twin(task: seqio.Task, objective_name: str) -> seqio.Task | None:
  """The task with t5's objective in the place of ours, where t5 has it."""
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
  """Training batches without end."""
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
  """A call that takes some batches of an endless stream.

  Attributes:
    rows: sequences taken by all calls so far.
    tokens: in them, padding not counted.
    places: in them, for tokens or padding.
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
  """Returns what to time of a task, by side and place it reads from."""
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
    objective_name: last part of it.
    lengths: see `setup_of`.
    sequences: rows a call. SeqIO packs groups of as many examples as a row has
      tokens: calls of few groups time how these happen to fall.
    rounds: timed calls of each.

  Returns:
    One record a side and place: sequences and tokens per second (medians over
    rounds), `padding`, the share of the places that hold none, and `speedup`:
    how many times faster than t5 from the same place (None without t5).
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
  """Sources of the catalogue that have every objective."""
  suffix = '_span_corruption'
  return [
    name.removeprefix('fnet_').removesuffix(suffix)
    for name in catalog.CATALOG
    if name.endswith(suffix)
  ]


def check_names(source: str, objective_names: Sequence[str]) -> None:
  """Raises ValueError where the catalogue has no such source or objective."""
  known = [*objective_table.OBJECTIVES, *objective_table.MIXTURES]
  for flag, name, choices in (
    ('--source', source, sources()),
    *(('--objectives', name, known) for name in objective_names),
  ):
    if name not in choices:
      raise ValueError(f'{flag} {name}: choose from {", ".join(choices)}')
