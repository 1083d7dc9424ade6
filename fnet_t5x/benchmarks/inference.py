r"""Cost of generation by the hybrid, T5 and GPT-2.

  python -m fnet_t5x.benchmarks.inference --prefixes 512,4096 --batches 8 \
    --json inference.json --figure inference.png

Every network continues the same number of tokens, greedily: T5 and the hybrid
encode them and attend to them from the decoder, GPT-2 reads them as a prompt,
in one pass, into a cache with room for what it generates. All have about as
many parameters as T5 of the given size, by their depth alone, and random ones:
times do not depend on their values. `Hugging Face's` are PyTorch models of the
shapes of ours, with that library's `generate`; they are measured where torch
and transformers are installed.

The time to the first token is that of reading the prefix, with filling the
caches, and one step; JSON also has the part of it that is the encoder's, timed
alone, and the remainder, `prefill_seconds`. The time per token is that of each
further step, for all rows together. Medians over rounds in which all networks
take turns; ratios are GPT-2's time over the network's own, the median over
rounds. Tokens per second are those of all rows and the whole generation. FLOPs
per token are those of a step and row, by the formulas of
`costs.generation_flops`. The floor is the time in which the machine, as fast as
it copies a large array in the same run, reads what a step must: the decoder's
parameters and the caches. What fits into a processor's own caches may be faster
than that.
"""

import argparse
import pathlib
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fnet_t5x import absent_tpu, argument_parser, result_table
from fnet_t5x.benchmarks.timing import Times, speedup, time_in_turns

PREFIXES = (64, 512, 4096, 8192)
BATCHES = (1, 8)
OURS = {'hybrid': 'hybrid', 't5': 'T5', 'gpt2': 'GPT-2'}
THEIRS = {'hf_t5': 'T5', 'hf_gpt2': 'GPT-2'}
# Their encoders are timed alone, too.
_ENCODERS = ('hybrid', 'T5')
BASELINE = 'GPT-2'
_SIZES = ('toy', 'mini', 'small', 'base')


def measure(
  options: argparse.Namespace, prefix: int, rows: int, copy_rate: float
) -> list[dict[str, Any]]:
  """Times every network at one prefix length and batch size.

  Args:
    options: the command line.
    prefix: tokens per row that are continued.
    rows: batch size.
    copy_rate: bytes per second that a copy reads and writes.

  Returns:
    One record per network; `skipped` in place of figures says why there are
    none.
  """
  import jax

  from fnet_t5x.benchmarks import generation_case, hugging_face
  from fnet_t5x.benchmarks.accelerator import device_memory, networks

  sizes = generation_case.Sizes(
    options.size, prefix, rows, options.tokens, options.dtype
  )
  found = {network.name: network for network in networks.NETWORKS.values()}
  found[BASELINE] = networks.DECODER_ONLY
  made: dict[str, Any] = {}
  skipped: dict[str, str] = {}
  held = 0.0
  for name in options.models:
    if name in OURS:
      label = OURS[name]
      case = generation_case.GenerationCase(found[label], sizes)
      needed, keeps = case.needed_bytes(), case.kept_bytes()
    else:
      label = hugging_face.NAMES[THEIRS[name]]
      needed = keeps = hugging_face.needed_bytes(THEIRS[name], sizes)
    free = device_memory.free_bytes()
    if free is not None and held + needed > free:
      skipped[label] = (
        f'needs {(held + needed) / 1e9:.1f} GB, {free / 1e9:.1f} GB are free'
      )
      continue
    if name in THEIRS:
      module = networks.make_matched(
        found[THEIRS[name]],
        options.size,
        max_encoder_length=prefix,
        max_target_length=options.tokens,
      )
      case = hugging_face.HuggingFaceCase(module, sizes)
    made[label] = case
    held += keeps
  calls = {}
  for label, case in made.items():
    calls[label, 'first'] = case.first
    rest = getattr(case, 'rest', None)
    calls[label, 'rest' if rest else 'whole'] = rest or case.whole
    if label in _ENCODERS:
      calls[label, 'encode'] = case.encode
  times = time_in_turns(
    calls,
    rounds=options.rounds,
    seconds=options.seconds,
    min_rounds=min(3, options.rounds),
  )
  by_name = {label: _parts(label, times, options.tokens - 1) for label in made}
  backend = jax.default_backend()
  records = []
  labels = [
    OURS.get(name) or hugging_face.NAMES[THEIRS[name]]
    for name in options.models
  ]
  for label in labels:
    record = {'model': label, 'prefix': prefix, 'rows': rows}
    if label in skipped:
      records.append({**record, 'skipped': skipped[label]})
      continue
    case = made[label]
    costs = case.costs(backend) if label in OURS.values() else case.costs()
    records.append(
      record
      | summarize(by_name[label], rows, options.tokens)
      | _ratios(by_name[label], by_name.get(BASELINE))
      | costs
      | _floor(costs, by_name[label], copy_rate)
    )
  return records


