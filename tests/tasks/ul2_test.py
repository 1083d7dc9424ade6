"""UL2's denoisers: a mode token, then T5's objectives."""

import gin
import numpy as np
import pytest
import seqio
import token_documents

from fnet_t5x.tasks import objectives, ul2

_LOWEST = 259
_R, _S, _X = _LOWEST, _LOWEST + 1, _LOWEST + 2
_LENGTHS = {'inputs': 512, 'targets': 512}
_SPANS = [
  ('R', 3.0, 0.15),
  ('R', 8.0, 0.15),
  ('X', 3.0, 0.5),
  ('X', 8.0, 0.5),
  ('X', 64.0, 0.15),
  ('X', 64.0, 0.5),
]


def _is_sentinel(token: int) -> bool:
  return token > _X


def _restored(example) -> list[int]:
  """Reconstructs the text by reading the sentinels."""
  missing, current = {}, None
  for token in example['targets']:
    if _is_sentinel(token):
      current = missing.setdefault(token, [])
    else:
      current.append(token)
  # Targets have a sentinel for each kept span, the inputs for each noise span:
  # noise span k follows the k-th sentinel of either.
  spans = [missing[s] for s in sorted(missing, reverse=True) if missing[s]]
  text = []
  for token in example['inputs'][1:]:
    text += spans.pop(0) if _is_sentinel(token) else [token]
  assert not spans
  return text


@pytest.mark.slow
@pytest.mark.parametrize(('mode', 'span_length', 'density'), _SPANS)
def test_span_denoisers(mode, span_length, density):
  documents = token_documents.random_documents([3000, 1500, 900])
  examples = token_documents.examples(
    ul2.span_denoiser,
    documents,
    _LENGTHS,
    mode=mode,
    mean_noise_span_length=span_length,
    noise_density=density,
  )
  text = token_documents.joined(map(_restored, examples))
  assert text == token_documents.joined(documents)
  for example in examples:
    inputs, targets = example['inputs'], example['targets']
    assert inputs[0] == {'R': _R, 'X': _X}[mode]
    # EOS is appended later.
    assert len(inputs) < 512
    assert len(targets) < 512
    modes = {_R, _S, _X}
    assert not modes & set(inputs[1:])
    assert not modes & set(targets)
    noise = sum(not _is_sentinel(t) for t in targets)
    size = len(_restored(example))
    assert abs(noise - density * size) <= 0.51
    spans = sum(map(_is_sentinel, targets))
    assert spans == max(1, round(noise / span_length))
    assert spans <= 97
  if span_length > 3 or density < 0.5:
    assert len(examples[0]['inputs']) >= 509
  else:
    # 97 sentinels remain: 585 tokens have round(292 / 3) = 97 spans, 586
    # would have round(293 / 3) = 98.
    assert len(_restored(examples[0])) == 585


def test_after_the_mode_comes_t5_s_span_corruption():
  documents = token_documents.random_documents([700, 300])
  lengths = {'inputs': 65, 'targets': 64}
  ours = token_documents.examples(
    ul2.span_denoiser,
    documents,
    lengths,
    mode='X',
    mean_noise_span_length=8.0,
    noise_density=0.5,
  )
  theirs = token_documents.examples(
    objectives.span_corruption,
    documents,
    {'inputs': 64, 'targets': 64},
    mean_noise_span_length=8.0,
    noise_density=0.5,
  )
  assert len(ours) == 9
  for a, b in zip(ours, theirs, strict=True):
    assert a == {'inputs': [_X, *b['inputs']], 'targets': b['targets']}


def test_prefix_denoiser_keeps_three_quarters():
  documents = token_documents.random_documents([40 * 1500])
  examples = token_documents.examples(
    ul2.prefix_denoiser, documents, {'inputs': 42, 'targets': 42}
  )
  assert [
    t for e in examples for t in e['inputs'][1:] + e['targets']
  ] == documents[0]
  assert {e['inputs'][0] for e in examples} == {_S}
  assert len(examples) == 1500
  prefixes = np.array([len(e['inputs']) - 1 for e in examples])
  # Uniform from half (of 39, rounded) to all but one token.
  assert (prefixes.min(), prefixes.max()) == (20, 39)
  assert abs(prefixes.mean() - 29.5) < 5 * (399 / 12 / 1500) ** 0.5


def test_gin_binds_the_modes():
  gin.parse_config(
    'from __gin__ import dynamic_registration\n'
    'from fnet_t5x.tasks import ul2\n'
    'ul2.mode_ids.r_id = 10\n'
    'ul2.mode_ids.s_id = 11\n'
  )
  assert ul2.mode_ids(token_documents.VOCABULARY) == {'R': 10, 'S': 11, 'X': _X}
  (example,) = token_documents.examples(
    ul2.span_denoiser, token_documents.random_documents([60]), _LENGTHS
  )
  assert example['inputs'][0] == 10


@pytest.mark.parametrize(
  ('bindings', 'message'),
  [
    ('ul2.mode_ids.r_id = 500', 'r_id is 500; .* between 1 and 358'),
    ('ul2.mode_ids.r_id = 261', 'have the same id'),
    ('ul2.mode_ids.r_id = 358', 'leave no sentinel for spans'),
    ("ul2.span_denoiser.mode = 'S'", "mode is 'S'"),
  ],
)
def test_bad_parameters_are_errors(bindings, message):
  gin.parse_config(
    'from __gin__ import dynamic_registration\n'
    'from fnet_t5x.tasks import ul2\n' + bindings
  )
  with pytest.raises(ValueError, match=message):
    token_documents.examples(ul2.span_denoiser, [[3]], _LENGTHS)


@pytest.mark.parametrize('objective', [ul2.span_denoiser, ul2.prefix_denoiser])
def test_too_few_sentinels_are_an_error(objective):
  feature = seqio.Feature(seqio.ByteVocabulary(extra_ids=3))
  with pytest.raises(
    ValueError, match=r'needs 4 sentinels, .*has 3: raise its extra_ids'
  ):
    token_documents.examples(
      objective,
      [[3, 4, 5]],
      _LENGTHS,
      features={'inputs': feature, 'targets': feature},
    )
