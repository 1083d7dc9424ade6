"""Functions of token ids that are exported, one per mode.

Each is traceable with a symbolic batch. A row of zeros fills up a batch: its
outputs mean nothing, and no other row depends on it.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from fnet_t5x.runtime import batch_generation, decoder_only, models
from fnet_t5x.runtime.generation_options import GenerationOptions
from fnet_t5x.runtime.text_generation import FirstTokens

_Model = models.EncoderDecoderModel | decoder_only.DecoderOnlyModel
# A fixed implementation, so that samples are the same on every machine.
_RANDOM = 'threefry2x32'


@dataclasses.dataclass(frozen=True)
class Program:
  """A function to export.

  Attributes:
    function: from parameters, and the inputs in order, to outputs by name.
    inputs: shape and dtype of each input, without the batch axis.
    settings: of decoding, as JSON.
    eos_follows: names of inputs whose rows end with EOS.
  """

  function: Callable[..., Mapping[str, Array]]
  inputs: Mapping[str, jax.ShapeDtypeStruct]
  settings: Mapping[str, Any]
  eos_follows: Collection[str]


def make(
  mode: str,
  model: _Model,
  lengths: Mapping[str, int],
  options: GenerationOptions,
) -> Program:
  """Returns the function of a mode.

  Args:
    mode: one of `modes.MODES`: `fnet_t5x.generate`'s texts, or what T5X's modes
      are: 'predict', by the model's own decoding function, and 'score',
      log-likelihoods.
    model: the model.
    lengths: tokens per feature of its task.
    options: of 'generate'.

  Raises:
    ValueError: the model cannot do it, or `max_tokens` does not fit.
  """
  if mode == 'generate':
    return _generate(model, lengths, options)
  if mode == 'predict':
    return _predict(model, lengths)
  return _score(model, lengths)


def _generate(
  model: _Model, lengths: Mapping[str, int], options: GenerationOptions
) -> Program:
  length = model.generation_length(lengths)
  input_length, max_tokens = _generation_lengths(model, lengths, options)
  first_tokens = FirstTokens(model.output_vocabulary)
  samples = options.num_beams == 1 and options.sampling_temperature > 0
  inputs = {'tokens': jax.ShapeDtypeStruct((input_length,), jnp.int32)}
  if first_tokens.depends_on_prompt:
    inputs['word_may_follow'] = jax.ShapeDtypeStruct((), jnp.bool_)
  if samples:
    inputs['noise'] = jax.ShapeDtypeStruct((3,), jnp.uint32)

  def function(params, *arguments):
    given = dict(zip(inputs, arguments, strict=True))
    tokens = given['tokens']
    may_begin = jnp.asarray(first_tokens.mask(word_may_follow=True))
    if 'word_may_follow' in given:
      may_begin = jnp.where(
        given['word_may_follow'][:, None],
        may_begin[None],
        jnp.asarray(first_tokens.mask(word_may_follow=False))[None],
      )
    fixed = {'length': length, 'max_tokens': max_tokens}
    if options.num_beams > 1:
      texts, finite = batch_generation.search(
        model,
        params,
        tokens,
        may_begin,
        num_beams=options.num_beams,
        ngram_size=options.no_repeat_ngram_size,
        **fixed,
      )
    else:
      noise = given.get('noise')
      if noise is None:
        noise = jnp.zeros((tokens.shape[0], 3), jnp.uint32)
      texts, finite = batch_generation.sample(
        model,
        params,
        tokens,
        may_begin,
        jax.vmap(_key)(noise),
        options=options,
        **fixed,
      )
    return {'tokens': texts, 'finite': finite}

  settings = {'max_tokens': max_tokens}
  if options.num_beams > 1:
    settings['num_beams'] = options.num_beams
  else:
    settings['temperature'] = options.sampling_temperature
    if samples:
      settings['top_k'] = options.sampling_top_k
      settings['top_p'] = options.top_p
  settings['no_repeat_ngram_size'] = options.no_repeat_ngram_size
  return Program(function, inputs, settings, _eos_follows(model, lengths))


def _generation_lengths(
  model: _Model, lengths: Mapping[str, int], options: GenerationOptions
) -> tuple[int, int]:
  """Returns tokens per prompt, with EOS if it has one, and per text.

  A prompt without a feature of its own shares the decoder with the text, by
  default half and half.
  """
  own = model.prompt_length(lengths)
  length = lengths['targets'] if own else model.generation_length(lengths)
  longest = length if own else length - 1
  max_tokens = options.max_tokens or (length if own else length // 2)
  if max_tokens > longest:
    raise ValueError(
      f'--max_tokens={max_tokens} exceeds the {longest} tokens of the decoder'
      f'{"" if own else " after a prompt of one"}'
    )
  return own or length - max_tokens, max_tokens


def _key(noise: UInt32[Array, '3']) -> jax.Array:
  """Returns the key of a text, of seed, CRC-32 of the prompt, and sample."""
  key = jax.random.key(noise[0], impl=_RANDOM)
  return jax.random.fold_in(jax.random.fold_in(key, noise[1]), noise[2])


def _predict(model: _Model, lengths: Mapping[str, int]) -> Program:
  own = model.prompt_length(lengths)
  if own is None:
    raise ValueError(
      '--mode=predict continues the inputs of a task, and this model has '
      'targets only: use --mode=generate'
    )
  decoder_length = model.generation_length(lengths)

  def function(params, tokens):
    batch = {'encoder_input_tokens': tokens}
    if isinstance(model, decoder_only.DecoderOnlyModel):
      targets = jnp.zeros((tokens.shape[0], decoder_length - own), jnp.int32)
      batch = _joined(tokens, targets)
    else:
      batch['decoder_input_tokens'] = jnp.zeros(
        (tokens.shape[0], decoder_length), jnp.int32
      )
    texts, aux = model.predict_batch_with_aux(params, batch)
    return {'tokens': texts, 'scores': aux['scores']}

  inputs = {'tokens': jax.ShapeDtypeStruct((own,), jnp.int32)}
  return Program(function, inputs, {}, _eos_follows(model, lengths))


def _score(model: _Model, lengths: Mapping[str, int]) -> Program:
  own = model.prompt_length(lengths)
  inputs = {'targets': jax.ShapeDtypeStruct((lengths['targets'],), jnp.int32)}
  if own is not None:
    inputs = {'inputs': jax.ShapeDtypeStruct((own,), jnp.int32), **inputs}

  def function(params, *arguments):
    given = dict(zip(inputs, arguments, strict=True))
    targets = given['targets']
    if isinstance(model, decoder_only.DecoderOnlyModel):
      before = given.get('inputs')
      if before is None:
        before = targets[:, :0]
      batch = _joined(before, targets)
      if own is None:
        del batch['decoder_causal_attention']
    else:
      batch = {
        'encoder_input_tokens': given['inputs'],
        'decoder_input_tokens': _shifted(targets),
        'decoder_target_tokens': targets,
        'decoder_loss_weights': (targets != 0).astype(jnp.int32),
      }
    return {'scores': model.score_batch(params, batch)}

  return Program(function, inputs, {}, _eos_follows(model, lengths))


def _eos_follows(model: _Model, lengths: Mapping[str, int]) -> tuple[str, ...]:
  """Returns the inputs that EOS follows: those of a feature of their own."""
  return () if model.prompt_length(lengths) is None else ('tokens', 'inputs')


def _joined(
  inputs: Int[Array, 'batch input_length'],
  targets: Int[Array, 'batch target_length'],
) -> dict[str, Array]:
  """Returns the features of decoder-only models, as SeqIO's converter does.

  Args:
    inputs: tokens, padded with zeros.
    targets: tokens to follow them at once, padded with zeros.
  """
  length = inputs.shape[1] + targets.shape[1]
  width = jnp.sum(inputs != 0, axis=1, keepdims=True)
  places = jnp.arange(length)[None]
  from_inputs = jnp.pad(inputs, ((0, 0), (0, targets.shape[1])))
  from_targets = jnp.take_along_axis(
    jnp.pad(targets, ((0, 0), (0, inputs.shape[1]))),
    jnp.maximum(places - width, 0),
    axis=1,
  )
  tokens = jnp.where(places < width, from_inputs, from_targets)
  return {
    'decoder_input_tokens': _shifted(tokens),
    'decoder_target_tokens': tokens,
    'decoder_loss_weights': ((tokens != 0) & (places >= width)).astype(
      jnp.int32
    ),
    'decoder_causal_attention': (places <= width).astype(jnp.int32),
  }


def _shifted(tokens: Int[Array, 'batch length']) -> Int[Array, 'batch length']:
  """Returns tokens one place to the right, after a 0."""
  return jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
