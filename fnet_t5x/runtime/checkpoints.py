"""Checkpoints through Orbax: asynchronous, atomic, with the data's position.

Layout, T5X's: `<model_dir>/checkpoint_<step>/state` holds
`{'target': params, 'state': {'step', 'param_states'}}`, and
`checkpoint_<step>/dataset` the position in the training data. Ours have
checksums besides (`checksums.py`), which are compared before anything is
restored. Checkpoints of T5X's older layout are read too
(`legacy_checkpoint.py`).
"""

import contextlib
import dataclasses
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from clu.data import dataset_iterator
from etils import epath
from flax import traverse_util

from fnet_t5x.runtime import (
  checksums,
  console,
  damaged_checkpoints,
  legacy_checkpoint,
  retention,
  tensorstore_json,
)
from fnet_t5x.runtime import train_state as train_state_lib

_PARAMETERS = 'target/'
Sources = Mapping[str, str | None]
PREFIX = 'checkpoint'
STATE = 'state'
DATASET = 'dataset'
_DATASET_FILE = 'train_ds-000-of-001'
_TEMPORARY = ocp.path.atomicity.TMP_DIR_SUFFIX
# Knows, on every file system, which checkpoints are whole.
_STEPS = ocp.path.step.standard_name_format(step_prefix=PREFIX)


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


