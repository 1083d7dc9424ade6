"""Cost of a compiled program per device, from its HLO text.

The compiler's `cost_analysis()` counts the body of a loop once. Here it counts
once per trip, so that scanned and unrolled networks are counted alike.
"""

import dataclasses
import math
import re

import numpy as np

from fnet_t5x.planning import collectives, program_text, traffic
from fnet_t5x.planning.program_text import dimensions

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
# Instructions that move no data themselves.
_FREE = frozenset(
  (
    'after-all',
    'bitcast',
    'call',
    'conditional',
    'constant',
    'copy-done',
    'get-tuple-element',
    'iota',
    'parameter',
    'partition-id',
    'replica-id',
    'tuple',
    'while',
  )
)


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of one run of a program per device.

  Attributes:
    flops: FLOPs of matrix products, convolutions and Fourier transforms.
    bytes: bytes read from and written to HBM, summed over instructions; on-chip
      memories of a TPU do not count.
    cycles: the TPU compiler's estimate, without collectives; 0 from other
      compilers.
    custom_calls: number of instructions that are opaque to the compiler.
  """

  flops: float = 0.0
  bytes: float = 0.0
  cycles: float = 0.0
  custom_calls: int = 0

  def __add__(self, other: 'Cost') -> 'Cost':
    return Cost(
      self.flops + other.flops,
      self.bytes + other.bytes,
      self.cycles + other.cycles,
      self.custom_calls + other.custom_calls,
    )

  def __mul__(self, times: int) -> 'Cost':
    return Cost(
      self.flops * times,
      self.bytes * times,
      self.cycles * times,
      self.custom_calls * times,
    )


def cost(hlo_text: str, count_loops: bool = True) -> Cost:
  """Returns the cost of one run of a compiled program.

  Of a conditional, the branch with the most FLOPs counts. The body of a loop
  whose trip count is unknown counts once.

  Args:
    hlo_text: `compiled.as_text()`.
    count_loops: False counts the body of a loop once, as the compiler's
      `cost_analysis()` does.

  Raises:
    ValueError: the text is not an HLO module.
  """
  computations, entry = program_text.parse(hlo_text)
  if entry is None:
    raise ValueError('not the text of a compiled HLO module')
  return _Counter(computations, count_loops).executed(entry)


class _Counter:
  """Sums the costs of computations; each is visited once."""

  def __init__(self, computations, count_loops):
    self._computations = computations
    self._count_loops = count_loops
    self._executed = {}
    self._fused = {}

  def executed(self, name: str) -> Cost:
    """Returns the cost of a computation that is executed, not fused."""
    if name not in self._executed:
      body = self._computations.get(name, {})
      self._executed[name] = sum(
        (self._instruction(body, each) for each in body.values()), Cost()
      )
    return self._executed[name]

  def _instruction(self, body, instruction):
    opcode, attributes = instruction.opcode, instruction.attributes
    if opcode == 'while':
      times = 1
      if self._count_loops:
        times = program_text.trips(self._computations, instruction)
      return self._all(instruction, 'body') * times
    if opcode == 'conditional':
      branches = map(self.executed, program_text.branches(instruction))
      return max(branches, key=lambda w: (w.flops, w.bytes), default=Cost())
    if opcode in ('call', 'async-start'):
      return self._all(instruction, 'calls', 'to_apply')
    if opcode in _FREE or opcode.endswith(('-done', '-update')):
      return Cost()
    if opcode.removesuffix('-start') in collectives.KINDS:
      return Cost()
    cycles = _CYCLES.search(attributes)
    return Cost(
      flops=self._flops(body, instruction),
      bytes=traffic.bytes_accessed(self._computations, body, instruction),
      cycles=float(cycles[1]) if cycles else 0.0,
      custom_calls=int(opcode == 'custom-call'),
    )

  def _all(self, instruction, *attributes):
    called = program_text.called(instruction, *attributes)
    return sum(map(self.executed, called), Cost())

  def _flops(self, body, instruction):
    opcode = instruction.opcode
    if opcode == 'fusion':
      return sum(
        self._flops_of_fused(name)
        for name in program_text.called(instruction, 'calls')
      )
    if opcode == 'dot':
      return _dot_flops(body, instruction)
    if opcode == 'convolution':
      return _convolution_flops(body, instruction)
    if opcode == 'fft':
      return _fft_flops(instruction)
    return 0.0

  def _flops_of_fused(self, name):
    if name not in self._fused:
      body = self._computations.get(name, {})
      self._fused[name] = sum(self._flops(body, i) for i in body.values())
    return self._fused[name]


def _numbers(text, name):
  match = re.search(rf'\b{name}=\{{([\d,]*)\}}', text)
  return [int(x) for x in match[1].split(',') if x] if match else []


def _dot_flops(body, instruction):
  left = body.get(instruction.operands[0])
  if left is None:
    return 0.0
  sizes = dimensions(left.shape)
  contracted = _numbers(instruction.attributes, 'lhs_contracting_dims')
  return (
    2.0
    * math.prod(dimensions(instruction.shape))
    * math.prod(sizes[axis] for axis in contracted)
  )


def _convolution_flops(body, instruction):
  """Returns twice the number of products of two existing operands.

  The TPU compiler expresses matrix products as convolutions; batch axes become
  dilated windows, which are mostly holes.
  """
  attributes = instruction.attributes
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', attributes)
  left, right = (body.get(name) for name in instruction.operands[:2])
  if labels is None or left is None or right is None:
    return 0.0
  sizes = [
    dict(zip(names, dimensions(shape), strict=True))
    for names, shape in zip(
      labels.groups(),
      (left.shape, right.shape, instruction.shape),
      strict=True,
    )
  ]
  window = _window(attributes)
  pairs = 1
  for position, axis in enumerate(sorted(set(labels[3]) - {'b', 'f'})):
    entry = {key: values[position] for key, values in window.items()}
    pairs *= _valid_pairs(sizes[0][axis], sizes[2][axis], entry)
  groups = {
    name: int(match[1])
    if (match := re.search(rf'\b{name}_group_count=(\d+)', attributes))
    else 1
    for name in ('feature', 'batch')
  }
  return (
    2.0
    * pairs
    * (sizes[0]['b'] // groups['batch'])
    * (sizes[0]['f'] // groups['feature'])
    * sizes[2]['f']
  )


def _window(attributes):
  match = re.search(r'window=\{([^}]*)\}', attributes)
  fields = dict(f.split('=') for f in match[1].split()) if match else {}
  return {
    key: [tuple(map(int, entry.split('_'))) for entry in value.split('x')]
    for key, value in fields.items()
  }


def _valid_pairs(inputs, outputs, entry):
  (size,) = entry.get('size', (1,))
  (stride,) = entry.get('stride', (1,))
  (hole,) = entry.get('lhs_dilate', (1,))
  (step,) = entry.get('rhs_dilate', (1,))
  before = entry.get('pad', (0, 0))[0]
  at = (
    np.arange(outputs)[:, None] * stride
    + np.arange(size)[None, :] * step
    - before
  )
  inside = (at >= 0) & (at <= (inputs - 1) * hole) & (at % hole == 0)
  return int(inside.sum())


def _fft_flops(instruction):
  """Returns the 5 n log2 n of Cooley-Tukey, halved for real numbers."""
  lengths = _numbers(instruction.attributes, 'fft_length')
  kind = re.search(r'fft_type=(\w+)', instruction.attributes)
  points = math.prod(lengths)
  numbers = math.prod(dimensions(instruction.shape))
  if kind and kind[1] == 'RFFT':
    numbers = numbers // (lengths[-1] // 2 + 1) * lengths[-1]
  real = 0.5 if kind and kind[1] in ('RFFT', 'IRFFT') else 1.0
  return real * 5.0 * numbers * math.log2(max(points, 2))
