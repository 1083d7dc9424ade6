"""Tokenized corpus in plain files, for machines without SeqIO.

A folder has `manifest.json` and one array per split and side, such as
`train_inputs.npy`, with one row per example, padded with 0.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FORMAT = 'tokens of fnet_t5x.benchmarks.accelerator, 1'
TASK = 'fnet_text_span_corruption'
LENGTHS = {'inputs': 512, 'targets': 114}
# 1,252 bytes each: 31 MB in total, which is easy to copy.
ROWS = {'train': 24000, 'validation': 1000}
_DTYPE = np.uint16
_FILES = tuple(f'{split}_{side}.npy' for split in ROWS for side in LENGTHS)


@dataclasses.dataclass(frozen=True)
class PreparedCorpus:
  """Tokens of a folder.

  Attributes:
    vocab_size: number of embeddings that a network needs for them.
    task: the SeqIO task that made them.
    arrays: [rows, length], by name: `train_inputs`, `train_targets`,
      `validation_inputs` and `validation_targets`.
  """

  vocab_size: int
  task: str
  arrays: Mapping[str, np.ndarray]


def load(folder: pathlib.Path) -> PreparedCorpus:
  """Reads a folder, which need not be trusted: nothing in it is executed.

  Raises:
    ValueError: if a file is missing, damaged or contradicts the manifest; the
      message names it.
  """
  path = folder / 'manifest.json'
  try:
    manifest = json.loads(path.read_bytes())
    if manifest['format'] != FORMAT:
      raise ValueError(f'its format is not {FORMAT!r}')
    vocab_size, task = manifest['vocab_size'], manifest['task']
    digests = {name: manifest['sha256'][name] for name in _FILES}
    if type(vocab_size) is not int or not isinstance(task, str):
      raise ValueError('vocab_size must be an int, task a string')
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(_refusal(path, error)) from error
  arrays = {}
  for name in _FILES:
    path = folder / name
    try:
      content = path.read_bytes()
      if hashlib.sha256(content).hexdigest() != digests[name]:
        raise ValueError('its checksum differs from the manifest')
      array = np.load(path, allow_pickle=False)
      if not isinstance(array, np.ndarray) or array.dtype != _DTYPE:
        raise ValueError(f'not an array of {_DTYPE.__name__}')
      _check(array, name, vocab_size)
    except (OSError, ValueError, EOFError) as error:
      raise ValueError(_refusal(path, error)) from error
    arrays[name.removesuffix('.npy')] = array
  for split in ROWS:
    inputs, targets = (len(arrays[f'{split}_{side}']) for side in LENGTHS)
    if inputs != targets:
      raise ValueError(
        _refusal(folder, f'{split} has {inputs} inputs, {targets} targets')
      )
  return PreparedCorpus(vocab_size, task, arrays)


def save(
  folder: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  vocab_size: int,
  task: str = TASK,
) -> None:
  """Writes a folder for `load`, the manifest last.

  Raises:
    ValueError: for arrays that `load` would reject.
  """
  folder.mkdir(parents=True, exist_ok=True)
  digests = {}
  for name in _FILES:
    array = np.asarray(arrays[name.removesuffix('.npy')])
    _check(array, name, vocab_size)
    path = folder / name
    np.save(path, array.astype(_DTYPE), allow_pickle=False)
    digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
  manifest = {
    'format': FORMAT,
    'task': task,
    'vocab_size': vocab_size,
    'sha256': digests,
  }
  (folder / 'manifest.json').write_text(json.dumps(manifest, indent=2) + '\n')


def prepare(corpus: pathlib.Path, out: pathlib.Path) -> None:
  """Tokenizes a corpus by the project's own task and vocabulary.

  The training split is repeated as often as needed, with different spans
  corrupted each time. Needs the full installation.

  Args:
    corpus: files as for TEXT_FILES: one, a glob, or a folder of them.
    out: the folder to write.
  """
  from fnet_t5x import command_line

  with command_line.one_line_errors():
    command_line.import_tensorflow()
    files = str(corpus)
    if corpus.is_dir():
      names = ('*.txt', '*.jsonl', '*.jsonl.gz', '*.jsonl.zst', '*.parquet')
      found = [path for name in names for path in corpus.glob(name)]
      files = sorted(map(str, found)) or str(corpus / '*.txt')
    made = tokenize(files)
    save(out, made.arrays, made.vocab_size)
  rows = ', '.join(f'{len(made.arrays[f"{s}_inputs"]):,} {s}' for s in ROWS)
  size = sum((out / name).stat().st_size for name in _FILES) / 1e6
  print(f'{out}: rows: {rows}; {made.vocab_size:,} ids; {size:.1f} MB')


def tokenize(
  files: str | Sequence[str],
  validation_files: str | Sequence[str] | None = None,
  *,
  objective: str = 'span_corruption',
  lengths: Mapping[str, int] = LENGTHS,
  rows: Mapping[str, int] | None = None,
  pieces: int | None = None,
  bindings: Sequence[str] = (),
) -> PreparedCorpus:
  """Tokenizes texts by the project's own task and a vocabulary of their own.

  The training split is repeated as often as needed. Needs the full
  installation, and sets gin's global configuration.

  Args:
    files: as TEXT_FILES.
    validation_files: as TEXT_VALIDATION_FILES.
    objective: name of a file in gin/objectives/, with the features of
      `lengths`.
    lengths: tokens per row, by feature.
    rows: maximum number of rows by split; None for `ROWS`.
    pieces: as VOCABULARY_PIECES; None for its default.
    bindings: further gin bindings.

  Raises:
    ValueError: the texts yield no example of a split.
  """
  import gin
  import seqio

  from fnet_t5x import gin_root
  from fnet_t5x.runtime import gin_utils

  bindings = [f'TEXT_FILES = {files!r}', *bindings]
  if validation_files is not None:
    bindings.append(f'TEXT_VALIDATION_FILES = {validation_files!r}')
  if pieces is not None:
    bindings.append(f'VOCABULARY_PIECES = {pieces}')
  gin_utils.parse_gin_flags(
    [gin_root.gin_root()],
    [
      'gin/sources/text.gin',
      'gin/vocabularies/own.gin',
      f'gin/objectives/{objective}.gin',
    ],
    bindings,
    finalize_config=False,
  )
  vocab_size = gin.get_configurable('VOCAB_SIZE/gin.macro')()
  name = f'fnet_text_{objective}'
  task = seqio.get_mixture_or_task(name)
  arrays = {}
  for split, count in (rows or ROWS).items():
    examples = task.get_dataset(
      lengths,
      split,
      shuffle=split == 'train',
      seed=0,
      num_epochs=None if split == 'train' else 1,
    ).take(count)
    examples = seqio.utils.trim_and_pad_dataset(examples, lengths)
    examples = list(examples.as_numpy_iterator())
    if not examples:
      raise ValueError(f'{files}: no text for the {split} split')
    for side in lengths:
      rows_of_side = [example[side] for example in examples]
      arrays[f'{split}_{side}'] = np.stack(rows_of_side)
  return PreparedCorpus(vocab_size, name, arrays)


def _check(array: np.ndarray, name: str, vocab_size: int) -> None:
  side = name.removesuffix('.npy').split('_')[1]
  if array.ndim != 2 or array.shape[1] != LENGTHS[side] or not array.size:
    raise ValueError(f'shape {array.shape} is not [rows, {LENGTHS[side]}]')
  if vocab_size > np.iinfo(_DTYPE).max + 1:
    raise ValueError(f'{vocab_size} ids do not fit into {_DTYPE.__name__}')
  if array.dtype.kind not in 'iu':
    raise ValueError(f'dtype {array.dtype} is not an integer type')
  if array.min() < 0 or array.max() >= vocab_size:
    raise ValueError(f'ids must be in [0, {vocab_size})')


def _refusal(path: pathlib.Path, why: Any) -> str:
  if isinstance(why, KeyError):
    why = f'no entry {why}'
  line = (str(why).strip().splitlines() or ['unreadable'])[0]
  return f'{path}: {line}; recreate the folder with --prepare'
