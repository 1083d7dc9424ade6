"""README of an exported folder: what `export.json` says, for people."""

from collections.abc import Mapping
from typing import Any

_HEAD = """\
# {network}, exported

A trained model as programs of `jax.export` (StableHLO), from token ids to token
ids. It runs without fnet_t5x, with which it was trained and exported.

| | |
| --- | --- |
| network | {network}, {parameters:,} parameters |
| task, step | {task}, {step} |
| vocabulary | {kind}, {size} ids: padding {pad_id}, EOS {eos_id} |
| platforms | {platforms} |
| batch | {batch} |
| exported with | JAX {jax}, fnet_t5x {fnet_t5x} |

{use}
`loader.py` needs jax, numpy, safetensors{sentencepiece}. It is short, and an
example to copy. Without it:

```python
import jax.export
from safetensors.numpy import load_file

program = open('{mode}.{platform}.jax', 'rb').read()
function = jax.jit(jax.export.deserialize(bytearray(program)).call)
outputs = function(load_file('model.safetensors'), {inputs})
```

| file | content |
| --- | --- |
| `<mode>.<backend>.jax` | a program for one of JAX's backends |
| `model.safetensors` | the parameters, the programs' first argument |
{vocabulary_file}| `export.json` | inputs, outputs, settings and versions |

"""
_MODES = {
  'generate': 'The text after a prompt, as `python -m fnet_t5x.generate`',
  'predict': "The output for a task's inputs, by the model's own decoding "
  "function (T5X's `predict_batch_with_aux`)",
  'score': "Log-likelihood of the targets in nats, EOS included (T5X's "
  '`score_batch`)',
}
_MEANINGS = {
  'tokens': 'ids of the {what}, then zeros',
  'inputs': 'ids of the inputs, then zeros',
  'targets': 'ids of the targets and EOS, then zeros',
  'word_may_follow': 'whether the first word may follow without a space: '
  'False if the prompt ends with a whole word',
  'noise': 'seed, CRC-32 of the prompt, number of the sample: rows with the '
  'same three numbers draw the same noise',
  'finite': 'whether the logits were; else the text means nothing',
  'scores': 'log-likelihood or score, in nats',
}
_TAIL = """\
A row of zeros fills up a batch. Longer rows than the shape says are an error:
shorten the text.

**How long it lasts.** JAX reads programs for six months of its later releases,
and for three weeks of earlier ones; afterwards, export the checkpoint again.
"""


def text(about: Mapping[str, Any]) -> str:
  """Returns the README, in Markdown.

  Args:
    about: content of `export.json`.
  """
  modes = list(about['programs'])
  first = about['programs'][modes[0]]
  has_pieces = about['vocabulary']['kind'] == 'sentencepiece'
  size = about['batch_size']
  head = _HEAD.format(
    **about['model'],
    **about['vocabulary'],
    **about['versions'],
    platforms=', '.join(about['platforms']),
    batch='any number of rows' if size is None else f'{size} rows per call',
    use=_use(about['programs']),
    sentencepiece=' and sentencepiece' if has_pieces else '',
    mode=modes[0],
    platform=about['platforms'][0],
    inputs=', '.join(spec['name'] for spec in first['inputs']),
    vocabulary_file=(
      '| `vocabulary.model` | the SentencePiece model, with its sentinels |\n'
      if has_pieces
      else ''
    ),
  )
  parts = [_program(mode, about['programs'][mode]) for mode in modes]
  return '\n'.join([head.rstrip('\n') + '\n', *parts, _TAIL])


def _use(programs: Mapping[str, Any]) -> str:
  """Returns a block of code that calls each program by the loader."""
  calls = []
  for mode, program in programs.items():
    texts = [f"{s['name']}=['TEXT']" for s in program['inputs']]
    given = ', '.join(texts) if mode == 'score' else "['TEXT']"
    calls.append(f'print(model.{mode}({given}))')
  lines = ['import loader', '', "model = loader.Model('.')", *calls]
  return '\n'.join(['```python', *lines, '```', ''])


def _program(mode: str, program: Mapping[str, Any]) -> str:
  """Returns the section of a mode."""
  lines = [f'## {mode}', '', f'{_MODES[mode]}.', '']
  lines += ['| | shape | dtype | meaning |', '| --- | --- | --- | --- |']
  for kind in ('inputs', 'outputs'):
    for spec in program[kind]:
      meaning = _MEANINGS[spec['name']].format(
        what='text' if kind == 'outputs' else 'prompt'
      )
      if spec.get('eos_follows'):
        meaning = meaning.replace(', then', ' and EOS, then')
      shape = ', '.join(map(str, spec['shape']))
      lines.append(
        f'| {kind[:-1]} `{spec["name"]}` | [{shape}] | {spec["dtype"]} | '
        f'{meaning} |'
      )
  settings = ', '.join(
    f'`{name}` {value}' for name, value in program['settings'].items()
  )
  if settings:
    lines += ['', f'Settings: {settings}.']
  return '\n'.join([*lines, ''])
