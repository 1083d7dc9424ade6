"""Conversion between published FNets and checkpoints, with a report."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from fnet_t5x.convert import (
  checkpoint_leaves,
  checkpoint_parameters,
  conversion_report,
  fnet_shapes,
  fnet_sources,
  hf_folder,
  new_folder,
  padding_id,
)
from fnet_t5x.networks import fnet
from fnet_t5x.runtime import checkpoints, console, model_directory

_TARGET = 'target/'
_HEAD = 'class_head/'


def from_published(
  source: pathlib.Path,
  out: pathlib.Path,
  vocabulary: pathlib.Path | None = None,
  step: int = 0,
) -> pathlib.Path:
  """Converts a published FNet to a checkpoint, and prints a report.

  Args:
    source: google-research's msgpack file, or a Hugging Face folder.
    out: the folder to write; appears complete, or not at all.
    vocabulary: SentencePiece model with the published ids; None for the one in
      the Hugging Face folder, if any.
    step: of the checkpoint.

  Returns:
    Path of the checkpoint.

  Raises:
    FileExistsError: `out` exists.
    FileNotFoundError, ImportError, ValueError: see `fnet_sources.read`,
      `fnet_shapes.check` and `padding_id.exchange_pieces`.
  """
  found = fnet_sources.read(source)
  try:
    config = fnet_shapes.check(found.used)
    fnet_sources.check_config(found.config, config)
  except ValueError as error:
    raise ValueError(f'{source}: {error}') from error
  pieces = _exchanged(vocabulary or found.pieces, config, published=True)
  leaves = {_TARGET + n: x for n, x in _exchange(found.used).items()}
  leaves['state/step'] = np.asarray(step, np.int32)
  with new_folder.create(out) as folder:
    checkpoint_leaves.write(epath.Path(folder), step, leaves)
    if pieces:
      (folder / model_directory.VOCABULARY_FILE).write_bytes(pieces)
  _report(f'{source}: {found.kind}', found.used, found.dropped, config)
  path = out / f'{checkpoints.PREFIX}_{step}'
  console.print_line(f'{path}: ids 0 and 3 are exchanged, padding is 0')
  if pieces:
    file = out / model_directory.VOCABULARY_FILE
    console.print_line(f'{file}: the same; use gin/vocabularies/fnet.gin')
  else:
    console.print_line('no vocabulary converted: none given (--vocabulary)')
  return path


def to_hugging_face(
  source: pathlib.Path,
  out: pathlib.Path,
  vocabulary: pathlib.Path | None = None,
) -> pathlib.Path:
  """Converts a checkpoint to a Hugging Face folder, and prints a report.

  Args:
    source: `.../checkpoint_<step>`, or a folder of them (the last is taken).
    out: the folder to write; appears complete, or not at all.
    vocabulary: SentencePiece model with our ids; None for the one beside the
      checkpoint, if any.

  Returns:
    `out`.

  Raises:
    FileExistsError: `out` exists.
    FileNotFoundError: there is no such checkpoint.
    ValueError: not an FNet's checkpoint, or not one that Hugging Face has.
  """
  found = checkpoint_parameters.read(source)
  path = found.path
  heads = [name for name in found.arrays if name.startswith(_HEAD)]
  used = {n: x for n, x in found.arrays.items() if n not in heads}
  dropped = found.dropped | {'a head of its own': heads}
  try:
    config = fnet_shapes.check(used)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  vocabulary = vocabulary or found.pieces
  pieces = _exchanged(vocabulary, config, published=False)
  with new_folder.create(out) as folder:
    fnet_sources.write_hugging_face(folder, _exchange(used), config)
    if pieces:
      (folder / hf_folder.PIECES).write_bytes(pieces)
  _report(f'{path}: checkpoint', used, dropped, config)
  console.print_line(f'{out}: ids 0 and 3 are exchanged, padding is 3')
  if not pieces:
    console.print_line('no vocabulary converted: none given (--vocabulary)')
  return out


def _exchange(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {
    name: padding_id.exchange(x) if name in fnet_sources.BY_ID else x
    for name, x in arrays.items()
  }


def _exchanged(
  path: pathlib.Path | None, config: fnet.FNetConfig, published: bool
) -> bytes | None:
  """Returns the SentencePiece model with exchanged ids, checked."""
  if config.vocab_size <= padding_id.PUBLISHED:
    raise ValueError(f'a vocabulary of {config.vocab_size} ids has no id 3')
  if path is None:
    return None
  result = padding_id.exchange_pieces(
    path.read_bytes(), str(path), published=published
  )
  count = padding_id.piece_count(result)
  if count > config.vocab_size:
    raise ValueError(
      f'{path} has {count} pieces, the word embedding {config.vocab_size} rows'
    )
  return result


def _report(
  title: str,
  used: Mapping[str, np.ndarray],
  dropped: Mapping[str, Sequence[str]],
  config: fnet.FNetConfig,
) -> None:
  """Prints every tensor, used or dropped, and what gin files need."""
  # Macros of gin/models/fnet_base.gin.
  macros = {
    'NUM_ENCODER_LAYERS': config.num_layers,
    'EMBED_DIM': config.emb_dim,
    'EMBEDDING_DIM': config.embedding_width,
    'MLP_DIM': config.mlp_dim,
    'NUM_HEADS': config.num_heads if 'attention' in config.mixings else None,
    'VOCAB_SIZE': config.vocab_size,
    'MAX_ENCODER_LENGTH': config.max_length,
    'TYPE_VOCAB_SIZE': config.type_vocab_size,
  }
  mixings = {m: config.mixings.count(m) for m in dict.fromkeys(config.mixings)}
  kinds = ', '.join(f'{count} {name}' for name, count in mixings.items())
  if 'fourier' in mixings:
    kinds += ' (or random or no mixing: tensors do not tell)'
  conversion_report.print_report(
    title,
    used,
    dropped,
    {name: value for name, value in macros.items() if value is not None},
    [f'mixing: {kinds}'],
  )
