"""Models: a network with its loss, scoring and decoding."""

import abc
import dataclasses
import inspect
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import seqio
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Int, PyTree

from fnet_t5x import number_ranges
from fnet_t5x.networks import decoding as network_decoding
from fnet_t5x.runtime import decoding, losses
from fnet_t5x.runtime.metrics import (
  MetricsMap,
  compute_base_metrics,
  compute_token_metrics,
  count_packed_examples,  # noqa: F401 (T5X's name)
)

Batch = Mapping[str, Array]
LossNormalizingFactor = (
  float | int | str | losses.SpecialLossNormalizingFactor | None
)
# (inputs, cache, tokens_to_logits, eos_id, num_decodes, cache_offset, ...) ->
# decodes [batch, num_decodes, length], scores [batch, num_decodes], both in
# increasing order of score.
DecodeFnCallable = Callable[..., tuple[jax.Array, jax.Array]]


class BaseModel(abc.ABC):
  """Model interface of the trainer, the evaluator and the inference loop."""

  FEATURE_CONVERTER_CLS: Callable[..., seqio.FeatureConverter]
  # What a run suggests at its end.
  USE = 'continue a text with it, or evaluate it:'
  EXAMPLE_PROMPT: str | None = '...'

  def __init__(self, optimizer_def):
    self.optimizer_def = optimizer_def

  @abc.abstractmethod
  def loss_fn(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[Float[Array, ''], MetricsMap]:
    """Returns loss and metrics of a batch; no dropout without `dropout_rng`."""

  def eval_fn(
    self, params: PyTree, batch: Batch
  ) -> tuple[Float[Array, ''], MetricsMap]:
    """Returns loss and metrics of a batch, without dropout."""
    return self.loss_fn(params=params, batch=batch, dropout_rng=None)

  def predict_batch(
    self, params: PyTree, batch: Batch, rng: jax.Array | None = None
  ) -> Int[Array, 'batch length']:
    """Returns the token ids that the model generates for a batch."""
    return self.predict_batch_with_aux(params=params, batch=batch, rng=rng)[0]

  @abc.abstractmethod
  def predict_batch_with_aux(
    self, params: PyTree, batch: Batch, rng: jax.Array | None = None
  ) -> tuple[Int[Array, 'batch length'], Mapping[str, Array]]:
    """Returns `predict_batch`'s token ids, and auxiliary values (`scores`)."""

  @abc.abstractmethod
  def score_batch(
    self, params: PyTree, batch: Batch, return_intermediates: bool = False
  ) -> Float[Array, ' batch']:
    """Returns the log-likelihood in nats of the targets, per example."""

  @abc.abstractmethod
  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, tuple[int, ...]],
    input_types: Mapping[str, jnp.dtype] | None = None,
  ) -> PyTree:
    """Initialises variables for batches of these shapes."""


