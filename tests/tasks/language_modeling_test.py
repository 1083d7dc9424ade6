"""Held-out loss: windows that cover every byte, word and token once."""

import math
import random

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tfds_folders

from fnet_t5x.tasks import evaluation, language_modeling

_NAME = 'fnet_language_modeling_test'
_ODD = (
  '  leading,  double\n\n\tspaces and a trailing one ',
  'ﬁne ① Å ½ \uff46\uff55\uff4c\uff4c width: normalised to other letters',
  'unknown ☃ß☃ to the vocabulary, 日本 too',
  'zero\u200bwidth, no-break\u00a0space, e\u0301 and \ufeffa mark',
  'word',
  'x' * 70,
)
_DOCUMENTS: list[bytes] = []


def _dataset(split, shuffle_files, seed=None):
  del split, shuffle_files, seed
  return tf.data.Dataset.from_tensor_slices({'text': list(_DOCUMENTS)})


def _register(name, **kwargs):
  if name not in seqio.TaskRegistry.names():
    source = seqio.FunctionDataSource(_dataset, splits=['validation'])
    return language_modeling.register_held_out_loss(
      name, source, 'made up', **kwargs
    )


@pytest.fixture
def documents(small_vocabulary):
  """Unusual texts, and one that fills many windows."""
  rng = random.Random(0)
  long = ' '.join(rng.choice(_ODD).strip() for _ in range(12))
  _DOCUMENTS[:] = [text.encode() for text in (*_ODD, long)]
  _DOCUMENTS.append(b'not \xff\xfe UTF-8')
  _register(_NAME)
  return _DOCUMENTS


def _by_document(examples):
  """Groups windows by document: the first of each has no context."""
  groups = []
  for example in examples:
    if len(example['inputs']) == 1:
      groups.append([])
    groups[-1].append(example)
  return groups


@pytest.mark.parametrize(('inputs', 'targets'), [(16, 7), (5, 12), (512, 512)])
def test_windows_cover_documents_exactly(
  documents, small_vocabulary, inputs, targets
):
  groups = _by_document(
    tfds_folders.read_task(_NAME, inputs=inputs, targets=targets)
  )
  assert len(groups) == len(documents)
  for text, windows in zip(documents, groups, strict=True):
    tokens = small_vocabulary.encode_tf(text).numpy().tolist()
    scored = np.concatenate([w['targets'] for w in windows]).tolist()
    assert scored == tokens
    assert sum(w['text_bytes'] for w in windows) == len(text)
    assert sum(w['text_words'] for w in windows) == len(text.split())
    for i, window in enumerate(windows):
      assert 0 < len(window['targets']) <= targets
      if i < len(windows) - 1:
        assert len(window['targets']) == targets
      before = tokens[: i * targets]
      assert window['inputs'].tolist() == [*before[-(inputs - 1) :], 1]
      assert window['inputs'].dtype == window['targets'].dtype == np.int32


def test_bytes_and_words_count_for_their_tokens(small_vocabulary):
  text = 'fel low 12  ab'
  pieces = small_vocabulary.tokenizer.encode(text, out_type=str)
  dataset = language_modeling.tokens_with_extents(
    tf.data.Dataset.from_tensors({'text': text}),
    evaluation.features(),
  )
  (example,) = dataset.as_numpy_iterator()
  assert len(pieces) == len(example['targets'])
  # Without the first word's space mark, which is not in the text, the pieces
  # are the text except for the second space.
  sizes = np.array([len(piece) for piece in pieces])
  sizes[0] -= 1
  difference = example['token_bytes'] - sizes
  assert difference.sum() == 1
  assert set(difference) == {0, 1}
  # A word counts where it starts: at the piece after the space mark, or, if the
  # piece with the mark has letters, at that piece.
  assert example['token_words'].sum() == 4
  joined = ''
  for piece, words in zip(pieces, example['token_words'], strict=True):
    starts = sum(
      (joined + piece)[i - 1] == '▁' and (joined + piece)[i] != '▁'
      for i in range(max(len(joined), 1), len(joined + piece))
    )
    assert words == starts
    joined += piece


def test_documents_without_tokens_are_dropped(documents):
  whole = tfds_folders.read_task(_NAME)
  documents[:] = [b'', documents[0], b' \n\t ', *documents[1:], b'']
  again = tfds_folders.read_task(_NAME)
  assert [e['targets'].tolist() for e in again] == [
    e['targets'].tolist() for e in whole
  ]


def test_words_are_those_of_bytes_split():
  for text in (b'', b' ', b'a', b'a b', b' a\x0bb\x0c\r\nc\x1c d ', b'\xa0 x'):
    starts = language_modeling._word_starts(tf.constant(text)).numpy()
    assert len(starts) == len(text.split())
    assert [text[s:].split()[0] for s in starts] == text.split()


def test_evaluator_adds_up_losses(documents, small_vocabulary):
  values = tfds_folders.evaluate(_NAME, [''])
  tokens = [
    token
    for text in documents
    for token in small_vocabulary.encode_tf(text).numpy()
  ]
  # The stand-in model gives each token a loss of one nat.
  size = sum(len(text) for text in documents)
  words = sum(len(text.split()) for text in documents)
  assert values == {
    'bits_per_byte': pytest.approx(len(tokens) / math.log(2) / size),
    'perplexity_per_word': pytest.approx(math.exp(len(tokens) / words)),
    'loss_per_token': pytest.approx(1),
    'unknown_token_share': pytest.approx(np.mean(np.equal(tokens, 2))),
    'documents_bytes': size,
    'documents_words': words,
    'documents_tokens': len(tokens),
  }
  assert values['unknown_token_share'] > 0


def test_a_decoder_only_task_has_windows_without_context(documents):
  entry = _register(f'{_NAME}_decoder', keys=('targets',))
  assert entry is None or entry.feature_lengths == {'targets': 512}
  task = seqio.TaskRegistry.get(f'{_NAME}_decoder')
  examples = list(
    task.get_dataset(
      {'targets': 7}, 'validation', shuffle=False
    ).as_numpy_iterator()
  )
  assert 'inputs' not in examples[0]
  pairs = tfds_folders.read_task(_NAME, targets=7)
  assert [e['targets'].tolist() for e in examples] == [
    e['targets'].tolist() for e in pairs
  ]


def test_vocabulary_without_offsets_is_refused():
  features = {'targets': seqio.Feature(seqio.ByteVocabulary())}
  dataset = tf.data.Dataset.from_tensors({'text': 'a'})
  with pytest.raises(ValueError, match='SentencePiece vocabulary') as error:
    language_modeling.tokens_with_extents(dataset, features)
  assert '\n' not in str(error.value)


def test_missing_length_is_refused(documents):
  with pytest.raises(ValueError, match="'targets' is None in TASK_FEATURE"):
    seqio.TaskRegistry.get(_NAME).get_dataset({'inputs': 8}, 'validation')
