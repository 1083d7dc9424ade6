"""The command `generate`: errors, sources of prompts, output."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import generation_runs
import gin
import pytest
from absl import flags
from checkout import ROOT

from fnet_t5x import generate
from fnet_t5x.runtime import text_generation
from fnet_t5x.runtime.generation_options import GenerationOptions

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, '-m', 'fnet_t5x.generate']


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory) -> str:
  return generation_runs.train(tmp_path_factory.mktemp('generate'))


@pytest.fixture(scope='module')
def generator(model_dir) -> text_generation.TextGenerator:
  gin.clear_config()
  made = text_generation.TextGenerator(model_dir)
  gin.clear_config()
  return made


def run(*arguments, folder, stdin=b'', **environment):
  return subprocess.run(
    [*COMMAND, *arguments],
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(ROOT), **environment},
    input=stdin,
    capture_output=True,
    check=False,
    timeout=300,
  )


# What cannot be imported, so that nothing imports it before all is checked.
_HEAVY = 'raise RuntimeError("imported before the flags were checked")\n'


@pytest.mark.parametrize(
  ('arguments', 'stdin', 'code', 'line'),
  [
    (['--promt=x'], b'', 2, r"Unknown command line flag 'promt'"),
    (['--top_k=many'], b'', 2, r'flag --top_k=many: .*'),
    (['My', 'fellow'], b'', 1, r'no such argument: My fellow'),
    (['--temperature=-1'], b'', 1, r'--temperature is -1.0; it must be at '),
    (['--temperature=nan'], b'', 1, r'--temperature is nan; it must be at '),
    (['--top_k=-1'], b'', 1, r'--top_k is -1; it must be at least 0'),
    (['--top_p=2'], b'', 1, r'--top_p is 2.0; it must be from 0 to 1'),
    (
      ['--top_k=2', '--top_p=0.5'],
      b'',
      1,
      r'--top_k and --top_p exclude each other: set one of them',
    ),
    (['--num_samples=0'], b'', 1, r'--num_samples is 0; it must be at least 1'),
    (['--num_beams=0'], b'', 1, r'--num_beams is 0; it must be at least 1'),
    (['--max_tokens=0'], b'', 1, r'--max_tokens is 0; it must be at least 1'),
    (
      ['--num_beams=2', '--temperature=1'],
      b'',
      1,
      r'--num_beams and --temperature exclude each other: beam search does',
    ),
    ([], b'x', 1, r'no --model_dir given; name the folder of a training run'),
    (['--model_dir=run'], b' \n', 1, r'standard input has no prompt: give'),
    (
      ['--model_dir=run'],
      b'a\n\xff\n',
      1,
      r'standard input, line 2: not UTF-8; convert it to UTF-8',
    ),
    (['--model_dir=run', '--prompt= '], b'', 1, r'--prompt is empty: give'),
    (
      ['--model_dir=run', '--prompt=x', '--prompt_file=y'],
      b'',
      1,
      r'--prompt and --prompt_file: give only one of them',
    ),
    (
      ['--model_dir=run', '--prompt_file=none.txt'],
      b'',
      1,
      r'--prompt_file=none.txt: No such file or directory; name a text file',
    ),
    (
      ['--model_dir=none', '--prompt=x'],
      b'',
      1,
      r'none: no such folder; name the MODEL_DIR of a training run',
    ),
    (
      ['--model_dir=run', '--prompt=x'],
      b'',
      1,
      r'run holds no config.gin: name the MODEL_DIR of a training run',
    ),
    (
      ['--model_dir=saved', '--prompt=x', '--checkpoint_step=7'],
      b'',
      1,
      r'saved holds no checkpoint of step 7: there is 5',
    ),
  ],
)
def test_refused_before_anything_heavy_is_imported(
  tmp_path, arguments, stdin, code, line
):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'saved/checkpoint_5').mkdir(parents=True)
  (tmp_path / 'saved/config.gin').write_text('')
  for name in ('jax', 'tensorflow'):
    (tmp_path / f'heavy/{name}').mkdir(parents=True)
    (tmp_path / f'heavy/{name}/__init__.py').write_text(_HEAVY)
  path = os.pathsep.join([str(tmp_path / 'heavy'), str(ROOT)])
  done = run(*arguments, folder=tmp_path, stdin=stdin, PYTHONPATH=path)
  error, *hint = done.stderr.decode().splitlines()
  assert re.match(f'error: {line}', error), done.stderr
  assert hint == ['(FNET_T5X_TRACEBACK=1 shows where it came from)']
  assert done.returncode == code
  assert not done.stdout


def test_help_names_every_option(tmp_path):
  done = run('--help', folder=tmp_path)
  assert done.returncode == 0
  text = done.stdout.decode()
  assert '--prompt="My fellow citizens,"' in text
  for field in GenerationOptions.__dataclass_fields__:
    assert re.search(rf'--(\[no\])?{field}\b', text)


def prompts(*arguments, monkeypatch, stdin=b''):
  with monkeypatch.context() as patch:
    patch.setattr(flags, 'FLAGS', flags.FlagValues())
    patch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(stdin)))
    values = flags.FLAGS
    for name in ('prompt', 'prompt_file'):
      flags.DEFINE_string(name, None, '', flag_values=values)
    values(['generate', *arguments])
    return generate.given_prompts()


def test_prompts_come_from_a_flag_a_file_or_standard_input(
  tmp_path, monkeypatch
):
  file = tmp_path / 'prompts.txt'
  file.write_bytes('\ufeffone\r\n\n  two\x0btoo\u2028\n'.encode())

  def given(*arguments, **stdin):
    return prompts(*arguments, monkeypatch=monkeypatch, **stdin)

  assert given('--prompt=a b') == ['a b']
  assert given(f'--prompt_file={file}') == ['one', '  two\x0btoo\u2028']
  assert given(stdin=b'x\n\ny') == ['x', 'y']
  file.write_text('\n')
  with pytest.raises(ValueError, match=re.escape(f'{file} has no prompt')):
    given(f'--prompt_file={file}')


LONG = 'the state of the union is strong and our people are free at last'


@pytest.mark.parametrize(
  ('prompt', 'shown'),
  [
    ('short\tone ', 'short one'),
    (LONG, 'the state of the union is strong and our people are free at ...'),
    ('x' * 70, 'x' * 60 + ' ...'),
    ('x' * 60, 'x' * 60),
    ('x' * 59 + ' y', 'x' * 59 + ' ...'),
  ],
)
def test_beginning_of_a_prompt(prompt, shown):
  assert generate.beginning(prompt) == shown


def printed(generator, given, capsys, **options) -> tuple[str, list[str]]:
  how = GenerationOptions(**options)
  printer = generate.Printer(generator, how, labelled=len(given) > 1)
  for number, prompt in enumerate(given, start=1):
    printer.print_texts(prompt, number)
  out, err = capsys.readouterr()
  return out, err.splitlines()


def test_a_single_text_has_no_label(generator, capsys):
  text = generator.generate('abc', seed=3)
  assert printed(generator, ['abc'], capsys, seed=3)[0] == text + '\n'
  text = generator.generate('abc', num_beams=2)
  assert printed(generator, ['abc'], capsys, num_beams=2)[0] == text + '\n'


def test_several_texts_are_labelled(generator, capsys):
  how = {'seed': 3, 'max_tokens': 5}
  first, second = generator.generate(['abc', 'fed cba'], **how)
  out, _ = printed(generator, ['abc', 'fed cba'], capsys, **how)
  assert out == f'[1] abc\n{first}\n\n[2] fed cba\n{second}\n'
  how['num_samples'] = 2
  first, second = generator.generate(['abc', 'fed'], **how)
  out, _ = printed(generator, ['abc'], capsys, **how)
  assert out == (f'[sample 1] abc\n{first[0]}\n\n[sample 2] abc\n{first[1]}\n')
  out, _ = printed(generator, ['abc', 'fed'], capsys, **how)
  assert out == (
    f'[1, sample 1] abc\n{first[0]}\n\n[1, sample 2] abc\n{first[1]}\n\n'
    f'[2, sample 1] fed\n{second[0]}\n\n[2, sample 2] fed\n{second[1]}\n'
  )


def test_says_when_a_text_was_cut(generator, capsys):
  cut = 'the text was cut at'
  how = {'temperature': 0, 'max_tokens': 1}
  _, notes = printed(generator, ['abc'], capsys, **how)
  assert notes == [f'note: {cut} 1 tokens (--max_tokens)']
  _, notes = printed(generator, ['a', 'b'], capsys, **how)
  assert notes[1] == f'note: [2] {cut} 1 tokens (--max_tokens)'
  seen = set()
  for seed in range(12):
    how = {'temperature': 3.0, 'top_k': 0, 'seed': seed}
    (text,) = generator.texts('abc', GenerationOptions(**how))
    _, notes = printed(generator, ['abc'], capsys, **how)
    line = f'note: {cut} 16 tokens (the maximum of the decoder)'
    assert notes == ([] if text.ended else [line])
    seen.add(text.ended)
  assert seen == {True, False}


def test_command_prints_the_texts(model_dir, generator, tmp_path):
  (tmp_path / 'prompts.txt').write_text('abc\nfed\n')
  done = run(
    f'--model_dir={model_dir}',
    '--prompt_file=prompts.txt',
    '--temperature=0',
    '--max_tokens=40',
    '--no_repeat_ngram_size=2',
    folder=tmp_path,
  )
  assert done.returncode == 0, done.stderr.decode()
  how = {'temperature': 0, 'no_repeat_ngram_size': 2}
  first, second = generator.generate(['abc', 'fed'], **how)
  assert done.stdout.decode() == f'[1] abc\n{first}\n\n[2] fed\n{second}\n'
  notes = done.stderr.decode().splitlines()
  assert notes[0] == (
    'note: --max_tokens=40 exceeds the maximum of the decoder: texts have at '
    'most 16 tokens'
  )
  assert all(line.startswith('note: ') for line in notes)


def test_all_prompts_are_checked_before_the_first_text(model_dir, tmp_path):
  done = run(
    f'--model_dir={model_dir}', folder=tmp_path, stdin=b'abc\n' + 40 * b'a'
  )
  assert done.returncode == 1
  assert not done.stdout
  assert done.stderr.decode().startswith(
    'error: prompt 2: the prompt is 40 tokens long, and the model reads at '
  )


class Terminal:
  """A program on a terminal, and its output there."""

  def __init__(self, arguments, folder):
    self._master, slave = pty.openpty()
    self.process = subprocess.Popen(
      [*COMMAND, *arguments],
      cwd=folder,
      env={**os.environ, 'PYTHONPATH': str(ROOT), 'TERM': 'dumb'},
      stdin=slave,
      stdout=slave,
      stderr=slave,
      start_new_session=True,
    )
    os.close(slave)
    self.shown = ''

  def wait_for(self, text: str, count: int = 1, otherwise=None) -> None:
    """Waits until the text has been shown a given number of times.

    `otherwise` is called after two seconds without output: Python's readline
    misses a signal that arrives just before it waits for a key.
    """
    stop = time.monotonic() + 240
    while self.shown.count(text) < count:
      assert time.monotonic() < stop, self.shown
      if select.select([self._master], [], [], 2.0)[0]:
        try:
          self.shown += os.read(self._master, 1024).decode(errors='replace')
        except OSError:
          raise AssertionError(self.shown) from None
      elif otherwise:
        otherwise()

  def type(self, text: str) -> None:
    os.write(self._master, text.encode())

  def end(self) -> int:
    code = self.process.wait(60)
    os.close(self._master)
    return code


@pytest.mark.parametrize('ending', ['end of file', 'interrupt'])
def test_interactive_use_on_a_terminal(model_dir, tmp_path, ending):
  terminal = Terminal(
    [f'--model_dir={model_dir}', '--temperature=0', '--max_tokens=3'], tmp_path
  )
  terminal.wait_for('> ')
  terminal.type('abc\n')
  terminal.wait_for('cut at 3 tokens')
  terminal.wait_for('> ', 2)
  terminal.type('a' * 30 + '\n')
  terminal.wait_for('error: the prompt is 30 tokens long')
  terminal.wait_for('> ', 3)
  if ending == 'end of file':
    terminal.type('\x04')
    assert terminal.end() == 0
  else:
    terminal.wait_for(
      'interrupted',
      otherwise=lambda: terminal.process.send_signal(signal.SIGINT),
    )
    assert terminal.end() == 130
  assert 'Traceback' not in terminal.shown


def test_interrupt_ends_a_text_but_not_the_command(
  generator, monkeypatch, capsys
):
  """Ctrl-C arrives while the second piece is generated."""
  monkeypatch.setattr('sys.stdin', io.StringIO('abc\nfed\n'))
  printer = generate.Printer(
    generator, GenerationOptions(temperature=0), labelled=False
  )
  sample = generator._tokens.sample

  def interrupted(*arguments):
    tokens = sample(*arguments)
    yield next(tokens)
    monkeypatch.setattr(generator._tokens, 'sample', sample)
    raise KeyboardInterrupt

  monkeypatch.setattr(generator._tokens, 'sample', interrupted)
  generate._run_interactively(printer)
  texts = capsys.readouterr().out.split('\n')
  first, second = generator.generate(['abc', 'fed'], temperature=0)
  assert first.startswith(texts[0])
  assert texts[0] != first
  assert texts[1:] == [*second.split('\n'), '']


def test_closed_output_pipe(model_dir, tmp_path):
  """As `| head` does; no error, no traceback."""
  read, write = os.pipe()
  os.close(read)
  done = subprocess.run(
    [*COMMAND, f'--model_dir={model_dir}', '--prompt=abc'],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stdout=write,
    stderr=subprocess.PIPE,
    check=False,
    timeout=300,
  )
  os.close(write)
  assert done.returncode == 0
  assert not done.stderr
