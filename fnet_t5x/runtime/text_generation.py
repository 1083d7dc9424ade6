"""Text generation with a trained model, token by token.

SentencePiece marks the first piece of a word: `▁cit izens`. Training texts are
split anywhere, even within words, but a typed prompt ends with a whole word.
The first generated piece must therefore not continue that word (`FirstTokens`).
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
  decoder_only,
  loaded_model,
  models,
)
from fnet_t5x.runtime.generation_options import GenerationOptions
from fnet_t5x.runtime.token_generation import TokenGenerator

_log = logging.getLogger(__name__)
# Replaces bytes that are not a character, or an incomplete one.
_REPLACEMENT = '\ufffd'
_SPACE = '▁'
# Scripts without spaces between words, by the Unicode names of their letters.
UNSPACED_SCRIPTS = (
  'CJK',
  'HIRAGANA',
  'KATAKANA',
  'THAI',
  'LAO',
  'KHMER',
  'MYANMAR',
  'TIBETAN',
)
# What a word may follow without a space: `(a`, `-a`, `"a`, `'a`, `/a`.
OPENING_CATEGORIES = ('Ps', 'Pi', 'Pf', 'Pd', 'Pc')
OPENING = frozenset('"\'/\\@#$&*~`=+<|^')


@dataclasses.dataclass(frozen=True)
class GeneratedText:
  """Text generated after a prompt.

  Attributes:
    text: the text, without the prompt.
    ended: whether the model generated EOS; otherwise the text was truncated at
      the maximum number of tokens.
  """

  text: str
  ended: bool


class TextPieces:
  """Incremental detokenizer: the pieces it returns concatenate to the text.

  Tokens do not decode independently: a space, or a byte of a multi-byte
  character, depends on the next token. Text that may still change is held back.
  """

  def __init__(self, decode: Callable[[Sequence[int]], str]):
    """Starts an empty text; `decode` returns the text of a list of tokens."""
    self._decode = decode
    self._tokens: list[int] = []
    self._shown = ''

  @property
  def tokens(self) -> list[int]:
    """The tokens so far."""
    return self._tokens

  def add(self, token: int) -> str:
    """Appends a token; returns the text that is now final, possibly empty."""
    self._tokens.append(token)
    text = self._decode(self._tokens).rstrip(_REPLACEMENT)
    # If the token changed text already returned, wait for the next one.
    if not text.startswith(self._shown):
      return ''
    return self._show(text)

  def finish(self) -> str:
    """Returns the text held back, with U+FFFD for invalid bytes."""
    return self._show(self._decode(self._tokens) if self._tokens else '')

  def _show(self, text: str) -> str:
    """Returns the text after its common prefix with the shown text."""
    common = 0
    for old, new in zip(self._shown, text, strict=False):
      if old != new:
        break
      common += 1
    self._shown = text
    return text[common:]


class TextStream(Iterator[str]):
  """Iterator over the pieces of a text while it is generated.

  Attributes:
    ended: after the last piece, whether the model generated EOS; otherwise the
      text was truncated at the maximum number of tokens.
  """

  def __init__(self, tokens: Iterator[int], pieces: TextPieces, eos_id: int):
    """Takes an iterator over tokens, including EOS, and an empty text."""
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
  """Text generator with the model of a checkpoint.

  Attributes:
    step: the checkpoint's step.
    task_name: the task or mixture on which the model was trained.
    feature_lengths: maximum number of prompt tokens (`inputs`) and of generated
      tokens (`targets`), including EOS.
  """

  def __init__(
    self,
    model_dir: str | loaded_model.LoadedModel,
    checkpoint_step: int | None = None,
  ):
    """Loads a checkpoint, with the configuration saved in its folder.

    Args:
      model_dir: the folder of a training run, or a checkpoint in it; or what
        `loaded_model.load` has loaded from it.
      checkpoint_step: the checkpoint's step; None for the last one.

    Raises:
      FileNotFoundError: `model_dir` has no configuration or no such
        checkpoint.
      ValueError: the configuration is not a run's, or would run untrusted
        code.
    """
    if not isinstance(model_dir, loaded_model.LoadedModel):
      model_dir = loaded_model.load(model_dir, checkpoint_step)
    loaded = model_dir
    self._directory = loaded.directory
    self._model: models.EncoderDecoderModel | decoder_only.DecoderOnlyModel = (
      loaded.model
    )
    self.task_name: str = loaded.task_name
    self.feature_lengths: Mapping[str, int] = loaded.feature_lengths
    self.step = loaded.step
    self._vocabulary = self._model.output_vocabulary
    self._first_tokens = FirstTokens(self._vocabulary)
    self._length = self._model.generation_length(self.feature_lengths)
    self._tokens = TokenGenerator(self._model, loaded.params, self._length)

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
    """Generates text after one prompt or each of several.

    A text depends only on its prompt, the options and the sample number, not on
    the other prompts.

    Args:
      prompt: the text to continue, or a list of texts.
      num_samples, max_tokens, temperature, top_k, top_p, num_beams,
        no_repeat_ngram_size, seed, truncate_prompt: see `GenerationOptions`.

    Returns:
      The text without the prompt; a list of texts if `num_samples` is more
      than 1. For a list of prompts, a list of these.

    Raises:
      ValueError: a prompt is empty or exceeds the encoder's length, an option
        is out of range, or the model's logits are not finite.
      TypeError: an option is not a number.
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
    """Returns an iterator over the pieces of the text as it is generated.

    They concatenate to the text that `generate` returns.

    Args:
      prompt: the text to continue.
      max_tokens, temperature, top_k, top_p, no_repeat_ngram_size, seed,
        truncate_prompt: see `GenerationOptions`.

    Raises:
      ValueError, TypeError: as in `generate`.
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
    """Does `stream` with options, of one sample and without beam search."""
    if options.num_samples > 1 or options.num_beams > 1:
      raise ValueError('num_samples and num_beams must be 1 for streaming')
    # Errors are raised now, not with the first piece.
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

  def max_tokens(self, requested: int | None, prompt: str | None = None) -> int:
    """Returns the requested number of tokens, at most what the decoder holds.

    Args:
      requested: the number; None for as many as possible.
      prompt: the text to continue, which shares the length with its
        continuation if the task has targets only; None for the shortest.
    """
    longest = self.feature_lengths['targets']
    if self._prompt_length is None:
      used = 1
      if prompt is not None:
        used = len(self._prompt_tokens(prompt, True, requested)[0])
      longest -= used
    return longest if requested is None else min(requested, longest)

  @property
  def _prompt_length(self) -> int | None:
    """Length of the prompt's own feature; None if it has none."""
    return self._model.prompt_length(self.feature_lengths)

  def check_prompts(
    self, prompts: Sequence[str], truncate: bool = False
  ) -> None:
    """Raises the error of `generate` if it cannot continue one of the prompts.

    If there are several prompts, the message has the number of the prompt.
    """
    for number, prompt in enumerate(prompts, start=1):
      try:
        self._prompt_tokens(prompt, truncate)
      except ValueError as error:
        if len(prompts) == 1:
          raise
        raise ValueError(f'prompt {number}: {error}') from error

  def _prompt_tokens(
    self, prompt: str, truncate: bool, max_tokens: int | None = None
  ) -> tuple[list[int], int]:
    """Returns a prompt's tokens and the number dropped.

    The tokens include EOS if the prompt is a feature of its own. Otherwise it
    is the beginning of the targets, and a truncated one leaves room for
    `max_tokens`, but keeps half of the length.
    """
    if not isinstance(prompt, str):
      raise TypeError(f'a prompt is {prompt!r}; it must be a text')
    if not prompt.strip():
      raise ValueError('the prompt is empty: enter some text to continue')
    if any('\ud800' <= character <= '\udfff' for character in prompt):
      raise ValueError('the prompt is not valid UTF-8: convert it to UTF-8')
    vocabulary = self._model.input_vocabulary
    tokens = [int(token) for token in vocabulary.encode(prompt)]
    if not tokens:
      raise ValueError(
        'the prompt has no character of the vocabulary: change it'
      )
    length = self._prompt_length
    # One for EOS, or for a token to generate.
    longest = (length or self._length) - 1
    if len(tokens) > longest and not truncate:
      raise ValueError(
        f'the prompt is {len(tokens)} tokens long, and the model reads at most '
        f'{longest}: shorten it, or keep only its end with truncate_prompt '
        '(--truncate_prompt)'
      )
    if length is None and len(tokens) > longest:
      room = self._length // 2
      longest = self._length - min(max_tokens or room, room)
    dropped = max(0, len(tokens) - longest)
    end = [] if length is None else [vocabulary.eos_id]
    return [*tokens[dropped:], *end], dropped

  def _inputs(
    self, prompt: str, options: GenerationOptions
  ) -> Int[Array, '1 length']:
    tokens, dropped = self._prompt_tokens(
      prompt, options.truncate_prompt, options.max_tokens
    )
    if dropped:
      _log.warning(
        'the prompt is %d tokens longer than the model reads: only its last '
        '%d tokens are used',
        dropped,
        len(tokens) - (self._prompt_length is not None),
      )
    length = self._prompt_length or self._length
    padding = [0] * (length - len(tokens))
    return jnp.asarray([tokens + padding], jnp.int32)

  def _pieces(self) -> TextPieces:
    return TextPieces(self._vocabulary.decode)

  def _sampled(
    self, prompt: str, options: GenerationOptions
  ) -> Iterator[Int[np.ndarray, ' rows']]:
    """Yields the next token of each sample, including EOS."""
    inputs = self._inputs(prompt, options)
    # A fixed implementation, so that samples are the same on every machine.
    key = jax.random.key(options.seed, impl='threefry2x32')
    key = jax.random.fold_in(key, zlib.crc32(prompt.encode('utf-8')))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      key, jnp.arange(options.num_samples)
    )
    with self._divergence_named():
      yield from self._tokens.sample(
        inputs,
        self._first_tokens.allowed(prompt),
        keys,
        self.max_tokens(options.max_tokens, prompt),
        options,
      )

  def _searched(
    self, prompt: str, options: GenerationOptions
  ) -> Int[np.ndarray, '1 length']:
    inputs = self._inputs(prompt, options)
    with self._divergence_named():
      tokens = self._tokens.search(
        inputs,
        self._first_tokens.allowed(prompt),
        self.max_tokens(options.max_tokens, prompt),
        options,
      )
    return tokens[None]

  @contextlib.contextmanager
  def _divergence_named(self) -> Iterator[None]:
    """Names checkpoint and remedy if logits are not finite."""
    try:
      yield
    except FloatingPointError as error:
      folder = self._directory.folder
      # Step 0 is untrained.
      earlier = [s for s in checkpoints.steps(folder) if 0 < s < self.step]
      remedy = (
        f'use an earlier one: --checkpoint_step={max(earlier)}'
        if earlier
        else 'there is no earlier one'
      )
      raise ValueError(
        f"the model's logits are not finite: {self._directory.checkpoint} is "
        f'damaged or the run diverged; {remedy}'
      ) from error


