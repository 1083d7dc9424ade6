"""HBM traffic of the instructions of a compiled program."""

import math
import re
from collections.abc import Mapping

from fnet_t5x.planning import program_text
from fnet_t5x.planning.program_text import Computation, Instruction

_ARRAY = re.compile(
  r'\b(?:pred|token|[a-z]+\d\w*)\[[\d,<=]*\](?:\{[^{}]*\})?',
)
# Memory space marker of a layout: not HBM.
_NOT_HBM = re.compile(r'S\([1-9]')


def bytes_accessed(
  computations: Mapping[str, Computation],
  body: Computation,
  instruction: Instruction,
) -> float:
  """Returns the HBM bytes that an instruction reads and writes.

  Of an array that is sliced or updated, only the slice counts. On-chip memories
  of a TPU do not count.

  Args:
    computations: computations of the program.
    body: computation that contains the instruction.
    instruction: an instruction that is executed, not fused into another.
  """
  operands = [body[name] for name in instruction.operands if name in body]
  opcode = instruction.opcode
  if opcode == 'fusion':
    (name,) = program_text.called(instruction, 'calls')
    inside = computations.get(name, {})
    read = sum(
      min(_bytes(operand.shape), _read(computations, inside, number))
      for number, operand in enumerate(operands)
    )
    root = list(inside.values())[-1] if inside else None
    return read + _written(inside, root, instruction.shape)
  if opcode in ('dynamic-slice', 'gather', 'slice'):
    return 2 * _bytes(instruction.shape)
  if opcode == 'dynamic-update-slice':
    return 2 * _bytes(operands[1].shape)
  result = instruction.shape
  if opcode.endswith('-start'):
    # An asynchronous copy: (result, operand, context).
    result = _ARRAY.search(result)[0]
  return _bytes(result) + sum(_bytes(each.shape) for each in operands)


def _read(computations, inside, number):
  """Returns the bytes that a fused computation reads from a parameter."""
  for name, each in inside.items():
    if each.opcode == 'parameter' and each.operands == (str(number),):
      return _read_of(computations, inside, name)
  return math.inf


def _read_of(computations, inside, name):
  """Returns the bytes read from one of its values; infinity means all."""
  read = 0.0
  for user, instruction in inside.items():
    if name not in instruction.operands:
      continue
    opcode, first = instruction.opcode, instruction.operands[0] == name
    if first and opcode in ('dynamic-slice', 'slice'):
      read += _bytes(instruction.shape)
    elif first and opcode == 'dynamic-update-slice':
      continue
    elif opcode == 'bitcast':
      read += _read_of(computations, inside, user)
    elif opcode == 'fusion':
      # A nested fusion may slice the value too.
      (nested,) = program_text.called(instruction, 'calls')
      read += sum(
        _read(computations, computations.get(nested, {}), number)
        for number, operand in enumerate(instruction.operands)
        if operand == name
      )
    else:
      return math.inf
  return read


def _written(inside, root, shape):
  """Returns the bytes that a fused computation with this root writes."""
  if root is None:
    return _bytes(shape)
  if root.opcode == 'tuple':
    roots = [inside.get(name) for name in root.operands]
    return sum(_written(inside, r, r.shape) for r in roots if r is not None)
  if root.opcode == 'bitcast' and root.operands[0] in inside:
    source = inside[root.operands[0]]
    if source.opcode == 'dynamic-update-slice':
      return _written(inside, source, shape)
  if root.opcode == 'dynamic-update-slice' and root.operands[1] in inside:
    return _bytes(inside[root.operands[1]].shape)
  return _bytes(shape)


def _bytes(shape):
  """Returns the bytes in HBM."""
  return sum(
    program_text.array_bytes(array)
    for array in _ARRAY.findall(shape)
    if not _NOT_HBM.search(array)
  )
