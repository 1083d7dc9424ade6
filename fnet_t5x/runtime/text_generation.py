"""Text generated with a trained model, token by token.

SentencePiece marks a word's first piece: `▁cit izens`. A model that continues
texts learned from texts cut anywhere, inside words too; a prompt that people
type ends with a whole word. So the first piece must not go on with that word
(`FirstTokens`).
"""

import contextlib
import dataclasses
import logging
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from jaxtyping import Array, Bool, Int

from fnet_t5x.runtime import (
  checkpoints,
  model_directory,
  models,
  partitioning,
  utils,
)
from fnet_t5x.runtime.generation_options import GenerationOptions
from fnet_t5x.runtime.token_generation import TokenGenerator

_log = logging.getLogger(__name__)
# Stands for bytes that are no character, or none yet.
_REPLACEMENT = '\ufffd'
_SPACE = '▁'
# Scripts that write no space between words, by the names of their letters.
_UNSPACED_SCRIPTS = (
  'CJK',
  'HIRAGANA',
  'KATAKANA',
  'THAI',
  'LAO',
  'KHMER',
  'MYANMAR',
  'TIBETAN',
)
# What the next word may follow without a space: `(a`, `-a`, `"a`, `'a`, `/a`.
_OPENING_CATEGORIES = ('Ps', 'Pi', 'Pf', 'Pd', 'Pc')
_OPENING = frozenset('"\'/\\@#$&*~`=+<|^')


@dataclasses.dataclass(frozen=True)
class GeneratedText:
  """A text that a model generated after a prompt.

  Attributes:
    text: without the prompt.
    ended: whether the model ended it; else it was cut at the maximum number
      of tokens.
  """

  text: str
  ended: bool


class TextPieces:
  """Decodes a growing list of tokens into pieces that together are its text.

  Tokens decode together: a space, or a byte of a character of several, waits
  for the next token. What may yet change is held back.
  """

  def __init__(self, decode: Callable[[Sequence[int]], str]):
    """Starts an empty text; `decode` turns all its tokens into text."""
    self._decode = decode
    self._tokens: list[int] = []
    self._shown = ''

  @property
  def tokens(self) -> list[int]:
    """The tokens so far."""
    return self._tokens

  def add(self, token: int) -> str:
    """Returns what a token adds to the text for certain; often ''."""
    self._tokens.append(token)
    text = self._decode(self._tokens).rstrip(_REPLACEMENT)
    # If the token changed what is shown already, wait what comes of it.
    if not text.startswith(self._shown):
      return ''
    return self._show(text)

  def finish(self) -> str:
    """Returns what was held back, bytes without a character as U+FFFD."""
    return self._show(self._decode(self._tokens) if self._tokens else '')

  def _show(self, text: str) -> str:
    """Returns the text behind what it has in common with the shown one."""
    common = 0
    for old, new in zip(self._shown, text, strict=False):
      if old != new:
        break
      common += 1
    self._shown = text
    return text[common:]


class TextStream(Iterator[str]):
  """A text that is being generated; iterating yields it piece by piece.

  Attributes:
    ended: once the iteration is over, whether the model ended the text; else
      it was cut at the maximum number of tokens.
  """

  def __init__(self, tokens: Iterator[int], pieces: TextPieces, eos_id: int):
    """Takes the tokens to come, EOS included, and an empty text."""
    self.ended = False
    self._pieces = self._decode(tokens, pieces, eos_id)

  def __next__(self) -> str:
    return next(self._pieces)

  def _decode(self, tokens, pieces, eos_id):
    for token in tokens:
      if token == eos_id:
        self.ended = True
        break
      if piece := pieces.add(token):
        yield piece
    if rest := pieces.finish():
      yield rest


