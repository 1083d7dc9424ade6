"""WMT, from TFDS examples to text to BLEU."""

import pytest
import sacrebleu
import tfds_folders

from fnet_t5x.tasks import translation


@pytest.mark.parametrize(
  ('code', 'tfds_name', 'language'),
  [
    ('de', 'wmt_t2t_translate/de-en:1.0.0', 'German'),
    ('fr', 'wmt14_translate/fr-en:1.0.0', 'French'),
    ('ro', 'wmt16_translate/ro-en:1.0.0', 'Romanian'),
  ],
)
def test_pairs(small_vocabulary, tfds_dir, code, tfds_name, language):
  tfds_folders.write_known(
    tfds_dir, tfds_name, {'test': [{'en': 'That is good.', code: 'So la.'}]}
  )
  assert f'fnet_wmt_en_{code}' in {entry.name for entry in translation.ENTRIES}
  (first,) = tfds_folders.read_task(f'fnet_wmt_en_{code}', 'test')
  inputs = f'translate English to {language}: That is good.'
  assert first['inputs_pretokenized'] == inputs
  assert first['targets_pretokenized'] == 'So la.'
  assert first['inputs'].tolist() == [*small_vocabulary.encode(inputs), 1]


def test_bleu_of_a_task(small_vocabulary, tfds_dir):
  targets = ['La la la, so fa la.', 'Do re mi fa so la ti do.']
  tfds_folders.write_known(
    tfds_dir,
    'wmt_t2t_translate/de-en:1.0.0',
    {'test': [{'en': 'x', 'de': target} for target in targets]},
  )
  outputs = ['La la la, so la.', 'Do re mi fa so la.']
  expected = sacrebleu.corpus_bleu(outputs, [targets], tokenize='intl').score
  values = tfds_folders.evaluate('fnet_wmt_en_de', outputs, 'test')
  assert values == {'bleu': pytest.approx(expected)}
  assert 30 < expected < 90
