"""Text generation, compared with the network's probabilities."""

import itertools
import logging

import generation_runs
import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece_vocabularies
import seqio
import small_runs

from fnet_t5x.runtime import text_generation
from fnet_t5x.runtime.generation_options import GenerationOptions
from fnet_t5x.runtime.text_generation import FirstTokens, TextPieces

pytestmark = pytest.mark.slow

PROMPT = 'abc de'
VOCABULARY = small_runs.VOCABULARY


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory) -> str:
  return generation_runs.train(tmp_path_factory.mktemp('generate'))


def load(*arguments) -> text_generation.TextGenerator:
  gin.clear_config()
  try:
    return text_generation.TextGenerator(*arguments)
  finally:
    gin.clear_config()


@pytest.fixture(scope='module')
def generator(model_dir) -> text_generation.TextGenerator:
  return load(model_dir)


def log_probs_after(generator, texts) -> np.ndarray:
  """Returns log-probabilities of the next token, without a cache."""
  inputs = np.zeros((len(texts), 24), np.int32)
  tokens = [*VOCABULARY.encode(PROMPT), VOCABULARY.eos_id]
  inputs[:, : len(tokens)] = tokens
  decoder = np.zeros((len(texts), 16), np.int32)
  for row, written in enumerate(texts):
    decoder[row, 1 : len(written) + 1] = written
  logits = generator._model.module.apply(
    {'params': generator._tokens._params},
    jnp.asarray(inputs),
    jnp.asarray(decoder),
    jnp.ones((len(texts), 16), jnp.int32),
    enable_dropout=False,
  )
  last = [len(written) for written in texts]
  logits = np.asarray(logits, np.float64)[np.arange(len(texts)), last]
  # Neither padding nor an id without a piece is ever generated.
  logits[:, [0, *range(VOCABULARY.vocab_size, logits.shape[1])]] = -np.inf
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def greedy(generator, steps, size=0) -> list[int]:
  """Returns the most likely tokens that repeat no n-gram, by enumeration."""
  written = []
  for _ in range(steps):
    scores = log_probs_after(generator, [written])[0]
    for token in np.argsort(-scores):
      text = [*written, int(token)]
      ngrams = [text[i : i + size] for i in range(len(text) - size + 1)]
      if not size or ngrams[-1:] == [] or ngrams[-1] not in ngrams[:-1]:
        break
    if token == VOCABULARY.eos_id:
      break
    written.append(int(token))
  return written


def test_greedy_is_the_most_likely_token(generator):
  """Reference: teacher forcing over texts of increasing length."""
  want = VOCABULARY.decode(greedy(generator, 8))
  assert generator.generate(PROMPT, temperature=0, max_tokens=8) == want
  assert generator.generate(PROMPT, top_k=1, seed=5, max_tokens=8) == want


def test_every_step_saved_can_be_loaded(model_dir, generator):
  first = load(model_dir, 1)
  assert (first.step, generator.step) == (1, 2)
  with pytest.raises(FileNotFoundError, match='no checkpoint of step 7: there'):
    load(model_dir, 7)


def tokens_of(generator, **options) -> list[list[int]]:
  options = GenerationOptions(**options)
  rows = np.stack(list(generator._sampled(PROMPT, options)), axis=1)
  return rows.tolist()


def test_greedy_without_repeated_ngrams(generator):
  free = greedy(generator, 16)
  assert len(free) - len(set(free)) > 0, 'nothing to guard against'
  for size in (1, 2, 3):
    (guarded,) = tokens_of(generator, temperature=0, no_repeat_ngram_size=size)
    want = greedy(generator, 16, size)
    assert guarded[: len(want)] == want


@pytest.mark.parametrize('size', [1, 2])
def test_samples_and_beams_repeat_no_ngrams(generator, size):
  options = {'no_repeat_ngram_size': size}
  rows = tokens_of(generator, num_samples=4, temperature=0.3, **options)
  beams = GenerationOptions(num_beams=3, **options)
  rows.append(generator._searched(PROMPT, beams)[0].tolist())
  for row in rows:
    ended = row.index(1) if 1 in row else len(row)
    ngrams = [tuple(row[i : i + size]) for i in range(ended - size + 1)]
    assert len(ngrams) == len(set(ngrams))


