"""Summarization tasks, from TFDS examples to text to ROUGE."""

import pytest
import tfds_folders

from fnet_t5x.tasks import summarization


@pytest.mark.parametrize(
  ('task', 'tfds_name', 'split', 'example'),
  [
    (
      'fnet_cnn_dailymail',
      'cnn_dailymail:3.4.0',
      'test',
      {'article': 'It rained .', 'highlights': 'Rain fell .\nAll day .'},
    ),
    (
      'fnet_xsum',
      'xsum:1.1.0',
      'validation',
      {'document': 'It rained .', 'summary': 'Rain fell .\nAll day .'},
    ),
  ],
)
def test_articles_and_summaries(
  small_vocabulary, tfds_dir, task, tfds_name, split, example
):
  assert task in {entry.name for entry in summarization.ENTRIES}
  tfds_folders.write_known(tfds_dir, tfds_name, {split: [example]})
  (first,) = tfds_folders.read_task(task, split)
  assert first['inputs_pretokenized'] == 'summarize: It rained .'
  assert first['targets_pretokenized'] == 'Rain fell .\nAll day .'
  assert first['inputs'].tolist() == [
    *small_vocabulary.encode('summarize: It rained .'),
    1,
  ]
  # The lines of the summary are sentences, and so are the output's.
  values = tfds_folders.evaluate(task, ['All day . Rain fell .'], split)
  assert values == {
    'rouge1': pytest.approx(100),
    'rouge2': pytest.approx(100 * 2 / 3),
    'rougeLsum': pytest.approx(100),
  }
