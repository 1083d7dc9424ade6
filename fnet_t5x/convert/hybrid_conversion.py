"""Conversion between model directories of hybrids and Hugging Face's folders.

The exported folder has its own PyTorch code, copied from `hybrid_torch`, which
is never imported here.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import gin
import numpy as np
import seqio
from etils import epath
from google.protobuf import message
from sentencepiece import sentencepiece_model_pb2

from fnet_t5x.convert import (
  checkpoint_leaves,
  hf_folder,
  hybrid_config,
  hybrid_tensors,
  model_card,
  new_folder,
  scanned_layers,
)
from fnet_t5x.networks import fnet_t5
from fnet_t5x.runtime import checkpoints, console, model_directory

MODEL_GIN = 'model.gin'
_CODE = pathlib.Path(__file__).parent / 'hybrid_torch'
_TOKENIZER_CODE = 'tokenization_fnet_t5.py'
_TARGET = 'target/'
# transformers may save copies of tied tensors.
_EMBEDDINGS = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')
_OUTPUT = 'lm_head.weight'
# Tokens of ByT5 and of seqio's byte vocabulary.
_BYTES = 259


class _Tokenizer(NamedTuple):
  """Files of a vocabulary.

  Attributes:
    config: content of `tokenizer_config.json`.
    pieces: the SentencePiece model with the sentinels; None for bytes.
    extra_ids: number of sentinels.
  """

  config: dict[str, Any]
  pieces: bytes | None
  extra_ids: int


def to_hugging_face(source: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
  """Converts a hybrid to a Hugging Face folder with its own code.

  Args:
    source: folder of a training run (its last checkpoint is taken), or a
      checkpoint in it.
    out: the folder to write; appears complete, or not at all.

  Returns:
    `out`.

  Raises:
    FileExistsError: `out` exists.
    FileNotFoundError: `source` has no configuration or no such checkpoint.
    ImportError: safetensors is not installed.
    ValueError: another network; a parameter is missing, misshapen or not
      finite; or the vocabulary has more ids than the embedding.
  """
  directory = model_directory.locate(source)
  try:
    configured = model_directory.configure(directory)
    model = configured.model
  finally:
    gin.clear_config()
  network = getattr(model, 'module', None)
  if not isinstance(network, fnet_t5.Transformer):
    raise ValueError(
      f'{directory.config_file}: its network is {_name(network)}; exported '
      'with their own code are hybrids, fnet_t5.Transformer'
    )
  path = epath.Path(directory.checkpoint)
  leaves = checkpoint_leaves.read(
    path, lambda: checkpoints.steps(directory.folder)
  )
  try:
    parameters = _unscanned(leaves)
    config = hybrid_config.to_json(
      network.config,
      'decoder/layers_0/relpos_bias/rel_embedding' in parameters,
      model.output_vocabulary.eos_id,
    )
    tokenizer = _tokenizer(
      model.output_vocabulary,
      config['vocab_size'],
      _longest_input(config, configured.feature_lengths),
    )
    config['extra_ids'] = tokenizer.extra_ids
    tensors = hybrid_tensors.to_theirs(hybrid_tensors.table(config), parameters)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  generation = {
    'decoder_start_token_id': 0,
    'eos_token_id': config['eos_token_id'],
    # With the first 0. Not max_new_tokens, which lm-eval cannot override.
    'max_length': int(configured.feature_lengths['targets']) + 1,
    'pad_token_id': 0,
  }
  card = model_card.text(directory, config, _count(tensors))
  with new_folder.create(out) as folder:
    hf_folder.write(folder, tensors, config)
    hf_folder.write_json(folder / 'generation_config.json', generation)
    hf_folder.write_json(folder / 'tokenizer_config.json', tokenizer.config)
    if tokenizer.pieces:
      (folder / hf_folder.PIECES).write_bytes(tokenizer.pieces)
    for code in sorted(_CODE.glob('*.py')):
      if tokenizer.pieces or code.name != _TOKENIZER_CODE:
        (folder / code.name).write_bytes(code.read_bytes())
    (folder / 'README.md').write_text(card)
  console.print_line(
    f'{path}: {len(tensors)} tensors, {_count(tensors):,} parameters'
  )
  console.print_line(f'{out}: written; load it with trust_remote_code=True')
  return out


def from_hugging_face(
  source: pathlib.Path, out: pathlib.Path, step: int = 0
) -> pathlib.Path:
  """Converts an exported hybrid back to a checkpoint.

  Args:
    source: the exported folder, perhaps trained further with transformers.
    out: the folder to write; appears complete, or not at all. Besides the
      checkpoint it has model.gin, the model's gin file, and vocabulary.model.
    step: of the checkpoint.

  Returns:
    Path of the checkpoint.

  Raises:
    FileExistsError: `out` exists.
    FileNotFoundError: there is no configuration, or there are no weights.
    ImportError: safetensors is not installed.
    ValueError: another architecture; a tensor is missing, unknown, misshapen or
      not finite; or the vocabulary does not fit.
  """
  config = hybrid_config.read(source)
  tensors, _ = hf_folder.read_tensors(source, lambda name: False)
  copies = [*_EMBEDDINGS]
  if config['logits_via_embedding']:
    copies.append(_OUTPUT)
  hf_folder.drop_copies(
    tensors, dict.fromkeys(copies, 'shared.weight'), str(source)
  )
  try:
    parameters = hybrid_tensors.to_ours(hybrid_tensors.table(config), tensors)
  except ValueError as error:
    raise ValueError(f'{source}: {error}') from error
  pieces = _own_pieces(source / hf_folder.PIECES, config)
  vocabulary = None
  if pieces:
    vocabulary = str((out / model_directory.VOCABULARY_FILE).absolute())
  leaves = {_TARGET + name: x for name, x in parameters.items()}
  leaves['state/step'] = np.asarray(step, np.int32)
  with new_folder.create(out) as folder:
    checkpoint_leaves.write(epath.Path(folder), step, leaves)
    (folder / MODEL_GIN).write_text(hybrid_config.to_gin(config, vocabulary))
    if pieces:
      (folder / model_directory.VOCABULARY_FILE).write_bytes(pieces)
  path = out / f'{checkpoints.PREFIX}_{step}'
  console.print_line(
    f'{path}: {len(parameters)} tensors, {_count(parameters):,} parameters'
  )
  console.print_line(f'{out / MODEL_GIN}: its model')
  return path


def _unscanned(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the parameters, of unscanned layers, without the prefix."""
  if scanned_layers.is_scanned(leaves):
    leaves = scanned_layers.to_unscanned(leaves).leaves
  return {
    # Checkpoints may be in bfloat16.
    name.removeprefix(_TARGET): hf_folder.as_float32(np.asarray(x), name)
    for name, x in leaves.items()
    if name.startswith(_TARGET)
  }


