"""Answers at the head of docs/RESULTS.md, by rules from the records.

Each rule is a function of one benchmark's records, and returns lines of
Markdown: a question, its answer, and the figures that it follows from. A
comparison over seeds is decided only if all of them agree.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fnet_t5x.benchmarks import quality_summary
from fnet_t5x.benchmarks.inference import BASELINE
from fnet_t5x.benchmarks.results_tables import groups

Record = Mapping[str, Any]

# The goal for the first token, over GPT-2.
GOAL = 2.0
_BOTH = 'forward+backward'
# Seeds differ less than this in steps per time on a quiet machine.
_STEADY = 0.1


def mixing_answers(records: Sequence[Record]) -> list[str]:
  """Returns whether Fourier mixing is faster than attention."""
  ratios, over_fnet = {}, {}
  for (shape,), found in groups(records, 'shape'):
    both = {r['case']: r for r in found if r['direction'] == _BOTH}
    ours = both.get('ours, exact, full rows')
    attention = both.get('T5 self-attention')
    if ours and attention:
      ratios[shape[1]] = attention['median_seconds'] / ours['median_seconds']
      over_fnet[shape[1]] = ours['speedup']
  if not ratios:
    return []
  return [
    f'**Is Fourier mixing faster than attention?** {verdict(ratios.values())}. '
    "The speedup of our mixing of full rows over T5's self-attention "
    f'sublayer, forward and backward, is {_by_length(ratios)}, a ratio of '
    f"medians; over FNet's implementation, {_by_length(over_fnet)}."
  ]


def encoders_answers(records: Sequence[Record]) -> list[str]:
  """Returns whether FNet is faster than BERT."""
  speedups = {
    record['length']: record['speedup']
    for record in records
    if (record['encoder'], record['direction']) == ('FNet', _BOTH)
  }
  if not speedups:
    return []
  return [
    f'**Is FNet faster than BERT?** {verdict(speedups.values())}. Its speedup, '
    f'forward and backward with the loss, is {_by_length(speedups)}.'
  ]


def verdict(ratios: Sequence[float]) -> str:
  """Returns 'yes' if all are above 1, 'no' if none is."""
  above = [ratio > 1 for ratio in ratios]
  return 'Yes' if all(above) else 'At some lengths' if any(above) else 'No'


def quality_answers(records: Sequence[Record]) -> list[str]:
  """Returns whether context counts, and the hybrid against each network."""
  lines = []
  context = quality_summary.differences(records, 'T5', 'none')
  if context:
    line = quality_summary.context_line(records)
    lines.append(
      f'**Does attention beat no mixing here?** {_decided(records)}. '
      f'{line[0].upper()}{line[1:]}.'
    )
  compared = []
  for (other,), _ in groups(records, 'model'):
    found = quality_summary.differences(records, 'hybrid', other)
    if other != 'hybrid' and found:
      compared.append(
        f'  - {other}: {np.median(found):+.4f}{_spread(found)}. '
        f'{_better(records, other)}.'
      )
  if compared:
    losses = [r['loss'] for r in records if r['model'] == 'hybrid']
    low, high = min(losses), max(losses)
    lines += [
      '**Is the hybrid better after equal training?** Its loss is '
      f'{np.median(losses):.4f} nats per target token, the median over '
      f'{len(losses)} {"seed" if len(losses) == 1 else "seeds"}'
      + (f' ({low:.4f} to {high:.4f})' if len(losses) > 1 else '')
      + '. Its loss less that of the same seed of',
      *compared,
    ]
  return lines + _disturbed(records)


def _disturbed(records: Sequence[Record]) -> list[str]:
  """Returns a warning if a network's speed differs much between seeds."""
  found = []
  for (model,), runs in groups(records, 'model'):
    steps = [run['steps'] for run in runs if 'steps' in run]
    if steps and min(steps) < (1 - _STEADY) * max(steps):
      found.append(f'{model} {min(steps)} to {max(steps)}')
  if not found:
    return []
  return [
    '**Was the machine quiet?** No. Between seeds, the steps in that time '
    f'vary: {", ".join(found)}. What else ran disturbed some networks '
    'more than others; losses at equal steps, in the table, are not affected.'
  ]


