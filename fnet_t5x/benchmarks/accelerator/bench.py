"""What a section works with: its time, its results, and the setting."""

from __future__ import annotations

import dataclasses
import gc
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from fnet_t5x.benchmarks.accelerator import device_memory
from fnet_t5x.benchmarks.accelerator.results import Results
from fnet_t5x.benchmarks.accelerator.time_budget import Clock

# Seconds, where no case of a kind was run: accelerators compile for some.
FIRST_GUESS = 5.0
TOY_GUESS = 0.3


@dataclasses.dataclass(frozen=True)
class Setting:
  """What all sections share.

  Attributes:
    backend: JAX's name of the platform: 'cpu', 'gpu', 'tpu'.
    dtype: of activations, by JAX's name: bfloat16, on CPU float32.
    toy: whether sizes are those of a try on a CPU.
    corpus: the folder that `--prepare` made, or None.
    seed: of all random numbers.
  """

  backend: str
  dtype: str
  toy: bool = False
  corpus: pathlib.Path | None = None
  seed: int = 0

  @property
  def timing_seconds(self) -> float:
    """How long one case's calls are repeated, warm."""
    return 0.05 if self.toy else 0.5

  @property
  def iterations(self) -> int:
    """How often a program repeats what takes an accelerator microseconds."""
    if self.toy:
      return 2
    return 1 if self.backend == 'cpu' else 20


class Bench:
  """Measures cases within a section's time, and keeps what they give.

  Attributes:
    section: its name.
    setting: what all sections share.
    clock: the section's time.
    results: of the whole run.
  """

  def __init__(
    self, section: str, setting: Setting, clock: Clock, results: Results
  ):
    self.section = section
    self.setting = setting
    self.clock = clock
    self.results = results

  def case(
    self,
    labels: Mapping[str, Any],
    measure: Callable[[], Mapping[str, Any]],
    *,
    kind: str = 'case',
    guess: float | None = None,
    needs_bytes: float = 0,
  ) -> Mapping[str, Any] | None:
    """Measures one case, unless time or memory is too short for it.

    What it raises is reported in one line, and passed over.

    Args:
      labels: what tells it from the section's other cases.
      measure: returns the figures, units in their names.
      kind: cases that take about equally long.
      guess: seconds that the first of a kind takes, compiling included.
      needs_bytes: memory that it needs on the device.

    Returns:
      The figures, None where there are none.
    """
    if guess is None:
      guess = TOY_GUESS if self.setting.toy else FIRST_GUESS
    expected = self.clock.expected(kind, guess)
    if not self.clock.fits(expected):
      left = self.clock.remaining()
      self.skip(labels, f'takes about {expected:.0f} s, {left:.0f} s are left')
      return None
    free = device_memory.free_bytes()
    if free is not None and needs_bytes > free:
      self.skip(
        labels,
        f'needs {needs_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free',
      )
      return None
    start = time.monotonic()
    try:
      result = dict(measure())
    except Exception as error:  # one case must not cost the others
      self.results.add(
        self.section, labels, 'failed', {'reason': one_line(error)}
      )
      result = None
    # Arrays of a case must not be there in the next one's memory.
    gc.collect()
    seconds = time.monotonic() - start
    # One that failed took less than one that works.
    if result is not None:
      self.clock.took(kind, seconds)
      result['case_seconds'] = seconds
      self.row(labels, result)
    return result

  def row(self, labels: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Adds figures that were not measured by `case`, such as a curve's."""
    self.results.add(self.section, labels, 'ok', result)

  def skip(self, labels: Mapping[str, Any], reason: str) -> None:
    """Says why a case is left out."""
    self.results.add(self.section, labels, 'skipped', {'reason': reason})

  def note(self, text: str) -> None:
    """Says something in one line, with the section's name before it."""
    self.results.note(f'{self.section}: {text}')

  def found(self, section: str, **labels: Any) -> dict[str, Any] | None:
    """Returns figures of an earlier case that has these labels, if any."""
    return self.results.find(section, **labels)


def one_line(error: BaseException) -> str:
  """Returns the error's type and the first line of its text, 300 characters."""
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0]}'[:300]
