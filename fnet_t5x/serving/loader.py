"""Loader of this folder: texts in, texts out, without fnet_t5x.

It needs jax, numpy and safetensors; and sentencepiece, unless the vocabulary is
bytes. It is an example to copy: export.json says what the programs take.

  import loader
  model = loader.Model('.')
  print(model.generate(['My fellow citizens,'], seed=1))
"""

import json
import pathlib
import unicodedata
import zlib

import jax
import jax.export
import numpy as np
import safetensors.numpy

_BYTES = 3  # The id of byte 0, in a vocabulary of bytes.


class Model:
  """The model of an exported folder, on JAX's default device."""

  def __init__(self, folder):
    """Reads the parameters and the vocabulary; programs when first used."""
    self._folder = pathlib.Path(folder)
    self.about = json.loads((self._folder / 'export.json').read_text())
    arrays = safetensors.numpy.load_file(self._folder / 'model.safetensors')
    self._parameters = jax.device_put(arrays)
    self._programs = {}
    self._pieces = None
    self._eos_id = self.about['vocabulary']['eos_id']
    if self.about['vocabulary']['kind'] == 'sentencepiece':
      import sentencepiece

      self._pieces = sentencepiece.SentencePieceProcessor(
        model_file=str(self._folder / 'vocabulary.model')
      )

  def generate(self, prompts, seed=0, sample=0):
    """Returns the text after each prompt, as `fnet_t5x.generate` does.

    Args:
      prompts: list of texts.
      seed, sample: of the noise, if the program samples.
    """
    noise = [[seed, zlib.crc32(p.encode()), sample] for p in prompts]
    outputs = self.run(
      'generate',
      tokens=[self.encode(prompt) for prompt in prompts],
      word_may_follow=[self._word_may_follow(prompt) for prompt in prompts],
      noise=noise,
    )
    if not outputs['finite'].all():
      raise FloatingPointError("the model's logits are not finite")
    return [self.decode(row) for row in outputs['tokens']]

  def predict(self, inputs):
    """Returns the outputs for a task's inputs, and their scores."""
    outputs = self.run('predict', tokens=[self.encode(x) for x in inputs])
    tokens = outputs['tokens']
    best = tokens[:, -1] if tokens.ndim == 3 else tokens
    return [self.decode(row) for row in best], outputs['scores']

  def score(self, targets, inputs=None):
    """Returns the log-likelihood of each target in nats, with its EOS."""
    given = {'targets': [[*self.encode(x), self._eos_id] for x in targets]}
    if inputs is not None:
      given['inputs'] = [self.encode(x) for x in inputs]
    return self.run('score', **given)['scores']

  def encode(self, text):
    """Returns a text's ids, without EOS."""
    if self._pieces is None:
      return [byte + _BYTES for byte in text.encode()]
    return self._pieces.encode(text)

  def decode(self, ids):
    """Returns the text of ids up to EOS."""
    ids = [int(i) for i in ids if i != 0]
    if self._eos_id in ids:
      ids = ids[: ids.index(self._eos_id)]
    if self._pieces is None:
      found = bytes(i - _BYTES for i in ids if _BYTES <= i < _BYTES + 256)
      return found.decode(errors='ignore')
    known, unk_id = self._pieces.get_piece_size(), self._pieces.unk_id()
    # The model's output layer may have more rows than there are pieces.
    return self._pieces.decode([i if i < known else unk_id for i in ids])

  def run(self, mode, **given):
    """Calls a program on lists of rows; returns its outputs by name.

    Rows of ids are padded here, and EOS is appended where the program wants it.

    Raises:
      ValueError: a row is empty or too long.
    """
    about = self.about['programs'][mode]
    arrays = [
      _rows(spec, given[spec['name']], self._eos_id) for spec in about['inputs']
    ]
    rows = len(arrays[0])
    size = self.about['batch_size'] or rows
    parts = [
      self._program(mode)(
        self._parameters, *(_filled(x[i : i + size], size) for x in arrays)
      )
      for i in range(0, rows, size)
    ]
    return {
      name: np.concatenate([part[name] for part in parts])[:rows]
      for name in parts[0]
    }

  def _program(self, mode):
    if mode not in self._programs:
      path = self._folder / f'{mode}.{jax.default_backend()}.jax'
      exported = jax.export.deserialize(bytearray(path.read_bytes()))
      self._programs[mode] = jax.jit(exported.call)
    return self._programs[mode]

  def _word_may_follow(self, prompt):
    """Whether a word may follow without a space: after `(`, `-`, `"`."""
    text = prompt.rstrip()
    if text != prompt:
      # A vocabulary that drops the space puts it before the next word.
      return self.encode(prompt) != self.encode(text)
    last, rule = text[-1:], self.about['word_may_follow']
    return (
      last in rule['characters']
      or unicodedata.category(last) in rule['categories']
      or unicodedata.name(last, '').startswith(tuple(rule['scripts']))
    )


def _rows(spec, rows, eos_id):
  """Returns an input as an array; ids are padded with zeros."""
  if not spec['ids']:
    return np.asarray(rows, spec['dtype'])
  length = spec['shape'][1]
  array = np.zeros((len(rows), length), spec['dtype'])
  for number, row in enumerate(rows):
    ids = [*row, eos_id] if spec['eos_follows'] else row
    if not row or len(ids) > length:
      raise ValueError(
        f'row {number} of {spec["name"]} has {len(row)} ids; there must be 1 '
        f'to {length - spec["eos_follows"]}'
      )
    array[number, : len(ids)] = ids
  return array


def _filled(rows, size):
  """Appends rows of zeros up to the batch size."""
  return np.pad(rows, [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1))
