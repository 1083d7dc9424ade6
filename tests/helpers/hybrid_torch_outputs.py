"""Outputs of an exported hybrid in torch, loaded as its users load it."""

import hybrid_folders
import torch
import transformers


def load(folder):
  """Returns the model of an exported folder, whose tensors are all used."""
  model, found = transformers.AutoModelForSeq2SeqLM.from_pretrained(
    folder, trust_remote_code=True, output_loading_info=True
  )
  if any(found.values()):
    raise ValueError(f'{folder}: {found}')
  return model.eval()


def outputs(model) -> dict:
  """Returns logits, and tokens of greedy and beam search, up to EOS."""
  inputs, targets = map(torch.tensor, hybrid_folders.batch())
  options = {
    'attention_mask': (inputs != 0).long(),
    'do_sample': False,
    'max_new_tokens': hybrid_folders.NEW_TOKENS,
  }
  with torch.no_grad():
    logits = model(
      input_ids=inputs,
      attention_mask=options['attention_mask'],
      decoder_input_ids=targets,
    ).logits
    greedy = model.generate(inputs, **options)
    # Without length penalty, until nothing better can follow.
    beam = model.generate(
      inputs,
      num_beams=hybrid_folders.BEAMS,
      length_penalty=0.0,
      early_stopping='never',
      **options,
    )
  return {
    'logits': logits.numpy(),
    'greedy': hybrid_folders.until_eos(greedy[:, 1:]),
    'beam': hybrid_folders.until_eos(beam[:, 1:]),
  }
