"""What to save and what to restore, as gin files say it (T5X's names)."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass
class SaveCheckpointConfig:
  """What to save, and how often (T5X's fields).

  Attributes:
    dtype: of the saved parameters, 'float32' or 'bfloat16'; None for theirs.
    period: steps between checkpoints; None saves none.
    keep: the number of latest checkpoints to keep; None keeps all.
    save_dataset: also save the position in the training data.
  """

  dtype: str | None = 'float32'
  period: int | None = None
  keep: int | None = None
  save_dataset: bool = False

  def __post_init__(self):
    _check_dtype('SaveCheckpointConfig', self.dtype)
    keep = self.keep
    if keep is not None and (type(keep) is not int or keep < 1):
      raise ValueError(
        f'KEEP_CHECKPOINTS is {keep!r}; it must be a whole number, at least '
        '1, or None to keep all (SAVE_PERIOD = None saves none)'
      )


@dataclasses.dataclass
class RestoreCheckpointConfig:
  """Where to start from (T5X's fields).

  Attributes:
    path: a checkpoint (`mode='specific'`) or a folder of them (`'latest'`);
      empty to start from scratch.
    mode: 'specific' or 'latest'.
    assignment_map: pairs of regular expressions, a parameter's name here and
      its name in the checkpoint; None for the latter drops it.
    fallback_to_scratch: initialise what the checkpoint lacks.
    dtype: of the restored parameters; None for as saved.
    restore_dataset: also restore the position in the training data.
  """

  path: str | Sequence[str] = ()
  mode: str = 'latest'
  assignment_map: Sequence[tuple[str, str | None]] | None = None
  fallback_to_scratch: bool = False
  dtype: str | None = None
  restore_dataset: bool = False

  def __post_init__(self):
    _check_dtype('RestoreCheckpointConfig', self.dtype)
    if self.mode not in ('specific', 'latest'):
      raise ValueError(
        f"RestoreCheckpointConfig.mode is {self.mode!r}; use 'specific' or "
        "'latest'"
      )
    if not isinstance(self.path, str):
      if len(self.path) > 1:
        raise ValueError(
          f'RestoreCheckpointConfig.path names {len(self.path)} checkpoints; '
          'name one'
        )
      self.path = self.path[0] if self.path else ''


@dataclasses.dataclass
class CheckpointConfig:
  """How a run saves its checkpoints, and which one it starts from."""

  save: SaveCheckpointConfig | None = None
  restore: RestoreCheckpointConfig | None = None


def _check_dtype(where: str, dtype: str | None) -> None:
  if dtype not in (None, 'float32', 'bfloat16'):
    raise ValueError(
      f"{where}.dtype is {dtype!r}; use 'float32', 'bfloat16' or None"
    )
