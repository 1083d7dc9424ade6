"""Hugging Face's T5 and GPT-2 in torch."""

import pathlib
import tempfile

import hugging_face_models
import torch
import transformers

CLASSES = {
  't5': transformers.T5ForConditionalGeneration,
  'gpt2': transformers.GPT2LMHeadModel,
}


def build(config):
  """Returns Hugging Face's model, with tensors drawn from their names."""
  with tempfile.TemporaryDirectory() as parent:
    folder = pathlib.Path(parent) / 'model'
    tensors = hugging_face_models.tensors(config)
    hugging_face_models.write(folder, tensors, config)
    return load(folder, config['model_type'])


def load(folder, model_type):
  """Returns Hugging Face's model of a folder, whose tensors are all used."""
  model, found = CLASSES[model_type].from_pretrained(
    folder, output_loading_info=True
  )
  if any(found.values()):
    raise ValueError(f'{folder}: {found}')
  return model.eval()


def outputs(model, inputs, targets, new_tokens, beams):
  """Returns logits, and outputs of greedy and beam search, as lists.

  Beam search has no length penalty and stops when nothing better can follow:
  so it is ours with `alpha=0`, but for the rules by which texts end. For
  'endless_beam' no token ends them.
  """
  inputs = torch.tensor(inputs)
  options = {'do_sample': False, 'max_new_tokens': new_tokens}
  options['attention_mask'] = mask = (inputs != 0).long()
  beam = {'length_penalty': 0.0, 'early_stopping': 'never'}
  start = 1
  with torch.no_grad():
    if model.config.model_type == 'gpt2':
      logits = model(inputs).logits
      options['pad_token_id'] = model.config.eos_token_id
      start = inputs.shape[1]
    else:
      targets = torch.tensor(targets)
      logits = model(
        input_ids=inputs, attention_mask=mask, decoder_input_ids=targets
      ).logits
    greedy = model.generate(inputs, **options)
    best = model.generate(inputs, num_beams=beams, **options, **beam)
    eos, model.generation_config.eos_token_id = (
      model.generation_config.eos_token_id,
      None,
    )
    endless = model.generate(inputs, num_beams=beams, **options, **beam)
    model.generation_config.eos_token_id = eos
  return {
    'logits': logits.tolist(),
    'greedy': greedy[:, start:].tolist(),
    'beam': best[:, start:].tolist(),
    'endless_beam': endless[:, start:].tolist(),
  }
