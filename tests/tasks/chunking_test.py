"""Splitting of documents; T5's golden examples are in objectives_test.py."""

import gin
import seqio
import token_documents

from fnet_t5x.tasks import chunking


def test_a_long_document_gives_one_whole_chunk():
  document = list(range(3, 259))
  gin.bind_parameter('chunking.select_random_chunk.max_length', 100)
  starts = set()
  for seed in range(20):
    with seqio.map_seed_manager(seed):
      dataset = chunking.select_random_chunk(
        token_documents.dataset([document, [], [5]])
      )
    chunk, short = (e['targets'] for e in dataset.as_numpy_iterator())
    start = chunk[0] - 3
    assert chunk.tolist() == document[start : start + 100]
    assert short.tolist() == [5]
    starts.add(start)
  assert starts == {0, 100, 200}


def test_segments_of_random_length_keep_every_token():
  documents = token_documents.random_documents([300] * 30)
  with seqio.map_seed_manager(0):
    dataset = chunking.split_tokens(
      token_documents.dataset(documents),
      max_tokens_per_segment=64,
      min_tokens_per_segment=8,
    )
  segments = [e['targets'].tolist() for e in dataset.as_numpy_iterator()]
  assert token_documents.joined(segments) == token_documents.joined(documents)
  lengths = [len(s) for s in segments]
  assert max(lengths) <= 64
  assert len(set(lengths)) > 15
