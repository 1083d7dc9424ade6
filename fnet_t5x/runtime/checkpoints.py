"""Orbax checkpoints: asynchronous, atomic, with the position in the data.

T5X's layout: `<model_dir>/checkpoint_<step>/state` holds
`{'target': params, 'state': {'step', 'param_states'}}`, and
`checkpoint_<step>/dataset` the position in the training data. Ours also have
checksums (`checksums.py`), which are verified before anything is restored.
Checkpoints in T5X's older layout can be read as well (`legacy_checkpoint.py`).
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

from fnet_t5x import bare_weights, number_ranges
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
# Tells complete checkpoints from partial ones, on every file system.
_STEPS = ocp.path.step.standard_name_format(step_prefix=PREFIX)


@dataclasses.dataclass
class SaveCheckpointConfig:
  """Content and frequency of checkpoints (T5X's fields).

  Attributes:
    dtype: of the saved parameters, 'float32' or 'bfloat16'; None to keep
      theirs.
    period: steps between checkpoints; None saves none.
    checkpoint_steps: further steps to save checkpoints at.
    keep: number of latest checkpoints to keep; None keeps all.
    keep_dataset_checkpoints: no effect, as in T5X with Orbax: a position is
      kept as long as its checkpoint.
    save_dataset: whether to save the position in the training data too.
    state_transformation_fns: T5X's functions of the state; must be empty.
  """

  dtype: str | None = 'float32'
  period: int | None = None
  checkpoint_steps: Sequence[int] | None = None
  keep: int | None = None
  keep_dataset_checkpoints: int | None = None
  save_dataset: bool = False
  state_transformation_fns: Sequence[object] = ()

  def __post_init__(self):
    _check_no_functions('SaveCheckpointConfig', self.state_transformation_fns)
    for step in self.checkpoint_steps or ():
      number_ranges.check('checkpoint_steps', step, minimum=0, whole=True)
    _check_dtype('SaveCheckpointConfig', self.dtype)
    keep = self.keep
    if keep is not None and (type(keep) is not int or keep < 1):
      raise ValueError(
        f'KEEP_CHECKPOINTS is {keep!r}; it must be a whole number, at least '
        '1, or None to keep all (SAVE_PERIOD = None saves none)'
      )


@dataclasses.dataclass
class RestoreCheckpointConfig:
  """Checkpoint to start from (T5X's fields).

  Attributes:
    path: a checkpoint (`mode='specific'`) or a folder of them (`'latest'` and
      `'all'`); empty to start from scratch. Evaluation takes several.
    mode: 'specific', 'latest', or, for evaluation, 'all'.
    assignment_map: pairs of a regular expression for parameter names here and
      the name in the checkpoint; None for the latter skips the parameter.
    strict: whether the checkpoint must have the state of the optimizer; if not,
      what it lacks of that is initialised.
    fallback_to_scratch: whether to initialise what the checkpoint lacks.
    dtype: of the restored parameters; None for the dtype saved.
    restore_dataset: whether to restore the position in the training data too.
    state_transformation_fns: T5X's functions of the state; must be empty.
  """

  path: str | Sequence[str] = ()
  mode: str = 'latest'
  assignment_map: Sequence[tuple[str, str | None]] | None = None
  strict: bool = True
  fallback_to_scratch: bool = False
  dtype: str | None = None
  restore_dataset: bool = False
  state_transformation_fns: Sequence[object] = ()

  def __post_init__(self):
    _check_dtype('RestoreCheckpointConfig', self.dtype)
    _check_no_functions(
      'RestoreCheckpointConfig', self.state_transformation_fns
    )
    if self.mode not in ('specific', 'latest', 'all'):
      raise ValueError(
        f"RestoreCheckpointConfig.mode is {self.mode!r}; use 'specific', "
        "'latest' or, to evaluate, 'all'"
      )
    if not isinstance(self.path, str) and len(self.path) < 2:
      self.path = self.path[0] if self.path else ''


@dataclasses.dataclass
class CheckpointConfig:
  """How a run saves its checkpoints, and which one it starts from."""

  save: SaveCheckpointConfig | None = None
  restore: RestoreCheckpointConfig | None = None


def check_orbax(use_orbax: bool) -> None:
  """Raises ValueError for T5X's older layout, which is only read."""
  if not use_orbax:
    raise ValueError(
      "use_orbax = False: the embedded runtime saves Orbax's checkpoints only, "
      "which T5X reads; it reads T5X's older ones"
    )


def _check_no_functions(where: str, functions: Sequence[object]) -> None:
  if functions:
    raise ValueError(
      f'{where}.state_transformation_fns: the embedded runtime takes none; '
      'rename or skip parameters by RestoreCheckpointConfig.assignment_map, or '
      'convert the checkpoint (fnet_t5x.convert)'
    )


def _check_dtype(where: str, dtype: str | None) -> None:
  if dtype not in (None, 'float32', 'bfloat16'):
    raise ValueError(
      f"{where}.dtype is {dtype!r}; use 'float32', 'bfloat16' or None"
    )


class _DatasetHandler(ocp.CheckpointHandler):
  """Saves and restores a dataset iterator's position.

  Not asynchronous: the position is written before `save` returns, so batches
  drawn during the save do not move it.
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
      keep: number of latest checkpoints to keep; None keeps all.
      create: whether to create the directory and remove partial checkpoints of
        an interrupted run: for writers only.
      losses: training loss by step, where known: the last checkpoints with a
        sound loss are also kept (`retention.Retention`).
      with_checksums: whether to save checksums; False is for benchmarks.
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
        # Otherwise a folder that cannot be created is reported after 300 s.
        async_options=ocp.AsyncOptions(
          create_directories_asynchronously=False,
          post_finalization_callback=(
            self._write_checksums if with_checksums else None
          ),
        ),
        # Other checkpoints may be damaged: do not read them.
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
    """Starts an asynchronous save; does nothing if the step is already saved.

    The state may be donated as soon as this returns: on an accelerator it is
    copied to the host first, and on CPU JAX does not donate memory that is
    being read.

    Args:
      train_state: the state to save.
      dtype: of the saved parameters; None to keep theirs.
      iterator: the dataset iterator whose position to save.
      loss: the last training loss reported; None before the first.
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
    # Until the previous save ends, its hook reads `self._saving`.
    self._manager.wait_until_finished()
    self._saving = step
    saved = [*self._manager.all_steps(), step]
    losses = self._retention.losses
    # Losses of deleted checkpoints are useless and would accumulate.
    for gone in losses.keys() - set(saved):
      del losses[gone]
    if loss is not None:
      losses[step] = loss
    self._report_kept(saved)
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
      step: of the checkpoint.
      shapes: the state to fill, with `jax.ShapeDtypeStruct` leaves.
      shardings: the same tree with shardings as leaves.
      cfg: name mapping, and whether leaves may be missing.
      iterator: the dataset iterator to move to the saved position.

    Returns:
      The state dict, without what `cfg.assignment_map` skips and, with
      `cfg.fallback_to_scratch`, without what the checkpoint lacks.

    Raises:
      ValueError: the checkpoint is of another architecture, or lacks the
        position in the data.
      DamagedError: one of its files has changed since the save, or cannot be
        read.
    """
    where = self._directory / f'{PREFIX}_{step}'
    legacy = None
    checked = damaged_checkpoints.check(
      where, self._steps, position=iterator is not None
    )

    def reading() -> contextlib.AbstractContextManager[None]:
      # If all checksums match, an error has another cause.
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
    """Orbax's hook, called after all files are written, before the rename."""
    name = f'{PREFIX}_{self._saving}'
    for folder in self._directory.iterdir():
      # File systems without rename use the final name and a marker file.
      if folder.name == name or folder.name.startswith(name + _TEMPORARY):
        checksums.wait_for_metadata(folder)
        checksums.write(folder)

  def _report_kept(self, saved: Sequence[int]) -> None:
    kept = self._retention.kept_for_loss(saved)
    if kept and kept != self._kept:
      names = ' and '.join(f'{PREFIX}_{step}' for step in kept)
      console.print_line(
        f'the loss is far above that of {names}, kept for that reason: delete '
        'what is not needed'
      )
    self._kept = kept

  def latest_step(self) -> int | None:
    """Returns the step of the last checkpoint, including one being written."""
    return self._manager.latest_step()

  def check_for_errors(self) -> None:
    """Raises the error of a save that failed, whether it is running or done."""
    self._manager.check_for_errors()

  def wait_until_finished(self) -> None:
    """Blocks until the pending save is complete on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the pending save and closes the directory."""
    self._manager.close()


def locate(cfg: RestoreCheckpointConfig) -> tuple[str, int]:
  """Returns the directory and the step that a restore config points to.

  Raises:
    FileNotFoundError: there is no checkpoint, or only an incomplete one.
    ValueError: `mode='specific'` with a path that does not name a checkpoint,
      or a config of several checkpoints.
  """
  if cfg.mode == 'all' or not isinstance(cfg.path, str):
    raise ValueError(
      f'RestoreCheckpointConfig.path = {cfg.path!r}, mode {cfg.mode!r}: only '
      'evaluation takes several checkpoints; name one'
    )
  path = epath.Path(cfg.path)
  name = re.fullmatch(rf'{PREFIX}_(\d+)', path.name)
  if name:
    directory, step = os.fspath(path.parent), int(name[1])
    if not path.is_dir() or step not in steps(directory):
      raise FileNotFoundError(f'{path} is not a complete checkpoint')
    return directory, step
  if cfg.mode == 'specific':
    raise ValueError(
      f'{path} is not a checkpoint: name one as .../{PREFIX}_<step>, or set '
      "RestoreCheckpointConfig.mode = 'latest'"
    )
  step = latest_step(os.fspath(path))
  if step is None:
    raise FileNotFoundError(f'{path} holds no {PREFIX}_<step>; check the path')
  return os.fspath(path), step


def each(cfg: RestoreCheckpointConfig) -> list[RestoreCheckpointConfig]:
  """Returns a config of one checkpoint for each that `cfg` names, in its order.

  Raises:
    FileNotFoundError: a folder has none.
  """
  paths = [cfg.path] if isinstance(cfg.path, str) else list(cfg.path)
  if cfg.mode == 'all':
    folders, paths = paths, []
    for folder in folders:
      found = steps(folder)
      if not found:
        raise FileNotFoundError(
          f'{folder} holds no {PREFIX}_<step>; check the path'
        )
      paths += [os.path.join(folder, f'{PREFIX}_{step}') for step in found]
  mode = 'specific' if cfg.mode == 'all' else cfg.mode
  return [dataclasses.replace(cfg, path=path, mode=mode) for path in paths]


def latest_step(directory: str) -> int | None:
  """Returns the step of the last complete checkpoint, None if there is none."""
  return max(steps(directory), default=None)


def steps(directory: str) -> list[int]:
  """Returns the sorted steps of the complete checkpoints in a directory."""
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
  """Returns the name in the checkpoint of each wanted leaf.

  None marks leaves that are not restored: `cfg.assignment_map` skips them, or
  the checkpoint lacks them, and `cfg.fallback_to_scratch` or `cfg.strict` allow
  it.

  Raises:
    ValueError: a pattern of `cfg.assignment_map` matches nothing, or maps to a
      name that the checkpoint lacks. Either mistake would otherwise silently
      start parameters from scratch.
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
    elif source not in saved and (
      cfg.fallback_to_scratch
      or not (cfg.strict or name.startswith(_PARAMETERS))
    ):
      source = None
    sources[name] = source
  for index, (pattern, _) in enumerate(cfg.assignment_map or ()):
    if index not in used:
      raise ValueError(
        f'RestoreCheckpointConfig.assignment_map: {_text(pattern)!r} matches '
        'none of the names that earlier patterns leave, such as '
        f'{_similar(_text(pattern), wanted)}; correct or remove it'
      )
  return sources


def _check_same_architecture(
  where: Any,
  wanted: Mapping[str, Any],
  saved: Mapping[str, Any],
  sources: Sources,
  cfg: RestoreCheckpointConfig,
) -> None:
  """Raises ValueError with the first difference and the number of them."""
  may_be_unused = cfg.fallback_to_scratch or any(
    name != source for name, source in sources.items()
  )
  left = [] if may_be_unused else _unused(saved, sources)
  # Parameters first: differences in optimizer states follow from them.
  for what, prefix in (('architecture', _PARAMETERS), ('optimizer', '')):
    pairs = [(n, s) for n, s in sources.items() if s and s.startswith(prefix)]
    missing = [f'it lacks {s}' for _, s in pairs if s not in saved]
    extra = [f'it also has {name}' for name in left]
    shaped = [
      f'{s} is {_shape(saved[s])} there and {_shape(wanted[n])} here'
      for n, s in pairs
      if s in saved and _shape(saved[s]) != _shape(wanted[n])
    ]
    if differences := [*shaped, *missing, *extra]:
      if what == 'optimizer' and not any(map(_is_moment, saved)):
        raise bare_weights.refusal(where)
      raise ValueError(
        f'{where} was written by another {what}: {differences[0]} '
        f'({len(missing)} missing, {len(extra)} left over, {len(shaped)} of '
        'another shape); use the gin file it was trained with, or another '
        'MODEL_DIR or checkpoint'
      )


def _is_moment(name: str) -> bool:
  return name.startswith('state/') and name != 'state/step'


def _report(saved: Mapping[str, Any], sources: Sources) -> None:
  """Prints the parameters initialised from scratch, and those not restored."""
  fresh = [name for name, source in sources.items() if source is None]
  for what, names in (
    ('not in the checkpoint, initialised', fresh),
    ('in the checkpoint, not used', _unused(saved, sources)),
  ):
    names = [name.removeprefix(_PARAMETERS) for name in _parameters(names)]
    if names:
      console.print_line(f'{what} ({len(names)} arrays):')
      for line in layers_together(names):
        console.print_line(f'  {line}')


def layers_together(names: Iterable[str]) -> list[str]:
  """Merges names that differ only in the layer number.

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
  """Returns the index of the first matching pattern, and the mapped name."""
  for index, (pattern, replacement) in enumerate(cfg.assignment_map or ()):
    match = re.fullmatch(pattern, name)
    if match:
      return index, None if replacement is None else match.expand(replacement)
  return None, name


def _text(pattern: str | re.Pattern) -> str:
  return pattern if isinstance(pattern, str) else pattern.pattern


def _similar(name: str, names: Iterable[str]) -> str:
  return difflib.get_close_matches(name, list(names), n=1, cutoff=0.0)[0]


def _unused(saved: Mapping[str, Any], sources: Sources) -> list[str]:
  used = set(sources.values())
  return [name for name in _parameters(saved) if name not in used]


def _parameters(names: Iterable[str]) -> list[str]:
  return [name for name in names if name.startswith(_PARAMETERS)]


def _shape(array: Any) -> tuple[int, ...]:
  return tuple(array.shape)