def _tokenizer(
  vocabulary: seqio.Vocabulary, rows: int, longest: int
) -> _Tokenizer:
  """Returns the files of a vocabulary, checked to fit the embedding."""
  config: dict[str, Any] = {'model_max_length': longest}
  if isinstance(vocabulary, seqio.ByteVocabulary):
    # Newer versions of transformers add all sentinels that ByT5 has.
    extra_ids = vocabulary.vocab_size - _BYTES
    config |= {'tokenizer_class': 'ByT5Tokenizer', 'extra_ids': extra_ids}
    pieces, size = None, vocabulary.vocab_size
  elif isinstance(vocabulary, seqio.SentencePieceVocabulary):
    pieces, size = vocabulary.sp_model, vocabulary.vocab_size
    extra_ids = vocabulary.extra_ids
    if vocabulary.pad_id != 0:
      raise ValueError(f'its vocabulary has padding at {vocabulary.pad_id}')
    module = _TOKENIZER_CODE.removesuffix('.py')
    config |= {
      'tokenizer_class': 'FNetT5Tokenizer',
      'auto_map': {'AutoTokenizer': [f'{module}.FNetT5Tokenizer', None]},
    }
  else:
    raise ValueError(
      f'its vocabulary is {_name(vocabulary)}; exported are SentencePiece '
      'models and bytes'
    )
  if size > rows:
    raise ValueError(
      f'its vocabulary has {size} ids, and the embedding {rows} rows'
    )
  return _Tokenizer(config, pieces, extra_ids)


def _longest_input(
  config: Mapping[str, Any], lengths: Mapping[str, int]
) -> int:
  """Returns the number of tokens to truncate inputs to."""
  limited = config['encoder_position_embedding'] == 'learned'
  if limited or 'linear' in config['encoder_mixing']:
    return config['max_encoder_length']
  return int(lengths['inputs'])


def _own_pieces(path: pathlib.Path, config: Mapping[str, Any]) -> bytes | None:
  """Returns the SentencePiece model without sentinels, checked."""
  if not path.exists():
    return None
  try:
    proto = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
  except message.DecodeError as error:
    raise ValueError(f'{path} is not a SentencePiece model') from error
  if not proto.pieces:
    raise ValueError(f'{path} is not a SentencePiece model: it has no pieces')
  size, rows = len(proto.pieces), config['vocab_size']
  if size > rows:
    raise ValueError(f'{path} has {size} pieces, the embedding {rows} rows')
  extra_ids = config['extra_ids']
  sentinels = [f'▁<extra_id_{i}>' for i in reversed(range(extra_ids))]
  kept = list(proto.pieces)[: size - extra_ids]
  if [p.piece for p in proto.pieces[len(kept) :]] != sentinels:
    raise ValueError(
      f'{path} does not end with the {extra_ids} sentinels of '
      f'{hf_folder.CONFIG}'
    )
  del proto.pieces[len(kept) :]
  return proto.SerializeToString(deterministic=True)


def _count(arrays: Mapping[str, np.ndarray]) -> int:
  return sum(x.size for x in arrays.values())


def _name(instance: object) -> str:
  kind = type(instance)
  return f'{kind.__module__.rpartition(".")[2]}.{kind.__name__}'
