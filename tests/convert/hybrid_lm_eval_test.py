"""Exported hybrids in lm-evaluation-harness, where it is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import hybrid_folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece_vocabularies

from fnet_t5x.convert import hybrid_conversion

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not all(
      importlib.util.find_spec(name)
      for name in ('lm_eval', 'torch', 'transformers', 'accelerate')
    ),
    reason='lm-eval is not installed',
  ),
]
TASK = """\
task: endings
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: context
doc_to_choice: endings
doc_to_target: label
metric_list:
  - metric: acc
"""
EXAMPLES = [
  ('my fellow citizens, the state of', ['the union', 'america', 'freedom']),
  ('we must help', ['the people', 'their friends']),
  ("don't forget the well-known words", ['(of freedom)', 'of 1862']),
]


def test_loglikelihoods_are_our_scores(tmp_path):
  """Of all endings, by the command as a user would type it, offline."""
  vocabulary = sentencepiece_vocabularies.train(tmp_path)
  model, params = hybrid_folders.write_with_pieces(
    tmp_path / 'run', tmp_path / 'pieces.model', 4
  )
  out = hybrid_conversion.to_hugging_face(tmp_path / 'run', tmp_path / 'out')
  tasks = tmp_path / 'tasks'
  tasks.mkdir()
  (tasks / 'endings.yaml').write_text(
    TASK.format(file=tmp_path / 'examples.jsonl')
  )
  (tmp_path / 'examples.jsonl').write_text(
    '\n'.join(
      json.dumps({'context': context, 'endings': endings, 'label': 0})
      for context, endings in EXAMPLES
    )
  )
  command = [
    *(sys.executable, '-m', 'lm_eval', '--model', 'hf'),
    '--model_args',
    f'pretrained={out},backend=seq2seq,trust_remote_code=True,dtype=float32',
    *('--tasks', 'endings', '--include_path', str(tasks)),
    *('--device', 'cpu', '--batch_size', '3'),
    *('--output_path', str(tmp_path / 'results'), '--log_samples'),
  ]
  offline = {'HF_HUB_OFFLINE': '1', 'HF_DATASETS_OFFLINE': '1'}
  done = subprocess.run(
    command,
    cwd=tmp_path,
    env={**os.environ, **offline, 'HF_HOME': str(tmp_path / 'home')},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  (samples,) = (tmp_path / 'results').rglob('samples_*.jsonl')
  rows = [json.loads(line) for line in samples.read_text().splitlines()]
  rows.sort(key=lambda row: row['doc_id'])
  theirs = [float(r[0][0]) for row in rows for r in row['resps']]

  pairs = [(c, e) for c, endings in EXAMPLES for e in endings]
  inputs, targets = np.zeros((2, len(pairs), 30), np.int32)
  for i, (context, ending) in enumerate(pairs):
    tokens = [*vocabulary.encode(context), 1]
    inputs[i, : len(tokens)] = tokens
    tokens = vocabulary.encode(f' {ending}')
    targets[i, : len(tokens)] = tokens
  batch = {
    'encoder_input_tokens': inputs,
    'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    'decoder_target_tokens': targets,
    'decoder_loss_weights': (targets > 0).astype(np.int32),
  }
  ours = jax.jit(model.score_batch)(params, jax.tree.map(jnp.asarray, batch))
  assert len(theirs) == len(pairs)
  np.testing.assert_allclose(theirs, np.asarray(ours), rtol=1e-5)
