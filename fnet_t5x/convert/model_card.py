"""Model card of an exported hybrid: only what its model directory says."""

import collections
import os
from collections.abc import Mapping
from typing import Any

from fnet_t5x import run_metrics
from fnet_t5x.runtime import model_directory

# Settings of the run, where config.gin has literal values of them.
_SETTINGS = (
  'MIXTURE_OR_TASK_NAME',
  'TASK_FEATURE_LENGTHS',
  'BATCH_SIZE',
  'TRAIN_STEPS',
  'LEARNING_RATE',
  'WARMUP_STEPS',
  'DROPOUT_RATE',
  'RANDOM_SEED',
  'ACTIVATION_DTYPE',
)
_LITERALS = (bool, int, float, str)
_VALIDATION_LOSS = 'cross_ent_per_target_token'
_USE = """\
```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = 'FOLDER'  # of this file
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer('TEXT', return_tensors='pt')
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```

Beam search with `num_beams=4, length_penalty=0.0, early_stopping='never'`
scores sequences by their log-probability.

Back to a checkpoint, from the folder above this one:

```
python -m fnet_t5x.convert.hybrid --from FOLDER CHECKPOINT
```
"""


def text(
  directory: model_directory.ModelDirectory,
  config: Mapping[str, Any],
  parameters: int,
) -> str:
  """Returns the card, in Markdown.

  Args:
    directory: the checkpoint's.
    config: content of `config.json`.
    parameters: their number.
  """
  counts = collections.Counter(config['encoder_mixing'])
  mixing = ', '.join(f'{count} {name}' for name, count in counts.items())
  facts = {
    'parameters': f'{parameters:,}',
    'encoder layers': f'{config["num_layers"]}: {mixing}',
    'decoder layers': config['num_decoder_layers'],
    'd_model, d_ff': f'{config["d_model"]}, {config["d_ff"]}',
    'heads, d_kv': f'{config["num_heads"]}, {config["d_kv"]}',
    'vocabulary': f'{config["vocab_size"]} rows',
    'step': directory.step,
    **_settings(directory),
    **_losses(directory),
  }
  lines = [
    '---',
    'library_name: transformers',
    'tags: [fnet, t5]',
    '---',
    '',
    '# FNet-T5',
    '',
    'An encoder that mixes tokens by Fourier transforms (FNet, 2105.03824), '
    "and T5 1.1's decoder. Trained with fnet_t5x; weights are in float32.",
    '',
    '| | |',
    '| --- | --- |',
    *(f'| {name} | {_cell(value)} |' for name, value in facts.items()),
    '',
  ]
  if config['fourier_lengths'] == 'padded':
    lines += [
      'Whole rows are transformed, padding included: pad inputs to the length '
      'of training.',
      '',
    ]
  return '\n'.join([*lines, _USE])


def _settings(directory: model_directory.ModelDirectory) -> dict[str, Any]:
  """Returns the run's settings that are literal values, without paths."""
  macros = model_directory.read_config(directory).macros
  return {
    f'`{name}`': f'`{macros[name]!r}`'
    for name in _SETTINGS
    if _is_literal(macros.get(name))
  }


def _is_literal(value: Any) -> bool:
  if isinstance(value, dict):
    return all(map(_is_literal, (*value.keys(), *value.values())))
  return isinstance(value, _LITERALS) and os.sep not in str(value)


def _losses(directory: model_directory.ModelDirectory) -> dict[str, str]:
  """Returns the last losses up to the checkpoint's step, in nats per token."""
  path = os.path.join(directory.folder, run_metrics.FILE)
  if not os.path.isfile(path):
    return {}
  found = {}
  for row in run_metrics.read(path).rows:
    collection = row['collection']
    if row['step'] > directory.step:
      continue
    name, key = 'training loss', 'loss'
    if collection.startswith(run_metrics.TRAINING_EVAL):
      task = collection.removeprefix(run_metrics.TRAINING_EVAL)
      name, key = f'validation loss of {task}', _VALIDATION_LOSS
    elif collection != run_metrics.TRAIN:
      continue
    if isinstance(row.get(key), (int, float)):
      found[name] = f'{row[key]:.4f} at step {row["step"]}'
  return found


def _cell(value: Any) -> str:
  """Returns text for a cell of a table."""
  return ' '.join(str(value).replace('|', '\\|').split())