def test_enough_beams_find_the_best_text(generator):
  """Reference: all texts of up to two tokens, including EOS."""
  eos, width = VOCABULARY.eos_id, generator._model.module.config.vocab_size
  first = log_probs_after(generator, [[]])[0]
  tokens = [t for t in range(1, VOCABULARY.vocab_size) if t != eos]
  second = log_probs_after(generator, [[t] for t in tokens])[:, eos]
  scores = {(): first[eos] / (6 / 6) ** 0.6}
  for token, score in zip(tokens, second, strict=True):
    scores[(token,)] = (first[token] + score) / (7 / 6) ** 0.6
  want = max(scores, key=scores.get)
  options = GenerationOptions(num_beams=width, max_tokens=2)
  (found,) = generator.texts(PROMPT, options)
  assert found.text == VOCABULARY.decode(want)
  assert found.ended


def test_text_depends_on_seed_prompt_and_sample(generator):
  def generate(prompt=PROMPT, **options):
    return generator.generate(prompt, temperature=1.0, top_k=0, **options)

  texts = [generate(seed=seed) for seed in (1, 1, 2)]
  assert texts[0] == texts[1] != texts[2]
  samples = generate(num_samples=3, seed=1)
  assert len(set(samples)) == 3
  # A text depends neither on the number of samples nor on other prompts.
  assert samples[0] == texts[0]
  assert generate(num_samples=2, seed=1) == samples[:2]
  assert generate(['x', PROMPT, 'x'], seed=1) == [
    *(generate('x', seed=1), texts[0], generate('x', seed=1))
  ]
  assert generate([PROMPT], num_samples=3, seed=1) == [samples]


def test_prompt_changes_the_random_numbers(generator):
  """Independently of the network, which has no effect at this temperature."""
  how = {'temperature': 1e6, 'top_k': 0, 'num_samples': 2, 'max_tokens': 8}
  texts = generator.generate(['abc', 'abd', 'x'], **how)
  assert len({*itertools.chain(*texts)}) == 6


def test_stream_yields_what_generate_returns(generator):
  for seed in range(3):
    pieces = list(generator.stream(PROMPT, temperature=1.0, seed=seed))
    assert len(pieces) > 1
    assert ''.join(pieces) == generator.generate(
      PROMPT, temperature=1.0, seed=seed
    )


def test_text_has_ended_or_is_truncated(generator):
  seen = set()
  for seed, most in itertools.product(range(20), (1, 16)):
    how = {'temperature': 3.0, 'seed': seed, 'max_tokens': most, 'top_k': 0}
    (tokens,) = tokens_of(generator, **how)
    assert len(tokens) <= most
    ended = tokens[-1] == VOCABULARY.eos_id
    stream = generator.stream(PROMPT, **how)
    list(stream)
    (text,) = generator.texts(PROMPT, GenerationOptions(**how))
    assert stream.ended == text.ended == ended
    seen.add(ended)
  assert seen == {True, False}


def test_tokens_are_limited_to_the_decoders_length(generator):
  assert [generator.max_tokens(n) for n in (None, 3, 99)] == [16, 3, 16]
  (tokens,) = tokens_of(generator, temperature=0, max_tokens=99)
  assert len(tokens) <= 16


@pytest.mark.parametrize(
  ('prompt', 'line'),
  [
    ('  ', 'the prompt is empty'),
    ('a' * 24, 'the prompt is 24 tokens long, and the model reads at most 23'),
    ('a\udc80', 'the prompt is not valid UTF-8'),
  ],
)
def test_prompt_is_refused(generator, prompt, line):
  with pytest.raises(ValueError, match=line):
    generator.generate(prompt)
  with pytest.raises(ValueError, match=f'prompt 2: {line}'):
    generator.generate([PROMPT, prompt])
  with pytest.raises(ValueError, match=line):
    generator.stream(prompt)


def test_truncated_prompt_keeps_its_end(generator, caplog):
  end = 'bcdefabcdefabcdefabcdef'
  assert len(end) == 23
  how = {'temperature': 0, 'max_tokens': 6}
  with caplog.at_level(logging.WARNING):
    text = generator.generate('fedcba' + end, truncate_prompt=True, **how)
  assert text == generator.generate(end, **how)
  assert 'is 6 tokens longer than the model reads' in caplog.text
  caplog.clear()
  generator.generate(end, truncate_prompt=True, **how)
  assert not caplog.text


def test_prompt_must_be_a_text(generator):
  with pytest.raises(TypeError, match='a prompt is 3; it must be a text'):
    generator.generate([3])


