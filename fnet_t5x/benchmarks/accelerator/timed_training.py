"""Training for a given time, or a given number of steps, on prepared tokens.

Compiling, warming up and evaluating are outside of the clock. The learning rate
follows the clock, or the steps, so that each network's schedule is complete.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnet_t5x.benchmarks.accelerator import training_step
from fnet_t5x.benchmarks.accelerator.programs import Program, compile_program

if TYPE_CHECKING:
  import flax.linen as nn
  from jaxtyping import Array, Float, Int, PyTree

# Shares of the run at which the loss is measured.
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
PEAK_RATE, WARM_UP, LAST_SHARE = 0.01, 0.1, 0.1


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
    step: of optimizer, tokens, row numbers, learning rate and the run's key.
    evaluate: of parameters and tokens; returns nats, tokens and tokens
      predicted right of each row.
    start: makes the optimizer of a seed.
  """

  step: Program
  evaluate: Program
  start: Any


def learning_rate(fraction: float, peak: float = PEAK_RATE) -> float:
  """Returns the rate after a share of the run: up, then down, linearly.

  It begins and ends at `LAST_SHARE` of its peak: a rate of 0 would waste the
  first step, and networks with slower steps would lose more by it.
  """
  if fraction < WARM_UP:
    height = fraction / WARM_UP
  else:
    height = (1 - min(fraction, 1.0)) / (1 - WARM_UP)
  return peak * (LAST_SHARE + (1 - LAST_SHARE) * height)


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
  key = _key(0)
  for _ in range(2):
    times = [time.perf_counter()]
    optimizer = jax.block_until_ready(program.start(0))
    times.append(time.perf_counter())
    optimizer, loss = program.step(optimizer, train, rows, jnp.float32(0), key)
    loss.block_until_ready()
    times.append(time.perf_counter())
    jax.block_until_ready(program.evaluate(optimizer.target, validation))
    times.append(time.perf_counter())
  return Costs(*np.diff(times).tolist())


def make_programs(
  module: nn.Module,
  sizes: Sizes,
  data: tuple[dict[str, Array], dict[str, Array]],
  make_batch: Callable[..., dict[str, Array]] | None = None,
) -> Trained:
  """Compiles a network's training step and evaluation.

  Args:
    module: the network.
    sizes: what is trained.
    data: tokens of the training and the validation split, on the device; one of
      them is `inputs`.
    make_batch: function of the network, the tokens of a split, row numbers, and
      a key, which is each step's own in training and None in validation; by
      default `batch_of`.
  """
  make_batch = make_batch or batch_of
  train, validation = data

  # Compiled once, for all seeds.
  create = jax.jit(lambda key: training_step.make_optimizer(module, key))

  def start(seed):
    return create(_key(seed))

  take_step = training_step.train_step(module)

  def step(optimizer, tokens, rows, rate, key):
    key = jax.random.fold_in(key, optimizer.state.step)
    return take_step(optimizer, make_batch(module, tokens, rows, key), rate)

  def evaluate(params, tokens):
    def part(rows):
      return row_losses(module, params, make_batch(module, tokens, rows, None))

    count = tokens['inputs'].shape[0] // sizes.rows * sizes.rows
    parts = jax.lax.map(part, jnp.arange(count).reshape(-1, sizes.rows))
    return tuple(values.reshape(-1) for values in parts)

  optimizer = start(0)
  rows = jnp.arange(sizes.rows)
  rate = jnp.float32(0)
  return Trained(
    compile_program(step, optimizer, train, rows, rate, _key(0), donate=(0,)),
    compile_program(evaluate, optimizer.target, validation),
    start,
  )


def batch_of(
  module: nn.Module,
  tokens: dict[str, Int[Array, 'rows length']],
  rows: Int[Array, ' batch'],
  key: Array | None = None,
) -> dict[str, Array]:
  """Returns some rows as the network reads them; nothing is random in them."""
  del key
  return training_step.features_of(
    module, tokens['inputs'][rows], tokens['targets'][rows]
  )


