"""Conversion between Hugging Face's folders and checkpoints, with a report."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import sentencepiece
from etils import epath

from fnet_t5x.convert import (
  checkpoint_leaves,
  checkpoint_parameters,
  conversion_report,
  fnet_conversion,
  gpt2_tensors,
  hf_folder,
  new_folder,
  scanned_layers,
  t5_tensors,
)
from fnet_t5x.convert.network_conversion import Converted, Exported
from fnet_t5x.runtime import checkpoints, console, model_directory

MODEL_GIN = 'model.gin'
_FNET = 'fnet'
_NETWORKS = {
  model_type: network
  for network in (t5_tensors, gpt2_tensors)
  for model_type in network.MODEL_TYPES
}
# Sentinels that T5's vocabularies have beyond the pieces.
_EXTRA_IDS = 100


def from_hugging_face(
  source: pathlib.Path,
  out: pathlib.Path,
  vocabulary: pathlib.Path | None = None,
  step: int = 0,
) -> pathlib.Path:
  """Converts a Hugging Face folder to a checkpoint, and prints a report.

  Args:
    source: the folder: config.json, with safetensors in one or several files.
    out: the folder to write; appears complete, or not at all. Besides the
      checkpoint it has model.gin, the model's gin file, and vocabulary.model.
    vocabulary: SentencePiece model; None for the one in the folder, if any.
    step: of the checkpoint.

  Returns:
    Path of the checkpoint.

  Raises:
    FileExistsError: `out` exists.
    FileNotFoundError, ImportError: see `hf_folder.read_tensors`.
    ValueError: another architecture, or one that our networks do not compute;
      a tensor is missing, unknown or misshapen; or the vocabulary does not fit.
  """
  hf_folder.check_weights_exist(source)
  config = hf_folder.read_config(source)
  model_type = config.get('model_type')
  if model_type == _FNET:
    return fnet_conversion.from_published(source, out, vocabulary, step)
  if not isinstance(model_type, str) or model_type not in _NETWORKS:
    known = ', '.join([*_NETWORKS, _FNET])
    raise ValueError(
      f'{source / hf_folder.CONFIG}: model_type is {model_type!r}; converted '
      f'are {known}'
    )
  network = _NETWORKS[model_type]
  tensors, buffers = hf_folder.read_tensors(source, network.is_buffer)
  try:
    converted = network.from_hugging_face(tensors, config)
  except ValueError as error:
    raise ValueError(f'{source}: {error}') from error
  pieces = None
  if network is t5_tensors:
    beside = source / hf_folder.PIECES
    if vocabulary is None and beside.exists():
      vocabulary = beside
    pieces = _checked_pieces(vocabulary, converted.macros['VOCAB_SIZE'])
  elif vocabulary is not None:
    raise ValueError(
      f'--vocabulary={vocabulary}: GPT-2 was trained with another vocabulary, '
      'which is no SentencePiece model'
    )
  leaves = {f'target/{n}': x for n, x in converted.arrays.items()}
  leaves['state/step'] = np.asarray(step, np.int32)
  gin = _gin_file(converted, network.GIN_FILE, out, pieces)
  with new_folder.create(out) as folder:
    checkpoint_leaves.write(epath.Path(folder), step, leaves)
    (folder / MODEL_GIN).write_text(gin)
    if pieces:
      (folder / model_directory.VOCABULARY_FILE).write_bytes(pieces)
  conversion_report.print_report(
    f"{source}: Hugging Face's {model_type}",
    converted.arrays,
    converted.dropped | {'no parameters': buffers},
    {**converted.macros, **converted.bindings},
    converted.notes,
  )
  path = out / f'{checkpoints.PREFIX}_{step}'
  console.print_line(f'{path}: written; {out / MODEL_GIN} is its model')
  if network is t5_tensors:
    console.print_line(
      f'{out / model_directory.VOCABULARY_FILE}: its vocabulary'
      if pieces
      else 'no vocabulary converted: none given (--vocabulary)'
    )
  return path


def to_hugging_face(
  source: pathlib.Path,
  out: pathlib.Path,
  vocabulary: pathlib.Path | None = None,
  num_heads: int | None = None,
  bos_token_id: int = 0,
) -> pathlib.Path:
  """Converts a checkpoint to a Hugging Face folder, and prints a report.

  Args:
    source: `.../checkpoint_<step>`, or a folder of them (the last is taken).
    out: the folder to write; appears complete, or not at all.
    vocabulary: SentencePiece model; None for the one beside the checkpoint, if
      any.
    num_heads: attention heads of a GPT-2; None for those in the configuration
      beside the checkpoint.
    bos_token_id: GPT-2's id to exchange with 0, which begins texts here.

  Returns:
    `out`.

  Raises:
    FileExistsError: `out` exists.
    FileNotFoundError: there is no such checkpoint.
    ValueError: not a checkpoint of T5, GPT-2 or FNet; a parameter is missing or
      misshapen; or the vocabulary does not fit.
  """
  found = checkpoint_parameters.read(source)
  names = found.arrays.keys()
  has_encoder = any(name.startswith('encoder/') for name in names)
  has_decoder = any(name.startswith('decoder/') for name in names)
  if has_encoder and not has_decoder:
    return fnet_conversion.to_hugging_face(source, out, vocabulary)
  try:
    if has_encoder or not has_decoder:
      exported = t5_tensors.to_hugging_face(_unscanned(found.arrays))
    else:
      heads = num_heads or _saved_heads(found.path.parent)
      exported = gpt2_tensors.to_hugging_face(found.arrays, heads, bos_token_id)
  except ValueError as error:
    raise ValueError(f'{found.path}: {error}') from error
  vocabulary = vocabulary or found.pieces
  pieces = _checked_pieces(vocabulary, exported.config['vocab_size'])
  with new_folder.create(out) as folder:
    hf_folder.write(folder, exported.tensors, exported.config)
    hf_folder.write_json(folder / 'generation_config.json', exported.generation)
    if pieces:
      (folder / hf_folder.PIECES).write_bytes(pieces)
    if pieces and exported.tokenizer:
      hf_folder.write_json(
        folder / 'tokenizer_config.json', _tokenizer(exported, pieces)
      )
  conversion_report.print_report(
    f'{found.path}: checkpoint',
    exported.tensors,
    found.dropped,
    {},
    exported.notes,
  )
  if not pieces:
    said = 'no vocabulary converted: none given (--vocabulary)'
  elif exported.tokenizer:
    said = f'{out / hf_folder.PIECES}: the vocabulary'
  else:
    said = (
      f'{out / hf_folder.PIECES}: the vocabulary, for the sentencepiece '
      "library; transformers' GPT-2 tokenizer is another, and none is written"
    )
  console.print_line(said)
  console.print_line(f'{out}: written')
  return out


def _unscanned(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns parameters of unscanned layers."""
  prefix = f'{scanned_layers.TARGET}/'
  leaves = {prefix + name: x for name, x in arrays.items()}
  if scanned_layers.is_scanned(leaves):
    leaves = scanned_layers.to_unscanned(leaves).leaves
  return {name.removeprefix(prefix): x for name, x in leaves.items()}


