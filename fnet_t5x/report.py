r"""Plots of training runs: `python -m fnet_t5x.report RUN [RUN ...]`.

Reads metrics.jsonl and config.gin from each run's folder (MODEL_DIR), also
during training, and writes a figure, report.png, and a self-contained page,
report.html: losses by step and by training time, learning rate, speed, and
tables of results and macros. Needs matplotlib: pip install 'fnet_t5x[report]'.

  python -m fnet_t5x.report runs/quickstart

  python -m fnet_t5x.report runs/hybrid/* runs/t5/* --output=compared.png
"""

import os
import pathlib
import sys

from absl import flags

from fnet_t5x import command_line, whole_file


def _define_flags() -> None:
  flags.DEFINE_string(
    'output',
    'report',
    'Folder to write report.png and report.html to; or the path of the figure, '
    'such as compared.png, with the page beside it.',
  )


def files(output: str) -> tuple[pathlib.Path, pathlib.Path]:
  """Returns the paths of the figure and the page."""
  path = pathlib.Path(output).expanduser()
  if path.suffix.lower() in ('.png', '.html'):
    return path.with_suffix('.png'), path.with_suffix('.html')
  return path / 'report.png', path / 'report.html'


def write(path: pathlib.Path, content: bytes) -> None:
  """Writes a file atomically, and creates its folder.

  Raises:
    OSError: if it cannot be written.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_file.write(path, content)
  except OSError as error:
    raise OSError(
      f'--output: {path} cannot be written ({error.strerror}); name a writable '
      'folder'
    ) from error


def main(argv: list[str]) -> None:
  """Plots the runs that the command line names.

  Raises:
    ValueError: if no run is named, or one has no metrics.
    FileNotFoundError: if a run does not exist.
    ImportError: if matplotlib is not installed.
    OSError: if the output cannot be written.
  """
  _define_flags()
  folders = command_line.read(argv, __doc__, arguments=True)
  if not folders:
    raise ValueError('no run given, such as runs/quickstart')
  from fnet_t5x.run_report import curves, figure, page

  figure.check_matplotlib()
  runs = curves.read_runs([os.path.expanduser(each) for each in folders])
  picture = figure.draw(runs)
  png, html = files(flags.FLAGS.output)
  write(png, picture)
  write(html, page.make(runs, picture).encode())
  for run in runs:
    for note in run.notes:
      sys.stderr.write(f'warning: {run.name}: {note}\n')
  print(f'wrote {png} and {html}')


if __name__ == '__main__':
  with command_line.one_line_errors():
    main(sys.argv)
