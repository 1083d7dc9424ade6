"""Summary of your own text, printed before a training run's first step."""

from collections.abc import Iterator, Mapping

import gin
import seqio

from fnet_t5x.tasks import (
  catalog,
  document_files,
  spelling,
  text_files,
  text_survey,
)

_KILO = 1000


def lines(
  task_name: str,
  feature_lengths: Mapping[str, int],
  batch_size: int,
  steps: int,
) -> Iterator[str]:
  """Yields lines on a run's text; none if the task reads another source.

  Args:
    task_name: task or mixture that the run trains on.
    feature_lengths: tokens per example, by feature.
    batch_size: examples per step.
    steps: number of training steps.

  Raises:
    DocumentError: a bad document, unless these are skipped.
    FileNotFoundError: there are no files.
    ValueError: a split is empty.
  """
  task = catalog.get(task_name)
  if not _reads_text(task):
    return
  options = document_files.ReadOptions()
  share = gin.get_bindings(text_files.corpus).get('held_out_share')
  files, part = text_files.corpus('train')
  validation_files, _ = text_files.corpus('validation')
  if part.share:
    text = held_out = text_survey.survey(files, options, share)
  else:
    text = text_survey.survey(files, options, 0.0)
    held_out = text_survey.survey(validation_files, options, 1.0)
  _check(text, held_out)
  vocabulary = task.output_features['targets'].vocabulary
  found = spelling.spelling(vocabulary, text.sample)
  tokens = text.estimated_bytes / max(1e-9, found.bytes_per_token)
  about = '' if text.whole else 'at least '
  yield (
    f'text: {_count(text.files, "file")}, '
    f'{about}{_count(text.documents, "document")}, '
    f'{_bytes(text.estimated_bytes)}, about {_round(tokens):,} tokens'
  )
  what = 'passage' if part.passage_bytes else 'document'
  yield (
    f'held out for validation: {_count(held_out.held_out, what)}, '
    f'{_bytes(held_out.held_out_bytes)}'
    + ('' if held_out.whole else ' or more')
  )
  yield from _vocabulary(found)
  if text.skipped:
    yield (
      f'skipped: {_count(text.skipped, "bad document")} '
      '(SKIP_BAD_DOCUMENTS=False names the first)'
    )
  taken = steps * batch_size * sum(feature_lengths.values())
  if tokens and text.whole:
    lengths = ' + '.join(str(n) for n in feature_lengths.values())
    yield (
      f'{_count(steps, "step")} of {batch_size} x ({lengths}) tokens: '
      f'about {taken / tokens:.2g} passes over the text'
    )


def _reads_text(task: seqio.Task | seqio.Mixture) -> bool:
  tasks = task.tasks if isinstance(task, seqio.Mixture) else [task]
  return any(t.source is text_files.SOURCE for t in tasks)


def _vocabulary(found: spelling.Spelling) -> Iterator[str]:
  yield (
    f'vocabulary: {found.pieces:,} pieces, '
    f'{found.bytes_per_token:.2f} bytes per token'
  )
  yield f'  {found.vocabulary}'
  yield from spelling.remedies(found)


def _check(text: text_survey.Survey, held_out: text_survey.Survey) -> None:
  """Checks that there is text to train on and to evaluate on.

  Partial surveys pass, since they may have missed it.
  """
  if text.whole and not text.num_bytes:
    raise ValueError(
      f'TEXT_FILES: no text in {_count(text.files, "file")}; name other files'
    )
  if held_out.whole and not held_out.held_out_bytes:
    raise ValueError(
      f'{_count(held_out.documents, "document")} of '
      f'{_bytes(held_out.num_bytes)}, none of them held out for validation: '
      'raise HELD_OUT_SHARE, set it to None, or set TEXT_VALIDATION_FILES'
    )
  if text is held_out and text.whole and text.held_out_bytes == text.num_bytes:
    raise ValueError(
      'all documents are held out for validation: lower HELD_OUT_SHARE, set it '
      'to None, or set TEXT_VALIDATION_FILES'
    )


def _count(number: int, what: str) -> str:
  return f'{number:,} {what}{"" if number == 1 else "s"}'


def _bytes(number: int) -> str:
  for unit in ('bytes', 'KB', 'MB'):
    if number < _KILO:
      return f'{number:.3g} {unit}'
    number /= _KILO
  return f'{number:,.3g} GB'


def _round(number: float) -> int:
  """Rounds an estimate to two significant digits."""
  return int(float(f'{number:.2g}'))
