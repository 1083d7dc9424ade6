"""Tables of plans, side by side."""

from collections.abc import Callable, Sequence

from fnet_t5x import result_table
from fnet_t5x.planning.plan import Plan
from fnet_t5x.planning.programs import Program
from fnet_t5x.planning.roofline import DAY

_GIB = 2**30


def print_plans(plans: Sequence[Plan], thorough: bool = False) -> None:
  """Prints plans side by side.

  Args:
    plans: plans for the same topology.
    thorough: whether programs were compiled at full compiler effort.
  """
  first = plans[0]
  chip = first.topology.chip
  where = f'{first.topology.title}, {first.devices} devices'
  if chip is None or not first.topology.is_tpu:
    where += ' simulated by the CPU compiler'
  elif not thorough:
    where += ', compiled at low effort: times are upper bounds'
  sections = [
    _model(plans),
    _memory(plans),
    _collectives(plans),
    _times(plans),
  ]
  for key in ('prefill', 'step'):
    if all(getattr(plan, key) for plan in plans):
      sections.append(_decoding(plans, key))
  sections.append(_compiling(plans))
  result_table.print_table(
    f'{where}\nall figures are estimates',
    ['', *(plan.name for plan in plans)],
    [rows for rows in sections if rows],
  )


def complaint(plan: Plan) -> str | None:
  """Returns one line on what does not fit and what would help, or None."""
  if plan.fits:
    return None
  allowed = plan.hbm_available or 0
  misfits = [
    program
    for program in (plan.train, plan.prefill, plan.step)
    if program and (not program.compiled or program.memory > allowed)
  ]
  line = (
    f'{plan.name} does not fit {plan.topology.title}: the {misfits[0].name} '
    f'needs {gib(misfits[0].memory)} per device, of {gib(allowed)}'
  )
  if misfits[0] is not plan.train:
    return f'{line}; lower --decode_batch_size'
  if not plan.remedies:
    return f'{line}; no single change helps: use more devices'
  changes = ', '.join(
    f'{remedy.change} (about {gib(remedy.memory)})' for remedy in plan.remedies
  )
  return f'{line}; estimated to fit: {changes}'


def gib(number: float) -> str:
  """Formats a number of bytes."""
  if number < _GIB / 10:
    return f'{number / 2**20:,.2f} MiB'
  return f'{number / _GIB:,.2f} GiB'


def _rows(
  plans: Sequence[Plan],
  lines: Sequence[tuple[str, Callable[[Plan], str | None]]],
) -> list[list[str]]:
  """Returns one row per line, omitting those without figures."""
  rows = []
  for label, cell in lines:
    cells = [cell(plan) for plan in plans]
    if any(value is not None for value in cells):
      rows.append([label, *(value or '' for value in cells)])
  return rows


def _heading(plans, text):
  return [text, *('' for _ in plans)]


def _model(plans):
  def per_token(flops):
    return f'{flops / 1e9:,.3f} G'

  def counted(attribute):
    def cell(plan):
      if not plan.train.compiled:
        return None
      flops = getattr(plan.train, attribute)
      flops = flops if isinstance(flops, float) else flops.flops
      return per_token(flops * plan.devices / plan.tokens)

    return cell

  return _rows(
    plans,
    [
      ('parameters', lambda p: f'{p.parameters.total:,}'),
      ('  encoder', lambda p: f'{p.parameters.encoder:,}'),
      ('  decoder', lambda p: f'{p.parameters.decoder:,}'),
      ('  embeddings', lambda p: f'{p.parameters.embeddings:,}'),
      ('mesh', lambda p: _mesh(p)),
      ('rows, tokens per step', lambda p: f'{p.batch_size:,}, {p.tokens:,}'),
      (
        'training FLOPs per token',
        lambda p: per_token(p.training_flops / p.tokens),
      ),
      ('  executed', counted('cost')),
      ("  compiler's count, loops once", counted('compiler_flops')),
    ],
  )


def _mesh(plan):
  return ' x '.join(f'{name} {size}' for name, size in plan.mesh.items())


def _memory(plans):
  return [
    _heading(plans, 'training, bytes per device'),
    *_rows(
      plans,
      [
        ('  parameters', lambda p: gib(p.state.parameters)),
        ('  optimizer state', lambda p: gib(p.state.optimizer)),
        ('  gradients, at most', lambda p: gib(p.state.gradients)),
        (
          '  activations and others',
          lambda p: gib(p.activations),
        ),
        ('  the program itself', lambda p: gib(p.train.code)),
        ('  total, by the compiler', lambda p: gib(p.train.memory)),
        (
          '  available',
          lambda p: gib(p.hbm_available) if p.hbm_available else None,
        ),
      ],
    ),
  ]


