"""What docs/RESULTS.md has no figures of, by rules from the results."""

from collections.abc import Collection, Mapping
from typing import Any

from fnet_t5x.benchmarks import encoders, inference, mixing, quality
from fnet_t5x.benchmarks.results_sections import SECTIONS

# Values that a benchmark measures by default, and their name in a sentence.
_USUAL = {
  'mixing': {'lengths': (mixing.LENGTHS, 'tokens per row')},
  'encoders': {'lengths': (encoders.LENGTHS, 'tokens per row')},
  'inference': {
    'prefixes': (inference.PREFIXES, 'tokens of the prefix'),
    'batches': (inference.BATCHES, 'rows per batch'),
  },
}


def gaps(
  results: Mapping[str, Mapping[str, Any]],
  pictures: Collection[str],
  accelerators: bool,
) -> list[str]:
  """Returns a line for everything that was not measured.

  Args:
    results: contents of the sections' files, by name.
    pictures: names of the sections that have a picture.
    accelerators: whether a GPU or TPU was measured.
  """
  lines = []
  for name, section in SECTIONS.items():
    content = results.get(name)
    if content is None:
      lines.append(f'{section.title}: `{name}` was not run.')
      continue
    if content['error']:
      partly = '; what it measured before is above' * bool(content['benchmark'])
      lines.append(
        f'{section.title}: `{name}` failed: {content["error"]}{partly}.'
      )
    if content['benchmark']:
      lines += _of_benchmark(name, section.title, content['benchmark'])
      if section.draws and name not in pictures:
        lines.append(f'{section.title}: there is no picture.')
  if not accelerators:
    lines.append(
      'GPU and TPU: there is no run yet of '
      '[the kit for accelerators](ACCELERATOR.md).'
    )
  return lines


def _of_benchmark(
  name: str, title: str, benchmark: Mapping[str, Any]
) -> list[str]:
  """Returns the lines of a section that has figures."""
  settings, lines = benchmark['settings'], []
  for field, (usual, what) in _USUAL.get(name, {}).items():
    left = [value for value in usual if value not in settings[field]]
    if left:
      lines.append(f'{title}: {", ".join(map(str, left))} {what}.')
  if settings.get('dtype') == 'float32':
    lines.append(f'{title}: bfloat16.')
  if name == 'inference':
    if not set(settings['models']) & {*inference.THEIRS}:
      lines.append(f"{title}: Hugging Face's T5 and GPT-2, in PyTorch.")
    lines += [
      f'{title}: {record["model"]} at {record["prefix"]} x {record["rows"]}: '
      f'{record["skipped"]}.'
      for record in benchmark['rows']
      if 'skipped' in record
    ]
  if name == 'encoders' and settings.get('layers'):
    lines.append(f'{title}: other depths than {settings["layers"]} layers.')
  if name == 'quality':
    lines.append(f'{title}: other sizes than {settings["size"]}.')
    left = [o for o in quality.OBJECTIVES if o != settings['objective']]
    lines.append(f'{title}: objectives {", ".join(left)}.')
  return lines