class _DatasetHandler(ocp.CheckpointHandler):
  """Saves and restores a dataset iterator's position.

  No asynchronous handler: the position is written before `save` returns, so
  that the batches taken meanwhile do not move it.
  """

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
    self,
    directory: str,
    keep: int | None = None,
    create: bool = False,
    losses: Mapping[int, float] | None = None,
    with_checksums: bool = True,
  ):
    """Opens a directory.

    Args:
      directory: the model directory.
      keep: the number of latest checkpoints to keep; None keeps all.
      create: make the directory, and remove what a stopped run left half
        written: for writers only.
      losses: the training loss by step, where it is known: the last
        checkpoints with a sound one are kept too (`retention.Retention`).
      with_checksums: save them; False is for comparisons.
    """
    if '://' not in directory:
      directory = os.path.abspath(directory)
    tensorstore_json.avoid_leaks()
    self._directory = epath.Path(directory)
    self._retention = retention.Retention(keep, dict(losses or {}))
    self._custom_metadata = checksums.CUSTOM_METADATA if with_checksums else {}
    self._saving: int | None = None
    self._kept: list[int] = []
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self._retention,
        step_prefix=PREFIX,
        create=create,
        cleanup_tmp_directories=create,
        enable_async_checkpointing=True,
        # Or a folder that cannot be made is found out after 300 s of silence.
        async_options=ocp.AsyncOptions(
          create_directories_asynchronously=False,
          post_finalization_callback=(
            self._write_checksums if with_checksums else None
          ),
        ),
        # Nothing of other checkpoints is read: they may be damaged.
        lightweight_initialize=True,
      ),
      item_handlers={
        STATE: ocp.PyTreeCheckpointHandler(use_ocdbt=True),
        DATASET: _DatasetHandler(),
      },
    )

  def save(
    self,
    train_state: train_state_lib.TrainState,
    dtype: str | None,
    iterator: dataset_iterator.DatasetIterator | None = None,
    loss: float | None = None,
  ) -> None:
    """Starts to save; does nothing where the step is already saved.

    The state may be donated as soon as this returns: on an accelerator it is
    copied to the host first, on CPU JAX does not give away memory that is
    being read.

    Args:
      train_state: what to save.
      dtype: of the saved parameters; None for theirs.
      iterator: the dataset iterator whose position to save.
      loss: the last one reported; None where none was.
    """
    step = int(train_state.step)
    if step in self._manager.all_steps():
      return
    state = train_state.state_dict()
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(), state)
    if dtype:
      cast = ocp.SaveArgs(dtype=jnp.dtype(dtype))
      save_args['target'] = jax.tree.map(lambda _: cast, state['target'])
    items = {STATE: ocp.args.PyTreeSave(state, save_args=save_args)}
    if iterator is not None:
      items[DATASET] = DatasetArgs(iterator)
    # Until then the step that is being saved is the one before.
    self._manager.wait_until_finished()
    self._saving = step
    saved = [*self._manager.all_steps(), step]
    losses = self._retention.losses
    # Those of checkpoints that went have no use, and would pile up.
    for gone in losses.keys() - set(saved):
      del losses[gone]
    if loss is not None:
      losses[step] = loss
    self._say_kept(saved)
    self._manager.save(
      step,
      args=ocp.args.Composite(**items),
      force=True,
      custom_metadata=self._custom_metadata,
    )

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
      The state dict. It lacks what `cfg.assignment_map` drops, and with
      `cfg.fallback_to_scratch` what the checkpoint lacks.

    Raises:
      ValueError: the checkpoint is of another architecture, or lacks the
        position in the data.
      DamagedError: a file of it is not what was saved, or cannot be read.
    """
    where = self._directory / f'{PREFIX}_{step}'
    legacy = None
    checked = damaged_checkpoints.check(
      where, self._steps, position=iterator is not None
    )

    def reading() -> contextlib.AbstractContextManager[None]:
      # Where all files are as saved an error has another cause.
      if checked:
        return contextlib.nullcontext()
      return damaged_checkpoints.reading(where, self._steps)

    if legacy_checkpoint.is_legacy(where):
      legacy = legacy_checkpoint.LegacyCheckpoint(where)
      saved = legacy.leaves
    else:
      with reading():
        saved = _flat(self._manager.item_metadata(step)[STATE].tree)
      if not checked:
        console.print_line(f'{where}: no {checksums.FILE}; taken unchecked')
    wanted = _flat(shapes.state_dict())
    placed = _flat(shardings.state_dict())
    sources = _find_sources(wanted, saved, cfg)
    _check_same_architecture(where, wanted, saved, sources, cfg)
    if iterator is not None and not (where / DATASET).is_dir():
      raise ValueError(
        f'{where} holds no position in the training data; set '
        'SaveCheckpointConfig.save_dataset and '
        'RestoreCheckpointConfig.restore_dataset to False to start over'
      )
    _report(saved, sources)
    sources = {n: s for n, s in sources.items() if s is not None}
    dtypes = {
      name: jnp.dtype(cfg.dtype)
      if cfg.dtype and name.startswith('target/')
      else wanted[name].dtype
      for name in sources
    }
    if legacy:
      return _nested(
        {n: legacy.read(s, dtypes[n], placed[n]) for n, s in sources.items()}
      )
    item, restore_args = {}, {}
    for name, source in sources.items():
      shape, dtype = wanted[name].shape, dtypes[name]
      item[source] = jax.ShapeDtypeStruct(shape, dtype)
      restore_args[source] = ocp.ArrayRestoreArgs(
        sharding=placed[name], dtype=dtype, global_shape=shape
      )
    args = {
      STATE: ocp.args.PyTreeRestore(
        _nested(item), restore_args=_nested(restore_args), partial_restore=True
      )
    }
    if iterator is not None:
      args[DATASET] = DatasetArgs(iterator)
    with reading():
      restored = _flat(
        self._manager.restore(step, args=ocp.args.Composite(**args))[STATE]
      )
    return _nested({n: restored[s] for n, s in sources.items()})

  def _steps(self) -> list[int]:
    return steps(os.fspath(self._directory))

  def _write_checksums(self) -> None:
    """Orbax's hook: all files are written, and the folder has no name yet."""
    name = f'{PREFIX}_{self._saving}'
    for folder in self._directory.iterdir():
      # Where none can be renamed, it has one; a marker is written last there.
      if folder.name == name or folder.name.startswith(name + _TEMPORARY):
        checksums.write(folder)

  def _say_kept(self, saved: Sequence[int]) -> None:
    kept = self._retention.kept_besides(saved)
    if kept and kept != self._kept:
      names = ' and '.join(f'{PREFIX}_{step}' for step in kept)
      console.print_line(
        f'the loss is far above that of {names}, kept for that reason: delete '
        'what is not needed'
      )
    self._kept = kept

  def latest_step(self) -> int | None:
    """Returns the step of the last checkpoint, also one being written."""
    return self._manager.latest_step()

  def check_for_errors(self) -> None:
    """Raises what a save that is under way, or through, has failed with."""
    self._manager.check_for_errors()

  def wait_until_finished(self) -> None:
    """Returns when what is being saved is whole on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and lets go of the directory."""
    self._manager.close()


def locate(cfg: RestoreCheckpointConfig) -> tuple[str, int]:
  """Returns the directory and the step that a restore config points to.

  Raises:
    FileNotFoundError: there is no checkpoint, or not a whole one.
    ValueError: `mode='specific'` with a path that is no checkpoint's.
  """
  path = epath.Path(cfg.path)
  name = re.fullmatch(rf'{PREFIX}_(\d+)', path.name)
  if name:
    directory, step = os.fspath(path.parent), int(name[1])
    if not path.is_dir() or step not in steps(directory):
      raise FileNotFoundError(f'{path} is no checkpoint, or not a whole one')
    return directory, step
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
  return max(steps(directory), default=None)


def steps(directory: str) -> list[int]:
  """Returns the steps of the whole checkpoints in a directory, sorted."""
  if not epath.Path(directory).is_dir():
    return []
  return sorted(found.step for found in _STEPS.find_all(directory))


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, sep='/')


def _nested(tree: Mapping[str, Any]) -> dict[str, Any]:
  return traverse_util.unflatten_dict(tree, sep='/')