class BaseTransformerModel(BaseModel):
  """Model trained with the cross-entropy of the next token."""

  def __init__(
    self,
    module: nn.Module,
    input_vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary,
    optimizer_def,
    decode_fn: DecodeFnCallable | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    loss_normalizing_factor: LossNormalizingFactor = None,
  ):
    number_ranges.check('LABEL_SMOOTHING', label_smoothing, 0, below=1)
    number_ranges.check('Z_LOSS', z_loss, 0)
    self.module = module
    self._input_vocabulary = input_vocabulary
    self._output_vocabulary = output_vocabulary
    self._decode_fn = decode_fn
    self._label_smoothing = label_smoothing
    self._z_loss = z_loss
    self._loss_normalizing_factor = loss_normalizing_factor
    super().__init__(optimizer_def=optimizer_def)

  @property
  def input_vocabulary(self):
    return self._input_vocabulary

  @property
  def output_vocabulary(self):
    return self._output_vocabulary

  @property
  def decode_fn(self):
    return self._decode_fn

  def _compute_logits(
    self,
    params: PyTree,
    batch: Batch,
    dropout_rng: jax.Array | None = None,
    mutable=False,
    other_variables: PyTree | None = None,
  ):
    """Returns teacher-forced logits, and updated collections if `mutable`."""
    return self._teacher_forced(
      params, batch, dropout_rng, mutable, other_variables
    )

  def _teacher_forced(
    self,
    params: PyTree,
    batch: Batch,
    dropout_rng: jax.Array | None = None,
    mutable=False,
    other_variables: PyTree | None = None,
    **options: Any,
  ):
    """Applies the network to a batch; `options` are further arguments."""
    raise NotImplementedError

  def loss_fn(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None
  ) -> tuple[Float[Array, ''], MetricsMap]:
    """Returns the cross-entropy of a batch, normalised as configured.

    Args:
      params: parameters of the network.
      batch: features, as produced by the feature converter.
      dropout_rng: key for dropout; None for no dropout.

    Returns:
      The loss, and the metrics by name.
    """
    targets = batch['decoder_target_tokens']
    factor, weights = losses.get_loss_normalizing_factor_and_weights(
      self._loss_normalizing_factor, batch
    )
    known = {
      'targets': targets,
      'mask': weights,
      'segment_ids': _segment_ids(batch),
    }
    output = None
    if type(self)._compute_metrics is BaseTransformerModel._compute_metrics:
      output = self._compute_output(params, batch, dropout_rng)
    if output is None:
      logits = self._compute_logits(params, batch, dropout_rng)
      loss, z_loss, _ = losses.compute_weighted_cross_entropy(
        logits,
        targets=targets,
        weights=weights,
        label_smoothing=self._label_smoothing,
        z_loss=self._z_loss,
        loss_normalizing_factor=factor,
      )
      metrics = self._compute_metrics(
        logits=logits, loss=loss, z_loss=z_loss, **known
      )
      token_losses, _ = losses.cross_entropy_with_ids(logits, targets)
    else:
      loss, tokens = losses.output_cross_entropy(
        *output, targets, weights, self._label_smoothing, self._z_loss
      )
      z_loss = jnp.sum(
        tokens.z_loss if weights is None else tokens.z_loss * weights
      )
      if factor is not None:
        loss, z_loss = loss / factor, z_loss / factor
      metrics = compute_token_metrics(
        tokens.correct, loss=loss, z_loss=z_loss, **known
      )
      token_losses = tokens.cross_entropy
    # Plain nats per target token, regardless of smoothing, z-loss and
    # normalisation: comparable across runs, engines and a unigram model.
    target_weights = batch.get('decoder_loss_weights', targets != 0)
    metrics['cross_ent_per_target_token'] = clu_metrics.Average(
      total=jnp.sum(token_losses * target_weights),
      count=jnp.sum(target_weights),
    )
    return loss, metrics

  def _compute_output(
    self, params: PyTree, batch: Batch, dropout_rng: jax.Array | None = None
  ) -> (
    tuple[Float[Array, 'batch length embed'], Float[Array, 'embed vocab']]
    | None
  ):
    """Returns inputs and kernel of the output layer; logits are their product.

    Given both, the loss never materializes a [batch, length, vocab] array. None
    where the network does not expose them, or a subclass overrides
    `_compute_logits`.
    """
    own_logits = (
      type(self)._compute_logits is not BaseTransformerModel._compute_logits
    )
    # Of the class, as a network in a test may have any attribute.
    if own_logits or not hasattr(type(self.module), 'output_kernel'):
      return None
    hidden = self._teacher_forced(
      params, batch, dropout_rng, return_hidden=True
    )
    kernel = self.module.apply(
      {'params': params}, method=self.module.output_kernel
    )
    return hidden, kernel

  def _compute_metrics(
    self, logits, targets, mask, loss, z_loss=None, segment_ids=None
  ) -> MetricsMap:
    return compute_base_metrics(
      logits=logits,
      targets=targets,
      mask=mask,
      loss=loss,
      z_loss=z_loss,
      segment_ids=segment_ids,
    )

  def score_batch(
    self, params: PyTree, batch: Batch, return_intermediates: bool = False
  ):
    """Returns the weighted log-likelihood of the targets, without z-loss.

    Args:
      params: parameters of the network.
      batch: features, including `decoder_loss_weights`.
      return_intermediates: whether to return what the network sowed too, with
        the targets, weights and per-token scores under `decoder`.

    Returns:
      Nats per example [batch]; with `return_intermediates` also a dict whose
      leaves are tuples, as `nn.Module.sow` makes them.
    """
    weights = batch['decoder_loss_weights']
    targets = batch['decoder_target_tokens']
    intermediates = {}
    output = None
    if return_intermediates:
      logits, variables = self._compute_logits(
        params=params, batch=batch, mutable=['intermediates']
      )
      intermediates = flax.core.unfreeze(variables.get('intermediates', {}))
    else:
      output = self._compute_output(params, batch)
      if output is None:
        logits = self._compute_logits(params, batch)
    if output is None:
      token_losses, _ = losses.cross_entropy_with_ids(logits, targets)
    else:
      _, tokens = losses.output_cross_entropy(*output, targets)
      token_losses = tokens.cross_entropy
    token_scores = -token_losses * weights
    scores = token_scores.sum(-1)
    if not return_intermediates:
      return scores
    intermediates.setdefault('decoder', {}).update(
      target_tokens=(targets,),
      loss_weights=(weights,),
      token_scores=(token_scores,),
    )
    return scores, intermediates


