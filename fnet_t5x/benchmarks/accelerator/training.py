"""Section 3: training steps by network and size, and their parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnet_t5x.benchmarks.accelerator import (
  ceilings,
  device_memory,
  networks,
  step_parts,
  training_step,
)
from fnet_t5x.benchmarks.accelerator.bench import Bench, Setting
from fnet_t5x.benchmarks.accelerator.programs import (
  compile_program,
  time_state_calls,
)
from fnet_t5x.costs import flops

# Devices with less memory than this (bytes) get a quarter of the batch size.
_MUCH_MEMORY = 40e9


class Sizes(NamedTuple):
  """Sizes of a training step.

  Attributes:
    size: size of the network.
    rows: batch size.
    inputs: input tokens per row.
    targets: target tokens per row.
  """

  size: str
  rows: int
  inputs: int = 512
  targets: int = 114


def all_sizes(setting: Setting) -> tuple[Sizes, ...]:
  """Returns the sizes to measure, the most important first."""
  if setting.toy:
    return (Sizes('toy', 2, 32, 16),)
  if setting.backend == 'cpu':
    return (Sizes('small', 4),)
  memory = device_memory.total_bytes()
  rows = 16 if memory and memory < _MUCH_MEMORY else 64
  return (Sizes('base', rows), Sizes('small', rows))


def run(bench: Bench) -> None:
  """Measures the networks of each size, their parts, then variants."""
  # Now, so that it does not count as time of the first case.
  ceilings.matmul_rate(bench)
  for sizes in all_sizes(bench.setting):
    for network in networks.NETWORKS.values():
      measure_step(bench, network, sizes)
    for network in networks.NETWORKS.values():
      measure_parts(bench, network, sizes)
    if bench.setting.toy:
      continue
    for network in networks.VARIANTS:
      measure_step(bench, network, sizes)
    measure_step(bench, networks.NETWORKS['hybrid'], sizes, packed=True)
  # Last: its layers are not scanned, and take longer to compile.
  for sizes in all_sizes(bench.setting):
    measure_step(bench, networks.DECODER_ONLY, sizes)


AnyNetwork = networks.Network | networks.DecoderOnlyNetwork


def labels_of(
  network: AnyNetwork, sizes: Sizes, packed: bool = False
) -> dict[str, Any]:
  """Returns the labels that identify a step's row."""
  return {
    'case': 'step',
    'network': network.name,
    **sizes._asdict(),
    'packing': 'packed' if packed else 'full rows',
  }


def make(network: AnyNetwork, setting: Setting, sizes: Sizes) -> Any:
  """Returns the network's module for these sizes."""
  return network.make(
    sizes.size,
    dtype=setting.dtype,
    max_encoder_length=sizes.inputs,
    max_target_length=sizes.targets,
  )


def measure_step(
  bench: Bench, network: AnyNetwork, sizes: Sizes, packed: bool = False
) -> None:
  """Times training steps: scanned layers, Adafactor, no dropout.

  GPT-2, whose layers are not scanned, reads inputs and targets as one text.
  """
  setting = bench.setting
  labels = labels_of(network, sizes, packed)
  t5 = {**labels, 'network': 'T5', 'packing': 'full rows'}

  def measure():
    result = time_step(network, setting, sizes, packed)
    rate = ceilings.matmul_rate(bench)
    reference = bench.found(bench.section, **t5)
    return {
      **result,
      'share_of_matmul': result['flops_per_second'] / rate if rate else None,
      'speed_of_t5': reference['run_seconds'] / result['run_seconds']
      if reference
      else None,
    }

  kind = f'step {sizes.size}'
  if isinstance(network, networks.DecoderOnlyNetwork):
    kind += f' {network.name}'
  bench.case(labels, measure, kind=kind, guess=_guess(setting))


