"""Writing text: what comes is what the network says, piece by piece."""

import io
import re
import sys

import bad_input_test
import gin
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from absl import flags

from fnet_t5x import generate
from fnet_t5x.runtime import text_generation
from fnet_t5x.runtime import train as train_lib

PROMPT = 'abc de'


@pytest.fixture(scope='module')
def generator(tmp_path_factory) -> text_generation.TextGenerator:
  """Of a model that has taken a step."""
  folder = tmp_path_factory.mktemp('generate')
  gin_file = folder / 'run.gin'
  gin_file.write_text(bad_input_test.RUN)
  small_runs.register()
  with pytest.MonkeyPatch.context() as patch:
    main = sys.modules['__main__']
    patch.setattr(main, 'train', train_lib.train, raising=False)
    gin.clear_config()
    bad_input_test.train(gin_file, folder / 'model')
    gin.clear_config()
    made = text_generation.TextGenerator(str(folder / 'model'))
    gin.clear_config()
  return made


def write(generator, prompt=PROMPT, **choices) -> str:
  return ''.join(generator.continue_text(prompt, **choices))


def test_greedy_is_the_likeliest_token_of_the_whole_network(generator):
  """By teacher forcing over ever longer texts, without a cache."""
  model = generator._model
  vocabulary = small_runs.VOCABULARY
  inputs = np.zeros((1, 24), np.int32)
  tokens = [*vocabulary.encode(PROMPT), vocabulary.eos_id]
  inputs[0, : len(tokens)] = tokens
  written = []
  for _ in range(8):
    targets = np.ones((1, 16), np.int32)
    decoder = np.zeros((1, 16), np.int32)
    decoder[0, 1 : len(written) + 1] = written
    logits = model.module.apply(
      {'params': generator._params},
      jnp.asarray(inputs),
      jnp.asarray(decoder),
      jnp.asarray(targets),
      enable_dropout=False,
    )[0, len(written)]
    # Padding is never written, nor an id without a piece.
    token = 1 + int(np.argmax(logits[1 : vocabulary.vocab_size]))
    if token == vocabulary.eos_id:
      break
    written.append(token)
  assert write(generator, temperature=0, max_tokens=8) == vocabulary.decode(
    written
  )


def test_the_seed_decides(generator):
  texts = [write(generator, temperature=1.0, topk=0, seed=s) for s in (1, 1, 2)]
  assert texts[0] == texts[1] != texts[2]


def test_topk_of_one_is_greedy(generator):
  assert write(generator, topk=1, seed=5) == write(generator, temperature=0)


def test_writes_no_more_than_asked(generator):
  pieces = list(
    generator.continue_text(PROMPT, max_tokens=3, temperature=1.0, seed=3)
  )
  assert len(pieces) <= 3


@pytest.mark.parametrize(
  ('prompt', 'line'),
  [
    ('  ', 'the prompt is empty'),
    ('a' * 24, 'the prompt is 25 tokens long.* was trained for 24: shorten'),
  ],
)
def test_prompt_is_refused(generator, prompt, line):
  with pytest.raises(ValueError, match=line):
    write(generator, prompt)


def prompts(*arguments, stdin='', monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(flags, 'FLAGS', flags.FlagValues())
    patch.setattr(generate.flags, 'FLAGS', flags.FLAGS)
    patch.setattr('sys.stdin', io.StringIO(stdin))
    values = flags.FLAGS
    flags.DEFINE_string('prompt', None, '', flag_values=values)
    flags.DEFINE_string('prompt_file', None, '', flag_values=values)
    values(['generate', *arguments])
    return list(generate.prompts())


def test_prompts_come_from_a_flag_a_file_or_standard_input(
  tmp_path, monkeypatch
):
  file = tmp_path / 'prompts.txt'
  file.write_text('one\n\ntwo\n')
  assert prompts('--prompt=a b', monkeypatch=monkeypatch) == ['a b']
  assert prompts(f'--prompt_file={file}', monkeypatch=monkeypatch) == [
    'one',
    'two',
  ]
  assert prompts(stdin='x\ny\n', monkeypatch=monkeypatch) == ['x', 'y']
  with pytest.raises(ValueError, match='no prompt: give --prompt'):
    prompts(stdin='\n', monkeypatch=monkeypatch)
  file.write_text('\n')
  with pytest.raises(ValueError, match=re.escape(f'{file} holds no prompt')):
    prompts(f'--prompt_file={file}', monkeypatch=monkeypatch)
