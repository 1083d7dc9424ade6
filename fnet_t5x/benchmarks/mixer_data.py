"""Rows of the study of mixers: text, or what was said far back."""

import argparse
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from fnet_t5x.benchmarks import equal_training, masked_rows, recall_data
from fnet_t5x.benchmarks.accelerator import timed_training, training_step

RECALL = 'synthetic:recall'
# Masks of validation, the same for all networks and seeds.
_VALIDATION_KEY = 0
# Characters beyond the most frequent ones are unknown.
_CHARACTERS = (
  "text_vocabulary.model_file.model_type = 'char'",
  'BYTE_FALLBACK = False',
  # As many ids as the text has characters, however many are allowed.
  'vocabularies.embedding_size.pieces = None',
)


class Rows(NamedTuple):
  """What networks train on.

  Attributes:
    vocab_size: number of ids.
    data: tokens of the training and the validation split, on the device.
    make_batch: as of `timed_training.make_programs`.
    digest: hash of the tokens.
  """

  vocab_size: int
  data: tuple[dict[str, Array], ...]
  make_batch: Callable[..., dict[str, Array]]
  digest: str


def rows_of(options: argparse.Namespace) -> Rows:
  """Returns the rows of a command line.

  Raises:
    ValueError, FileNotFoundError: the text has no rows, or too few of them.
  """
  if options.text == RECALL:
    return _recall_rows(options)
  if options.objective == 'masked_lm':
    return _masked_rows(options)
  if options.objective == 'causal_lm':
    corpus = _texts(options)
    data = equal_training.on_device(corpus.arrays)
    return Rows(
      corpus.vocab_size,
      tuple({'inputs': split['targets']} for split in data),
      causal_batch,
      _digest(corpus.arrays),
    )
  corpus = equal_training.tokenize(
    options,
    options.objective,
    {'inputs': options.length, 'targets': options.targets},
    _CHARACTERS if options.characters else (),
  )
  return Rows(
    corpus.vocab_size,
    equal_training.on_device(corpus.arrays),
    timed_training.batch_of,
    _digest(corpus.arrays),
  )


def masked_batch(
  module: Any,
  tokens: Mapping[str, Int[Array, 'rows _']],
  rows: Int[Array, ' batch'],
  key: jax.Array | None = None,
  *,
  masking: masked_rows.Masking | None = None,
) -> dict[str, Array]:
  """Returns some rows as `mixer_layouts.MaskedEncoder` reads them.

  Args:
    module: the network.
    tokens: `inputs`, with the `positions` and `targets` of masks in them; or,
      for training, without.
    rows: their numbers.
    key: of the masks; None where `tokens` has them.
    masking: the vocabulary's ids, where it has not.
  """
  del module
  chosen = {side: array[rows] for side, array in tokens.items()}
  if 'positions' not in chosen:
    chosen = masked_rows.draw(chosen['inputs'], key, masking)
  return {
    'encoder_input_tokens': chosen['inputs'],
    'predicted_positions': chosen['positions'],
    'decoder_target_tokens': chosen['targets'],
    'decoder_loss_weights': (chosen['targets'] > 0).astype(np.int32),
  }


def causal_batch(
  module: Any,
  tokens: Mapping[str, Int[Array, 'rows length']],
  rows: Int[Array, ' batch'],
  key: jax.Array | None = None,
) -> dict[str, Array]:
  """Returns some rows as GPT-2 reads them: all tokens are predicted.

  Args:
    module: the network.
    tokens: the texts, as `inputs`.
    rows: their numbers.
    key: unused; nothing is random.
  """
  del module, key
  text = tokens['inputs'][rows]
  return training_step.decoder_only_features(text[:, :0], text)


def _texts(options):
  return equal_training.tokenize(
    options,
    'causal_lm',
    {'targets': options.length},
    _CHARACTERS if options.characters else (),
  )


def _recall_rows(options):
  arrays = {
    f'{split}_{side}': array
    for seed, split in enumerate(('train', 'validation'))
    for side, array in recall_data.make_rows(
      getattr(options, f'{split}_rows'), options.length, seed
    ).items()
  }
  return Rows(
    recall_data.VOCAB_SIZE,
    equal_training.on_device(arrays),
    masked_batch,
    _digest(arrays),
  )


def _masked_rows(options):
  # Its rows are segments of the text, whose masks are drawn later.
  corpus = _texts(options)
  import seqio

  from fnet_t5x.tasks import sentinels

  task = seqio.get_mixture_or_task(corpus.task)
  vocabulary = task.output_features['targets'].vocabulary
  marks = sentinels.mark_ids(vocabulary, {'mask_id': None}, 'masked_lm')
  masking = masked_rows.Masking(
    marks['mask_id'], sentinels.text_ids(vocabulary, marks)
  )
  train, validation = (
    split['targets'] for split in equal_training.on_device(corpus.arrays)
  )
  # JAX's usual generator has the same numbers on all backends.
  key = jax.random.key(_VALIDATION_KEY, impl='threefry2x32')
  return Rows(
    corpus.vocab_size,
    ({'inputs': train}, masked_rows.draw(validation, key, masking)),
    functools.partial(masked_batch, masking=masking),
    _digest(corpus.arrays),
  )


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
  found = hashlib.sha256()
  for name in sorted(arrays):
    found.update(name.encode())
    found.update(np.ascontiguousarray(arrays[name]).astype('<i4').tobytes())
  return found.hexdigest()[:16]
