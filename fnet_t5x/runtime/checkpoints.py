"""Checkpoints through Orbax: asynchronous, atomic, with the data's position.

Layout, T5X's: `<model_dir>/checkpoint_<step>/state` holds
`{'target': params, 'state': {'step', 'param_states'}}`, and
`checkpoint_<step>/dataset` the position in the training data.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from clu.data import dataset_iterator
from etils import epath
from flax import traverse_util

from fnet_t5x.runtime import train_state as train_state_lib

PREFIX = 'checkpoint'
STATE = 'state'
DATASET = 'dataset'
_DATASET_FILE = 'train_ds-000-of-001'


@dataclasses.dataclass
class SaveCheckpointConfig:
  """What to save, and how often (T5X's fields).

  Attributes:
    dtype: of the saved parameters, 'float32' or 'bfloat16'.
    period: steps between checkpoints; None saves none.
    keep: the number of latest checkpoints to keep; None keeps all.
    save_dataset: also save the position in the training data.
  """

  dtype: str = 'float32'
  period: int | None = None
  keep: int | None = None
  save_dataset: bool = False

  def __post_init__(self):
    _check_dtype('SaveCheckpointConfig', self.dtype)


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
        raise ValueError('RestoreCheckpointConfig.path names several paths')
      self.path = self.path[0] if self.path else ''


@dataclasses.dataclass
class CheckpointConfig:
  """How a run saves its checkpoints, and which one it starts from."""

  save: SaveCheckpointConfig | None = None
  restore: RestoreCheckpointConfig | None = None


class _DatasetHandler(ocp.CheckpointHandler):
  """Saves and restores a dataset iterator's position."""

  def save(self, directory: epath.Path, args: 'DatasetArgs') -> None:
    args.item.save(os.fspath(directory / _DATASET_FILE))

  def restore(self, directory: epath.Path, args: 'DatasetArgs') -> None:
    args.item.restore(os.fspath(directory / _DATASET_FILE))


@ocp.args.register_with_handler(
  _DatasetHandler, for_save=True, for_restore=True
)
@dataclasses.dataclass
class DatasetArgs(ocp.args.CheckpointArgs):
  """The iterator whose position Orbax is to save or restore."""

  item: dataset_iterator.DatasetIterator


class CheckpointManager:
  """The checkpoints of one model directory."""

  def __init__(
    self, directory: str, keep: int | None = None, create: bool = False
  ):
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      step_prefix=PREFIX,
      create=create,
      cleanup_tmp_directories=create,
      enable_async_checkpointing=True,
    )
    self._manager = ocp.CheckpointManager(
      epath.Path(os.path.abspath(directory))
      if '://' not in directory
      else directory,
      options=options,
      item_handlers={
        STATE: ocp.PyTreeCheckpointHandler(use_ocdbt=True),
        DATASET: _DatasetHandler(),
      },
    )

  def latest_step(self) -> int | None:
    """Returns the step of the last whole checkpoint, None if there is none."""
    return self._manager.latest_step()

  def save(
    self,
    train_state: train_state_lib.TrainState,
    dtype: str,
    iterator: dataset_iterator.DatasetIterator | None = None,
  ) -> None:
    """Starts to save; does nothing where the step is already saved."""
    step = int(train_state.step)
    if step in self._manager.all_steps():
      return
    state = train_state.state_dict()
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(), state)
    save_args['target'] = jax.tree.map(
      lambda _: ocp.SaveArgs(dtype=jax.numpy.dtype(dtype)), state['target']
    )
    items = {STATE: ocp.args.PyTreeSave(state, save_args=save_args)}
    if iterator is not None:
      items[DATASET] = DatasetArgs(iterator)
    self._manager.save(step, args=ocp.args.Composite(**items), force=True)

  def restore(
    self,
    step: int,
    shapes: train_state_lib.TrainState,
    shardings: train_state_lib.TrainState,
    cfg: RestoreCheckpointConfig,
    iterator: dataset_iterator.DatasetIterator | None = None,
  ) -> dict[str, Any]:
    """Restores a checkpoint into the shapes and shardings of a train state.

    Args:
      step: which checkpoint.
      shapes: the state to fill, of `jax.ShapeDtypeStruct`.
      shardings: the same tree, of shardings.
      cfg: how to map names, and what to do without.
      iterator: the dataset iterator to move to the saved position.

    Returns:
      The state dict; with `fallback_to_scratch` it may lack leaves.

    Raises:
      ValueError: the checkpoint is of another architecture.
    """
    where = f'{self._manager.directory}/{PREFIX}_{step}'
    saved = _flat(self._manager.item_metadata(step)[STATE].tree)
    wanted = _flat(shapes.state_dict())
    placed = _flat(shardings.state_dict())
    sources = {name: _source(name, cfg.assignment_map) for name in wanted}
    if cfg.fallback_to_scratch:
      sources = {n: s if s in saved else None for n, s in sources.items()}
    _check_same_architecture(where, wanted, saved, sources)
    item, restore_args = {}, {}
    for name, source in sources.items():
      if source is None:
        continue
      dtype = wanted[name].dtype
      if cfg.dtype and name.startswith('target/'):
        dtype = jax.numpy.dtype(cfg.dtype)
      item[source] = jax.ShapeDtypeStruct(wanted[name].shape, dtype)
      restore_args[source] = ocp.ArrayRestoreArgs(
        sharding=placed[name], dtype=dtype, global_shape=wanted[name].shape
      )
    args = {
      STATE: ocp.args.PyTreeRestore(
        _nested(item), restore_args=_nested(restore_args), partial_restore=True
      )
    }
    if iterator is not None:
      args[DATASET] = DatasetArgs(iterator)
    restored = _flat(
      self._manager.restore(step, args=ocp.args.Composite(**args))[STATE]
    )
    return _nested({n: restored[s] for n, s in sources.items() if s})

  def wait_until_finished(self) -> None:
    """Returns when what is being saved is whole on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and lets go of the directory."""
    self._manager.close()


