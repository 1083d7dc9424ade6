"""The choice of the checkpoints that stay when a new one is saved."""

import dataclasses
import itertools
from collections.abc import Sequence

from orbax.checkpoint import checkpoint_managers


@dataclasses.dataclass
class Retention:
  """Keeps the last checkpoints, and the last ones with a sound loss.

  A loss is unsound where it is more than twice the lowest loss of the
  checkpoints that there are, and more than 1 above it. The latter, so that
  losses near zero may vary. Where all of the last checkpoints are unsound, two
  before them stay too: the last one with a sound loss, and the last one whose
  successor's loss was sound as well. For the loss may have jumped since a run
  went on from the former because its file was damaged, after its own loss was
  reported. Parameters that were damaged, or that diverged, must not push out
  the last good ones. These go when a checkpoint with a sound loss is saved. The
  price of a false alarm is the space of two checkpoints.

  Attributes:
    keep: how many of the last ones; None for all.
    losses: the training loss by step, as far as it is known; to be added to.
  """

  keep: int | None
  losses: dict[int, float]

  def sound(self, steps: Sequence[int]) -> set[int]:
    """Returns which of the steps stay for their loss: none, one or two."""
    known = {s: self.losses[s] for s in sorted(steps) if s in self.losses}
    if not known:
      return set()
    lowest = min(known.values())
    limit = max(2 * lowest, lowest + 1)
    sound = [step for step, loss in known.items() if loss <= limit]
    # The last one has no successor that speaks against it.
    followed = [
      step
      for step, after in itertools.zip_longest(known, [*known][1:])
      if step in sound and after in (*sound, None)
    ]
    return {sound[-1], *followed[-1:]}

  def kept_besides(self, steps: Sequence[int]) -> list[int]:
    """Returns the steps that stay for their loss alone."""
    if self.keep is None:
      return []
    return sorted(self.sound(steps) - {*sorted(steps)[-self.keep :]})

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
    stay |= self.sound(steps)
    return [step in stay for step in steps]
