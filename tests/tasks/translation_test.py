"""WMT: strings from TFDS's examples, and BLEU to the end."""

import pytest
import sacrebleu
import tfds_folders


@pytest.mark.parametrize(
  ('code', 'tfds_name', 'language'),
  [
    ('de', 'wmt_t2t_translate/de-en:1.0.0', 'German'),
    ('fr', 'wmt14_translate/fr-en:1.0.0', 'French'),
    ('ro', 'wmt16_translate/ro-en:1.0.0', 'Romanian'),
  ],
)
def test_pairs(small_vocabulary, tfds_dir, code, tfds_name, language):
  targets = ['La la la, so fa la.', 'Do re mi fa so la ti do.']
  tfds_folders.write_known(
    tfds_dir,
    tfds_name,
    {'test': [{'en': 'That is good.', code: t} for t in targets]},
  )
  first, _ = tfds_folders.read_task(f'fnet_wmt_en_{code}', 'test')
  inputs = f'translate English to {language}: That is good.'
  assert first['inputs_pretokenized'] == inputs
  assert first['targets_pretokenized'] == targets[0]
  assert first['inputs'].tolist() == [*small_vocabulary.encode(inputs), 1]
  outputs = ['La la la, so la.', 'Do re mi fa so la.']
  expected = sacrebleu.corpus_bleu(outputs, [targets], tokenize='intl').score
  values = tfds_folders.evaluate(f'fnet_wmt_en_{code}', outputs, 'test')
  assert values == {'bleu': pytest.approx(expected)}
  assert 30 < expected < 90
