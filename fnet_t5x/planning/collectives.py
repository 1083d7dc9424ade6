"""What a compiled program sends between devices, read off its HLO text."""

import dataclasses
import re
from collections.abc import Iterator

KINDS = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-broadcast',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)

# `name (parameters) -> result {` opens a computation.
_COMPUTATION = re.compile(r'^(ENTRY\s+)?%?([\w.\-]+)\s+\(.*\)\s+->\s+.*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT\s+)?%?([\w.\-]+)\s+=\s+(.*)$')
# The first word after the result's shape that opens a parenthesis; those of a
# layout, `{1,0:T(8,128)S(1)}`, have no space before them.
_OPCODE = re.compile(r'\s([a-z][a-z0-9\-]*)\(')
_ARRAY = re.compile(r'\b(pred|token|[a-z]+\d\w*)\[([\d,<=]*)\]')
_TRIPS = re.compile(r'known_trip_count\W+n\W+(\d+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_NAME = re.compile(r'%?([\w.\-]+)')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective instruction of one device's program.

  Attributes:
    kind: one of KINDS.
    bytes: of its operand or its result on one device, whichever is larger: the
      whole that an all-gather makes, that a reduce-scatter takes.
    times: how often a run of the program executes it.
    op_name: the JAX operation it came from, '' if unknown.
  """

  kind: str
  bytes: int
  times: int
  op_name: str


@dataclasses.dataclass(frozen=True)
class _Instruction:
  shape: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str


def collectives(hlo_text: str) -> list[dict[str, str | int]]:
  """Returns what one device takes part in, `{'kind', 'count', 'bytes'}` each.

  Args:
    hlo_text: of a compiled program: `compiled.as_text()`. A program that is
      only lowered names no collectives.

  A kind that does not occur is not listed. `bytes` is the sum of
  `Collective.bytes`; what crosses a link depends on the algorithm and the
  number of devices. Counts are those of `find_collectives`.
  """
  totals = {}
  for found in find_collectives(hlo_text):
    count, size = totals.get(found.kind, (0, 0))
    totals[found.kind] = (
      count + found.times,
      size + found.times * found.bytes,
    )
  return [
    {'kind': kind, 'count': count, 'bytes': size}
    for kind, (count, size) in sorted(totals.items())
  ]


def find_collectives(hlo_text: str) -> list[Collective]:
  """Returns the collectives that a run of a compiled program executes.

  What stands in the body of a loop counts once a trip where the compiler wrote
  down the number of trips, or where the loop counts up to a constant (as that
  of `lax.scan`, from 0 by ones), else once. Of the branches
  of a conditional, the one with most bytes counts.

  Raises:
    ValueError: the text is no HLO module.
  """
  computations, entry = _parse(hlo_text)
  if entry is None:
    raise ValueError(
      'this is no text of a compiled HLO module: it has no ENTRY computation'
    )
  return list(_walk(computations, entry, 1))


def _parse(text):
  computations, entry, body = {}, None, None
  for line in text.splitlines():
    if opening := _COMPUTATION.match(line):
      body = computations.setdefault(opening[2], {})
      if opening[1]:
        entry = opening[2]
    elif line.startswith('}'):
      body = None
    elif body is not None and (match := _INSTRUCTION.match(line)):
      name, rest = match.groups()
      if opcode := _OPCODE.search(' ' + rest):
        end = _closing(rest, opcode.end() - 1)
        inside = rest[opcode.end() - 1 : end]
        body[name] = _Instruction(
          shape=rest[: max(opcode.start() - 1, 0)],
          opcode=opcode[1],
          operands=_operands(inside),
          attributes=rest[end:],
        )
  return computations, entry


def _closing(text, start):
  """Returns where the parenthesis opened just before `start` closes."""
  depth = 1
  for index in range(start, len(text)):
    depth += {'(': 1, ')': -1}.get(text[index], 0)
    if not depth:
      return index
  return len(text)


def _operands(text):
  if '%' in text:
    return tuple(re.findall(r'%([\w.\-]+)', text))
  return tuple(part.strip() for part in text.split(',') if part.strip())


def _walk(computations, name, times) -> Iterator[Collective]:
  body = computations.get(name, {})
  for instruction in body.values():
    opcode = instruction.opcode
    if found := _collective(body, instruction, times):
      yield found
    elif opcode == 'while':
      inner = times * _trips(computations, instruction)
      for attribute in ('condition', 'body'):
        for callee in _called(instruction, attribute):
          yield from _walk(computations, callee, inner)
    elif opcode == 'conditional':
      branches = [
        list(_walk(computations, callee, times))
        for callee in _branches(instruction)
      ]
      yield from max(branches, key=_size, default=())
    # The done of an asynchronous call names the computation of its start.
    elif opcode not in ('async-done', 'async-update'):
      for callee in _called(instruction, 'calls', 'to_apply'):
        yield from _walk(computations, callee, times)


def _trips(computations, instruction):
  """Returns how often a loop's body runs; 1 if its text does not say."""
  written = _TRIPS.search(instruction.attributes)
  if written:
    return int(written[1])
  # The TPU compiler writes no number: `i < constant` decides.
  (name,) = _called(instruction, 'condition')
  condition = computations.get(name, {})
  for each in condition.values():
    if each.opcode == 'compare' and 'direction=LT' in each.attributes:
      limit = condition.get(each.operands[1])
      if limit is not None and limit.opcode == 'constant':
        return int(limit.operands[0])
  return 1


def _collective(body, instruction, times):
  # An asynchronous pair is counted at its done, whose shape is the result's.
  kind = instruction.opcode.removesuffix('-done')
  if kind not in KINDS:
    return None
  source = instruction
  if kind != instruction.opcode:
    source = body.get(instruction.operands[0], instruction)
  taken = sum(
    _bytes(body[operand].shape)
    for operand in source.operands
    if operand in body
  )
  op_name = _OP_NAME.search(source.attributes)
  return Collective(
    kind=kind,
    bytes=max(taken, _bytes(instruction.shape)),
    times=times,
    op_name=op_name[1] if op_name else '',
  )


def _called(instruction, *attributes):
  for attribute in attributes:
    pattern = rf'\b{attribute}=%?([\w.\-]+)'
    if match := re.search(pattern, instruction.attributes):
      yield match[1]


def _branches(instruction):
  if match := _BRANCHES.search(instruction.attributes):
    return _NAME.findall(match[1])
  return list(_called(instruction, 'true_computation', 'false_computation'))


def _size(found):
  return sum(each.times * each.bytes for each in found)


def _bytes(shape):
  return sum(
    _numbers(dimensions) * _bits(dtype) // 8
    for dtype, dimensions in _ARRAY.findall(shape)
  )


def _numbers(dimensions):
  total = 1
  for dimension in filter(None, dimensions.split(',')):
    total *= int(dimension.removeprefix('<='))
  return total


def _bits(dtype):
  """Returns a number's size; 'f8e4m3fn' says 8 first, as all types do."""
  if dtype in ('pred', 'token'):
    return 8 if dtype == 'pred' else 0
  return int(re.search(r'\d+', dtype)[0])
