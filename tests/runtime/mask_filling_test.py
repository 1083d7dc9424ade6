"""Texts with masks as tokens, and the candidates for a mask."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece_vocabularies
import seqio

from fnet_t5x import generate
from fnet_t5x.runtime import mask_filling

BYTES = seqio.ByteVocabulary(extra_ids=3)
MASK, CLS, SEP = (BYTES.vocab_size - 1 - i for i in range(3))


def ids(text):
  return list(BYTES.encode(text))


def filler(length=16):
  """A model whose logits at a position prefer the token before it."""

  def mask_logits(params, tokens, positions):
    del params
    before = jnp.take_along_axis(tokens, positions - 1, axis=1)
    return 2.0 * jax.nn.one_hot(before, BYTES.vocab_size + 4)

  model = types.SimpleNamespace(
    mask_id=MASK,
    cls_id=CLS,
    sep_id=SEP,
    output_vocabulary=BYTES,
    mask_logits=mask_logits,
  )
  return mask_filling.MaskFiller(
    types.SimpleNamespace(
      step=3,
      task_name='task',
      model=model,
      params={},
      feature_lengths={'inputs': length},
    )
  )


@pytest.mark.parametrize(
  ('text', 'tokens'),
  [
    ('[MASK]', [CLS, MASK, SEP]),
    ('ab [MASK] c', [CLS, *ids('ab'), MASK, *ids(' c'), SEP]),
    ('[MASK][MASK].', [CLS, MASK, MASK, *ids('.'), SEP]),
  ],
)
def test_tokens(text, tokens):
  assert filler().tokens(text) == tokens


def test_candidates_are_the_likeliest_tokens_with_text():
  candidates = filler().fill_masks('xy [MASK] z[MASK]', top_k=3)
  assert [found[0].text for found in candidates] == ['y', 'z']
  scores = np.zeros(BYTES.vocab_size + 4)
  scores[ids('y')[0]] = 2.0
  best = np.exp(2.0) / np.exp(scores).sum()
  for found in candidates:
    assert len(found) == 3
    assert found[0].probability == pytest.approx(best, rel=1e-5)
    # The same for all others: in order of their ids, without pad, EOS and unk.
    assert [c.token for c in found[1:]] == [3, 4]


@pytest.mark.parametrize(
  ('text', 'top_k', 'named'),
  [
    ('no mask', 1, r'no \[MASK\]'),
    ('[MASK]' * 15, 1, '17 tokens long, .* at most 16'),
    ('[MASK]', 0, 'top_k is 0'),
  ],
)
def test_refusals(text, top_k, named):
  with pytest.raises(ValueError, match=named):
    filler().fill_masks(text, top_k)


def test_a_mask_ends_no_word_unless_a_space_does(tmp_path):
  """With a vocabulary that puts a space before every text."""
  vocabulary = sentencepiece_vocabularies.train(tmp_path)
  pieces = vocabulary.tokenizer

  def texts(text):
    return [
      ''.join(pieces.IdToPiece(i) for i in part)
      for part in mask_filling.split_text(text, vocabulary)
    ]

  assert texts('the [MASK] of') == ['▁the', '▁of']
  assert texts('citi[MASK]s, and') == ['▁citi', 's,▁and']


def test_line_of_candidates():
  candidates = [
    mask_filling.Candidate(' man', 7, 0.5),
    mask_filling.Candidate('ed', 8, 0.25),
    mask_filling.Candidate('.', 9, 0.1),
    mask_filling.Candidate(' ', 10, 0.05),
  ]
  assert generate.candidate_line(candidates) == (
    "man 0.500, +ed 0.250, . 0.100, ' ' 0.050"
  )


def test_options_of_text_generation_are_refused():
  generate.check_mask_options([])
  with pytest.raises(ValueError, match=r'--num_beams.* --top_k'):
    generate.check_mask_options(['num_beams', 'seed'])
