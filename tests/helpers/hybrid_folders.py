"""Model directories of small hybrids, without training, and their outputs."""

import hashlib
import json
import pathlib
import zlib

import gin
import jax
import jax.numpy as jnp
import numpy as np
from checkout import ROOT
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from fnet_t5x import gin_macros
from fnet_t5x.convert import checkpoint_leaves
from fnet_t5x.networks import decoding as network_decoding
from fnet_t5x.runtime import decoding, model_directory

_BASE = """
from __gin__ import dynamic_registration
import seqio
from fnet_t5x.networks import fnet_t5
from fnet_t5x.tasks import vocabularies
include 'gin/models/{model}_tiny.gin'
VOCABULARY = @seqio.ByteVocabulary()
MIXTURE_OR_TASK_NAME = 'a_task'
TASK_FEATURE_LENGTHS = {{'inputs': 12, 'targets': 8}}
BATCH_SIZE = 8
DROPOUT_RATE = 0.0
VOCAB_SIZE = 264
EMBED_DIM = 24
NUM_HEADS = 3
HEAD_DIM = 6
MLP_DIM = 32
NUM_ENCODER_LAYERS = 4
NUM_DECODER_LAYERS = 2
ACTIVATION_DTYPE = 'float32'
"""
# What the network has, in as few hybrids as possible.
CASES = {
  'hybrid': [
    "ENCODER_MIXING = ('fourier', 'fourier', 'attention', 'attention')",
    'MAX_ENCODER_LENGTH = 16',
  ],
  'own_biases': [
    "ENCODER_MIXING = ('fourier', 'attention', 'none', 'attention')",
    "ENCODER_POSITION_EMBEDDING = 'sinusoidal'",
    "FOURIER_SCALE = 'none'",
    'SCAN_LAYERS = True',
    "fnet_t5.FNetT5Config.mlp_activations = ('silu', 'linear')",
  ],
  'padded': [
    "ENCODER_MIXING = ('linear', 'attention', 'fourier', 'none')",
    "ENCODER_POSITION_EMBEDDING = 'none'",
    'MAX_ENCODER_LENGTH = 12',
    "FOURIER_LENGTHS = 'padded'",
    "fnet_t5.FNetT5Config.mlp_activations = ('relu',)",
    'fnet_t5.FNetT5Config.logits_via_embedding = True',
  ],
}
STEP = 5
NEW_TOKENS, BEAMS, EOS = 8, 4, 1
# Number of ids whose logits are recorded.
RECORDED = 12


def write(
  folder: pathlib.Path, *lines: str, model: str = 'fnet_t5'
) -> tuple[object, dict]:
  """Writes a model directory of random parameters, drawn from their names.

  Args:
    folder: the folder to write.
    *lines: gin bindings that override the others.
    model: first part of a gin file's name in gin/models/.

  Returns:
    The model and its parameters.
  """
  gin.clear_config()
  gin.add_config_file_search_path(str(ROOT))
  # As a run would: one text of all that its gin files say.
  gin.parse_config(_BASE.format(model=model) + '\n'.join(lines))
  folder.mkdir(parents=True, exist_ok=True)
  (folder / model_directory.CONFIG_FILE).write_text(gin.config_str())
  built = gin_macros.value('MODEL')
  gin.clear_config()
  tokens = jnp.ones((1, 3), jnp.int32)
  shapes = jax.eval_shape(
    built.module.init, jax.random.key(0), tokens, tokens, tokens
  )
  params = {
    name: _random(name, x.shape)
    for name, x in flatten_dict(shapes['params'], sep='/').items()
  }
  leaves = {f'target/{name}': x for name, x in params.items()}
  leaves['state/step'] = np.asarray(STEP, np.int32)
  checkpoint_leaves.write(epath.Path(folder), STEP, leaves)
  return built, unflatten_dict(params, sep='/')