def row_losses(
  module: Any, params: PyTree, batch: dict[str, Array]
) -> tuple[Float[Array, ' batch'], ...]:
  """Returns each row's nats, without z-loss, and numbers of targets.

  The numbers are those of all targets, and of those predicted right.
  """
  _, tokens = training_step.token_losses(module, params, batch)
  weights = batch['decoder_loss_weights'].astype(jnp.float32)
  return tuple(
    jnp.sum(values * weights, axis=1)
    for values in (tokens.cross_entropy, jnp.ones_like(weights), tokens.correct)
  )


def train_for(
  program: Trained,
  sizes: Sizes,
  data: tuple[dict[str, Array], dict[str, Array]],
  seed: int,
  seconds: float = math.inf,
  *,
  steps: float = math.inf,
  fractions: Sequence[float] = FRACTIONS,
  peak_rate: float = PEAK_RATE,
) -> Iterator[dict[str, Any]]:
  """Trains for a time, or a number of steps, and yields the losses meanwhile.

  The programs should have run before: see `warm_up`.

  Args:
    program: the network's.
    sizes: what is trained.
    data: tokens of both splits, on the device.
    seed: of the parameters and of the order of the examples.
    seconds: of training alone.
    steps: number of steps. Whichever of the two ends first is the end of the
      run, and of the schedule; give one of them.
    fractions: shares of the run at which the loss is measured, ending with 1.
    peak_rate: the highest learning rate.

  Yields:
    `at`: 'time', at a share of the run, or 'steps'; `share`, `seconds` of
    training, `steps`, `loss` and its `standard_error`, in nats per target token
    of the validation split, and `accuracy`, the share of them that is predicted
    right.
  """
  train, validation = data

  def evaluate():
    nats, tokens, correct = map(
      np.asarray, program.evaluate(optimizer.target, validation)
    )
    loss, error = loss_and_error(nats, tokens)
    accuracy = float(correct.sum(dtype=float) / tokens.sum(dtype=float))
    return {'loss': loss, 'standard_error': error, 'accuracy': accuracy}

  def share():
    return max(elapsed / seconds, taken / steps)

  order = _order(len(train['inputs']), sizes.rows, seed)
  key = _key(seed)
  optimizer = jax.block_until_ready(program.start(seed))
  elapsed, taken, before = 0.0, 0, None
  left, at_steps = list(fractions), sizes.steps_apart
  while left:
    start = time.perf_counter()
    rate = jnp.float32(learning_rate(share(), peak_rate))
    optimizer, loss = program.step(optimizer, train, next(order), rate, key)
    taken += 1
    # One step ahead of the device, no more: its time is the clock's.
    if before is not None:
      before.block_until_ready()
    before = loss
    now = elapsed + time.perf_counter() - start
    due = max(now / seconds, taken / steps) >= left[0]
    if due or taken == at_steps:
      loss.block_until_ready()
    elapsed += time.perf_counter() - start
    if due or taken == at_steps:
      point = {
        'share': share(),
        'seconds': elapsed,
        'steps': taken,
        **evaluate(),
      }
      if taken == at_steps:
        at_steps *= 2
        yield {'at': 'steps', **point}
      if due:
        left = [fraction for fraction in left if fraction > share()]
        yield {'at': 'time', **point}


def _key(seed: int) -> Array:
  """Returns a seed's key."""
  # JAX's usual generator takes compilers much longer.
  return jax.random.key(seed, impl='rbg')


def _order(examples: int, rows: int, seed: int) -> Iterator[Array]:
  """Yields row numbers of batches, all rows once in each pass."""
  random = np.random.default_rng(seed)
  if examples < rows:
    raise ValueError(f'{examples} examples do not fill a batch of {rows}')
  while True:
    order = random.permutation(examples)
    for first in range(0, examples - rows + 1, rows):
      yield jnp.asarray(order[first : first + rows], jnp.int32)
