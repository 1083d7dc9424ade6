"""Collectives of a compiled program, from its HLO text."""

import dataclasses
import re
from collections.abc import Iterator

from fnet_t5x.planning import program_text

KINDS = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-broadcast',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Collective:
  """Collective instruction in the program of a device.

  Attributes:
    kind: one of KINDS.
    bytes: bytes per device of its operand or result, whichever is larger: the
      result of an all-gather, the operand of a reduce-scatter.
    times: number of executions per run of the program.
    op_name: the JAX operation it came from, '' if unknown.
  """

  kind: str
  bytes: int
  times: int
  op_name: str


def collectives(hlo_text: str) -> list[dict[str, str | int]]:
  """Returns the collectives of a device by kind, as {'kind', 'count', 'bytes'}.

  Kinds that do not occur are omitted. `bytes` is the sum of `Collective.bytes`;
  the traffic on a link depends on the algorithm and the number of devices.
  Executions are counted as in `find_collectives`.

  Args:
    hlo_text: of a compiled program: `compiled.as_text()`. A program that is
      only lowered has no collectives.
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

  Collectives in the body of a loop count once per trip if the compiler states
  the trip count or the loop counts up to a constant (like `lax.scan`, from 0 in
  steps of 1), otherwise once. Of the branches of a conditional, the one with
  the most bytes counts.

  Raises:
    ValueError: the text is not an HLO module.
  """
  computations, entry = program_text.parse(hlo_text)
  if entry is None:
    raise ValueError(
      'not the text of a compiled HLO module: it has no ENTRY computation'
    )
  return list(_walk(computations, entry, 1))


def _walk(computations, name, times) -> Iterator[Collective]:
  body = computations.get(name, {})
  for instruction in body.values():
    opcode = instruction.opcode
    if found := _collective(body, instruction, times):
      yield found
    elif opcode == 'while':
      inner = times * program_text.trips(computations, instruction)
      for attribute in ('condition', 'body'):
        for callee in program_text.called(instruction, attribute):
          yield from _walk(computations, callee, inner)
    elif opcode == 'conditional':
      branches = [
        list(_walk(computations, callee, times))
        for callee in program_text.branches(instruction)
      ]
      yield from max(branches, key=_size, default=())
    # The -done of an asynchronous call names the computation of its -start.
    elif opcode not in ('async-done', 'async-update'):
      for callee in program_text.called(instruction, 'calls', 'to_apply'):
        yield from _walk(computations, callee, times)


def _collective(body, instruction, times):
  # An asynchronous pair is counted at its -done, whose shape is the result's.
  kind = instruction.opcode.removesuffix('-done')
  if kind not in KINDS:
    return None
  source = instruction
  if kind != instruction.opcode:
    source = body.get(instruction.operands[0], instruction)
  taken = sum(
    program_text.array_bytes(body[operand].shape)
    for operand in source.operands
    if operand in body
  )
  op_name = _OP_NAME.search(source.attributes)
  return Collective(
    kind=kind,
    bytes=max(taken, program_text.array_bytes(instruction.shape)),
    times=times,
    op_name=op_name[1] if op_name else '',
  )


def _size(found):
  return sum(each.times * each.bytes for each in found)
