"""Detection of macros that refer to themselves."""

import pytest

from fnet_t5x import gin_check, macro_cycles


@pytest.mark.parametrize(
  'references, message',
  [
    ({'A': ['A']}, 'A = %A: the macro A refers to itself'),
    ({'A': ['B'], 'B': ['A']}, 'A = %B, B = %A: the macro A'),
    (
      {'X': ['A'], 'A': ['C', 'B'], 'B': ['D', 'A'], 'C': [], 'D': ['C']},
      'A = %B, B = %A',
    ),
    ({'s/A': ['B'], 'B': ['s/A']}, 's/A = %B, B = %s/A'),
    ({'A': ['s/B'], 'B': ['A']}, 'A = %B, B = %A'),
  ],
)
def test_cycles_are_named(references, message):
  with pytest.raises(ValueError) as error:
    macro_cycles.check(references)
  assert message in str(error.value)


@pytest.mark.parametrize(
  'references',
  [
    {},
    {'A': ['B', 'B'], 'B': []},
    {'A': ['B', 'C'], 'B': ['D'], 'C': ['D'], 'D': ['gin.REQUIRED']},
    # A scoped macro that refers to the one without a scope.
    {'s/A': ['A'], 'A': []},
    {'A': ['nowhere']},
  ],
)
def test_macros_without_cycles_pass(references):
  macro_cycles.check(references)


@pytest.mark.slow
def test_thousands_of_macros_in_a_row_pass():
  macro_cycles.check(
    {f'A{i}': [f'A{i + 1}'] for i in range(2000)} | {'A2000': []}
  )


@pytest.mark.parametrize(
  'text, bindings',
  [
    ('A = %B\nB = [1, {"x": (%A,)}]\n', []),
    ('A = 1\nB = %A\n', ['A = %B']),
    ('A = %s/B\ns/B = %A\n', []),
  ],
)
def test_files_and_bindings_are_followed(tmp_path, text, bindings):
  (tmp_path / 'run.gin').write_text(text)
  with pytest.raises(ValueError, match='refers to itself'):
    gin_check.read(['run.gin'], bindings, [str(tmp_path)])


def test_the_last_value_counts(tmp_path):
  (tmp_path / 'run.gin').write_text('A = %B\nB = %A\nB = 1\n')
  gin_check.read(['run.gin'], [], [str(tmp_path)])
