r"""Training runs of several cases and seeds: `python -m fnet_t5x.sweep`.

Each run is `fnet_t5x.train` with the given gin files and bindings, then those
of its case, in OUTPUT/CASE/seed_N, one run after another. The same command
resumes an interrupted sweep and repeats no finished run. At the end it prints a
table, and writes sweep.json and sweep.png: per case the last value of a metric,
its median over the seeds and its range.

  python -m fnet_t5x.sweep --output=runs/mixing --seeds=1,2,3 \
    --gin_file=gin/experiments/quickstart.gin \
    --case="fourier: NON_ATTENTION_MIXING='fourier'" \
    --case="control: NON_ATTENTION_MIXING='none'"

A case is a name, a colon, and bindings separated by semicolons.
"""

import io
import json
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from fnet_t5x import (
  command_line,
  environment,
  gin_binding,
  gin_check,
  train_process,
)
from fnet_t5x.gin_root import gin_root
from fnet_t5x.run_report import case_figure, cases, curves, figure

_METRIC = 'cross_ent_per_target_token'


class Run(NamedTuple):
  """One run of a sweep.

  Attributes:
    case: name of its case.
    seed: its RANDOM_SEED.
    folder: its MODEL_DIR.
    bindings: its gin bindings, `NAME = VALUE`, beside MODEL_DIR.
  """

  case: str
  seed: int
  folder: pathlib.Path
  bindings: tuple[str, ...]


def parse_case(text: str) -> tuple[str, list[str]]:
  """Returns name and bindings of `NAME: BINDING; BINDING`.

  Raises:
    ValueError: for a name that is no folder's name, or what is not a binding.
  """
  name, colon, rest = text.partition(':')
  name = name.strip()
  if not colon or not re.fullmatch(r'[\w.+-]+', name) or name.startswith('.'):
    raise ValueError(
      f'--case={text!r}: start with a name of letters, digits, "_", "-" or "." '
      'and a colon, such as "control: NON_ATTENTION_MIXING=\'none\'"'
    )
  bindings = _split(rest)
  for binding in bindings:
    gin_binding.parse(binding)
  return name, bindings


def _split(text: str) -> list[str]:
  """Splits bindings at semicolons, except for those within strings."""
  ends = []
  try:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
      if token.type == tokenize.OP and token.string == ';':
        ends.append(token.start[1])
  except (tokenize.TokenError, SyntaxError):
    # Gin's parser, which reads the whole next, says what is wrong.
    return [text]
  starts = [0, *(end + 1 for end in ends)]
  parts = [
    text[a:b].strip() for a, b in zip(starts, [*ends, None], strict=True)
  ]
  return [part for part in parts if part]


def parse_seeds(text: str) -> list[int]:
  """Returns the seeds of `1,2,3`.

  Raises:
    ValueError: for anything else, or a seed that is given twice.
  """
  if not re.fullmatch(r'\d+(,\d+)*', text):
    raise ValueError(f'--seeds={text}: give whole numbers, such as 1,2,3')
  seeds = [int(each) for each in text.split(',')]
  if len(set(seeds)) < len(seeds):
    raise ValueError(f'--seeds={text}: give each seed once')
  return seeds


def plan(
  output: pathlib.Path,
  given: Sequence[tuple[str, Sequence[str]]],
  bindings: Sequence[str],
  seeds: Sequence[int],
) -> list[Run]:
  """Returns all runs: every case with the first seed, then with the second ...

  A sweep that is stopped early has thus compared all cases.

  Raises:
    ValueError: two cases have the same name.
  """
  names = [name for name, _ in given]
  if len(set(names)) < len(names):
    raise ValueError(f'--case: give each name once, not {", ".join(names)}')
  return [
    Run(
      name,
      seed,
      output / name / f'seed_{seed}',
      (*bindings, *of_case, f'RANDOM_SEED = {seed}'),
    )
    for seed in seeds
    for name, of_case in given
  ]


