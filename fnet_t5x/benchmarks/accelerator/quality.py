"""Section 6: the loss of several encoders after the same time of training.

Compiling, warming up and evaluating are outside of the clock. The learning rate
follows the clock, not the steps, so that each network's schedule is complete.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnet_t5x.benchmarks.accelerator import (
  networks,
  prepared_corpus,
  training_step,
)
from fnet_t5x.benchmarks.accelerator.bench import Bench, Setting
from fnet_t5x.benchmarks.accelerator.programs import Program, compile_program

if TYPE_CHECKING:
  from jaxtyping import Array, Float, Int, PyTree

NETWORKS = (
  *networks.NETWORKS.values(),
  # Whether context counts at all in this regime.
  networks.Network('none', 'none', 0),
)
# Shares of the training time at which the loss is measured.
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
PEAK_RATE, WARM_UP, LAST_SHARE = 0.01, 0.1, 0.1
_SEEDS = 3
# Below so many seconds per run one seed takes all of the time.
_MIN_SECONDS = 30.0


class Sizes(NamedTuple):
  """What is trained.

  Attributes:
    size: of the networks.
    rows: examples of a batch.
    validation_rows: examples that are evaluated, a multiple of `rows`.
    steps_apart: the first number of steps with an evaluation, to compare
      networks at equal steps; doubled again and again.
  """

  size: str
  rows: int
  validation_rows: int
  steps_apart: int


class Trained(NamedTuple):
  """A network's programs.

  Attributes:
    step: of optimizer, tokens, row numbers and learning rate.
    evaluate: of parameters and tokens; returns nats and tokens of each row.
    start: makes the optimizer of a seed.
  """

  step: Program
  evaluate: Program
  start: Any


def all_sizes(setting: Setting) -> Sizes:
  """Returns what this machine trains."""
  if setting.toy:
    return Sizes('toy', 4, 8, 2)
  if setting.backend == 'cpu':
    return Sizes('small', 4, 32, 8)
  return Sizes('small', 64, 512, 64)


def learning_rate(fraction: float) -> float:
  """Returns the rate after a share of the time: up, then down, linearly.

  It begins and ends at `LAST_SHARE` of its peak: a rate of 0 would waste the
  first step, and networks with slower steps would lose more by it.
  """
  if fraction < WARM_UP:
    height = fraction / WARM_UP
  else:
    height = (1 - min(fraction, 1.0)) / (1 - WARM_UP)
  return PEAK_RATE * (LAST_SHARE + (1 - LAST_SHARE) * height)


def loss_and_error(
  nats: Float[np.ndarray, ' rows'], tokens: Float[np.ndarray, ' rows']
) -> tuple[float, float]:
  """Returns nats per token of all rows, and its standard error.

  Rows are independent, their tokens are not: the error is that of a ratio of
  two sums over rows (W. Cochran, Sampling Techniques, 1977, equation 6.13).
  """
  nats, tokens = np.float64(nats), np.float64(tokens)
  loss = nats.sum() / tokens.sum()
  spread = np.sum((nats - loss * tokens) ** 2)
  rows = len(nats)
  variance = spread * rows / max(rows - 1, 1)
  return float(loss), float(np.sqrt(variance) / tokens.sum())


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
      made = make_programs(network, bench.setting, sizes, corpus, data)
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


class Costs(NamedTuple):
  """Seconds per warm call of each of a network's programs."""

  start: float
  step: float
  evaluate: float


def warm_up(
  program: Trained,
  sizes: Sizes,
  data: tuple[dict[str, Array], dict[str, Array]],
) -> Costs:
  """Runs each program twice, and times the second call."""
  train, validation = data
  rows = next(_order(len(train['inputs']), sizes.rows, 0))
  for _ in range(2):
    times = [time.perf_counter()]
    optimizer = jax.block_until_ready(program.start(0))
    times.append(time.perf_counter())
    optimizer, loss = program.step(optimizer, train, rows, jnp.float32(0))
    loss.block_until_ready()
    times.append(time.perf_counter())
    jax.block_until_ready(program.evaluate(optimizer.target, validation))
    times.append(time.perf_counter())
  return Costs(*np.diff(times).tolist())


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