class FirstTokens:
  """Constraint on the first generated token, by vocabulary and prompt."""

  def __init__(self, vocabulary: seqio.Vocabulary):
    """Classifies the pieces of a SentencePiece vocabulary; ignores others."""
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
      self._continues_word[token] = _is_in_spaced_script(piece[:1])

  @property
  def depends_on_prompt(self) -> bool:
    """Whether pieces mark words, so that prompts can end within one."""
    return self._marks_words

  def allowed(self, prompt: str) -> Bool[np.ndarray, ' vocab']:
    """Returns whether each token may be the first one after a prompt.

    Vocabularies other than SentencePiece's allow all tokens.
    """
    return self.mask(self.word_may_follow(prompt))

  def mask(self, word_may_follow: bool) -> Bool[np.ndarray, ' vocab']:
    """Returns whether each token may be the first one.

    Bytes within a character never may.

    Args:
      word_may_follow: whether letters and digits may without a space before
        them.
    """
    if word_may_follow or not self._marks_words:
      return self._begins_character
    return self._begins_character & ~self._continues_word

  def word_may_follow(self, prompt: str) -> bool:
    """Returns whether a word may directly follow the end of a prompt.

    It may after an opening bracket, a quote, a hyphen, a script without spaces,
    or whitespace that the vocabulary preserves.
    """
    text = prompt.rstrip()
    if text != prompt:
      # A vocabulary that drops a trailing space puts it before the next word.
      encode = self._vocabulary.encode
      return list(encode(prompt)) != list(encode(text))
    last = text[-1:]
    return (
      last in OPENING
      or unicodedata.category(last) in OPENING_CATEGORIES
      or _is_unspaced(last)
    )


def _is_in_spaced_script(character: str) -> bool:
  """Whether it is a letter, mark or digit of a script with spaces."""
  if not character or unicodedata.category(character)[0] not in 'LMN':
    return False
  return not _is_unspaced(character)


def _is_unspaced(character: str) -> bool:
  return unicodedata.name(character, '').startswith(UNSPACED_SCRIPTS)
