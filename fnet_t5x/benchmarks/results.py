r"""The benchmarks of docs/RESULTS.md, and the page itself.

  python -m fnet_t5x.benchmarks.results
  python -m fnet_t5x.benchmarks.results --sections quality --text ~/novels
  python -m fnet_t5x.benchmarks.results --toy --out /tmp/toy

Runs every section as a process of its own, and writes its figures to
docs/measurements/results, with machine, versions, commit and command; then the
page. A section whose figures are there, by the same command, is not run again,
so that an interrupted run continues where it was; --again runs it. If a section
fails, the page says so, and the others run. Each has a limit of time; together
they end before 90 minutes. --write writes the page alone, from the files.
"""

import argparse
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from fnet_t5x import argument_parser, environment, result_table, whole_file
from fnet_t5x.benchmarks import results_page
from fnet_t5x.benchmarks.results_sections import SECTIONS, Section
from fnet_t5x.generated_page import DOCS

# Below docs/.
FOLDER = 'measurements/results'


def run_section(
  section: Section, options: argparse.Namespace
) -> dict[str, Any]:
  """Runs a section's command, and writes its file.

  Args:
    section: the section.
    options: the command line: `out`, `toy` and `text`.

  Returns:
    The content of the file: `section`, `command`, `toy`, `seconds`, the
    `environment`, the `benchmark`'s own JSON, None if it left none, and
    `error`, a line, None if it succeeded.
  """
  part = options.out / f'{section.name}.part.json'
  drawn = options.out / f'{section.name}.part.png'
  part.unlink(missing_ok=True)
  words = [f'--json={part}', *section.words(options.toy, options.text)]
  if section.draws and importlib.util.find_spec('matplotlib'):
    words.append(f'--figure={drawn}')
  described = environment.describe_host()
  start = time.perf_counter()
  try:
    error = _run(f'fnet_t5x.benchmarks.{section.name}', words, section.limit)
    benchmark = read(part)
    if benchmark is None and error is None:
      error = 'the command wrote no figures'
    content = {
      'section': section.name,
      'command': section.command(options.toy, options.text),
      'toy': options.toy,
      'seconds': time.perf_counter() - start,
      'environment': described,
      'benchmark': benchmark,
      'error': error,
    }
    picture = options.out / f'{section.name}.png'
    # Not that of an earlier run.
    picture.unlink(missing_ok=True)
    if drawn.exists():
      drawn.replace(picture)
    _write(options.out / f'{section.name}.json', json.dumps(content, indent=1))
  finally:
    part.unlink(missing_ok=True)
    drawn.unlink(missing_ok=True)
  return content


def _run(module: str, words: Sequence[str], minutes: float) -> str | None:
  """Runs a module, shows its output, and returns its error in one line."""
  process = subprocess.Popen(
    [sys.executable, '-m', module, *words],
    stderr=subprocess.PIPE,
    text=True,
    errors='replace',
  )
  stopped = threading.Event()

  def stop():
    stopped.set()
    process.kill()

  timer = threading.Timer(60 * minutes, stop)
  timer.start()
  said = []
  try:
    for line in process.stderr:
      sys.stderr.write(line)
      sys.stderr.flush()
      said = [*said[-50:], line.strip()]
    code = process.wait()
  finally:
    timer.cancel()
    process.kill()
    process.wait()
  if stopped.is_set():
    return f'stopped after {minutes:g} minutes'
  return None if code == 0 else error_line(said, code)


def error_line(said: Sequence[str], code: int) -> str:
  """Returns the error among the last lines of a command, without folders.

  Args:
    said: lines of standard error.
    code: exit code; negative for a signal.
  """
  lines = [line for line in said if line]
  reported = [line for line in lines if line.startswith('error: ')]
  if code < 0:
    line = f'ended by signal {-code}'
  else:
    line = (reported or lines or [f'exit code {code}'])[-1]
  # The page is for others, who have other folders.
  line = re.sub(r'(?<![\w.])(?:/[\w.+-]+)+/', '', line)
  return line.removeprefix('error: ')[:300]


def read(path: pathlib.Path) -> Any:
  """Returns a JSON file's content; None if it is absent or incomplete."""
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return None


def is_done(content: Any, command: str) -> bool:
  """Whether a section's file has all figures of this command."""
  return (
    content is not None
    and content.get('error') is None
    and content.get('command') == command
  )


def write_page(options: argparse.Namespace) -> None:
  """Writes the page from the files of the sections."""
  _write(options.page, results_page.render(options.out, options.page.parent))


def _write(path: pathlib.Path, text: str) -> None:
  whole_file.write(path, (text.rstrip('\n') + '\n').encode())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.results', __doc__
  )
  parser.add_list(
    '--sections',
    str,
    list(SECTIONS),
    f'which to run, of {", ".join(SECTIONS)}; the page has those that were run '
    'before, too',
    choices=SECTIONS,
  )
  parser.add_argument(
    '--again', action='store_true', help='run sections that have figures, too'
  )
  parser.add_argument(
    '--write', action='store_true', help='write the page, run nothing'
  )
  parser.add_argument(
    '--text',
    help='files that section quality trains on: one, a glob or a folder; by '
    'default the shipped corpus',
  )
  parser.add_argument(
    '--toy',
    action='store_true',
    help='tiny sizes, in minutes, to try the commands; needs --out',
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    help=f"folder for the sections' files and the page; by default "
    f'docs/{FOLDER}, with the page in docs/{results_page.PAGE}',
  )
  options = parser.parse_args(arguments)
  if options.out is None:
    if options.toy:
      parser.error('--toy: give --out, a folder other than that of real runs')
    if not DOCS.is_dir():
      parser.error(f'there is no folder {DOCS}; give --out')
    options.out = DOCS / FOLDER
    options.page = DOCS / results_page.PAGE
  else:
    options.page = options.out / results_page.PAGE
  try:
    if not options.write:
      options.out.mkdir(parents=True, exist_ok=True)
    result_table.check_writable(options.page)
  except OSError as error:
    parser.error(f'--out {error}')
  return options


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs the sections and writes the page; exit code 1 if one failed."""
  options = parse(arguments)
  if options.write:
    write_page(options)
    return
  failed = []
  for name in options.sections:
    section = SECTIONS[name]
    command = section.command(options.toy, options.text)
    content = read(options.out / f'{name}.json')
    if is_done(content, command) and not options.again:
      print(f'{name}: has figures; --again runs it again', flush=True)
      continue
    print(f'{name}: {command}', flush=True)
    try:
      content = run_section(section, options)
    except KeyboardInterrupt:
      sys.exit(f'{name}: stopped; the same command continues with it')
    if content['error']:
      failed.append(f'{name}: {content["error"]}')
    # After each section, for whoever looks meanwhile.
    write_page(options)
  write_page(options)
  print(f'written: {options.page}')
  if failed:
    sys.exit('\n'.join(f'error: {line}' for line in failed))


if __name__ == '__main__':
  main()
