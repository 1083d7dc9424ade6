"""Files of published FNets, read and written without running code of theirs."""

import dataclasses
import mmap
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from fnet_t5x.convert import array_checks, fnet_names, hf_folder, padding_id
from fnet_t5x.networks import fnet

_WORD = 'encoder/embedder/word/embedding'
BY_ID = (_WORD, 'predictions_output/output_bias')
# What our network computes, and Hugging Face's may not.
_SAME = {
  'model_type': ('fnet',),
  'hidden_act': ('gelu_new', 'gelu_pytorch_tanh'),
  'layer_norm_eps': (1e-12,),
  'pad_token_id': (padding_id.PUBLISHED,),
}
_SIZES = {
  'vocab_size': 'vocab_size',
  'hidden_size': 'emb_dim',
  'num_hidden_layers': 'num_layers',
  'intermediate_size': 'mlp_dim',
  'max_position_embeddings': 'max_length',
  'type_vocab_size': 'type_vocab_size',
}


@dataclasses.dataclass
class Source:
  """Content of a published FNet's files.

  Attributes:
    kind: what it is, in words.
    used: parameters by our name, in float32, with the published ids.
    dropped: names of its tensors that are no parameters, by reason.
    pieces: path of its SentencePiece model, if it has one.
    config: Hugging Face's configuration; empty for other sources.
  """

  kind: str
  used: dict[str, np.ndarray]
  dropped: dict[str, list[str]]
  pieces: pathlib.Path | None = None
  config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read(path: pathlib.Path) -> Source:
  """Reads google-research's msgpack file, or Hugging Face's folder.

  Raises:
    FileNotFoundError: there is no such file, or no weights in the folder.
    ImportError: safetensors is not installed.
    ValueError: the file is truncated or of another kind; or a tensor is
      unknown, missing, or no floating-point array.
  """
  if path.is_dir():
    return _read_hugging_face(path)
  if not path.exists():
    raise FileNotFoundError(f'no such file: {path}')
  return _read_msgpack(path)


def _read_msgpack(path: pathlib.Path) -> Source:
  not_one = f'{path} is not a msgpack file of Flax, or is truncated'
  # Mapped, not read, so that it is in memory once. Flax's ext types are arrays
  # and numbers only, and no array is larger than its bytes in the file.
  with path.open('rb') as file:
    try:
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        tree = serialization.msgpack_restore(content)
    # Raised by msgpack, or by content of another form.
    except (
      *(ValueError, LookupError, TypeError, AttributeError),
      *(AssertionError, RecursionError, MemoryError),
    ) as error:
      raise ValueError(not_one) from error
  if not isinstance(tree, dict) or not all(isinstance(k, str) for k in tree):
    raise ValueError(not_one)
  target, state = tree, {}
  if 'target' in tree:
    target, state = tree.pop('target'), tree
  if unknown := state.keys() - {'state'}:
    raise ValueError(f'{path}: {min(unknown)} is unknown')
  if not isinstance(target, dict):
    raise ValueError(f"{path}: its 'target' is not a tree of parameters")
  used = {}
  for name, value in _flat(target, path).items():
    if not isinstance(value, np.ndarray):
      raise ValueError(f'{path}: {name} is not an array')
    used[name] = hf_folder.as_float32(value, f'{path}: {name}')
  return Source(
    "google-research's msgpack file",
    used,
    {"the optimizer's state": list(_flat(state, path))},
  )


def _flat(tree: dict[str, Any], path: pathlib.Path) -> dict[str, Any]:
  # Keys that are not strings cannot be joined.
  try:
    return traverse_util.flatten_dict(tree, sep='/')
  except TypeError as error:
    raise ValueError(f'{path}: {error}') from error


def _read_hugging_face(folder: pathlib.Path) -> Source:
  weights = folder / hf_folder.WEIGHTS
  hf_folder.check_weights_exist(folder)
  config = hf_folder.read_config(folder)
  hf_folder.check_config(
    config, _SAME, str(folder / hf_folder.CONFIG), 'published FNets have'
  )
  tensors, buffers = hf_folder.read_tensors(folder, fnet_names.is_buffer)
  copies = hf_folder.drop_copies(tensors, fnet_names.TIED, str(weights))
  table = fnet_names.table(fnet_names.layer_count(tensors))
  array_checks.raise_first(
    [
      *(
        f'{weights}: it lacks {theirs}'
        for theirs, _, _ in table.values()
        if theirs not in tensors
      ),
      *(
        f'{weights}: {name} is unknown'
        for name in sorted(tensors.keys() - {x[0] for x in table.values()})
      ),
    ]
  )
  pieces = folder / hf_folder.PIECES
  return Source(
    "Hugging Face's FNet",
    {
      ours: np.ascontiguousarray(change(tensors[theirs]))
      for ours, (theirs, change, _) in table.items()
    },
    {'copies of other tensors': copies, 'no parameters': buffers},
    pieces if pieces.exists() else None,
    config,
  )


def check_config(config: Mapping[str, Any], derived: fnet.FNetConfig) -> None:
  """Compares Hugging Face's configuration with the shapes of the tensors.

  Raises:
    ValueError: a size differs.
  """
  for theirs, ours in _SIZES.items():
    size = getattr(derived, ours)
    if config.get(theirs, size) != size:
      raise ValueError(
        f'{hf_folder.CONFIG}: {theirs} is {config[theirs]!r}, and {size} by '
        'the tensors'
      )


def write_hugging_face(
  folder: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  config: fnet.FNetConfig,
) -> None:
  """Writes `config.json` and `model.safetensors`.

  Args:
    folder: to write to.
    arrays: parameters by our name, with the published ids.
    config: their configuration.

  Raises:
    ImportError: safetensors is not installed.
    ValueError: Hugging Face has no such FNet.
  """
  if set(config.mixings) != {'fourier'}:
    raise ValueError(
      "Hugging Face's FNet has only Fourier layers; this one has "
      f'{", ".join(sorted(set(config.mixings)))}'
    )
  if config.embedding_width != config.emb_dim:
    raise ValueError(
      "Hugging Face's FNet has one width; this one has embeddings of "
      f'{config.embedding_width} and layers of {config.emb_dim}'
    )
  tensors = {
    theirs: change(arrays[ours])
    for ours, (theirs, _, change) in fnet_names.table(config.num_layers).items()
  }
  content = {
    'architectures': ['FNetForPreTraining'],
    'bos_token_id': 1,
    'eos_token_id': 2,
    'hidden_dropout_prob': config.dropout_rate,
    'initializer_range': 0.02,
    'tie_word_embeddings': True,
    'tpu_short_seq_length': config.max_length,
    'use_tpu_fourier_optimizations': False,
    **{name: values[0] for name, values in _SAME.items()},
    **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
  }
  hf_folder.write(folder, tensors, content)