@pytest.mark.parametrize('number', [np.nan, np.inf])
@pytest.mark.parametrize('beams', [1, 2])
def test_logits_that_are_not_finite(model_dir, number, beams):
  for step, remedy in ((2, r'--checkpoint_step=1$'), (1, 'no earlier one$')):
    damaged = load(model_dir, step)
    damaged._tokens._params = jax.tree.map(
      lambda x: jnp.full_like(x, number), damaged._tokens._params
    )
    line = f'/checkpoint_{step} is damaged or .*{remedy}'
    with pytest.raises(ValueError, match=line):
      damaged.generate(PROMPT, num_beams=beams)


@pytest.fixture(scope='module')
def word_generator(tmp_path_factory) -> text_generation.TextGenerator:
  """Returns the generator of a model of words, bytes and lines."""
  folder = tmp_path_factory.mktemp('words')
  vocabulary = sentencepiece_vocabularies.train(folder)
  task = small_runs.register()
  seqio.TaskRegistry.add(
    'generation_words',
    source=task.source,
    preprocessors=task.preprocessors,
    output_features={
      name: seqio.Feature(vocabulary, add_eos=True)
      for name in ('inputs', 'targets')
    },
  )
  model_dir = generation_runs.train(
    folder,
    "MIXTURE_OR_TASK_NAME = 'generation_words'",
    'VOCABULARY = @seqio.SentencePieceVocabulary()',
    'seqio.SentencePieceVocabulary.sentencepiece_model_file = '
    f'{vocabulary.sentencepiece_model_file!r}',
    f'seqio.SentencePieceVocabulary.extra_ids = {vocabulary.extra_ids}',
    'VOCAB_SIZE = 512',
  )
  return load(model_dir)


def test_only_the_first_token_must_begin_a_word(word_generator):
  vocabulary = word_generator._model.output_vocabulary
  to_piece = vocabulary.tokenizer.IdToPiece

  def tokens(prompt):
    options = GenerationOptions(
      num_samples=200, max_tokens=2, temperature=1e6, top_k=0
    )
    return np.stack(list(word_generator._sampled(prompt, options)), axis=1)

  for prompt, may_be_inside in (('my fellow', False), ('well-', True)):
    rows = tokens(prompt)
    first, second = ([to_piece(int(t)) for t in row] for row in rows.T)
    assert any(piece[0].isalnum() for piece in first) == may_be_inside
    assert any(piece[0].isalnum() for piece in second)
    assert not any('<0x80>' <= piece <= '<0xBF>' for piece in first)
    assert any('<0x80>' <= piece <= '<0xBF>' for piece in second)


def test_beams_obey_the_first_token_constraint(word_generator, monkeypatch):
  """The constraint depends on the prompt, for the first token only."""

  class Few(FirstTokens):
    def allowed(self, prompt):
      ids = np.arange(self._begins_character.size)
      return (ids >= 300) == (prompt == 'x')

  few = Few(word_generator._model.output_vocabulary)
  monkeypatch.setattr(word_generator, '_first_tokens', few)
  options = GenerationOptions(num_beams=3, max_tokens=6)
  for prompt, is_high in (('x', True), ('y', False)):
    tokens = word_generator._searched(prompt, options)[0]
    assert (tokens[0] >= 300) == is_high


def test_pieces_of_words_bytes_and_lines_stream(word_generator):
  how = {'temperature': 1e6, 'top_k': 0}
  joined = ''
  for seed in range(20):
    pieces = list(word_generator.stream('my', seed=seed, **how))
    text = word_generator.generate('my', seed=seed, **how)
    assert ''.join(pieces) == text
    joined += text
  assert '\n' in joined
  assert '\ufffd' in joined


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return sentencepiece_vocabularies.train(tmp_path_factory.mktemp('pieces'))


def allowed_pieces(vocabulary, prompt) -> set[str]:
  allowed = FirstTokens(vocabulary).allowed(prompt)
  assert allowed.shape == (vocabulary.vocab_size,)
  return {vocabulary.tokenizer.IdToPiece(int(i)) for i in allowed.nonzero()[0]}


def all_pieces(vocabulary) -> set[str]:
  size = vocabulary.vocab_size
  return {vocabulary.tokenizer.IdToPiece(token) for token in range(size)}