def _parts(label: str, times: Mapping, steps: int) -> dict[str, Times]:
  """Returns the seconds of the first token and its part, and per token."""
  first = times[label, 'first']
  if (label, 'rest') in times:
    rest = times[label, 'rest']
  else:
    rest = np.maximum(times[label, 'whole'] - first, 0.0)
  parts = {'first': first, 'token': rest / steps, 'all': first + rest}
  if (label, 'encode') in times:
    parts['encode'] = times[label, 'encode']
  return parts


def summarize(
  parts: Mapping[str, Times], rows: int, tokens: int
) -> dict[str, Any]:
  """Returns the medians of a network's times.

  Args:
    parts: seconds in each round: `first`, of the first token; `token`, per
      further token; `all`, of all; `encode`, of the encoder alone, if there is
      one.
    rows: batch size.
    tokens: generated tokens per row.
  """
  medians = {name: float(np.median(each)) for name, each in parts.items()}
  encode = parts.get('encode', np.zeros(1))
  prefill = np.maximum(parts['first'] - encode, 0.0)
  return {
    'first_token_seconds': medians['first'],
    'encode_seconds': medians.get('encode'),
    'prefill_seconds': float(np.median(prefill)),
    'token_seconds': medians['token'],
    'all_seconds': medians['all'],
    'tokens_per_second': rows * tokens / medians['all'],
    'rounds': len(parts['first']),
  }


def _ratios(parts, reference) -> dict[str, float | None]:
  """Returns the speedups over GPT-2; None where that was not measured."""
  return {
    f'{name}_speedup': speedup(reference[name], parts[name])
    if reference is not None and np.all(parts[name] > 0)
    else None
    for name in ('first', 'token', 'all')
  }


def _floor(costs, parts, copy_rate) -> dict[str, float]:
  if 'bytes_per_step' not in costs:
    return {}
  seconds = costs['bytes_per_step'] / copy_rate
  return {
    'floor_seconds': seconds,
    'share_of_floor': seconds / float(np.median(parts['token'])),
  }


COLUMNS = (
  '',
  'first token, ms',
  'x',
  'per token, ms',
  'x',
  'tokens/s',
  'x',
  'peak, GB',
  'MFLOPs/token',
  'self cache, MB',
  'cross cache, MB',
  'floor, %',
)