def summarize(
  runs: Sequence[Run], metric: str, output: pathlib.Path
) -> Iterator[str]:
  """Writes sweep.json and sweep.png; yields the lines of a table.

  Raises:
    ValueError: a run lacks the metric.
    OSError: metrics cannot be read.
  """
  by_case: dict[str, dict[int, pathlib.Path]] = {}
  for run in runs:
    by_case.setdefault(run.case, {})[run.seed] = run.folder
  compared = [
    cases.read(name, folders, metric) for name, folders in by_case.items()
  ]
  content = {
    'environment': environment.describe_host(),
    'metric': metric,
    'cases': {case.name: _json_of(case) for case in compared},
  }
  path = output / 'sweep.json'
  path.write_text(json.dumps(content, indent=2) + '\n')
  wrote = [str(path)]
  if figure.has_matplotlib():
    picture = output / 'sweep.png'
    picture.write_bytes(case_figure.draw(compared, metric))
    wrote.append(str(picture))
  width = max(len(case.name) for case in compared)
  yield (
    f'{"case":<{width}}  seeds  {"median":>9}  {"minimum":>9}  {"maximum":>9}'
    '  steps/s'
  )
  for case in compared:
    finals = case.finals
    median = curves.median(finals)
    speed = f'{case.speed:7.3g}' if case.speed else f'{"-":>7}'
    yield (
      f'{case.name:<{width}}  {len(finals):>5}  {median:>9.4f}  '
      f'{min(finals):>9.4f}  {max(finals):>9.4f}  {speed}'
    )
  yield f'{metric} after the last step; wrote {" and ".join(wrote)}'


def _json_of(case: cases.Case) -> Mapping[str, Any]:
  return {
    'finals': {seed: c.values[-1] for seed, c in case.curves.items()},
    'steps_per_second': dict(case.steps_per_second),
    'curves': {
      seed: {
        'steps': list(c.steps),
        'seconds': [round(each, 2) for each in c.seconds],
        'values': list(c.values),
      }
      for seed, c in case.curves.items()
    },
  }


def _define_flags() -> None:
  flags.DEFINE_string('output', None, 'Folder of the sweep.')
  flags.DEFINE_multi_string(
    'case',
    [],
    'A case, "NAME: BINDING; BINDING"; repeat the flag for each case.',
  )
  flags.DEFINE_string('seeds', '1,2,3', 'Random seeds of each case.')
  flags.DEFINE_string(
    'metric',
    _METRIC,
    'Metric of the evaluations to compare; COLLECTION:METRIC if several '
    'evaluations have it.',
  )


def main(argv: list[str]) -> None:
  """Trains all runs, and compares them.

  Raises:
    ValueError, FileNotFoundError: a flag, gin file or binding is wrong, or a
      run failed.
  """
  _define_flags()
  command_line.define_flags()
  command_line.read(argv, __doc__)
  given = flags.FLAGS
  if not given.gin_file:
    raise ValueError(
      'no --gin_file given, such as --gin_file=gin/experiments/quickstart.gin'
    )
  if not given.output:
    raise ValueError('no --output given, such as --output=runs/sweep')
  if not given.case:
    raise ValueError(
      'no --case given, such as --case="control: NON_ATTENTION_MIXING=\'none\'"'
    )
  output = pathlib.Path(given.output).expanduser().absolute()
  runs = plan(
    output,
    [parse_case(text) for text in given.case],
    given.gin_bindings,
    parse_seeds(given.seeds),
  )
  # Every case is checked before the first one is trained.
  for run in runs[: len(given.case)]:
    gin_check.check(
      'train',
      given.gin_file,
      [*run.bindings, f'MODEL_DIR = {str(run.folder)!r}'],
      [*given.gin_search_paths, gin_root()],
    )
  if not figure.has_matplotlib():
    sys.stderr.write(
      "warning: no matplotlib, so no picture: pip install 'fnet_t5x[report]'\n"
    )
  places = [f'--gin_search_paths={each}' for each in given.gin_search_paths]
  for number, run in enumerate(runs, start=1):
    label = f'{number}/{len(runs)} {run.case}, seed {run.seed}'
    print(label, flush=True)
    try:
      train_process.train_once(run.folder, given.gin_file, run.bindings, places)
    except train_process.TrainingError as error:
      raise ValueError(
        f'{label}: {error}; the same command resumes the sweep'
      ) from error
  for line in summarize(runs, given.metric, output):
    print(line)


if __name__ == '__main__':
  with command_line.one_line_errors():
    main(sys.argv)
