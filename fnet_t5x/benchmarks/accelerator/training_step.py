"""The runtime's training step, without its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fnet_t5x.benchmarks.accelerator import networks, quick_values

if TYPE_CHECKING:
  import flax.linen as nn
  import jax
  from jaxtyping import Array, Float, Int

  from fnet_t5x.runtime.losses import TokenLosses
  from fnet_t5x.runtime.optimizers import Optimizer

Batch = Mapping[str, Any]

# Values of gin/models/t5_base.gin.
Z_LOSS = 0.0001
_ADAFACTOR = {'decay_rate': 0.8, 'step_offset': 0}


def make_batch(
  rows: int,
  inputs: int,
  targets: int,
  vocab_size: int,
  *,
  packed: bool = False,
  seed: int = 0,
) -> dict[str, Array]:
  """Returns a batch of random tokens without padding, by model feature.

  Args:
    rows: batch size.
    inputs: input tokens per row.
    targets: target tokens per row.
    vocab_size: ids are drawn from [3, vocab_size).
    packed: whether each row has three packed examples, of unequal lengths.
    seed: seed of the tokens.
  """
  import jax.numpy as jnp
  import numpy as np

  random = np.random.default_rng(seed)

  def tokens(length):
    return random.integers(3, vocab_size, (rows, length), np.int32)

  decoded = jnp.asarray(tokens(targets))
  batch = model_features(jnp.asarray(tokens(inputs)), decoded)
  if packed:
    for side, length in (('encoder', inputs), ('decoder', targets)):
      starts = np.array([0, length // 2, length - length // 5])
      index = np.arange(length)
      segments = np.searchsorted(starts, index, side='right')
      positions = index - starts[segments - 1]
      for name, row in (('segment_ids', segments), ('positions', positions)):
        row = np.tile(row.astype(np.int32), (rows, 1))
        batch[f'{side}_{name}'] = jnp.asarray(row)
  return batch


def model_features(
  inputs: Int[Array, 'batch length'], targets: Int[Array, 'batch length']
) -> dict[str, Array]:
  """Returns a batch of one example per row; 0 is padding."""
  import jax.numpy as jnp

  return {
    'encoder_input_tokens': inputs,
    'decoder_target_tokens': targets,
    'decoder_input_tokens': jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    'decoder_loss_weights': (targets > 0).astype(jnp.int32),
  }


def decoder_only_features(
  inputs: Int[Array, 'batch input_length'],
  targets: Int[Array, 'batch target_length'],
) -> dict[str, Array]:
  """Returns a batch of texts of inputs and targets; 0 is padding.

  As SeqIO's feature converter makes it: targets follow their inputs at once,
  padding is at the end, and the loss is that of the targets.
  """
  import jax.numpy as jnp

  length = inputs.shape[1] + targets.shape[1]
  starts = jnp.sum(inputs > 0, axis=1, keepdims=True)
  places = jnp.arange(length)[None]
  both = jnp.concatenate([inputs, targets], axis=1)
  # Targets begin in column `inputs.shape[1]` of `both`, past the padding.
  gap = inputs.shape[1] - starts
  found = jnp.where(places < starts, places, places + gap)
  text = jnp.take_along_axis(both, jnp.minimum(found, length - 1), axis=1)
  text = jnp.where(found < length, text, 0)
  return {
    'decoder_target_tokens': text,
    'decoder_input_tokens': jnp.pad(text, ((0, 0), (1, 0)))[:, :-1],
    'decoder_loss_weights': ((text > 0) & (places >= starts)).astype(jnp.int32),
  }


def features_of(
  module: nn.Module,
  inputs: Int[Array, 'batch input_length'],
  targets: Int[Array, 'batch target_length'],
) -> dict[str, Array]:
  """Returns a batch as the module reads it, of one example per row."""
  if networks.is_decoder_only(module):
    return decoder_only_features(inputs, targets)
  return model_features(inputs, targets)


def make_optimizer(
  module: nn.Module, key: jax.Array | None, seed: int = 0
) -> Optimizer:
  """Returns parameters and Adafactor's state at step 0.

  Args:
    module: a network with logical axes, as of `networks.features_read`.
    key: PRNG key of the initial values; None for those of `quick_values`, which
      suffice for timing. A key of `jax.random.key(..., impl='rbg')` compiles
      faster than JAX's default.
    seed: seed of the quick values.
  """
  import jax
  from flax.linen import partitioning

  from fnet_t5x.runtime import adafactor

  tokens = networks.example_tokens(module)

  def init(key):
    return module.init(key, *tokens, enable_dropout=False)

  shapes = jax.eval_shape(init, jax.random.key(0))
  optimizer_def = adafactor.Adafactor(
    **_ADAFACTOR,
    logical_factor_rules=adafactor.standard_logical_factor_rules(),
  )
  optimizer_def.set_param_axes(
    partitioning.get_axis_names(shapes['params_axes'])
  )
  if key is not None:
    return jax.jit(lambda key: optimizer_def.create(init(key)['params']))(key)
  empty = jax.eval_shape(optimizer_def.create, shapes['params'])
  return empty.replace(
    target=quick_values.fill(shapes['params'], seed),
    state=quick_values.zeros(empty.state),
  )


def loss(
  module: nn.Module, params: Any, batch: Batch, dropout_key: Any = None
) -> Float[Array, '']:
  """Returns the loss of a batch with T5's z-loss, in nats per target token.

  Args:
    module: the network.
    params: its parameters.
    batch: as `make_batch` returns it.
    dropout_key: None for no dropout.
  """
  from fnet_t5x.runtime import losses

  factor, weights = losses.get_loss_normalizing_factor_and_weights(
    'NUM_REAL_TARGET_TOKENS', batch
  )
  total, _ = token_losses(
    module, params, batch, dropout_key, weights=weights, z_loss=Z_LOSS
  )
  return total / factor


def token_losses(
  module: nn.Module,
  params: Any,
  batch: Batch,
  dropout_key: Any = None,
  **options: Any,
) -> tuple[Float[Array, ''], TokenLosses]:
  """Returns `losses.output_cross_entropy` of a batch.

  Args:
    module: the network.
    params: its parameters.
    batch: as `make_batch` returns it.
    dropout_key: None for no dropout.
    **options: of `output_cross_entropy`.
  """
  from fnet_t5x.runtime import losses

  options_of_apply = {
    'enable_dropout': dropout_key is not None,
    'return_hidden': True,
    'rngs': None if dropout_key is None else {'dropout': dropout_key},
  }
  read = networks.features_read(module)
  for side in ('encoder', 'decoder'):
    if f'{side}_input_tokens' in read:
      for name in (f'{side}_segment_ids', f'{side}_positions'):
        options_of_apply[name] = batch.get(name)
  inputs = (batch[name] for name in read)
  hidden = module.apply({'params': params}, *inputs, **options_of_apply)
  kernel = module.apply({'params': params}, method=module.output_kernel)
  return losses.output_cross_entropy(
    hidden, kernel, batch['decoder_target_tokens'], **options
  )


def train_step(
  module: nn.Module,
) -> Callable[..., tuple[Optimizer, Float[Array, '']]]:
  """Returns a function of optimizer, batch, learning rate and dropout key.

  It returns the next optimizer and the loss. The learning rate is an array. The
  key is that of the run, from which each step's is derived by `fold_in`; None
  for no dropout. Intended for `compile_program(..., donate=(0,))`.
  """
  import jax

  def step(optimizer, batch, learning_rate, key=None):
    if key is not None:
      key = jax.random.fold_in(key, optimizer.state.step)
    value, grads = jax.value_and_grad(
      lambda params: loss(module, params, batch, key)
    )(optimizer.target)
    return optimizer.apply_gradient(grads, learning_rate=learning_rate), value

  return step