def as_section(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
  """Returns the records of one prefix length and batch size as cells."""
  first = records[0]
  heading = f'{first["prefix"]} tokens x {first["rows"]}'
  cells = [[heading] + [''] * (len(COLUMNS) - 1)]
  for record in records:
    if 'skipped' in record:
      line = [f'  {record["model"]}: {record["skipped"]}']
      cells.append(line + [''] * (len(COLUMNS) - 1))
      continue
    cells.append(
      [
        f'  {record["model"]}, {record["parameters"] / 1e6:.1f}M',
        _cell(record['first_token_seconds'], 1e3, '.4g'),
        _cell(record['first_speedup'], 1, '.2f'),
        _cell(record['token_seconds'], 1e3, '.4g'),
        _cell(record['token_speedup'], 1, '.2f'),
        _cell(record['tokens_per_second'], 1, '.4g'),
        _cell(record['all_speedup'], 1, '.2f'),
        _cell(record.get('peak_bytes'), 1e-9, '.2f'),
        _cell(record.get('flops_per_token'), 1e-6, '.4g'),
        _cell(record.get('self_cache_bytes'), 1e-6, '.4g'),
        _cell(record.get('cross_cache_bytes'), 1e-6, '.4g'),
        _cell(record.get('share_of_floor'), 100, '.0f'),
      ]
    )
  return cells


def _cell(value: float | None, factor: float, form: str) -> str:
  return '-' if value is None else format(value * factor, form)


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.inference', __doc__
  )
  parser.add_list('--prefixes', int, PREFIXES, 'tokens per row')
  parser.add_list('--batches', int, BATCHES, 'rows per batch')
  parser.add_argument(
    '--tokens', type=int, default=128, help='generated tokens per row'
  )
  parser.add_argument(
    '--size', default='small', choices=_SIZES, help='of T5; others match it'
  )
  parser.add_list(
    '--models',
    str,
    None,
    f'which to time, of {", ".join((*OURS, *THEIRS))}; by default all that can '
    'be imported; gpt2 always is',
    choices=(*OURS, *THEIRS),
  )
  parser.add_argument('--dtype', default='float32', help='float32 or bfloat16')
  parser.add_argument(
    '--rounds', type=int, default=5, help='maximum number of timed rounds'
  )
  parser.add_argument(
    '--seconds',
    type=float,
    default=60.0,
    help='time per prefix and batch size after which no round begins; three '
    'rounds are always timed, or --rounds if fewer',
  )
  parser.add_argument(
    '--figure', type=pathlib.Path, help='PNG file for the curves'
  )
  options = result_table.parse(parser, arguments)
  numbers = [*options.prefixes, *options.batches, options.rounds]
  if min(numbers) < 1 or options.tokens < 2:
    parser.error(
      '--prefixes, --batches and --rounds must be at least 1, --tokens 2'
    )
  if options.dtype not in ('float32', 'bfloat16'):
    parser.error(f'--dtype {options.dtype}: choose float32 or bfloat16')
  result_table.check_figure(parser, options.figure)
  from fnet_t5x.benchmarks import hugging_face

  lacks = hugging_face.missing()
  if options.models is None:
    options.models = [*OURS, *(THEIRS if lacks is None else ())]
  elif lacks and set(options.models) & {*THEIRS}:
    parser.error(f'--models hf_t5, hf_gpt2: {lacks} is not installed')
  # The smallest caches first: what does not fit is the last to be admitted.
  order = [*OURS, *THEIRS]
  options.models = sorted({*options.models, 'gpt2'}, key=order.index)
  return options


def main(arguments: list[str] | None = None) -> None:
  """Measures, prints the table, and writes the JSON file and the figure."""
  options = parse(arguments)
  import jax

  from fnet_t5x.benchmarks.accelerator import ceilings
  from fnet_t5x.benchmarks.accelerator.bench import Setting

  where = result_table.environment()
  # A toy's copy is small, and the figures of a toy mean nothing.
  setting = Setting(
    jax.default_backend(), options.dtype, toy=options.size == 'toy'
  )
  copy_rate = ceilings.measure_copy(setting, ceilings.copy_bytes(setting))[
    'bytes_per_second'
  ]
  sections = []
  for prefix in options.prefixes:
    for rows in options.batches:
      sections.append(measure(options, prefix, rows, copy_rate))
      # What a run has that is stopped early.
      _write(options, sections, copy_rate)
      # Caches and parameters of these sizes are garbage now.
      jax.clear_caches()
  result_table.print_table(
    f'{where["device"]}, {options.size}, {options.dtype}, {options.tokens} '
    f'tokens, copies at {copy_rate / 1e9:.1f} GB/s; x is the speedup over '
    f'{BASELINE}',
    COLUMNS,
    [as_section(records) for records in sections],
  )
  if options.figure:
    from fnet_t5x.benchmarks import inference_figure

    rows = [record for records in sections for record in records]
    options.figure.write_bytes(inference_figure.draw(rows))


def _write(options, sections, copy_rate):
  """Writes the JSON file, if one was asked for."""
  if not options.json:
    return
  from fnet_t5x.benchmarks import hugging_face

  settings = {
    name: value
    for name, value in vars(options).items()
    if name not in ('json', 'figure')
  }
  settings['copy_bytes_per_second'] = copy_rate
  settings['process_peak_bytes'] = process_peak_bytes()
  if set(options.models) & {*THEIRS}:
    settings['versions'] = hugging_face.versions()
  rows = [record for records in sections for record in records]
  result_table.write_json(options.json, 'inference', settings, rows)


def process_peak_bytes() -> int:
  """Returns the peak memory of this process so far."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak


if __name__ == '__main__':
  absent_tpu.hide_library()
  main()