def _decided(records: Sequence[Record]) -> str:
  """Returns whether attention is better than no mixing with all seeds."""
  lower = quality_summary.is_better(records, 'T5', 'none')
  return 'Yes' if all(lower) else 'Not with every seed' if any(lower) else 'No'


def _better(records: Sequence[Record], other: str) -> str:
  """Returns which of two is better, by the rule of `is_better`."""
  lower = quality_summary.is_better(records, 'hybrid', other)
  higher = quality_summary.is_better(records, other, 'hybrid')
  if all(lower):
    what = 'The hybrid is better'
  elif all(higher):
    what = 'The hybrid is worse'
  else:
    what = 'No clear difference'
  return (
    f'{what} (beyond the error, better with {sum(lower)} and worse with '
    f'{sum(higher)} of {len(lower)} seeds)'
  )


def _spread(values: Sequence[float]) -> str:
  if len(values) == 1:
    return ', of one seed'
  return f' ({min(values):+.4f} to {max(values):+.4f})'


def inference_answers(records: Sequence[Record]) -> list[str]:
  """Returns the first token's speedup, and where the time goes."""
  measured = [
    record
    for record in records
    if 'skipped' not in record and record['first_speedup'] is not None
  ]
  rival = [record for record in measured if record['model'] == BASELINE]
  if not rival:
    return []
  # The longest prefix of the largest batch is the case that matters most.
  prefix, rows = max((record['prefix'], record['rows']) for record in rival)
  found = {
    record['model']: record
    for record in measured
    if (record['prefix'], record['rows']) == (prefix, rows)
  }
  if 'hybrid' not in found:
    return []
  hybrid, gpt2 = found['hybrid'], found[BASELINE]
  speedup = hybrid['first_speedup']
  others = ', '.join(
    f"{name}'s {record['first_speedup']:.2f}"
    for name, record in found.items()
    if name not in ('hybrid', BASELINE)
  )
  return [
    f"**Is the hybrid's first token at least {GOAL:g} times as fast as "
    f"{BASELINE}'s?** {'Yes' if speedup >= GOAL else 'No'}. After {prefix} "
    f'tokens at batch size {rows} its speedup is {speedup:.2f}'
    + (f' ({others})' if others else '')
    + f': {_seconds(hybrid["first_token_seconds"])} against '
    f'{_seconds(gpt2["first_token_seconds"])}. By prefix and batch size: '
    + ', '.join(
      f'{record["first_speedup"]:.2f} at {record["prefix"]} x {record["rows"]}'
      for record in measured
      if record['model'] == 'hybrid'
    )
    + '.',
    f'**Where does the time go?** Of the first token at {prefix} x {rows}, '
    + '; '.join(_where(name, found[name]) for name in found)
    + '. Each further token takes '
    + ', '.join(
      f'{name} {_seconds(record["token_seconds"])}'
      for name, record in found.items()
    )
    + '; and the speedup of the hybrid for all tokens is '
    f'{hybrid["all_speedup"]:.2f}.',
  ]


def _where(name: str, record: Record) -> str:
  """Returns the parts of the time to the first token as text."""
  text = f'{name} '
  encode, first = record.get('encode_seconds'), record['first_token_seconds']
  if encode is not None:
    text += f'spends {100 * min(encode / first, 1):.0f} % in its encoder'
  else:
    text += 'reads the prefix in its decoder'
  if record.get('prefix_flops'):
    share = record['prefix_attention_flops'] / record['prefix_flops']
    text += (
      f' ({record["prefix_flops"] / 1e9:.3g} GFLOPs per row, '
      f'{100 * share:.0f} % of them scores and averages of self-attention)'
    )
  return text


def _seconds(value: float) -> str:
  return f'{value:.3g} s' if value >= 1 else f'{1e3 * value:.3g} ms'


def _by_length(values: Mapping[int, float]) -> str:
  """Returns values with their lengths, as a list in words."""
  parts = [f'{value:.2f} at {length}' for length, value in values.items()]
  text = ' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))
  return f'{text} tokens'


# In the order of the page.
ANSWERS: dict[str, Callable[[Sequence[Record]], list[str]]] = {
  'quality': quality_answers,
  'inference': inference_answers,
  'mixing': mixing_answers,
  'encoders': encoders_answers,
}