def _saved_heads(folder: pathlib.Path) -> int | None:
  """Returns NUM_HEADS of the configuration beside a checkpoint, if any."""
  for name in (model_directory.CONFIG_FILE, MODEL_GIN):
    if (folder / name).exists():
      text = (folder / name).read_text(errors='replace')
      if match := re.search(r'(?m)^NUM_HEADS = (\d{1,6})$', text):
        return int(match[1])
  return None


def _checked_pieces(path: pathlib.Path | None, vocab_size: int) -> bytes | None:
  """Returns the SentencePiece model, checked to fit the network."""
  if path is None:
    return None
  content = path.read_bytes()
  processor = _processor(content, path)
  special = (processor.pad_id(), processor.eos_id(), processor.unk_id())
  if special != (0, 1, 2):
    raise ValueError(
      f'{path} has (pad, eos, unk) = {special}, T5 has (0, 1, 2)'
    )
  if len(processor) > vocab_size:
    raise ValueError(
      f'{path} has {len(processor)} pieces, the embedding {vocab_size} rows'
    )
  return content


def _processor(content: bytes, path: Any = None):
  processor = sentencepiece.SentencePieceProcessor()
  try:
    processor.LoadFromSerializedProto(content)
  except RuntimeError as error:
    raise ValueError(f'{path} is not a SentencePiece model') from error
  return processor


def _extra_ids(pieces: bytes, vocab_size: int) -> int:
  """Returns the number of sentinels beyond the pieces.

  mT5's are pieces; T5's are not.
  """
  count = len(_processor(pieces))
  return _EXTRA_IDS if count + _EXTRA_IDS <= vocab_size else 0


def _tokenizer(exported: Exported, pieces: bytes) -> dict[str, Any]:
  return {
    'tokenizer_class': exported.tokenizer,
    'extra_ids': _extra_ids(pieces, exported.config['vocab_size']),
    'pad_token': '<pad>',
    'eos_token': '</s>',
    'unk_token': '<unk>',
  }


def _gin_file(
  converted: Converted,
  base: str,
  out: pathlib.Path,
  pieces: bytes | None,
) -> str:
  """Returns a gin file of the converted model."""
  imports = list(converted.imports)
  macros, bindings = dict(converted.macros), dict(converted.bindings)
  lines = [
    f'# Written by fnet_t5x.convert.hf; use it in place of {base}.',
    'from __gin__ import dynamic_registration',
    '',
  ]
  statements = [f'{name} = {value!r}' for name, value in macros.items()]
  statements += [f'{name} = {value!r}' for name, value in bindings.items()]
  if pieces:
    imports.append('from fnet_t5x.tasks import vocabularies')
    file = os.path.abspath(out / model_directory.VOCABULARY_FILE)
    extra = _extra_ids(pieces, macros['VOCAB_SIZE'])
    vocabulary = 'vocabularies.default_vocabulary'
    statements += [
      '# To be changed if the folder is moved.',
      f'VOCABULARY_FILE = {file!r}',
      f'{vocabulary}.sentencepiece_model_file = %VOCABULARY_FILE',
      f'{vocabulary}.extra_ids = {extra}',
    ]
  lines += [*imports, f'include {base!r}', '', *statements]
  return '\n'.join(lines) + '\n'
