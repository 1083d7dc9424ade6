"""Section 6: the loss of several networks after the same time of training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fnet_t5x.benchmarks.accelerator import networks, prepared_corpus
from fnet_t5x.benchmarks.accelerator.bench import Bench, Setting
from fnet_t5x.benchmarks.accelerator.timed_training import (
  FRACTIONS,
  Costs,
  Sizes,
  make_programs,
  train_for,
  warm_up,
)

NETWORKS = (
  *networks.NETWORKS.values(),
  # Whether context counts at all in this regime.
  networks.Network('none', 'none', 0),
  networks.DECODER_ONLY,
)
_SEEDS = 3
# Below so many seconds per run one seed takes all of the time.
_MIN_SECONDS = 30.0


def all_sizes(setting: Setting) -> Sizes:
  """Returns what this machine trains."""
  if setting.toy:
    return Sizes('toy', 4, 8, 2)
  if setting.backend == 'cpu':
    return Sizes('small', 4, 32, 8)
  return Sizes('small', 64, 512, 64)


def run(bench: Bench) -> None:
  """Trains every network for the same time, seed after seed."""
  try:
    corpus = prepared_corpus.load(bench.setting.corpus)
  except ValueError as error:
    bench.note(str(error))
    return
  sizes = all_sizes(bench.setting)
  train, validation = (
    {
      side: jnp.asarray(corpus.arrays[f'{split}_{side}'].astype(np.int32))
      for side in prepared_corpus.LENGTHS
    }
    for split in prepared_corpus.ROWS
  )
  validation = {k: v[: sizes.validation_rows] for k, v in validation.items()}
  data = (train, validation)
  if min(len(split['inputs']) for split in data) < sizes.rows:
    bench.note(f'the corpus has fewer rows than a batch: {sizes.rows}')
    return
  programs, costs = {}, {}
  for network in NETWORKS:

    def compile_one(network=network):
      module = network.make(
        sizes.size,
        dtype=bench.setting.dtype,
        vocab_size=corpus.vocab_size,
        max_encoder_length=train['inputs'].shape[1],
        max_target_length=train['targets'].shape[1],
      )
      made = make_programs(module, sizes, data)
      # Devices load programs on their first run; the clock leaves that out.
      costs[network.name] = warm_up(made, sizes, data)
      programs[network.name] = made
      return {'compile_seconds': made.step.compile_seconds}

    labels = {'case': 'compile', 'network': network.name, 'size': sizes.size}
    guess = 5.0 if bench.setting.toy else 20.0
    bench.case(labels, compile_one, kind='compile', guess=guess)
  seeds, seconds = share_time(
    list(costs.values()), sizes, bench.clock.remaining()
  )
  if not seeds:
    bench.note('no time is left for training')
    return
  for seed in range(seeds):
    for name, program in programs.items():
      _measure(bench, name, program, sizes, data, seed, seconds)


def share_time(
  costs: Sequence[Costs], sizes: Sizes, remaining: float
) -> tuple[int, float]:
  """Returns the number of seeds, and the training time of each run.

  Args:
    costs: costs of each network.
    sizes: what is trained.
    remaining: seconds left in the section, for training and evaluation.

  Returns:
    The number of seeds, 0 if no time is left; and the seconds of training per
    run, the same for every network.
  """
  usable = 0.95 * remaining

  def seconds_of(seeds):
    seconds = usable / max(len(costs) * seeds, 1)
    # An upper bound: evaluations leave less time, and so fewer evaluations.
    apart = sum(
      cost.start
      + cost.step
      + cost.evaluate * _evaluations(seconds / cost.step, sizes)
      for cost in costs
    )
    return (usable - apart * seeds) / max(len(costs) * seeds, 1)

  seconds = seconds_of(_SEEDS)
  if seconds >= _MIN_SECONDS:
    return _SEEDS, seconds
  seconds = seconds_of(1)
  return (1, seconds) if seconds > 0 else (0, 0.0)


def _evaluations(steps, sizes):
  """Returns the maximum number of evaluations in a run of so many steps."""
  doublings = math.log2(max(steps / sizes.steps_apart, 0.5))
  return len(FRACTIONS) + max(int(doublings) + 1, 0)


def _measure(bench, name, program, sizes, data, seed, seconds):
  labels = {'network': name, 'size': sizes.size, 'seed': seed}

  def measure():
    last = {}
    for point in train_for(program, sizes, data, seed, seconds):
      bench.row({'case': 'point', **labels, 'at': point.pop('at')}, point)
      last = point
    return {'train_seconds': seconds, **last}

  bench.case(
    {'case': 'training', **labels}, measure, kind='training', guess=seconds
  )
