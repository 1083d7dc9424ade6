"""Exported hybrids in torch, where it and transformers are installed."""

import hybrid_folders
import numpy as np
import pytest
import sentencepiece_vocabularies

from fnet_t5x.convert import hybrid_conversion
from fnet_t5x.layers import relative_position

pytest.importorskip('safetensors')
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
hybrid_torch_outputs = pytest.importorskip('hybrid_torch_outputs')

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('case', hybrid_folders.CASES)
def test_torch_computes_the_same(case, tmp_path):
  """Logits within 1e-5, greedy and beam search token for token."""
  lines = hybrid_folders.CASES[case]
  ours = hybrid_folders.outputs(*hybrid_folders.write(tmp_path / 'run', *lines))
  hybrid_conversion.to_hugging_face(tmp_path / 'run', tmp_path / 'out')
  theirs = hybrid_torch_outputs.outputs(
    hybrid_torch_outputs.load(tmp_path / 'out')
  )
  error = np.abs(ours['logits'] - theirs['logits']).max()
  assert error < 1e-5 * np.abs(theirs['logits']).max()
  assert ours['greedy'] == theirs['greedy']
  assert ours['beam'] == theirs['beam']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  parent = tmp_path_factory.mktemp('exported')
  hybrid_folders.write(parent / 'run', *hybrid_folders.CASES['hybrid'])
  return hybrid_conversion.to_hugging_face(parent / 'run', parent / 'out')


@pytest.fixture
def model(folder):
  return hybrid_torch_outputs.load(folder)


def test_padding_changes_nothing_on_either_side(model):
  """Each row alone, padded right, and padded left; masks are derived."""
  inputs, targets = map(torch.tensor, hybrid_folders.batch())
  options = {'decoder_input_ids': targets}
  with torch.no_grad():
    right = model(input_ids=inputs, **options).logits
    lengths = (inputs != 0).sum(1).tolist()
    left = torch.stack(
      [row.roll(-n) for row, n in zip(inputs, lengths, strict=True)]
    )
    shifted = model(input_ids=left, **options).logits
    for i, n in enumerate(lengths):
      alone = model(
        input_ids=inputs[i : i + 1, :n],
        attention_mask=torch.ones(1, n),
        decoder_input_ids=targets[i : i + 1],
      ).logits
      scale = alone.abs().max()
      assert (right[i] - alone[0]).abs().max() < 1e-5 * scale
      assert (shifted[i] - alone[0]).abs().max() < 1e-5 * scale


def test_position_buckets_are_ours(folder, model):
  """At all distances, of which some are borders of buckets."""
  module = __import__(type(model).__module__, fromlist=['relative_buckets'])
  place = np.arange(300)
  want = relative_position.relative_position_bucket(
    place[None, :] - place[:, None]
  )
  got = module.relative_buckets(300, torch.device('cpu'))
  np.testing.assert_array_equal(got.numpy(), want)


def test_long_inputs_are_one_line(model):
  tokens = torch.full((1, 17), 5)
  with pytest.raises(ValueError, match='17 tokens: max_encoder_length is 16'):
    model(input_ids=tokens, decoder_input_ids=tokens)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_precision_loads_and_generates(dtype, folder, model):
  """Logits as far away as 8 bits of precision, in four layers, make them."""
  inputs, targets = map(torch.tensor, hybrid_folders.batch())
  half = transformers.AutoModelForSeq2SeqLM.from_pretrained(
    folder, trust_remote_code=True, dtype=dtype
  ).eval()
  assert half.shared.weight.dtype == getattr(torch, dtype)
  with torch.no_grad():
    want = model(input_ids=inputs, decoder_input_ids=targets).logits
    # By position, as T5's forward can be called.
    got = half(inputs, (inputs != 0).long(), targets).logits
    texts = half.generate(inputs, max_new_tokens=4, num_beams=2)
  assert (got.float() - want).abs().max() < 0.1 * want.abs().max()
  assert len(texts) == len(inputs)


def test_several_files_of_transformers_come_back(folder, model, tmp_path):
  model.save_pretrained(tmp_path / 'parts', max_shard_size='20KB')
  assert not (tmp_path / 'parts/model.safetensors').exists()
  leaves = [
    hybrid_folders.leaves(
      hybrid_conversion.from_hugging_face(source, tmp_path / f'back{i}')
    )
    for i, source in enumerate((folder, tmp_path / 'parts'))
  ]
  assert leaves[0].keys() == leaves[1].keys()
  for name, value in leaves[0].items():
    np.testing.assert_array_equal(leaves[1][name], value, err_msg=name)


def test_trained_further_and_back(model, tmp_path):
  """One step of fine-tuning; transformers' own files are read."""
  inputs, targets = map(torch.tensor, hybrid_folders.batch())
  model.train()
  loss = model(input_ids=inputs, labels=targets).loss
  loss.backward()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      assert parameter.grad is not None, name
      parameter -= 0.1 * parameter.grad
  model.save_pretrained(tmp_path / 'tuned')
  again = hybrid_torch_outputs.load(tmp_path / 'tuned')
  path = hybrid_conversion.from_hugging_face(
    tmp_path / 'tuned', tmp_path / 'back'
  )
  leaves = hybrid_folders.leaves(path)
  for ours, theirs in (
    ('token_embedder/embedding', again.shared.weight),
    ('decoder/logits_dense/kernel', again.lm_head.weight.T),
    ('encoder/layers_0/mlp/wo/kernel', model.encoder.layers[0].mlp.wo.weight.T),
  ):
    np.testing.assert_array_equal(
      leaves[f'target/{ours}'], theirs.detach().numpy(), err_msg=ours
    )


def test_bytes_are_byt5s(folder):
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    folder, trust_remote_code=True
  )
  text = 'naïve\ttext'
  want = [x + 3 for x in text.encode()]
  assert tokenizer(text).input_ids == [*want, 1]


@pytest.mark.parametrize('keeps_blanks', [False, True])
def test_tokenizer_has_the_ids_of_seqio(keeps_blanks, tmp_path):
  """Also of line breaks, blanks, bytes and sentinels, and of `</s>` as text."""
  vocabulary = sentencepiece_vocabularies.train(
    tmp_path, keeps_blanks=keeps_blanks
  )
  run = tmp_path / 'run'
  hybrid_folders.write_with_pieces(run, tmp_path / 'pieces.model', 4)
  out = hybrid_conversion.to_hugging_face(run, tmp_path / 'out')
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    out, trust_remote_code=True
  )
  tokenizer.save_pretrained(tmp_path / 'saved')
  saved = transformers.AutoTokenizer.from_pretrained(
    tmp_path / 'saved', trust_remote_code=True
  )
  texts = [
    'my fellow citizens',
    '  two  blanks, at both ends  ',
    'one line\n\nand another\n',
    'bytes: \N{SNOWMAN} é 你好',
    'a <extra_id_0> b <extra_id_3>',
    'no end</s> here <pad> <unk>',
    '',
  ]
  for text in texts:
    ids = [int(x) for x in vocabulary.encode(text)]
    for each in (tokenizer, saved):
      assert each(text).input_ids == [*ids, 1], text
      assert each(text, add_special_tokens=False).input_ids == ids, text
    decoded = vocabulary.tokenizer.decode(ids)
    assert tokenizer.decode([*ids, 1], skip_special_tokens=True) == decoded
    assert tokenizer.decode([*ids, 1]) == f'{decoded}</s>'
  batch = tokenizer(texts[:3], padding=True, return_tensors='pt')
  assert batch.attention_mask.sum(1).tolist() == [
    len(vocabulary.encode(text)) + 1 for text in texts[:3]
  ]