def locate(cfg: RestoreCheckpointConfig) -> tuple[str, int]:
  """Returns the directory and the step that a restore config points to.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: `mode='specific'` with a path that is no checkpoint's.
  """
  path = epath.Path(cfg.path)
  name = re.fullmatch(rf'{PREFIX}_(\d+)', path.name)
  if name:
    if not (path / STATE).is_dir():
      raise FileNotFoundError(f'{path} is no checkpoint, or not a whole one')
    return os.fspath(path.parent), int(name[1])
  if cfg.mode == 'specific':
    raise ValueError(
      f'{path} is no checkpoint: name one as .../{PREFIX}_<step>, or set '
      "RestoreCheckpointConfig.mode = 'latest'"
    )
  step = latest_step(os.fspath(path))
  if step is None:
    raise FileNotFoundError(f'{path} holds no {PREFIX}_<step>; check the path')
  return os.fspath(path), step


def latest_step(directory: str) -> int | None:
  """Returns the last whole checkpoint's step in a directory, None if none."""
  path = epath.Path(directory)
  if not path.is_dir():
    return None
  names = (re.fullmatch(rf'{PREFIX}_(\d+)', p.name) for p in path.iterdir())
  steps = [int(name[1]) for name in names if name]
  return max(steps, default=None)


def _check_dtype(where: str, dtype: str | None) -> None:
  if dtype not in (None, 'float32', 'bfloat16'):
    raise ValueError(
      f"{where}.dtype is {dtype!r}; use 'float32', 'bfloat16' or None"
    )


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.flatten_dict(_plain(tree), sep='/')


def _nested(tree: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.unflatten_dict(tree, sep='/')


def _plain(tree: Any) -> Any:
  if isinstance(tree, Mapping):
    return {str(key): _plain(value) for key, value in tree.items()}
  return tree


def _source(
  name: str, assignment_map: Sequence[tuple[str, str | None]] | None
) -> str | None:
  """Returns the name in the checkpoint of a leaf of ours."""
  for pattern, replacement in assignment_map or ():
    match = re.fullmatch(pattern, name)
    if match:
      return None if replacement is None else match.expand(replacement)
  return name


def _check_same_architecture(
  where: str,
  wanted: Mapping[str, Any],
  saved: Mapping[str, Any],
  sources: Mapping[str, str | None],
) -> None:
  missing = [n for n, s in sources.items() if s and s not in saved]
  used = set(sources.values())
  extra = [n for n in saved if n not in used and n.startswith('target/')]
  shaped = [
    f'{n} is {tuple(saved[s].shape)} there and {tuple(wanted[n].shape)} here'
    for n, s in sources.items()
    if s and s in saved and tuple(saved[s].shape) != tuple(wanted[n].shape)
  ]
  mapped = any(n != s for n, s in sources.items())
  if not missing and not shaped and (mapped or not extra):
    return
  detail = (
    shaped[0]
    if shaped
    else f'it lacks {missing[0]}'
    if missing
    else f'it has {extra[0]} besides'
  )
  raise ValueError(
    f'{where} was written by another architecture: {detail} '
    f'({len(missing)} missing, {len(extra)} left over, {len(shaped)} of '
    'another shape); use the gin file it was trained with, or another '
    'MODEL_DIR'
  )
