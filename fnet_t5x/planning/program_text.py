"""Parser of the HLO text of compiled programs."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

# `name (parameters) -> result {` opens a computation.
_COMPUTATION = re.compile(r'^(ENTRY\s+)?%?([\w.\-]+)\s+\(.*\)\s+->\s+.*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT\s+)?%?([\w.\-]+)\s+=\s+(.*)$')
# The first word after the result's shape that opens a parenthesis; those of a
# layout, `{1,0:T(8,128)S(1)}`, have no space before them.
_OPCODE = re.compile(r'\s([a-z][a-z0-9\-]*)\(')
_ARRAY = re.compile(r'\b(pred|token|[a-z]+\d\w*)\[([\d,<=]*)\]')
_TRIPS = re.compile(r'known_trip_count\W+n\W+(\d+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_NAME = re.compile(r'%?([\w.\-]+)')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation: `name = shape opcode(operands), attributes`."""

  shape: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str


Computation = Mapping[str, Instruction]


def parse(text: str) -> tuple[dict[str, Computation], str | None]:
  """Returns the computations by name, and the name of the entry computation."""
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
        body[name] = Instruction(
          shape=rest[: max(opcode.start() - 1, 0)],
          opcode=opcode[1],
          operands=_operands(inside),
          attributes=rest[end:],
        )
  return computations, entry


def _closing(text, start):
  """Returns the index where the parenthesis opened before `start` closes."""
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


def trips(
  computations: Mapping[str, Computation], instruction: Instruction
) -> int:
  """Returns the trip count of a loop; 1 if the text does not state it."""
  written = _TRIPS.search(instruction.attributes)
  if written:
    return int(written[1])
  # The TPU compiler states no trip count: use the condition `i < constant`.
  (name,) = called(instruction, 'condition')
  condition = computations.get(name, {})
  for each in condition.values():
    if each.opcode == 'compare' and 'direction=LT' in each.attributes:
      limit = condition.get(each.operands[1])
      if limit is not None and limit.opcode == 'constant':
        return int(limit.operands[0])
  return 1


def called(instruction: Instruction, *attributes: str) -> Iterator[str]:
  """Yields the computations that these attributes name."""
  for attribute in attributes:
    pattern = rf'\b{attribute}=%?([\w.\-]+)'
    if match := re.search(pattern, instruction.attributes):
      yield match[1]


def branches(instruction: Instruction) -> list[str]:
  """Returns the computations that a conditional chooses from."""
  if match := _BRANCHES.search(instruction.attributes):
    return _NAME.findall(match[1])
  return list(called(instruction, 'true_computation', 'false_computation'))


def dimensions(shape: str) -> tuple[int, ...]:
  """Returns the dimensions of a shape's first array; () if it has none."""
  array = _ARRAY.search(shape)
  return _sizes(array[2]) if array else ()


def array_bytes(shape: str) -> int:
  """Returns the total bytes of the arrays in a shape, which may be a tuple."""
  return sum(
    math.prod(_sizes(written)) * _bits(dtype) // 8
    for dtype, written in _ARRAY.findall(shape)
  )


def _sizes(written):
  return tuple(int(d.removeprefix('<=')) for d in written.split(',') if d)


def _bits(dtype):
  """Returns the bits per number: the first digits of the name ('f8e4m3fn')."""
  if dtype in ('pred', 'token'):
    return 8 if dtype == 'pred' else 0
  return int(re.search(r'\d+', dtype)[0])
