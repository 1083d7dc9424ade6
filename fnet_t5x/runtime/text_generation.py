"""Writing text with a trained model, token by token."""

import functools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fnet_t5x.runtime import (
  checkpoints,
  initialization,
  logit_masks,
  mesh,
  model_directory,
  models,
  partitioning,
)

_LOWEST = float(np.finfo(np.float32).min)


class TextGenerator:
  """A checkpoint's model, ready to continue texts.

  Attributes:
    step: the checkpoint's.
    task_name: the task or mixture that the model was trained on.
    feature_lengths: tokens of a prompt that the encoder takes (`inputs`) and
      that the decoder writes at most (`targets`), EOS included.
  """

  def __init__(self, model_dir: str, checkpoint_step: int | None = None):
    """Loads a checkpoint, by the configuration saved beside it.

    Args:
      model_dir: the folder of a training run, or a checkpoint in it.
      checkpoint_step: which checkpoint; None for the last.

    Raises:
      FileNotFoundError: `model_dir` holds no configuration, or no such
        checkpoint.
      ValueError: the configuration is no run's, or may run code of others.
    """
    directory = model_directory.locate(model_dir, checkpoint_step)
    configured = model_directory.configure(directory)
    self._model: models.EncoderDecoderModel = configured.model
    self.task_name: str = configured.task_name
    self.feature_lengths: Mapping[str, int] = configured.feature_lengths
    # One text at a time has no batch to lay over several devices.
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    partitioner.mesh = jax.sharding.Mesh(
      np.asarray(jax.devices()[:1]).reshape(1, 1), mesh.MESH_AXES
    )
    initializer = initialization.TrainStateInitializer(
      None,
      self._model.get_initial_variables,
      {
        'encoder_input_tokens': (1, self.feature_lengths['inputs']),
        'decoder_input_tokens': (1, self.feature_lengths['targets']),
      },
      partitioner,
    )
    state = initializer.from_checkpoint(
      checkpoints.RestoreCheckpointConfig(
        path=directory.checkpoint, mode='specific'
      )
    )
    self.step = int(state.step)
    self._params = state.params

  def continue_text(
    self,
    prompt: str,
    max_tokens: int | None = None,
    temperature: float = 0.8,
    topk: int = 40,
    topp: float = 0.0,
    seed: int = 0,
  ) -> Iterator[str]:
    """Yields what the model writes after a prompt, piece by piece.

    Args:
      prompt: the text to continue.
      max_tokens: to write at most; None for as many as the decoder takes.
      temperature: 0 takes the likeliest token each time.
      topk: choose among so many likeliest tokens; 0 for all.
      topp: choose among the likeliest tokens of this total probability; 0
        for all. Not together with `topk`.
      seed: of the choices.

    Raises:
      ValueError: the prompt is empty, or longer than the encoder.
    """
    inputs = self._prompt_tokens(prompt)
    limit = min(
      max_tokens or self.feature_lengths['targets'],
      self.feature_lengths['targets'],
    )
    choose = functools.partial(
      _choose,
      temperature=temperature,
      topk=topk,
      topp=topp,
      vocab_size=self._model.output_vocabulary.vocab_size,
    )
    encoded, cache = self._start(self._params, inputs)
    token = jnp.zeros((1, 1), jnp.int32)
    rng = jax.random.PRNGKey(seed)
    written: list[int] = []
    shown = ''
    for position in range(limit):
      logits, cache = self._step(self._params, inputs, encoded, cache, token)
      token = choose(logits, jax.random.fold_in(rng, position))
      if int(token[0, 0]) == self._model.output_vocabulary.eos_id:
        break
      written.append(int(token[0, 0]))
      # Pieces decode together: a byte or a space may wait for the next one.
      text = self._model.output_vocabulary.decode(written)
      if text.startswith(shown):
        yield text[len(shown) :]
        shown = text

  def _prompt_tokens(self, prompt: str) -> Int[Array, '1 length']:
    if not prompt.strip():
      raise ValueError('the prompt is empty: give some text to continue')
    vocabulary = self._model.input_vocabulary
    tokens = [*vocabulary.encode(prompt), vocabulary.eos_id]
    length = self.feature_lengths['inputs']
    if len(tokens) > length:
      raise ValueError(
        f'the prompt is {len(tokens)} tokens long, its end mark included, and '
        f'the encoder was trained for {length}: shorten it'
      )
    padding = [0] * (length - len(tokens))
    return jnp.asarray([tokens + padding], jnp.int32)

  @functools.cached_property
  def _start(self):
    """Jitted: encodes a prompt, and makes a cache ready for the first step."""
    model = self._model

    @jax.jit
    def start(params, inputs):
      encoded = model.module.apply(
        {'params': params},
        inputs,
        enable_dropout=False,
        method=model.module.encode,
      )
      cache, _ = model._compute_kv_cache(
        params,
        encoded_inputs=encoded,
        encoder_input_tokens=inputs,
        decoder_input_tokens=jnp.zeros(
          (1, self.feature_lengths['targets']), jnp.int32
        ),
        prefill_decoder_prompt=True,
        prompt_with_targets=False,
      )
      return encoded, cache

    return start

  @functools.cached_property
  def _step(self):
    """Jitted: one token in, the logits of the next and the new cache out."""
    model = self._model

    @functools.partial(jax.jit, donate_argnums=(3,))
    def step(params, inputs, encoded, cache, token):
      logits, variables = model.module.apply(
        {'params': params, 'cache': cache},
        encoded,
        inputs,
        token,
        token,
        enable_dropout=False,
        decode=True,
        max_decode_length=self.feature_lengths['targets'],
        mutable=['cache'],
        method=model.module.decode,
      )
      return logits[:, 0], variables['cache']

    return step


@functools.partial(
  jax.jit, static_argnames=('temperature', 'topk', 'topp', 'vocab_size')
)
def _choose(
  logits: Float[Array, '1 vocab'],
  rng: jax.Array,
  temperature: float,
  topk: int,
  topp: float,
  vocab_size: int,
) -> Int[Array, '1 1']:
  """Draws the next token; never padding, nor an id without a piece."""
  ids = jnp.arange(logits.shape[-1])[None]
  logits = jnp.where((ids > 0) & (ids < vocab_size), logits, _LOWEST)
  if not temperature or topk == 1:
    return jnp.argmax(logits, axis=-1)[:, None].astype(jnp.int32)
  logits = logits / temperature
  if topk:
    logits = logit_masks.topk_mask(logits, topk, _LOWEST)
  if topp:
    logits = logit_masks.topp_mask(logits, topp, _LOWEST)
  return jax.random.categorical(rng, logits)[:, None].astype(jnp.int32)
