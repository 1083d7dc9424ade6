"""Which checkpoints stay when a new one is saved."""

import dataclasses
from collections.abc import Sequence

from orbax.checkpoint import checkpoint_managers


@dataclasses.dataclass
class Retention:
  """Keeps the last checkpoints, and the last one with a sound loss.

  A loss is unsound where it is more than twice the lowest loss of the
  checkpoints that there are, and more than 1 above it. The latter, so that
  losses near zero may vary. Where all of the last checkpoints are unsound the
  one before them stays too: parameters that were damaged, or that diverged,
  must not push out the last good ones. It goes when a checkpoint with a sound
  loss is saved. The price of a false alarm is the space of one checkpoint.

  Attributes:
    keep: how many of the last ones; None for all.
    losses: the training loss by step, as far as it is known; to be added to.
  """

  keep: int | None
  losses: dict[int, float]

  def last_sound(self, steps: Sequence[int]) -> int | None:
    """Returns the last of the steps with a sound loss, None if none has one."""
    known = {s: self.losses[s] for s in steps if s in self.losses}
    if not known:
      return None
    lowest = min(known.values())
    limit = max(2 * lowest, lowest + 1)
    return max(step for step, loss in known.items() if loss <= limit)

  def kept_besides(self, steps: Sequence[int]) -> int | None:
    """Returns the step that stays for its loss alone, if one does."""
    sound = self.last_sound(steps)
    if self.keep is None or sound in sorted(steps)[-self.keep :]:
      return None
    return sound

  def should_preserve(
    self,
    checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
    *,
    context: checkpoint_managers.PreservationContext,
  ) -> Sequence[bool]:
    """Orbax asks: for each checkpoint, first to last, whether it stays."""
    del context
    steps = [info.step for info in checkpoints]
    if self.keep is None:
      return [True] * len(steps)
    stay = {*sorted(steps)[len(steps) - min(self.keep, len(steps)) :]}
    stay.add(self.last_sound(steps))
    return [step in stay for step in steps]
