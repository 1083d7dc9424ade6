"""Answers by rules, from made-up figures with known answers."""

import pytest

from fnet_t5x.benchmarks import results_answers


def mixing(length, ours, attention):
  return [
    {
      'shape': [1, length, 8],
      'case': case,
      'direction': direction,
      'median_seconds': seconds,
      'speedup': 1.5,
    }
    for case, seconds in (
      ('ours, exact, full rows', ours),
      ('T5 self-attention', attention),
    )
    for direction in ('forward', 'forward+backward')
  ]


@pytest.mark.parametrize(
  ('seconds', 'answer'),
  [
    (((1, 2), (1, 4)), '?** Yes. '),
    (((1, 0.5), (1, 4)), '?** At some lengths. '),
    (((1, 0.5), (1, 0.25)), '?** No. '),
  ],
)
def test_mixing_against_attention(seconds, answer):
  records = mixing(16, *seconds[0]) + mixing(32, *seconds[1])
  (line,) = results_answers.mixing_answers(records)
  assert answer in line
  first, second = (attention / ours for ours, attention in seconds)
  assert f'is {first:.2f} at 16 and {second:.2f} at 32 tokens, a ratio' in line


def test_fnet_against_bert():
  records = [
    {'encoder': name, 'length': 8, 'direction': direction, 'speedup': speedup}
    for name, speedup in (('BERT', 1.0), ('FNet', 1.25), ('Linear', 0.5))
    for direction in ('forward', 'forward+backward')
  ]
  (line,) = results_answers.encoders_answers(records)
  assert '?** Yes. ' in line and 'is 1.25 at 8 tokens' in line


def losses(**models):
  return [
    {'model': model.replace('_', '-'), 'seed': seed, 'loss': loss}
    for model, found in models.items()
    for seed, loss in enumerate(found)
  ]


def test_losses_are_decided_only_if_all_seeds_agree():
  context, hybrid, *others = results_answers.quality_answers(
    losses(
      hybrid=[3.0, 3.2, 3.1],
      T5=[3.1, 3.1, 3.3],
      GPT_2=[3.5, 3.4, 3.3],
      control=[2.9, 3.1, 3.0],
      none=[4.0, 4.0, 4.0],
    )
  )
  assert '?** Yes. Attention (T5) less no mixing' in context
  assert 'is 3.1000 nats' in hybrid and '(3.0000 to 3.2000)' in hybrid
  assert [line.split(' (beyond')[0] for line in others] == [
    '  - T5: -0.1000 (-0.2000 to +0.1000). No clear difference',
    '  - GPT-2: -0.2000 (-0.5000 to -0.2000). The hybrid is better',
    '  - control: +0.1000 (+0.1000 to +0.1000). The hybrid is worse',
    '  - none: -0.9000 (-1.0000 to -0.8000). The hybrid is better',
  ]
  assert others[0].endswith('better with 2 and worse with 1 of 3 seeds).')


def test_a_difference_within_two_standard_errors_is_none():
  records = losses(hybrid=[3.0, 3.0], T5=[3.1, 3.3])
  for record in records:
    record['standard_error'] = 0.06
  *_, line = results_answers.quality_answers(records)
  assert 'No clear difference' in line
  assert 'better with 1 and worse with 0 of 2 seeds' in line


def test_a_disturbed_clock_is_said():
  records = losses(hybrid=[3.0, 3.0], T5=[3.1, 3.3])
  for record, steps in zip(records, (95, 100, 60, 90), strict=True):
    record['steps'] = steps
  *_, line = results_answers.quality_answers(records)
  assert line.startswith('**Was the machine quiet?** No.')
  assert 'vary: T5 60 to 90. ' in line
  for record in records:
    record['steps'] = 100
  assert 'quiet' not in ''.join(results_answers.quality_answers(records))


@pytest.mark.parametrize(
  ('none', 'answer'),
  [([3.5, 3.5], 'Yes'), ([3.5, 2.0], 'Not with every'), ([2.0, 2.0], 'No.')],
)
def test_whether_context_counts(none, answer):
  line, *_ = results_answers.quality_answers(losses(T5=[3.0, 3.0], none=none))
  assert f'?** {answer}' in line


def test_one_seed_has_no_spread():
  lines = results_answers.quality_answers(losses(hybrid=[3.0], T5=[3.5]))
  assert 'over 1 seed. ' in lines[0]
  assert lines[1].startswith('  - T5: -0.5000, of one seed.')


def generation(model, prefix, rows, first, encode=None):
  return {
    'model': model,
    'prefix': prefix,
    'rows': rows,
    'first_token_seconds': first,
    'encode_seconds': encode,
    'prefill_seconds': first - (encode or 0),
    'token_seconds': 0.002,
    'first_speedup': 8.0 / first,
    'all_speedup': 1.5,
    'prefix_flops': 4e9,
    'prefix_attention_flops': 1e9,
  }


@pytest.mark.parametrize(
  ('first', 'answer', 'speedup'), [(4.0, 'Yes', '2.00'), (5.0, 'No', '1.60')]
)
def test_the_first_token_against_gpt2(first, answer, speedup):
  records = [
    generation('hybrid', 16, 2, 1.0, 0.5),
    generation('GPT-2', 16, 2, 8.0),
    generation('hybrid', 64, 2, first, 3.0),
    generation('T5', 64, 2, 8.0, 7.0),
    generation('GPT-2', 64, 2, 8.0),
    generation('hybrid', 64, 1, 1.0, 0.5),
    generation('GPT-2', 64, 1, 8.0),
    {'model': 'T5', 'prefix': 128, 'rows': 2, 'skipped': 'too large'},
  ]
  goal, where = results_answers.inference_answers(records)
  assert f"GPT-2's?** {answer}. After 64 tokens at batch size 2" in goal
  assert f"is {speedup} (T5's 1.00): {first:.3g} s against 8 s" in goal
  assert f'8.00 at 16 x 2, {speedup} at 64 x 2, 8.00 at 64 x 1.' in goal
  share = f'{100 * 3.0 / first:.0f} %'
  assert (
    f'hybrid spends {share} in its encoder (4 GFLOPs per row, 25 %' in where
  )
  assert 'GPT-2 reads the prefix in its decoder' in where
  assert 'GPT-2 2 ms' in where


@pytest.mark.parametrize('rule', results_answers.ANSWERS.values())
def test_without_figures_there_is_no_answer(rule):
  assert rule([]) == []
