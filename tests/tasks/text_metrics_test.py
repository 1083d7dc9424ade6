"""Metrics of text, against their libraries and by hand."""

import logging

import pytest
import sacrebleu
from absl import logging as absl_logging
from rouge_score import rouge_scorer

from fnet_t5x.tasks import text_metrics


@pytest.mark.parametrize(
  ('text', 'normal'),
  [
    ('The  Cat.', 'cat'),
    ('an apple-pie a day', 'applepie day'),
    ("Theatre's  A1", 'theatres a1'),
    ('A', ''),
    ('Año «the» x', 'año « » x'),
  ],
)
def test_normalized_answers(text, normal):
  assert text_metrics.normalize_answer(text) == normal


def test_squad_without_answers_expects_empty_output():
  assert text_metrics.squad([[], []], ['', 'the']) == {'em': 100, 'f1': 100}
  assert text_metrics.squad([[], []], ['', 'cat']) == {'em': 50, 'f1': 50}


def test_squad_takes_the_best_answer_to_each_question():
  answers = [
    ['The Denver Broncos', 'Denver Broncos', 'Broncos'],
    ['Santa Clara, California', "Levi's Stadium"],
    ['gold'],
  ]
  outputs = ['denver broncos!', "in Levi's Stadium", 'silver']
  # Of 'in levis stadium', two of three words match the answer's two.
  f1 = 2 * (2 / 3) * 1 / (2 / 3 + 1)
  assert text_metrics.squad(answers, outputs) == {
    'em': pytest.approx(100 / 3),
    'f1': pytest.approx(100 * (1 + f1 + 0) / 3),
  }


def test_squad_counts_repeated_words_as_often_as_they_are_shared():
  # Shared: b once. Precision 1/3, recall 1/2.
  values = text_metrics.squad([['b c']], ['b b b'])
  assert values == {'em': 0, 'f1': pytest.approx(40)}
  assert text_metrics.squad([['the']], ['']) == {'em': 100, 'f1': 0}


def test_record_counts_each_query_once():
  targets = [
    {'value': ['Ann', 'Ann Lee'], 'group': (0, 1)},
    {'value': ['Ann', 'Ann Lee'], 'group': (0, 1)},
    {'value': ['Bob'], 'group': (0, 2)},
  ]
  assert text_metrics.record(targets, ['ann', 'Zoe', 'Ann']) == {
    'em': pytest.approx(50),
    'f1': pytest.approx(50),
  }


def test_rouge_by_hand_and_by_lines():
  target = 'the cat sat . a dog ran'
  output = 'a dog ran . the cat slept'
  values = text_metrics.rouge([target, 'x y'], [output, 'x y'])
  # rouge-score drops the full stop: of six words five are shared; of five
  # pairs 'a dog', 'dog ran' and 'the cat'.
  assert values['rouge1'] == pytest.approx((100 * 5 / 6 + 100) / 2)
  assert values['rouge2'] == pytest.approx((100 * 3 / 5 + 100) / 2)
  # As lines, 'the cat' and 'a dog ran' match in any order; as a single line
  # they would not.
  assert values['rougeLsum'] == pytest.approx((100 * 5 / 6 + 100) / 2)
  assert text_metrics.rouge([target], [output]) == text_metrics.rouge(
    ['the cat sat .\na dog ran'], ['a dog ran .\nthe cat slept']
  )


def test_rouge_is_the_librarys_mean_without_stemming():
  targets = ['the runners were running fast', 'a b c d']
  outputs = ['the runner was running', 'b a d e f']
  scorer = rouge_scorer.RougeScorer(['rouge1', 'rouge2', 'rougeLsum'])
  scores = [scorer.score(t, o) for t, o in zip(targets, outputs, strict=True)]
  for name, value in text_metrics.rouge(targets, outputs).items():
    mean = sum(s[name].fmeasure for s in scores) / 2
    assert value == pytest.approx(100 * mean)


def test_bleu_is_sacrebleus_with_its_signature(caplog, monkeypatch):
  targets = ['Das ist ein "Test", oder?', 'Ja, das ist gut.', 'Ganz anders.']
  outputs = ['Das ist ein "Test", oder?', 'Ja das ist sehr gut.', 'Etwas.']
  expected = sacrebleu.corpus_bleu(outputs, [targets], tokenize='intl')
  monkeypatch.setattr(absl_logging.get_absl_logger(), 'propagate', True)
  with caplog.at_level(logging.INFO, logger='absl'):
    values = text_metrics.bleu(targets, outputs)
  assert values == {'bleu': pytest.approx(expected.score)}
  assert 20 < values['bleu'] < 90
  assert 'case:mixed|eff:no|tok:intl|smooth:exp|version:' in caplog.text
  assert text_metrics.bleu(targets, targets) == {'bleu': pytest.approx(100)}