def make_programs(
  network: networks.Network,
  setting: Setting,
  sizes: Sizes,
  corpus: prepared_corpus.PreparedCorpus,
  data: tuple[dict[str, Array], dict[str, Array]],
) -> Trained:
  """Compiles a network's training step and evaluation.

  Args:
    network: to train.
    setting: of the kit.
    sizes: what is trained.
    corpus: says the vocabulary's size.
    data: tokens of the training and the validation split, on the device.
  """
  train, validation = data
  module = network.make(
    sizes.size,
    dtype=setting.dtype,
    vocab_size=corpus.vocab_size,
    max_encoder_length=train['inputs'].shape[1],
  )

  def start(seed):
    # JAX's usual generator takes compilers much longer.
    key = jax.random.key(seed, impl='rbg')
    return training_step.make_optimizer(module, key)

  take_step = training_step.train_step(module)

  def step(optimizer, tokens, rows, rate):
    return take_step(optimizer, batch_of(tokens, rows), rate)

  def evaluate(params, tokens):
    def part(rows):
      return row_losses(module, params, batch_of(tokens, rows))

    count = tokens['inputs'].shape[0] // sizes.rows * sizes.rows
    nats, weights = jax.lax.map(part, jnp.arange(count).reshape(-1, sizes.rows))
    return nats.reshape(-1), weights.reshape(-1)

  optimizer = start(setting.seed)
  rows = jnp.arange(sizes.rows)
  rate = jnp.float32(0)
  return Trained(
    compile_program(step, optimizer, train, rows, rate, donate=(0,)),
    compile_program(evaluate, optimizer.target, validation),
    start,
  )


def batch_of(
  tokens: dict[str, Int[Array, 'rows length']], rows: Int[Array, ' batch']
) -> dict[str, Array]:
  """Returns the model features of some rows."""
  return training_step.model_features(
    tokens['inputs'][rows], tokens['targets'][rows]
  )


def row_losses(
  module: Any, params: PyTree, batch: dict[str, Array]
) -> tuple[Float[Array, ' batch'], Float[Array, ' batch']]:
  """Returns each row's nats, without z-loss, and its number of targets."""
  _, tokens = training_step.token_losses(module, params, batch)
  weights = batch['decoder_loss_weights'].astype(jnp.float32)
  nats = jnp.sum(tokens.cross_entropy * weights, axis=1)
  return nats, jnp.sum(weights, axis=1)


def train_for(
  program: Trained,
  sizes: Sizes,
  data: tuple[dict[str, Array], dict[str, Array]],
  seed: int,
  seconds: float,
) -> Iterator[dict[str, Any]]:
  """Trains for a time, and yields what the loss is meanwhile.

  The programs should have run before: see `warm_up`.

  Args:
    program: the network's.
    sizes: what is trained.
    data: tokens of both splits, on the device.
    seed: of the parameters and of the order of the examples.
    seconds: of training alone.

  Yields:
    `at`: 'time', at a share of it, or 'steps'; `share`, `steps`, `loss` and its
    `standard_error`, in nats per target token of the validation split.
  """
  train, validation = data

  def evaluate():
    return loss_and_error(
      *map(np.asarray, program.evaluate(optimizer.target, validation))
    )

  order = _order(len(train['inputs']), sizes.rows, seed)
  optimizer = jax.block_until_ready(program.start(seed))
  elapsed, steps, before = 0.0, 0, None
  fractions, at_steps = list(FRACTIONS), sizes.steps_apart
  while fractions:
    start = time.perf_counter()
    rate = jnp.float32(learning_rate(elapsed / seconds))
    optimizer, loss = program.step(optimizer, train, next(order), rate)
    steps += 1
    # One step ahead of the device, no more: its time is the clock's.
    if before is not None:
      before.block_until_ready()
    before = loss
    due = (elapsed + time.perf_counter() - start) / seconds >= fractions[0]
    if due or steps == at_steps:
      loss.block_until_ready()
    elapsed += time.perf_counter() - start
    if due or steps == at_steps:
      value, error = evaluate()
      point = {
        'share': elapsed / seconds,
        'steps': steps,
        'loss': value,
        'standard_error': error,
      }
      if steps == at_steps:
        at_steps *= 2
        yield {'at': 'steps', **point}
      if due:
        share = elapsed / seconds
        fractions = [f for f in fractions if f > share]
        yield {'at': 'time', **point}


def _order(examples: int, rows: int, seed: int) -> Iterator[Array]:
  """Yields row numbers of batches, all rows once in each pass."""
  random = np.random.default_rng(seed)
  if examples < rows:
    raise ValueError(f'{examples} examples do not fill a batch of {rows}')
  while True:
    order = random.permutation(examples)
    for first in range(0, examples - rows + 1, rows):
      yield jnp.asarray(order[first : first + rows], jnp.int32)