def _random(name: str, shape: tuple[int, ...]) -> np.ndarray:
  random = np.random.default_rng(zlib.crc32(name.encode()))
  x = random.standard_normal(shape).astype(np.float32)
  leaf = name.rpartition('/')[2]
  if leaf == 'scale':
    return 1 + 0.2 * x
  if 'embedding' in leaf:
    return x
  if name == 'decoder/logits_dense/kernel':
    # So that some texts end.
    x[:, EOS] *= 2
  # Such that activations stay of order one.
  return 0.25 * x


def write_with_pieces(
  folder: pathlib.Path, pieces: pathlib.Path, extra_ids: int
) -> tuple[object, dict]:
  """Does `write` with a SentencePiece vocabulary."""
  vocabulary = 'vocabularies.default_vocabulary'
  written = write(
    folder,
    f'VOCABULARY = @{vocabulary}()',
    f'{vocabulary}.sentencepiece_model_file = {str(pieces)!r}',
    f'{vocabulary}.extra_ids = {extra_ids}',
    'VOCAB_SIZE = 512',
  )
  kept = folder / model_directory.VOCABULARY_FILE
  kept.write_bytes(pieces.read_bytes())
  return written


def content(exported: pathlib.Path) -> dict:
  """Returns an exported folder's configuration, and what its tensors are."""
  from safetensors.numpy import load_file

  tensors = dict(sorted(load_file(exported / 'model.safetensors').items()))
  digest = hashlib.sha256(b''.join(x.tobytes() for x in tensors.values()))
  return {
    'config': json.loads((exported / 'config.json').read_text()),
    'shapes': {name: list(x.shape) for name, x in tensors.items()},
    'sha256': digest.hexdigest(),
  }


def leaves(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a checkpoint, by name."""
  return checkpoint_leaves.read(epath.Path(checkpoint), lambda: [])


def batch() -> tuple[np.ndarray, np.ndarray]:
  """Returns inputs with padding, and decoder inputs, which start with 0."""
  random = np.random.default_rng(0)
  inputs = random.integers(3, 259, (4, 12))
  for row, length in enumerate((12, 7, 1, 10)):
    inputs[row, length:] = 0
  targets = random.integers(3, 259, (4, 6))
  targets[:, 0] = 0
  return inputs, targets


def outputs(model, params) -> dict[str, np.ndarray]:
  """Returns logits, and tokens of greedy and beam search, up to EOS.

  Beam search is without length penalty, `alpha=0`.
  """
  inputs, targets = map(jnp.asarray, batch())
  logits = jax.jit(
    lambda p: model.module.apply(
      {'params': p},
      inputs,
      targets,
      jnp.ones_like(targets),
      enable_dropout=False,
    )
  )(params)
  return {
    'logits': np.asarray(logits),
    'greedy': _generate(model.module, params, inputs, None),
    'beam': _generate(model.module, params, inputs, BEAMS),
  }


def _generate(module, params, inputs, beams):
  prompts = jnp.zeros((len(inputs), NEW_TOKENS), jnp.int32)
  options = {'eos_id': EOS, 'cache_offset': 1 if module.scan_layers else 0}

  @jax.jit
  def run(params):
    encoded = network_decoding.encode(module, params, inputs)
    cache, positions = network_decoding.start(
      module, params, encoded, prompts, prompted=False
    )
    rows = encoded.repeat(beams or 1)

    def step(state):
      return network_decoding.step(
        module, params, rows, state.cache, state.cur_token
      )

    if beams:
      return decoding.beam_search(
        prompts,
        cache,
        step,
        num_decodes=beams,
        alpha=0.0,
        initial_index=positions,
        **options,
      )[0]
    return decoding.temperature_sample(
      prompts, cache, step, topk=1, initial_index=positions, **options
    )[0]

  return until_eos(np.asarray(run(params))[:, -1])


def until_eos(rows) -> list[list[int]]:
  """Returns rows as lists, each up to the first EOS."""
  return [
    row[: row.index(EOS)] if EOS in row else row
    for row in (list(map(int, row)) for row in rows)
  ]
