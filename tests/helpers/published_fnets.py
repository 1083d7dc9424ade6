"""Files of published FNets, made from the documented names with random numbers.

Sources of the names: google-research/google-research `f_net`, and
huggingface/transformers `models/fnet`.
"""

import io
import json

import numpy as np
import sentencepiece
from etils import epath
from flax import serialization, traverse_util

from fnet_t5x.convert import checkpoint_leaves, fnet_conversion

TEXTS = [
  'my fellow citizens, the state of the union is strong and free',
  'we must help the people of the united states, and their friends',
]
BY_ID = ('encoder/embedder/word/embedding', 'predictions_output/output_bias')
WIDTHS = {'v': 11, 'e': 4, 'd': 6, 'f': 8, 'p': 10, 't': 4, 'heads': 2}


def leaves(mixings, seed=0, **widths) -> dict[str, np.ndarray]:
  """Returns random parameters by the original's names.

  Args:
    mixings: of each layer.
    seed: of the numbers.
    **widths: other sizes than `WIDTHS`.
  """
  w = WIDTHS | widths
  v, e, d, f, heads = (w[k] for k in ('v', 'e', 'd', 'f', 'heads'))

  def norm(name, width):
    return {f'{name}/scale': (width,), f'{name}/bias': (width,)}

  def dense(name, rows, columns):
    return {f'{name}/kernel': (rows, columns), f'{name}/bias': (columns,)}

  shapes = {
    'encoder/embedder/word/embedding': (v, e),
    'encoder/embedder/position/embedding': (1, w['p'], e),
    'encoder/embedder/type/embedding': (w['t'], e),
    **norm('encoder/embedder/layer_norm', e),
    **dense('encoder/embedder/hidden_mapping_in', e, d),
    **dense('encoder/pooler', d, d),
    **dense('predictions_dense', d, e),
    **norm('predictions_layer_norm', e),
    'predictions_output/output_bias': (v,),
    'classification/output_kernel': (2, d),
    'classification/output_bias': (2,),
  }
  for i, mixing in enumerate(mixings):
    shapes |= {
      **norm(f'encoder/encoder_{i}/mixing_layer_norm', d),
      **dense(f'encoder/feed_forward_{i}/intermediate', d, f),
      **dense(f'encoder/feed_forward_{i}/output', f, d),
      **norm(f'encoder/encoder_{i}/output_layer_norm', d),
    }
    name = f'encoder/self_attention_{i}'
    if mixing == 'attention':
      for part in ('query', 'key', 'value'):
        shapes[f'{name}/{part}/kernel'] = (d, heads, d // heads)
        shapes[f'{name}/{part}/bias'] = (heads, d // heads)
      shapes |= {f'{name}/out/kernel': (heads, d // heads, d)}
      shapes |= {f'{name}/out/bias': (d,)}
    if mixing == 'linear':
      name = f'encoder/linear_transform_{i}'
      shapes[f'{name}/hidden_kernel'] = (d, d)
      shapes[f'{name}/seq_kernel'] = (w['p'], w['p'])
  random = np.random.default_rng(seed)
  return {
    name: random.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def msgpack(arrays, with_state=True) -> bytes:
  """Returns google-research's file: parameters, and Adam's two moments."""
  tree = {'target': traverse_util.unflatten_dict(arrays, sep='/')}
  if with_state:
    moments = {
      f'{name}/{kind}': np.abs(x)
      for name, x in arrays.items()
      for kind in ('grad_ema', 'grad_sq_ema')
    }
    tree['state'] = {
      'step': np.int32(1_000_000),
      'param_states': traverse_util.unflatten_dict(moments, sep='/'),
    }
  return serialization.msgpack_serialize(tree)


def hugging_face(arrays, num_layers) -> dict[str, np.ndarray]:
  """Returns the tensors of Hugging Face's FNet, by its names."""
  result = {
    'fnet.embeddings.word_embeddings.weight': 'encoder/embedder/word/embedding',
    'fnet.embeddings.token_type_embeddings.weight': (
      'encoder/embedder/type/embedding'
    ),
    'cls.predictions.bias': 'predictions_output/output_bias',
    'cls.seq_relationship.weight': 'classification/output_kernel',
    'cls.seq_relationship.bias': 'classification/output_bias',
  }
  result = {theirs: arrays[ours] for theirs, ours in result.items()}
  (rows,) = arrays['encoder/embedder/position/embedding']
  result['fnet.embeddings.position_embeddings.weight'] = rows
  norms = {
    'fnet.embeddings.LayerNorm': 'encoder/embedder/layer_norm',
    'cls.predictions.transform.LayerNorm': 'predictions_layer_norm',
  }
  maps = {
    'fnet.embeddings.projection': 'encoder/embedder/hidden_mapping_in',
    'fnet.pooler.dense': 'encoder/pooler',
    'cls.predictions.transform.dense': 'predictions_dense',
  }
  for i in range(num_layers):
    layer = f'fnet.encoder.layer.{i}'
    ours = f'encoder/encoder_{i}'
    norms[f'{layer}.fourier.output.LayerNorm'] = f'{ours}/mixing_layer_norm'
    norms[f'{layer}.output.LayerNorm'] = f'{ours}/output_layer_norm'
    ours = f'encoder/feed_forward_{i}'
    maps[f'{layer}.intermediate.dense'] = f'{ours}/intermediate'
    maps[f'{layer}.output.dense'] = f'{ours}/output'
  for theirs, ours in norms.items():
    result[f'{theirs}.weight'] = arrays[f'{ours}/scale']
    result[f'{theirs}.bias'] = arrays[f'{ours}/bias']
  for theirs, ours in maps.items():
    result[f'{theirs}.weight'] = arrays[f'{ours}/kernel'].T
    result[f'{theirs}.bias'] = arrays[f'{ours}/bias']
  return {name: np.ascontiguousarray(x) for name, x in result.items()}


def write_hugging_face(folder, tensors, **config) -> None:
  """Writes a Hugging Face folder with config.json and model.safetensors."""
  import safetensors.numpy

  folder.mkdir(exist_ok=True)
  safetensors.numpy.save_file(
    tensors, str(folder / 'model.safetensors'), {'format': 'pt'}
  )
  content = {'model_type': 'fnet', 'hidden_act': 'gelu_new', 'pad_token_id': 3}
  (folder / 'config.json').write_text(json.dumps(content | config))


def train_pieces(**options) -> bytes:
  """Trains a BPE model with the ids of the published FNet vocabulary."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS * 20),
    model_writer=model,
    minloglevel=2,
    **{
      'model_type': 'bpe',
      'vocab_size': 90,
      'unk_id': 0,
      'bos_id': 1,
      'eos_id': 2,
      'pad_id': 3,
      'control_symbols': ['[CLS]', '[SEP]', '[MASK]'],
      **options,
    },
  )
  return model.getvalue()


def read(path):
  """Returns the leaves of a checkpoint."""
  return checkpoint_leaves.read(epath.Path(path), lambda: [])


def convert(content, folder, **choices):
  """Converts a msgpack file, and returns the checkpoint's path."""
  source = folder / 'source'
  source.write_bytes(content)
  return fnet_conversion.from_published(source, folder / 'out', **choices)


def assert_converted(path, arrays, step=0):
  """Asserts a checkpoint to hold the arrays, with ids 0 and 3 exchanged."""
  found = read(path)
  assert found.pop('state/step') == step
  want = dict(arrays)
  for name in BY_ID:
    order = [3, 1, 2, 0, *range(4, len(want[name]))]
    want[name] = want[name][order]
  assert found.keys() == {f'target/{name}' for name in want}
  for name, value in want.items():
    got = found[f'target/{name}']
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, value, err_msg=name)
