"""T5 and GPT-2 against Hugging Face's, where torch is installed.

In both directions, with weights that transformers made and saved.
"""

import converted_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece_vocabularies

from fnet_t5x.convert import hf_conversion

pytest.importorskip('safetensors')
torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
hugging_face_torch = pytest.importorskip('hugging_face_torch')

pytestmark = pytest.mark.slow
NEW_TOKENS, BEAMS = 12, 4


def t5(**options):
  return transformers.T5ForConditionalGeneration(
    transformers.T5Config(
      vocab_size=40,
      d_model=24,
      d_kv=6,
      d_ff=32,
      num_heads=3,
      num_layers=3,
      num_decoder_layers=2,
      decoder_start_token_id=0,
      **options,
    )
  )


def t5_1_1():
  model = t5(feed_forward_proj='gated-gelu', tie_word_embeddings=False)
  # Newer versions tie the output layer at first.
  model.lm_head.weight = torch.nn.Parameter(torch.zeros(40, 24))
  return model


def t5_1_0():
  return t5(feed_forward_proj='relu')


def mt5():
  model = transformers.MT5ForConditionalGeneration(
    transformers.MT5Config(
      vocab_size=40,
      d_model=24,
      d_kv=8,
      d_ff=32,
      num_heads=2,
      num_layers=3,
      decoder_start_token_id=0,
      tie_word_embeddings=False,
    )
  )
  model.lm_head.weight = torch.nn.Parameter(torch.zeros(40, 24))
  return model


def gpt2():
  return transformers.GPT2LMHeadModel(
    transformers.GPT2Config(
      vocab_size=40,
      n_embd=24,
      n_layer=3,
      n_head=3,
      n_positions=32,
      bos_token_id=39,
      eos_token_id=39,
    )
  )


@pytest.mark.parametrize('make', [t5_1_1, t5_1_0, mt5, gpt2])
def test_both_directions(make, tmp_path):
  """Logits within 1e-5; outputs token for token; exported folders.

  Hugging Face's beam search scores `log p / length ** length_penalty`, ours
  `log p / ((5 + length) / 6) ** alpha`: they are equal where both are 0.
  """
  torch.manual_seed(0)
  theirs = make().eval()
  kind = theirs.config.model_type
  # Biases and norms are constants at first, and weights small.
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter.add_(0.3 * torch.randn_like(parameter))
  theirs.save_pretrained(tmp_path / 'hf', max_shard_size='20KB')
  assert (tmp_path / 'hf/model.safetensors.index.json').exists()
  path = hf_conversion.from_hugging_face(tmp_path / 'hf', tmp_path / 'ours')
  module, params = converted_models.load(path)

  random = np.random.default_rng(0)
  inputs = random.integers(2, 39, (3, 8))
  targets = random.integers(2, 39, (3, 6))
  targets[:, 0] = 0
  to_ours, eos, options = np.arange(40), 1, {}
  if kind == 'gpt2':
    to_ours[[0, 39]] = 39, 0
    inputs[:, 0] = eos = 39
    options['bos_token_id'] = 39
  else:
    inputs[0, 5:] = 0
  want = hugging_face_torch.outputs(theirs, inputs, targets, NEW_TOKENS, BEAMS)
  logits = converted_models.logits(
    module, params, jnp.asarray(to_ours[inputs]), jnp.asarray(targets)
  )
  logits, other = np.asarray(logits)[..., to_ours], np.array(want['logits'])
  assert np.abs(logits - other).max() < 1e-5 * np.abs(other).max()
  endless = 40  # no token
  searches = [
    ('greedy', None, to_ours[eos]),
    ('beam', BEAMS, to_ours[eos]),
    ('endless_beam', BEAMS, endless),
  ]
  if make in (t5_1_1, gpt2):
    # Outputs that end, where the two searches may differ: of the 8 best
    # candidates of a step, ours (and T5X's) lets all end, Hugging Face only the
    # first 4, and it also counts beams that are cut at the end as finished.
    del searches[1]
  for name, beams, ours in searches:
    got = converted_models.generate(
      module, params, to_ours[inputs], NEW_TOKENS, ours, beams
    )
    end = endless if ours == endless else eos
    got = converted_models.until(to_ours[got], end)
    assert got == converted_models.until(want[name], end), name

  back = hf_conversion.to_hugging_face(path, tmp_path / 'back', **options)
  kind = 't5' if kind == 'mt5' else kind
  again = hugging_face_torch.load(back, kind)
  same = hugging_face_torch.outputs(again, inputs, targets, NEW_TOKENS, BEAMS)
  assert same == want


def test_gpt2_of_124m(tmp_path):
  """The smallest published size: logits and greedy outputs."""
  torch.manual_seed(0)
  theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
  eos = 50256
  theirs.save_pretrained(tmp_path / 'hf')
  path = hf_conversion.from_hugging_face(tmp_path / 'hf', tmp_path / 'ours')
  module, params = converted_models.load(path)
  assert sum(x.size for x in jax.tree.leaves(params)) == 124_439_808
  inputs = np.random.default_rng(0).integers(1, eos, (2, 64))
  inputs[:, 0] = eos
  to_ours = np.arange(eos + 1)
  to_ours[[0, eos]] = eos, 0
  ids = torch.tensor(inputs)
  with torch.no_grad():
    want = theirs(ids).logits.numpy()
    greedy = theirs.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      do_sample=False,
      max_new_tokens=8,
      pad_token_id=eos,
    )[:, 64:]
  logits = converted_models.logits(
    module, params, jnp.asarray(to_ours[inputs]), None
  )
  logits = np.asarray(logits)[..., to_ours]
  assert np.abs(logits - want).max() < 1e-5 * np.abs(want).max()
  got = converted_models.generate(module, params, to_ours[inputs], 8, 0)
  assert converted_models.until(to_ours[got], eos) == (
    converted_models.until(greedy, eos)
  )


def test_tokenizer_of_an_exported_t5(tmp_path):
  """Ids of texts, of their end, and of sentinels are those of SeqIO."""
  torch.manual_seed(0)
  vocabulary = sentencepiece_vocabularies.train(tmp_path, extra_ids=100)
  config = transformers.T5Config(
    vocab_size=512,
    d_model=8,
    d_kv=4,
    d_ff=8,
    num_heads=2,
    num_layers=1,
    feed_forward_proj='gated-gelu',
  )
  theirs = transformers.T5ForConditionalGeneration(config)
  theirs.save_pretrained(tmp_path / 'hf')
  pieces = (tmp_path / 'pieces.model').read_bytes()
  (tmp_path / 'hf/spiece.model').write_bytes(pieces)
  path = hf_conversion.from_hugging_face(tmp_path / 'hf', tmp_path / 'ours')
  back = hf_conversion.to_hugging_face(path, tmp_path / 'back')
  tokenizer = transformers.AutoTokenizer.from_pretrained(back)
  for text in ('my fellow citizens', 'the well-known words (of freedom), 1862'):
    assert tokenizer(text).input_ids == [*vocabulary.encode(text), 1]
  first = vocabulary.vocab_size - 1
  assert tokenizer.convert_tokens_to_ids('<extra_id_0>') == first