class TextGenerator:
  """A checkpoint's model, ready to continue texts.

  Attributes:
    step: the checkpoint's.
    task_name: the task or mixture that the model was trained on.
    feature_lengths: tokens of a prompt that the encoder takes (`inputs`) and
      that the decoder generates at most (`targets`), EOS included.
  """

  def __init__(self, model_dir: str, checkpoint_step: int | None = None):
    """Loads a checkpoint, by the configuration saved beside it.

    Args:
      model_dir: the folder of a training run, or a checkpoint in it.
      checkpoint_step: which checkpoint; None for the last one.

    Raises:
      FileNotFoundError: `model_dir` holds no configuration, or no such
        checkpoint.
      ValueError: the configuration is no run's, or may run code of others.
    """
    directory = model_directory.locate(model_dir, checkpoint_step)
    configured = model_directory.configure(directory)
    self._directory = directory
    self._model: models.EncoderDecoderModel = configured.model
    self.task_name: str = configured.task_name
    self.feature_lengths: Mapping[str, int] = configured.feature_lengths
    # One prompt at a time has no batch to lay over several devices.
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    partitioner.mesh = jax.sharding.Mesh(
      np.asarray(jax.devices()[:1]).reshape(1, 1), partitioning.MESH_AXES
    )
    initializer = utils.TrainStateInitializer(
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
    self._vocabulary = self._model.output_vocabulary
    self._first_tokens = FirstTokens(self._vocabulary)
    self._tokens = TokenGenerator(
      self._model, state.params, self.feature_lengths['targets']
    )

  def generate(
    self,
    prompt: str | Sequence[str],
    num_samples: int = 1,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float = 0.0,
    num_beams: int = 1,
    no_repeat_ngram_size: int = 0,
    seed: int = 0,
    truncate_prompt: bool = False,
  ) -> str | list[str] | list[list[str]]:
    """Returns what the model generates after a prompt, or after each of some.

    The same prompt, options and sample number give the same text, whatever
    the other prompts are.

    Args:
      prompt: the text to continue, or a list of texts.
      num_samples, max_tokens, temperature, top_k, top_p, num_beams,
        no_repeat_ngram_size, seed, truncate_prompt: see `GenerationOptions`.

    Returns:
      The text without the prompt; with `num_samples` above 1 a list of texts.
      For a list of prompts, a list with the same for each.

    Raises:
      ValueError: a prompt is empty, or longer than the encoder takes; an
        option is out of range; or the model's logits are no numbers.
      TypeError: an option is no number.
    """
    options = GenerationOptions(
      num_samples=num_samples,
      max_tokens=max_tokens,
      temperature=temperature,
      top_k=top_k,
      top_p=top_p,
      num_beams=num_beams,
      no_repeat_ngram_size=no_repeat_ngram_size,
      seed=seed,
      truncate_prompt=truncate_prompt,
    )
    one = isinstance(prompt, str)
    prompts = [prompt] if one else list(prompt)
    self.check_prompts(prompts, truncate_prompt)
    results = []
    for each in prompts:
      texts = [generated.text for generated in self.texts(each, options)]
      results.append(texts if num_samples > 1 else texts[0])
    return results[0] if one else results

  def stream(
    self,
    prompt: str,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float = 0.0,
    no_repeat_ngram_size: int = 0,
    seed: int = 0,
    truncate_prompt: bool = False,
  ) -> TextStream:
    """Returns an iterator over the text, piece by piece as it is generated.

    The pieces together are what `generate` returns.

    Args:
      prompt: the text to continue.
      max_tokens, temperature, top_k, top_p, no_repeat_ngram_size, seed,
        truncate_prompt: see `GenerationOptions`.

    Raises:
      ValueError, TypeError: as `generate`.
    """
    return self.text_stream(
      prompt,
      GenerationOptions(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        no_repeat_ngram_size=no_repeat_ngram_size,
        seed=seed,
        truncate_prompt=truncate_prompt,
      ),
    )

  def text_stream(self, prompt: str, options: GenerationOptions) -> TextStream:
    """`stream` by options; those of one sample and no beam search."""
    if options.num_samples > 1 or options.num_beams > 1:
      raise ValueError(
        'num_samples and num_beams must be 1 for a text that is streamed'
      )
    # Now, not when the first piece is asked for.
    self.check_prompts([prompt], options.truncate_prompt)
    tokens = (int(row[0]) for row in self._sampled(prompt, options))
    return TextStream(tokens, self._pieces(), self._vocabulary.eos_id)

  def texts(
    self, prompt: str, options: GenerationOptions
  ) -> list[GeneratedText]:
    """Returns `options.num_samples` texts after a prompt; see `generate`."""
    if options.num_beams > 1:
      rows = self._searched(prompt, options)
    else:
      rows = np.stack(list(self._sampled(prompt, options)), axis=1)
    texts = []
    for row in rows:
      stream = TextStream(
        iter(row.tolist()), self._pieces(), self._vocabulary.eos_id
      )
      texts.append(GeneratedText(''.join(stream), stream.ended))
    return texts

  def max_tokens(self, asked: int | None) -> int:
    """Returns how many tokens are generated at most where so many are asked."""
    longest = self.feature_lengths['targets']
    return longest if asked is None else min(asked, longest)

  def check_prompts(
    self, prompts: Sequence[str], truncate: bool = False
  ) -> None:
    """Raises what `generate` does where it cannot continue one of them.

    The message gives the number of the prompt if there are several.
    """
    for number, prompt in enumerate(prompts, start=1):
      try:
        self._prompt_tokens(prompt, truncate)
      except ValueError as error:
        if len(prompts) == 1:
          raise
        raise ValueError(f'prompt {number}: {error}') from error

  def _prompt_tokens(
    self, prompt: str, truncate: bool
  ) -> tuple[list[int], int]:
    """Returns a prompt's tokens, EOS included, and how many were left out."""
    if not isinstance(prompt, str):
      raise TypeError(f'a prompt is {prompt!r}; it must be a text')
    if not prompt.strip():
      raise ValueError('the prompt is empty: give some text to continue')
    if any('\ud800' <= character <= '\udfff' for character in prompt):
      raise ValueError('the prompt is no UTF-8 text: convert it to UTF-8')
    vocabulary = self._model.input_vocabulary
    tokens = [int(token) for token in vocabulary.encode(prompt)]
    if not tokens:
      raise ValueError(
        'the prompt has no character that the vocabulary knows: give another'
      )
    # The end mark takes the last place.
    longest = self.feature_lengths['inputs'] - 1
    if len(tokens) > longest and not truncate:
      raise ValueError(
        f'the prompt is {len(tokens)} tokens long, and the model reads at most '
        f'{longest}: shorten it, or keep only its end with truncate_prompt '
        '(--truncate_prompt)'
      )
    left_out = max(0, len(tokens) - longest)
    return [*tokens[left_out:], vocabulary.eos_id], left_out

  def _inputs(
    self, prompt: str, options: GenerationOptions
  ) -> Int[Array, '1 length']:
    tokens, left_out = self._prompt_tokens(prompt, options.truncate_prompt)
    if left_out:
      _log.warning(
        'the prompt is %d tokens longer than the model reads: only its end, '
        '%d tokens, is continued',
        left_out,
        len(tokens) - 1,
      )
    padding = [0] * (self.feature_lengths['inputs'] - len(tokens))
    return jnp.asarray([tokens + padding], jnp.int32)

  def _pieces(self) -> TextPieces:
    return TextPieces(self._vocabulary.decode)

  def _sampled(
    self, prompt: str, options: GenerationOptions
  ) -> Iterator[Int[np.ndarray, ' rows']]:
    """Yields the next token of each sample, EOS included."""
    inputs = self._inputs(prompt, options)
    # The generator is named, so that every machine draws the same.
    key = jax.random.key(options.seed, impl='threefry2x32')
    key = jax.random.fold_in(key, zlib.crc32(prompt.encode('utf-8')))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      key, jnp.arange(options.num_samples)
    )
    with self._named_divergence():
      yield from self._tokens.sample(
        inputs,
        self._first_tokens.allowed(prompt),
        keys,
        self.max_tokens(options.max_tokens),
        options,
      )

  def _searched(
    self, prompt: str, options: GenerationOptions
  ) -> Int[np.ndarray, '1 length']:
    inputs = self._inputs(prompt, options)
    with self._named_divergence():
      tokens = self._tokens.search(
        inputs,
        self._first_tokens.allowed(prompt),
        self.max_tokens(options.max_tokens),
        options,
      )
    return tokens[None]

  @contextlib.contextmanager
  def _named_divergence(self) -> Iterator[None]:
    """Says which checkpoint's logits are no numbers, and what to do."""
    try:
      yield
    except FloatingPointError as error:
      folder = self._directory.folder
      # That of step 0, if there is one, has learned nothing.
      earlier = [s for s in checkpoints.steps(folder) if 0 < s < self.step]
      remedy = (
        f'take an earlier one: --checkpoint_step={max(earlier)}'
        if earlier
        else 'there is no earlier one'
      )
      raise ValueError(
        f"the model's logits are no numbers: {self._directory.checkpoint} is "
        f'damaged or the run diverged; {remedy}'
      ) from error


