"""The model of a decoder-only network, with T5X's interface."""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import seqio
from jaxtyping import Array, Float, Int, PyTree

from fnet_t5x.networks import decoding as network_decoding
from fnet_t5x.runtime import decoding
from fnet_t5x.runtime.models import (
  BaseTransformerModel,
  Batch,
  DecodeFnCallable,
  LossNormalizingFactor,
  decoding_arguments,
)

_REGION = 'decoder_causal_attention'


class DecoderOnlyModel(BaseTransformerModel):
  """Model of a decoder-only network with T5X's call signature.

  It trains on tasks with `targets` only, or with `inputs` and `targets`, which
  become one text; then the loss is that of the targets.
  """

  FEATURE_CONVERTER_CLS = seqio.DecoderFeatureConverter

  def __init__(
    self,
    module: nn.Module,
    vocabulary: seqio.Vocabulary,
    optimizer_def,
    decode_fn: DecodeFnCallable = decoding.temperature_sample,
    inputs_bidirectional_attention: bool = False,
    feature_converter_cls: Callable[..., seqio.FeatureConverter] | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    loss_normalizing_factor: LossNormalizingFactor = None,
  ):
    """Takes T5X's arguments.

    Args:
      module: the network.
      vocabulary: of inputs and targets.
      optimizer_def: the optimizer.
      decode_fn: a decoding function that takes `initial_index`.
      inputs_bidirectional_attention: whether inputs attend to one another in
        both directions (prefix LM); otherwise attention is causal throughout.
      feature_converter_cls: replaces SeqIO's.
      label_smoothing, z_loss, loss_normalizing_factor: of the loss.
    """
    if feature_converter_cls is not None:
      self.FEATURE_CONVERTER_CLS = feature_converter_cls
    self._inputs_bidirectional_attention = inputs_bidirectional_attention
    super().__init__(
      module=module,
      input_vocabulary=vocabulary,
      output_vocabulary=vocabulary,
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
      input_shapes: shapes by feature; only `decoder_input_tokens` is read.
      input_types: dtypes by feature; default float32.
    """
    name = 'decoder_input_tokens'
    dtype = (input_types or {}).get(name, jnp.float32)
    tokens = jnp.ones(input_shapes[name], dtype)
    return flax.core.freeze(
      self.module.init(rng, tokens, tokens, enable_dropout=False)
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
    region = None
    if self._inputs_bidirectional_attention:
      if _REGION not in batch:
        raise ValueError(
          'inputs_bidirectional_attention=True (PREFIX_ATTENTION): the task '
          'has targets only, and so no prefix; train on a task with inputs '
          '(gin/objectives/prefix_lm.gin), or set it to False'
        )
      region = batch[_REGION]
    rngs = None if dropout_rng is None else {'dropout': dropout_rng}
    return self.module.apply(
      {'params': params, **(other_variables or {})},
      batch['decoder_input_tokens'],
      batch['decoder_target_tokens'],
      decoder_segment_ids=batch.get('decoder_segment_ids'),
      decoder_positions=batch.get('decoder_positions'),
      decoder_causal_attention=region,
      decode=False,
      enable_dropout=rngs is not None,
      rngs=rngs,
      mutable=mutable,
      **options,
    )

  def prompt_length(self, feature_lengths: Mapping[str, int]) -> int | None:
    """Returns the length of a prompt's own feature; None if it has none."""
    return feature_lengths.get('inputs')

  def generation_length(self, feature_lengths: Mapping[str, int]) -> int:
    """Returns the length of the decoder, which also reads the prompt."""
    return feature_lengths.get('inputs', 0) + feature_lengths['targets']

  def start_generation(
    self,
    params: PyTree,
    inputs: Int[Array, 'batch input_length'],
    samples: int,
    length: int,
  ) -> tuple[None, PyTree, Int[Array, 'rows 1']]:
    """Does `EncoderDecoderModel.start_generation`; nothing is encoded.

    A prompt is prefilled once, whatever the number of samples.
    """
    prompts = jnp.pad(inputs, ((0, 0), (1, length)))[:, :length]
    cache, positions = network_decoding.start_decoder_only(
      self.module,
      params,
      prompts,
      bidirectional=self._inputs_bidirectional_attention,
    )
    token = jnp.take_along_axis(prompts, positions[:, None], axis=1)
    repeated = jax.tree.map(
      lambda x: jnp.repeat(x, samples, axis=0), (cache, token)
    )
    return None, *repeated

  def decode_step(
    self,
    params: PyTree,
    encoded: None,
    cache: PyTree,
    tokens: Int[Array, 'rows 1'],
    max_decode_length: int,
  ) -> tuple[Float[Array, 'rows vocab'], PyTree]:
    """Returns the logits that follow one token per row, and the new cache.

    Args:
      params: parameters of the network.
      encoded: None; there is no encoder.
      cache: of `start_generation`, or of the step before.
      tokens: the tokens chosen last; 0 begins a text.
      max_decode_length: the cache's length.
    """
    del encoded
    return network_decoding.step_decoder_only(
      self.module, params, cache, tokens, max_decode_length=max_decode_length
    )

  def predict_batch_with_aux(
    self,
    params: PyTree,
    batch: Batch,
    rng: jax.Array | None = None,
    *,
    return_all_decodes: bool = False,
    num_decodes: int = 1,
    decoder_params: MutableMapping[str, Any] | None = None,
  ) -> tuple[Int[Array, 'batch *num_decodes length'], Mapping[str, Array]]:
    """Prefills the inputs in one pass, and generates what follows them.

    Args:
      params: parameters of the network.
      batch: `decoder_input_tokens` and `decoder_causal_attention`, whose ones
        tell inputs from targets. The length includes the inputs.
      rng: key for sampling.
      return_all_decodes: whether to return every decode or only the best.
      num_decodes: beams or samples per example.
      decoder_params: further arguments of the decoding function.

    Returns:
      As `EncoderDecoderModel.predict_batch_with_aux`; the inputs are not part
      of the token ids, which zeros follow.

    Raises:
      ValueError: the task has no inputs, or a key is given twice.
    """
    if _REGION not in batch:
      raise ValueError(
        'predicting needs a task with inputs and targets, and this one has '
        'targets only, with nothing to continue: evaluate its loss, or use '
        'prefix_lm (gin/objectives/prefix_lm.gin)'
      )
    region = batch[_REGION]
    prompts = batch['decoder_input_tokens'] * region
    cache, positions = network_decoding.start_decoder_only(
      self.module,
      params,
      prompts,
      region,
      bidirectional=self._inputs_bidirectional_attention,
    )

    def tokens_to_logits(state: decoding.DecodingState):
      return self.decode_step(
        params, None, state.cache, state.cur_token, prompts.shape[1]
      )

    decodes, scores = self._decode_fn(
      inputs=prompts,
      cache=cache,
      tokens_to_logits=tokens_to_logits,
      num_decodes=num_decodes,
      initial_index=positions,
      cache_offset=1 if getattr(self.module, 'scan_layers', False) else 0,
      **decoding_arguments(rng, decoder_params, self.output_vocabulary.eos_id),
    )
    if not return_all_decodes:
      decodes, scores = decodes[:, -1, :], scores[:, -1]
    return remove_prefix(decodes, positions), {'scores': scores}


def remove_prefix(
  sequences: Int[Array, 'batch *num_decodes length'],
  prefix_lengths: Int[Array, ' batch'],
) -> Int[Array, 'batch *num_decodes length']:
  """Shifts rows left by the length of their prefix; zeros follow.

  `[9, 4, 6, 1, 3]` with a prefix of 2 becomes `[6, 1, 3, 0, 0]`.
  """
  length = sequences.shape[-1]
  ones = (1,) * (sequences.ndim - 1)
  places = prefix_lengths.reshape(-1, *ones) + jnp.arange(length).reshape(
    *ones, length
  )
  places = jnp.broadcast_to(places, sequences.shape)
  moved = jnp.take_along_axis(sequences, places, axis=-1, mode='clip')
  return jnp.where(places < length, moved, 0)