def _find_sources(
  wanted: Mapping[str, Any],
  saved: Mapping[str, Any],
  cfg: RestoreCheckpointConfig,
) -> Sources:
  """Returns each wanted leaf's name in the checkpoint.

  None stands for what the checkpoint is not to fill: by `cfg.assignment_map`,
  or by `cfg.fallback_to_scratch` where the checkpoint lacks it.

  Raises:
    ValueError: a pattern of `cfg.assignment_map` is of no use, or leads to
      what the checkpoint lacks. Both are slips that would otherwise start
      parameters from scratch.
  """
  sources: dict[str, str | None] = {}
  used = set()
  for name in wanted:
    index, source = _assigned(name, cfg)
    if index is not None:
      used.add(index)
      if source is not None and source not in saved:
        raise ValueError(
          f'RestoreCheckpointConfig.assignment_map fills {name} from {source}, '
          f'which the checkpoint lacks; it has {_similar(source, saved)}'
        )
    elif cfg.fallback_to_scratch and source not in saved:
      source = None
    sources[name] = source
  for index, (pattern, _) in enumerate(cfg.assignment_map or ()):
    if index not in used:
      raise ValueError(
        f'RestoreCheckpointConfig.assignment_map: {_text(pattern)!r} matches '
        'no name that is left to it here, such as '
        f'{_similar(_text(pattern), wanted)}; correct it or take it out'
      )
  return sources


def _check_same_architecture(
  where: Any,
  wanted: Mapping[str, Any],
  saved: Mapping[str, Any],
  sources: Sources,
  cfg: RestoreCheckpointConfig,
) -> None:
  """Raises ValueError with the first difference and how many there are."""
  may_be_left = cfg.fallback_to_scratch or any(
    name != source for name, source in sources.items()
  )
  left = [] if may_be_left else _left(saved, sources)
  # Parameters first: what their optimizer states lack follows from them.
  for what, prefix in (('architecture', _PARAMETERS), ('optimizer', '')):
    pairs = [(n, s) for n, s in sources.items() if s and s.startswith(prefix)]
    missing = [f'it lacks {s}' for _, s in pairs if s not in saved]
    extra = [f'it has {name} besides' for name in left]
    shaped = [
      f'{s} is {_shape(saved[s])} there and {_shape(wanted[n])} here'
      for n, s in pairs
      if s in saved and _shape(saved[s]) != _shape(wanted[n])
    ]
    if differences := [*shaped, *missing, *extra]:
      raise ValueError(
        f'{where} was written by another {what}: {differences[0]} '
        f'({len(missing)} missing, {len(extra)} left over, {len(shaped)} of '
        'another shape); use the gin file it was trained with, or another '
        'MODEL_DIR or checkpoint'
      )


def _report(saved: Mapping[str, Any], sources: Sources) -> None:
  """Says which parameters start from scratch, and which are left behind."""
  fresh = [name for name, source in sources.items() if source is None]
  for what, names in (
    ('not in the checkpoint, initialised', fresh),
    ('in the checkpoint, not used', _left(saved, sources)),
  ):
    names = [name.removeprefix(_PARAMETERS) for name in _parameters(names)]
    if names:
      console.print_line(f'{what} ({len(names)} arrays):')
      for line in layers_together(names):
        console.print_line(f'  {line}')


def layers_together(names: Iterable[str]) -> list[str]:
  """Names that differ in a layer's number alone, as one.

  ['encoder/layers_0/a', 'encoder/layers_2/a'] -> ['encoder/layers_{0,2}/a']
  """
  numbers: dict[tuple[str, str], list[str]] = {}
  for name in names:
    match = re.fullmatch(r'(.*?)(?:layers_(\d+)(.*))?', name)
    first, layer, rest = match.groups()
    numbers.setdefault((first, rest), []).append(layer)
  return [
    first if rest is None else f'{first}layers_{{{",".join(layers)}}}{rest}'
    for (first, rest), layers in numbers.items()
  ]


def _assigned(
  name: str, cfg: RestoreCheckpointConfig
) -> tuple[int | None, str | None]:
  """Returns which pattern matches first, if any, and where it leads."""
  for index, (pattern, replacement) in enumerate(cfg.assignment_map or ()):
    match = re.fullmatch(pattern, name)
    if match:
      return index, None if replacement is None else match.expand(replacement)
  return None, name


def _text(pattern: str | re.Pattern) -> str:
  return pattern if isinstance(pattern, str) else pattern.pattern


def _similar(name: str, names: Iterable[str]) -> str:
  return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]


def _left(saved: Mapping[str, Any], sources: Sources) -> list[str]:
  used = set(sources.values())
  return [name for name in _parameters(saved) if name not in used]


def _parameters(names: Iterable[str]) -> list[str]:
  return [name for name in names if name.startswith(_PARAMETERS)]


def _shape(array: Any) -> tuple[int, ...]:
  return tuple(array.shape)
