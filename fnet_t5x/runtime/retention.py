"""Retention policy: the checkpoints kept when a new one is saved."""

import dataclasses
import itertools
from collections.abc import Sequence

from orbax.checkpoint import checkpoint_managers


@dataclasses.dataclass
class Retention:
  """Keeps the last checkpoints, and the last ones with a sound loss.

  Damaged or diverged parameters must not push out the last good ones. A loss is
  unsound if it is more than twice the lowest loss of the existing checkpoints
  and more than 1 above it (losses near zero may vary). If all of the last
  `keep` checkpoints are unsound, two earlier ones are kept too: the last one
  with a sound loss, and the last one whose successor also had a sound loss. The
  second is needed if the first was damaged after its own loss was reported, so
  that the loss jumped when a run resumed from it. Both are deleted when a
  checkpoint with a sound loss is saved. A false alarm costs the space of two
  checkpoints.

  Attributes:
    keep: number of last checkpoints to keep; None for all.
    losses: training loss by step, where known; the caller adds to it.
  """

  keep: int | None
  losses: dict[int, float]

  def sound(self, steps: Sequence[int]) -> set[int]:
    """Returns the steps kept because of their loss: none, one or two."""
    known = {s: self.losses[s] for s in sorted(steps) if s in self.losses}
    if not known:
      return set()
    lowest = min(known.values())
    limit = max(2 * lowest, lowest + 1)
    sound = [step for step, loss in known.items() if loss <= limit]
    # The last one has no successor and counts as followed by a sound loss.
    followed = [
      step
      for step, after in itertools.zip_longest(known, [*known][1:])
      if step in sound and after in (*sound, None)
    ]
    return {sound[-1], *followed[-1:]}

  def kept_for_loss(self, steps: Sequence[int]) -> list[int]:
    """Returns the steps kept only because of their loss."""
    if self.keep is None:
      return []
    return sorted(self.sound(steps) - {*sorted(steps)[-self.keep :]})

  def should_preserve(
    self,
    checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
    *,
    context: checkpoint_managers.PreservationContext,
  ) -> Sequence[bool]:
    """Orbax's hook: whether to keep each checkpoint, in order of steps."""
    del context
    steps = [info.step for info in checkpoints]
    if self.keep is None:
      return [True] * len(steps)
    stay = {*sorted(steps)[len(steps) - min(self.keep, len(steps)) :]}
    stay |= self.sound(steps)
    return [step in stay for step in steps]
