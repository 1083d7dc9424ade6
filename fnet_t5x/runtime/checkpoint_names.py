"""Which leaf of a checkpoint fills which leaf of a train state."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fnet_t5x.runtime import console
from fnet_t5x.runtime.checkpoint_config import RestoreCheckpointConfig

_PARAMETERS = 'target/'

Sources = Mapping[str, str | None]


def find_sources(
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


def check_same_architecture(
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


def report(saved: Mapping[str, Any], sources: Sources) -> None:
  """Says which parameters start from scratch, and which are left behind."""
  fresh = [name for name, source in sources.items() if source is None]
  for what, names in (
    ('not in the checkpoint, initialised', fresh),
    ('in the checkpoint, not used', _left(saved, sources)),
  ):
    names = [name.removeprefix(_PARAMETERS) for name in _parameters(names)]
    if names:
      console.say(f'{what} ({len(names)} arrays):')
      for line in layers_together(names):
        console.say(f'  {line}')


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
