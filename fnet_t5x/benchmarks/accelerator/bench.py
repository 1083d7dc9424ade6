"""Context of a section: its time, the results, and the setting."""

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

# Expected seconds of the first case of a kind, mostly to compile.
FIRST_GUESS = 5.0
TOY_GUESS = 0.3


@dataclasses.dataclass(frozen=True)
class Setting:
  """Settings shared by all sections.

  Attributes:
    backend: JAX's name of the platform: 'cpu', 'gpu' or 'tpu'.
    dtype: JAX's name of the activations' dtype: bfloat16, or float32 on CPU.
    toy: whether sizes are tiny, to try the kit on a CPU.
    corpus: folder written by `--prepare`, or None.
    seed: seed of all random numbers.
  """

  backend: str
  dtype: str
  toy: bool = False
  corpus: pathlib.Path | None = None
  seed: int = 0

  @property
  def timing_seconds(self) -> float:
    """Seconds for which a case's calls are repeated, once warm."""
    return 0.05 if self.toy else 0.5

  @property
  def iterations(self) -> int:
    """Iterations within a program of work that takes only microseconds."""
    if self.toy:
      return 2
    return 1 if self.backend == 'cpu' else 20


class Bench:
  """Measurement of a section's cases, within its share of the time.

  Attributes:
    section: name of the section.
    setting: settings shared by all sections.
    clock: the section's time.
    results: results of the whole run.
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
    """Measures one case, unless time or memory does not suffice.

    An exception is recorded in one line, and not raised.

    Args:
      labels: identify the case within the section.
      measure: returns the figures, with units in their names.
      kind: name shared by cases that take about equally long.
      guess: seconds for the first case of a kind, including compilation.
      needs_bytes: memory that the case needs on the device.

    Returns:
      The figures, or None if there are none.
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
    except Exception as error:  # One case must not stop the others.
      self.results.add(
        self.section, labels, 'failed', {'reason': one_line(error)}
      )
      result = None
    # Frees the case's arrays before the next case.
    gc.collect()
    seconds = time.monotonic() - start
    # A failed case would underestimate the time of the next.
    if result is not None:
      self.clock.took(kind, seconds)
      result['case_seconds'] = seconds
      self.row(labels, result)
    return result

  def row(self, labels: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Adds figures not measured by `case`, such as those of a curve."""
    self.results.add(self.section, labels, 'ok', result)

  def skip(self, labels: Mapping[str, Any], reason: str) -> None:
    """Records why a case is skipped."""
    self.results.add(self.section, labels, 'skipped', {'reason': reason})

  def note(self, text: str) -> None:
    """Records a line, prefixed by the section's name."""
    self.results.note(f'{self.section}: {text}')

  def found(self, section: str, **labels: Any) -> dict[str, Any] | None:
    """Returns the figures of an earlier case with these labels, or None."""
    return self.results.find(section, **labels)


def one_line(error: BaseException) -> str:
  """Returns an error's type and first line, at most 300 characters."""
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0]}'[:300]