def _collectives(plans):
  def crosses(found):
    return 'slice_bytes' in found

  def cell(kind, crossing, size):
    def of(plan):
      rows = [
        found
        for found in plan.train.collectives
        if found['kind'] == kind and crosses(found) == crossing
      ]
      if rows:
        count = sum(found['count'] for found in rows)
        return f'{count:,}: {gib(sum(found[size] for found in rows))}'
      return '0' if plan.train.compiled else None

    return of

  sections = []
  for crossing, size, title in (
    (False, 'bytes', 'collectives per device and step'),
    (True, 'slice_bytes', 'sent to other slices, per device and step'),
  ):
    kinds = {
      found['kind']
      for plan in plans
      for found in plan.train.collectives
      if crosses(found) == crossing
    }
    rows = _rows(
      plans,
      [(f'  {kind}', cell(kind, crossing, size)) for kind in sorted(kinds)],
    )
    if rows:
      sections += [_heading(plans, title), *rows]
  return sections


def seconds(value: float | None) -> str | None:
  """Formats a time in seconds."""
  if value is None:
    return None
  if value < 0.1:
    return f'{value * 1e3:,.3f} ms'
  return f'{value:,.3f} s'


def _times(plans):
  def of(cell):
    def outer(plan):
      times = plan.times(plan.train)
      return cell(plan, times) if times else None

    return outer

  def later(key, cell):
    def outer(plan, times):
      value = getattr(times, key)
      return cell(plan, value) if value else None

    return of(outer)

  def days(plan, value):
    total = plan.days(value)
    return None if total is None else f'{total:,.1f}'

  def between_slices(plan, times):
    if plan.topology.num_slices == 1:
      return None
    return seconds(times.slice_network)

  def outcome(key):
    return [
      ('    MFU', later(key, lambda p, v: f'{p.mfu(v):.1%}')),
      (
        '    tokens per day',
        later(key, lambda p, v: f'{p.tokens / v * DAY / 1e9:,.2f} G'),
      ),
      ('    days for TRAIN_STEPS', later(key, days)),
    ]

  rows = _rows(
    plans,
    [
      ('  arithmetic', of(lambda p, t: seconds(t.arithmetic))),
      ('  memory', of(lambda p, t: seconds(t.memory))),
      ('  network', of(lambda p, t: seconds(t.network))),
      ('  between slices', of(between_slices)),
      (
        '  roofline: their maximum',
        of(lambda p, t: seconds(t.roofline)),
      ),
      *outcome('roofline'),
      ("  compiler's estimate", of(lambda p, t: seconds(t.compiler))),
      *outcome('compiler'),
      (
        "  compiler's optimal, loops once",
        of(lambda p, t: _optimal(p.train)),
      ),
    ],
  )
  if not rows:
    return []
  return [_heading(plans, 'time per training step'), *rows]


def _optimal(program):
  value = program.optimal_seconds
  return 'no estimate' if value is not None and value < 0 else seconds(value)


def _decoding(plans: Sequence[Plan], key: str):
  def program(plan) -> Program:
    return getattr(plan, key)

  def of(cell):
    def outer(plan):
      times = plan.times(program(plan))
      return cell(plan, times) if times else None

    return outer

  def sent(plan):
    if not program(plan).compiled:
      return None
    return gib(sum(found['bytes'] for found in program(plan).collectives))

  def rate(plan, times):
    tokens = program(plan).tokens
    return f'{tokens / times.roofline:,.0f}'

  rows = [
    _heading(
      plans,
      f'{program(plans[0]).name}, batch size {plans[0].decode_batch_size:,}',
    ),
    *_rows(
      plans,
      [
        ('  bytes per device', lambda p: gib(program(p).memory)),
        ('    of which cache', lambda p: gib(p.cache_bytes)),
        ('  sent', sent),
        ('  roofline', of(lambda p, t: seconds(t.roofline))),
        (
          "  compiler's estimate",
          of(lambda p, t: seconds(t.compiler)),
        ),
        ('  tokens per second, at most', of(rate)),
      ],
    ),
  ]
  return rows


def _compiling(plans):
  return _rows(
    plans,
    [
      (
        'tracing and compiling',
        lambda p: f'{sum(x.compile_seconds for x in _programs(p)):,.0f} s',
      ),
      (
        'HLO text of the training step',
        lambda p: gib(p.train.hlo_bytes) if p.train.compiled else None,
      ),
    ],
  )


def _programs(plan):
  return [x for x in (plan.train, plan.prefill, plan.step) if x]