def _segment_ids(batch: Batch) -> Mapping[str, Array]:
  """Returns segment ids by feature; masks of non-padding if not packed."""
  suffix = '_segment_ids'
  packed = {
    name.removesuffix(suffix): ids
    for name, ids in batch.items()
    if name.endswith(suffix)
  }
  return packed or {
    name: batch[name] != 0
    for name in ('encoder_input_tokens', 'decoder_target_tokens')
    if name in batch
  }


def decoding_arguments(
  rng: jax.Array | None,
  decoder_params: Mapping[str, Any] | None,
  eos_id: int | None,
) -> dict[str, Any]:
  """Returns further arguments of a decoding function, with key and EOS.

  Raises:
    ValueError: a key is given both as `rng` and in `decoder_params`.
  """
  arguments = dict(decoder_params or {})
  if rng is not None:
    if arguments.get('decode_rng') is not None:
      raise ValueError(
        "two keys for decoding: give `rng` or decoder_params['decode_rng'],"
        ' not both'
      )
    arguments['decode_rng'] = rng
  arguments.setdefault('eos_id', eos_id or 1)
  return arguments


@dataclasses.dataclass(frozen=True)
class DecoderParams:
  """Default arguments of `predict_batch_with_aux`."""

  return_all_decodes: bool = False
  num_decodes: int = 1