def time_step(
  network: AnyNetwork,
  setting: Setting,
  sizes: Sizes,
  packed: bool = False,
) -> Mapping[str, Any]:
  """Times one network's training step.

  Returns:
    `run_seconds` and `compile_seconds` of a step, `sequences_per_second`,
    `flops` of a step by the planner's formula, `flops_per_second` by the same,
    `peak_bytes` according to the compiler, `process_peak_bytes` measured by the
    device in this process so far, `parameters`, and the last `loss`.
  """
  module = make(network, setting, sizes)
  optimizer = training_step.make_optimizer(module, None, setting.seed)
  parameters = sum(
    math.prod(x.shape) for x in jax.tree.leaves(optimizer.target)
  )
  batch = training_step.make_batch(
    sizes.rows,
    sizes.inputs,
    sizes.targets,
    module.config.vocab_size,
    packed=packed,
    seed=setting.seed,
  )
  if networks.is_decoder_only(module):
    batch = training_step.decoder_only_features(
      batch['encoder_input_tokens'], batch['decoder_target_tokens']
    )
  # An array, as a schedule returns it: see `Program`.
  rate = jnp.float32(0.001)
  program = compile_program(
    training_step.train_step(module), optimizer, batch, rate, donate=(0,)
  )
  # One second is about ten steps of the largest network.
  times, optimizer = time_state_calls(
    program, optimizer, batch, rate, seconds=2 * setting.timing_seconds
  )
  _, loss = program(optimizer, batch, rate)
  operations = flops.batch_flops(module.config, batch, setting.backend)
  return {
    'run_seconds': times.median,
    'compile_seconds': program.compile_seconds,
    'sequences_per_second': sizes.rows / times.median,
    'flops': operations,
    'flops_per_second': operations / times.median,
    'peak_bytes': device_memory.program_bytes(program.compiled).get(
      'peak_bytes'
    ),
    'process_peak_bytes': device_memory.peak_bytes(),
    'parameters': parameters,
    'loss': float(loss),
  }


def measure_parts(
  bench: Bench, network: networks.Network, sizes: Sizes
) -> None:
  """Times the parts of a network's step; shared parts are timed once."""
  step = bench.found(bench.section, **labels_of(network, sizes))
  if step is None:
    return
  module = make(network, bench.setting, sizes)
  seconds = dict.fromkeys(step_parts.GROUPS, 0.0)
  for name, part in step_parts.parts(
    module, bench.setting, sizes.rows, sizes.inputs, sizes.targets
  ).items():
    one = _part(bench, {'part': name}, sizes, part.measure)
    _add(seconds, part.group, one, part.count)

  def optimizer_step():
    return step_parts.time_optimizer(
      training_step.make_optimizer(module, None), bench.setting
    )

  own = {'part': 'optimizer', 'network': network.name}
  _add(seconds, 'optimizer', _part(bench, own, sizes, optimizer_step), 1)
  known = None not in seconds.values()
  rest = step['run_seconds'] - sum(seconds.values()) if known else None
  bench.row(
    {'case': 'parts', 'network': network.name, **sizes._asdict()},
    {f'{_field(name)}_seconds': value for name, value in seconds.items()}
    | {'rest_seconds': rest, 'step_seconds': step['run_seconds']},
  )


def _part(bench, own, sizes, measure):
  labels = {'case': 'part', **own, **sizes._asdict()}
  found = bench.found(bench.section, **labels)
  if found is None:
    found = bench.case(
      labels,
      measure,
      kind=f'part {sizes.size}',
      guess=_guess(bench.setting) / 2,
    )
  return found


def _add(seconds, group, part, count):
  """Adds a part's time to its group; None once any part is unknown."""
  if part is None or seconds[group] is None:
    seconds[group] = None
  else:
    seconds[group] += count * part['run_seconds']


def _field(group: str) -> str:
  return group.replace('-', '_').replace(' ', '_')


def _guess(setting: Setting) -> float:
  """Returns the expected seconds of a case, mostly to compile a step."""
  return 5.0 if setting.toy else 20.0