@pytest.mark.parametrize(
  'prompt',
  [
    'my fellow',
    'in 1862',
    'the union is strong,',
    'my fellow ( ',
    'a ',
    'a- ',
  ],
)
def test_text_must_begin_a_word(vocabulary, prompt):
  allowed = allowed_pieces(vocabulary, prompt)
  for piece in all_pieces(vocabulary):
    if not piece.startswith('<'):
      inside_word = piece[0].isalnum()
      assert (piece in allowed) == (not inside_word), piece
  assert {'▁the', ',', '\n', '</s>', '▁<extra_id_0>'} <= allowed
  # Bytes: letters and digits as above; otherwise only first bytes.
  assert '<0x20>' in allowed
  assert '<0x61>' not in allowed
  for byte in range(0x80, 0x100):
    starts = any(
      chr(point).encode()[0] == byte
      for point in range(0x80, 0x110000, 0x40)
      if not 0xD800 <= point < 0xE000
    )
    assert (f'<0x{byte:02X}>' in allowed) == starts


@pytest.mark.parametrize(
  'prompt', ['well-', 'my (', 'he said "', "don'", 'a/', '自由', 'a line\n']
)
def test_a_word_may_follow_directly(vocabulary, prompt):
  allowed = allowed_pieces(vocabulary, prompt)
  left_out = all_pieces(vocabulary) - allowed
  assert left_out
  assert all(piece.startswith('<0x') for piece in left_out)


@pytest.mark.parametrize('end', [' ', '  ', '\n', '- '])
def test_trailing_space_that_the_vocabulary_keeps(vocabulary, tmp_path, end):
  """`the ` and `the`: the space is part of the prompt or the next piece."""
  keeping = sentencepiece_vocabularies.train(tmp_path, keeps_blanks=True)
  assert keeping.decode(keeping.encode('my' + end)) == 'my' + end
  for kept, is_kept in ((keeping, True), (vocabulary, end == '\n')):
    inside = {
      piece for piece in all_pieces(kept) if piece[0].isalnum()
    } & allowed_pieces(kept, 'my' + end)
    assert bool(inside) == is_kept
    assert '▁the' in allowed_pieces(kept, 'my' + end)


def test_other_vocabularies_allow_all():
  assert FirstTokens(seqio.ByteVocabulary()).allowed('abc').all()


def pieces_of(decode, tokens) -> list[str]:
  text = TextPieces(decode)
  return [text.add(token) for token in tokens] + [text.finish()]


def decode_bytes(tokens):
  """Decodes like byte pieces: U+FFFD per byte of an incomplete character."""
  text = bytes(tokens).decode('utf-8', 'surrogateescape')
  return ''.join('\ufffd' if '\ud800' <= c <= '\udfff' else c for c in text)


def test_a_character_waits_for_its_last_byte():
  tokens = 'a€🙂b'.encode()
  pieces = pieces_of(decode_bytes, tokens)
  assert ''.join(pieces) == 'a€🙂b'
  assert [piece for piece in pieces if piece] == ['a', '€', '🙂', 'b']


def test_invalid_bytes_are_returned_at_the_end():
  """In the middle once they are final; at the end if nothing follows."""
  euro = '€'.encode()
  assert pieces_of(decode_bytes, b'a' + euro[:2] + b'b' + euro[:1]) == [
    'a',
    '',
    '',
    '\ufffd\ufffdb',
    '',
    '\ufffd',
  ]


def test_no_text_is_lost_if_a_token_changes_it():
  def decode(tokens):
    return ''.join('ab c'[token] for token in tokens).replace('a ', 'x ')

  assert ''.join(pieces_of(decode, [1, 0, 3, 2, 1, 0, 3])) == 'bac bac'
  # `a` became `x`: the following text is held back until the end.
  assert pieces_of(decode, [1, 0, 2, 3]) == ['b', 'a', '', '', 'x c']


def test_pieces_of_a_sentencepiece_vocabulary(tmp_path):
  """Words, bytes and lines."""
  vocabulary = sentencepiece_vocabularies.train(tmp_path)
  text = 'my fellow\ncitizens € 🙂 and friends'
  tokens = vocabulary.encode(text)
  pieces = pieces_of(vocabulary.decode, tokens)
  assert ''.join(pieces) == vocabulary.decode(tokens) == text
  assert not any('\ufffd' in piece for piece in pieces)
  assert len([piece for piece in pieces if piece]) > 5


def test_no_tokens():
  assert pieces_of(seqio.ByteVocabulary().decode, []) == ['']