class EncoderDecoderModel(BaseTransformerModel):
  """Model of an encoder-decoder network with T5X's call signature."""

  FEATURE_CONVERTER_CLS = seqio.EncDecFeatureConverter

  def __init__(
    self,
    module: nn.Module,
    input_vocabulary: seqio.Vocabulary,
    output_vocabulary: seqio.Vocabulary,
    optimizer_def,
    decode_fn: DecodeFnCallable = decoding.beam_search,
    feature_converter_cls: Callable[..., seqio.FeatureConverter] | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    loss_normalizing_factor: LossNormalizingFactor = None,
    default_decoder_params: DecoderParams | None = None,
  ):
    if feature_converter_cls is not None:
      self.FEATURE_CONVERTER_CLS = feature_converter_cls
    self._default_decoder_params = default_decoder_params or DecoderParams()
    super().__init__(
      module=module,
      input_vocabulary=input_vocabulary,
      output_vocabulary=output_vocabulary,
      optimizer_def=optimizer_def,
      decode_fn=decode_fn,
      label_smoothing=label_smoothing,
      z_loss=z_loss,
      loss_normalizing_factor=loss_normalizing_factor,
    )

  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, tuple[int, ...]],
    input_types: Mapping[str, jnp.dtype] | None = None,
  ) -> PyTree:
    """Initialises `params`, and `params_axes` with their logical axes.

    Args:
      rng: key for the initial values.
      input_shapes: shapes by feature; positions and segment ids may be absent.
      input_types: dtypes by feature; default float32 for tokens, and int32 for
        positions and segment ids.

    Returns:
      A FrozenDict of variable collections.
    """
    input_types = input_types or {}

    def ones(feature, default_dtype):
      if feature not in input_shapes:
        return None
      dtype = input_types.get(feature, default_dtype)
      return jnp.ones(input_shapes[feature], dtype)

    encoder_tokens = ones('encoder_input_tokens', jnp.float32)
    decoder_tokens = ones('decoder_input_tokens', jnp.float32)
    optional = {
      name: ones(name, jnp.int32)
      for name in (
        'encoder_positions',
        'decoder_positions',
        'encoder_segment_ids',
        'decoder_segment_ids',
      )
    }
    return flax.core.freeze(
      self.module.init(
        rng,
        encoder_tokens,
        decoder_tokens,
        decoder_tokens,
        **optional,
        decode=False,
        enable_dropout=False,
      )
    )

  def _teacher_forced(
    self,
    params,
    batch,
    dropout_rng=None,
    mutable=False,
    other_variables=None,
    **options,
  ):
    rngs = None if dropout_rng is None else {'dropout': dropout_rng}
    return self.module.apply(
      {'params': params, **(other_variables or {})},
      batch['encoder_input_tokens'],
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      encoder_segment_ids=batch.get('encoder_segment_ids'),
      decoder_segment_ids=batch.get('decoder_segment_ids'),
      encoder_positions=batch.get('encoder_positions'),
      decoder_positions=batch.get('decoder_positions'),
      decode=False,
      enable_dropout=rngs is not None,
      rngs=rngs,
      mutable=mutable,
      **options,
    )

  def encode(
    self, params: PyTree, encoder_input_tokens: Int[Array, 'rows length']
  ) -> network_decoding.EncodedInputs:
    """Encodes the inputs for decoding; 0 is padding."""
    return network_decoding.encode(self.module, params, encoder_input_tokens)

  def start_decoding(
    self,
    params: PyTree,
    encoded: network_decoding.EncodedInputs,
    prompts: Int[Array, 'rows target_length'],
    *,
    prompted: bool = True,
  ) -> tuple[PyTree, Int[Array, ' rows'] | None]:
    """Returns the decoder's cache, prefilled if the network supports it.

    Args:
      params: parameters of the network.
      encoded: the inputs.
      prompts: a 0, the prompt, then zeros; as long as the cache.
      prompted: whether there are any prompts.

    Returns:
      The cache, and the index of each row's last prompt token (0: no prompt),
      which is the next to feed; None for the index without prefill.
    """
    module = self.module
    if not network_decoding.supports_prefill(module):
      length = prompts.shape[1]
      return network_decoding.empty_cache(module, params, encoded, length), None
    return network_decoding.start(
      module, params, encoded, prompts, prompted=prompted
    )

  def prompt_length(self, feature_lengths: Mapping[str, int]) -> int | None:
    """Returns the length of a prompt's own feature, with EOS."""
    return feature_lengths['inputs']

  def generation_length(self, feature_lengths: Mapping[str, int]) -> int:
    """Returns the length of the decoder."""
    return feature_lengths['targets']

  def start_generation(
    self,
    params: PyTree,
    inputs: Int[Array, 'batch input_length'],
    samples: int,
    length: int,
  ) -> tuple[network_decoding.EncodedInputs, PyTree, Int[Array, 'rows 1']]:
    """Returns what the first decoding step after prompts needs.

    Args:
      params: parameters of the network.
      inputs: the prompts; 0 is padding.
      samples: number of rows per prompt.
      length: the decoder's length.

    Returns:
      Encoded inputs, the decoder's cache, and the tokens to feed first.
    """
    encoded = self.encode(params, inputs).repeat(samples)
    prompts = jnp.zeros((encoded.tokens.shape[0], length), jnp.int32)
    cache, _ = self.start_decoding(params, encoded, prompts, prompted=False)
    return encoded, cache, prompts[:, :1]

  def decode_step(
    self,
    params: PyTree,
    encoded: network_decoding.EncodedInputs,
    cache: PyTree,
    tokens: Int[Array, 'rows 1'],
    max_decode_length: int,
  ) -> tuple[Float[Array, 'rows vocab'], PyTree]:
    """Returns the logits that follow one token per row, and the new cache.

    Args:
      params: parameters of the network.
      encoded: the inputs; a row is a sample or a beam.
      cache: of `start_decoding`, or of the step before.
      tokens: the tokens chosen last; 0 begins a text.
      max_decode_length: the cache's length; T5X's network needs it.
    """
    return network_decoding.step(
      self.module,
      params,
      encoded,
      cache,
      tokens,
      max_decode_length=max_decode_length,
    )

  def predict_batch_with_aux(
    self,
    params: PyTree,
    batch: Batch,
    rng: jax.Array | None = None,
    decoder_params: MutableMapping[str, Any] | None = None,
    return_all_decodes: bool | None = None,
    num_decodes: int | None = None,
    prompt_with_targets: bool = False,
  ) -> tuple[Int[Array, 'batch *num_decodes length'], Mapping[str, Array]]:
    """Encodes the inputs once, and generates with the decoding function.

    Args:
      params: parameters of the network.
      batch: `encoder_input_tokens` and `decoder_input_tokens`; the length of
        the latter is the maximum number of generated tokens.
      rng: key for sampling.
      decoder_params: further arguments of the decoding function.
      return_all_decodes: whether to return every decode or only the best.
      num_decodes: beams or samples per example.
      prompt_with_targets: whether the text starts with the batch's decoder
        tokens (without their EOS, which would end it).

    Returns:
      Token ids [batch, length], and {'scores': [batch]}; with
      `return_all_decodes` [batch, num_decodes, length] and [batch,
      num_decodes], best last.

    Raises:
      ValueError: a key is given both as `rng` and in `decoder_params`.
    """
    defaults = self._default_decoder_params
    if return_all_decodes is None:
      return_all_decodes = defaults.return_all_decodes
    if num_decodes is None:
      num_decodes = defaults.num_decodes
    eos_id = self.output_vocabulary.eos_id
    decoder_params = decoding_arguments(rng, decoder_params, eos_id)

    encoder_tokens = batch['encoder_input_tokens']
    prompts = batch['decoder_input_tokens']
    if prompt_with_targets:
      prompts = jnp.where(prompts == eos_id, 0, prompts)
    else:
      prompts = jnp.zeros_like(prompts)

    encoded = self.encode(params, encoder_tokens)
    if 'initial_index' in inspect.signature(self.decode_fn).parameters:
      cache, positions = self.start_decoding(
        params, encoded, prompts, prompted=prompt_with_targets
      )
      if positions is not None:
        decoder_params['initial_index'] = positions
    else:
      # The function feeds prompts token by token.
      cache = network_decoding.empty_cache(
        self.module, params, encoded, prompts.shape[1]
      )
    rows = encoded.repeat(num_decodes)

    def tokens_to_logits(state: decoding.DecodingState):
      return self.decode_step(
        params, rows, state.cache, state.cur_token, prompts.shape[1]
      )

    scanned = getattr(self.module, 'scan_layers', False)
    decodes, scores = self._decode_fn(
      inputs=prompts,
      cache=cache,
      tokens_to_logits=tokens_to_logits,
      num_decodes=num_decodes,
      cache_offset=1 if scanned else 0,
      **decoder_params,
    )
    if return_all_decodes:
      return decodes, {'scores': scores}
    return decodes[:, -1, :], {'scores': scores[:, -1]}
