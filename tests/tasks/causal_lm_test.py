"""Causal LM: every token once, EOS at the end of documents."""

import pytest
import seqio
import token_documents

from fnet_t5x.tasks import causal_lm

_DOCUMENTS = token_documents.random_documents([50, 0, 1, 12, 11, 13, 24])


@pytest.mark.parametrize('add_eos', [True, False])
def test_documents_are_cut_to_length(add_eos):
  features = {'targets': seqio.Feature(token_documents.VOCABULARY, add_eos)}
  examples = token_documents.examples(
    causal_lm.causal_lm, _DOCUMENTS, {'targets': 12}, features=features
  )
  expected = []
  for document in _DOCUMENTS:
    text = document + [1] * add_eos if document else []
    expected += [text[i : i + 12] for i in range(0, len(text), 12)]
  assert [e['targets'] for e in examples] == expected
  assert all(set(e) == {'targets'} for e in examples)


def test_invalid_length_is_an_error():
  with pytest.raises(
    ValueError, match=r"'targets' is 0 .*TASK_FEATURE_LENGTHS"
  ):
    token_documents.examples(causal_lm.causal_lm, [[3]], {'targets': 0})