class FirstTokens:
  """A vocabulary's tokens, by how a text may begin with them."""

  def __init__(self, vocabulary: seqio.Vocabulary):
    """Looks at each piece of a SentencePiece vocabulary, and at no other's."""
    size = vocabulary.vocab_size
    self._vocabulary = vocabulary
    self._begins_character = np.ones(size, bool)
    self._continues_word = np.zeros(size, bool)
    self._marks_words = False
    if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
      return
    tokenizer = vocabulary.tokenizer
    for token in range(size):
      piece = tokenizer.IdToPiece(token)
      if tokenizer.IsControl(token) or tokenizer.IsUnknown(token):
        continue
      if tokenizer.IsByte(token):
        byte = int(piece[1:-1], 16)
        self._begins_character[token] = byte < 0x80 or 0xC2 <= byte <= 0xF4
        piece = chr(byte) if byte < 0x80 else ''
      self._marks_words |= piece.startswith(_SPACE)
      self._continues_word[token] = _is_of_spaced_word(piece[:1])

  def allowed(self, prompt: str) -> Bool[np.ndarray, ' vocab']:
    """Returns whether the text after a prompt may begin with each token.

    Never with a byte from inside a character. With a letter or digit without
    a space before it only where the prompt ends so that a word may follow
    directly: with an opening bracket, a quote, a hyphen, in a script without
    spaces, or with a blank or a line's end that the vocabulary keeps. Other
    vocabularies than SentencePiece's allow all.
    """
    if not self._marks_words or self._word_may_follow(prompt):
      return self._begins_character
    return self._begins_character & ~self._continues_word

  def _word_may_follow(self, prompt: str) -> bool:
    text = prompt.rstrip()
    if text != prompt:
      # A vocabulary that drops the space at the end puts it before the word.
      encode = self._vocabulary.encode
      return list(encode(prompt)) != list(encode(text))
    last = text[-1:]
    return (
      last in _OPENING
      or unicodedata.category(last) in _OPENING_CATEGORIES
      or _is_unspaced(last)
    )


def _is_of_spaced_word(character: str) -> bool:
  """Whether it is a letter, mark or digit, and spaces part its words."""
  if not character or unicodedata.category(character)[0] not in 'LMN':
    return False
  return not _is_unspaced(character)


def _is_unspaced(character: str) -> bool:
  return unicodedata.name(character, '').startswith(_UNSPACED_SCRIPTS)
