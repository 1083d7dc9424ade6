"""Section 5: FNet and BERT, whole encoders with the heads for pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnet_t5x.benchmarks.accelerator import encoder_networks, quick_values
from fnet_t5x.benchmarks.accelerator.bench import Bench, Setting
from fnet_t5x.benchmarks.accelerator.programs import (
  Program,
  compile_program,
  time_calls,
)

if TYPE_CHECKING:
  from jaxtyping import Array, Float, PyTree

  from fnet_t5x.networks.fnet import FNet

_MASKED = 0.15


class Sizes(NamedTuple):
  """Sizes of a case.

  Attributes:
    size: a key of `encoder_networks.SIZES`.
    layers: number of layers.
    length: tokens per row.
    rows: rows per batch.
  """

  size: str
  layers: int
  length: int
  rows: int


def all_sizes(setting: Setting) -> tuple[Sizes, ...]:
  """Returns the sizes to measure: as many tokens per batch at each length."""
  if setting.toy:
    return (Sizes('toy', 2, 32, 2),)
  if setting.backend == 'cpu':
    return (Sizes('base', 2, 512, 2),)
  return (Sizes('base', 12, 512, 64), Sizes('base', 12, 2048, 16))


def run(bench: Bench) -> None:
  """Measures every encoder at every length."""
  for sizes in all_sizes(bench.setting):
    for name in encoder_networks.ENCODERS:
      measure(bench, name, sizes)


def measure(bench: Bench, name: str, sizes: Sizes) -> None:
  """Times one encoder, forward and backward."""
  labels = {'encoder': name, **sizes._asdict()}
  baseline = {**labels, 'encoder': encoder_networks.BASELINE}

  def timed():
    result = time_encoder(name, bench.setting, sizes)
    reference = bench.found(bench.section, **baseline)
    return {
      **result,
      'speed_of_bert': reference['run_seconds'] / result['run_seconds']
      if reference
      else None,
    }

  guess = 3.0 if bench.setting.toy else 20.0
  needs = 0
  if name == encoder_networks.BASELINE:
    # Attention weights, saved for the backward pass.
    heads = encoder_networks.SIZES[sizes.size]['num_heads']
    needs = 4 * sizes.layers * heads * sizes.rows * sizes.length**2
  bench.case(
    labels, timed, kind=f'encoder {sizes.size}', guess=guess, needs_bytes=needs
  )


def time_encoder(
  name: str, setting: Setting, sizes: Sizes
) -> Mapping[str, Any]:
  """Times the loss of one encoder with its gradients.

  Returns:
    `run_seconds`, `sequences_per_second` and `compile_seconds`.
  """
  module = encoder_networks.make_network(
    name, sizes.size, sizes.layers, sizes.length, setting.dtype
  )
  batch = make_batch(sizes.rows, sizes.length, module.config.vocab_size)
  params = make_params(module, batch)
  program = compile_loss(module, params, batch, backward=True)
  times = time_calls(
    lambda: program(params, batch), seconds=setting.timing_seconds
  )
  return {
    'run_seconds': times.median,
    'sequences_per_second': sizes.rows / times.median,
    'compile_seconds': program.compile_seconds,
  }


def make_batch(rows: int, length: int, vocab_size: int) -> dict[str, Array]:
  """Returns full rows of random tokens, and what to predict of them."""
  random = np.random.default_rng(0)
  masked = max(int(_MASKED * length), 1)
  tokens = random.integers(7, vocab_size, (rows, length), np.int32)
  types = np.tile(np.arange(length) >= length // 2, (rows, 1))
  places = np.stack(
    [np.sort(random.permutation(length)[:masked]) for _ in range(rows)]
  )
  batch = {
    'tokens': tokens,
    'types': types.astype(np.int32),
    'places': places.astype(np.int32),
    'targets': random.integers(7, vocab_size, (rows, masked), np.int32),
    'pairs': random.integers(0, 2, rows, np.int32),
  }
  return {name: jnp.asarray(value) for name, value in batch.items()}


def loss(
  module: FNet, params: Any, batch: dict[str, Array]
) -> Float[Array, '']:
  """Returns the published loss of pretraining, in nats."""
  import optax

  def apply(method, *inputs, **options):
    return module.apply({'params': params}, *inputs, method=method, **options)

  hidden = apply(
    module.encode, batch['tokens'], batch['types'], enable_dropout=False
  )
  chosen = jnp.take_along_axis(hidden, batch['places'][..., None], axis=1)
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  tokens = cross_entropy(apply(module.mlm_logits, chosen), batch['targets'])
  pair_logits = apply(module.pair_logits, apply(module.pool, hidden))
  return tokens.mean() + cross_entropy(pair_logits, batch['pairs']).mean()


def make_params(module: FNet, batch: Mapping[str, Array]) -> PyTree:
  """Returns parameters of the right size, without compiling initializers."""
  shapes = jax.eval_shape(
    lambda: module.init(
      jax.random.key(0), batch['tokens'][:1], enable_dropout=False
    )
  )
  return quick_values.fill(shapes['params'], 0)


def compile_loss(
  module: FNet, params: PyTree, batch: Mapping[str, Array], backward: bool
) -> Program:
  """Compiles the loss, with `backward` also its gradients."""

  def value(params, batch):
    return loss(module, params, batch)

  function = jax.value_and_grad(value) if backward else value
  return compile_program(function, params, batch)
