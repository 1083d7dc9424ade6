"""Safe reading of a model directory's `config.gin`.

People share model directories, so that their `config.gin` is not trusted. Gin
itself imports any module and calls any function that a file names. Here the
file is only parsed. The statements that describe the model and its task, by the
names listed below, are kept, and written out again for gin to parse.
"""

import dataclasses
import io
import os
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gin import config_parser

from fnet_t5x import t5x_modules

# The user's own modules, comma-separated, that a file may import and call.
TRUST_VARIABLE = 'FNET_T5X_TRUSTED_MODULES'
_DYNAMIC_REGISTRATION = '__gin__.dynamic_registration'
_TASKS = 'fnet_t5x.tasks'
# Configurables of models and tasks. They may read files, but neither write any
# nor run other code.
_MODEL_NAMES = {
  'fnet_t5x.compat.adafactor': ('Adafactor', 'standard_logical_factor_rules'),
  'fnet_t5x.compat.decoding': ('beam_search', 'temperature_sample'),
  'fnet_t5x.compat.models': ('DecoderOnlyModel', 'EncoderDecoderModel'),
  'fnet_t5x.compat.optimizers': (
    'adam',
    'adamw',
    'lamb',
    'lion',
    'rmsprop',
    'sgd',
  ),
  'fnet_t5x.compat.gin_utils': ('bool_fn', 'string_split_fn', 'sum_fn'),
  'fnet_t5x.compat.utils': (
    # The learning rate schedule of an optax optimizer.
    'create_learning_rate_scheduler',
    'round_vocab_size_to_multiple',
  ),
  'fnet_t5x.encoder_models': ('ClassificationModel', 'EncoderOnlyModel'),
  'fnet_t5x.learning_rates': ('linear_decay_factor', 'warmup_steps'),
  'fnet_t5x.networks.decoder_mixings': ('decoder_mixing_layout',),
  'fnet_t5x.networks.fnet': ('FNet', 'FNetConfig'),
  'fnet_t5x.networks.fnet_encoder_t5': (
    'FNetConfig',
    'FNetEncoderT5Config',
    'T5Config',
    'Transformer',
  ),
  'fnet_t5x.networks.fnet_t5': (
    'FNetT5Config',
    'Transformer',
    'mixing_layout',
  ),
  'fnet_t5x.networks.gpt2': ('GPT2', 'GPT2Config'),
  'fnet_t5x.networks.t5': ('T5Config', 'Transformer'),
  'fnet_t5x.scaled_optimizers': ('scale_encoder',),
  't5x.examples.t5.network': ('T5Config', 'Transformer'),
  'seqio': ('ByteVocabulary', 'SentencePieceVocabulary'),
  'gin': ('singleton',),
  f'{_TASKS}.c4': ('json_files',),
  f'{_TASKS}.causal_lm': ('causal_lm',),
  f'{_TASKS}.chunking': (
    'reduce_concat_tokens',
    'select_random_chunk',
    'split_tokens',
  ),
  f'{_TASKS}.document_files': ('ReadOptions',),
  f'{_TASKS}.glue_classification': (
    'join_texts',
    'num_classes',
    'task_name',
    'train_steps',
  ),
  f'{_TASKS}.masked_lm': ('masked_lm',),
  f'{_TASKS}.next_sentence': ('masked_lm_nsp',),
  f'{_TASKS}.noise': ('random_spans_noise_mask',),
  f'{_TASKS}.objectives': (
    'fixed_prefix_lm',
    'prefix_lm',
    'span_corruption',
  ),
  f'{_TASKS}.pile': ('component_weights', 'files'),
  f'{_TASKS}.registration': ('task_name',),
  f'{_TASKS}.text_files': ('corpus',),
  f'{_TASKS}.text_infilling': ('text_infilling',),
  f'{_TASKS}.tfds_source': ('tfds_options',),
  f'{_TASKS}.ul2': ('mode_ids', 'prefix_denoiser', 'span_denoiser'),
  f'{_TASKS}.text_vocabulary': ('model_file',),
  f'{_TASKS}.vocabularies': (
    'default_vocabulary',
    'embedding_size',
    'from_file',
  ),
}
_MODEL_CLASSES = (
  'fnet_t5x.compat.models.DecoderOnlyModel',
  'fnet_t5x.compat.models.EncoderDecoderModel',
  'fnet_t5x.encoder_models.ClassificationModel',
  'fnet_t5x.encoder_models.EncoderOnlyModel',
)
_MODEL = {f'{m}.{name}' for m, names in _MODEL_NAMES.items() for name in names}
# Configuration of the run that saved the file: dropped, and not imported.
_RUN_MODULES = (
  '__main__',
  'fnet_t5x.example_texts',
  'fnet_t5x.inference_rows',
  'fnet_t5x.compat.gin_utils',
  'fnet_t5x.compat.partitioning',
  'fnet_t5x.compat.trainer',
  'fnet_t5x.compat.utils',
  'fnet_t5x.compat.wandb_writer',
  'fnet_t5x.partitioning',
  'fnet_t5x.runtime',
  't5x',
)
_RUN_NAMES = (
  'seqio.Evaluator',
  'seqio.JSONLogger',
  'seqio.PyLoggingLogger',
  'seqio.TensorBoardLogger',
)
# Names a module that registers tasks, and would be imported unchecked.
_TASK_MODULE = 'MIXTURE_OR_TASK_MODULE'


@dataclasses.dataclass(frozen=True)
class _Reference:
  """A reference or a macro in a value; its repr is gin's text."""

  text: str
  selector: str = ''

  def __repr__(self) -> str:
    return self.text


class _Delegate(config_parser.ParserDelegate):
  def configurable_reference(self, scoped_configurable_name, evaluate):
    return _Reference(
      f'@{scoped_configurable_name}{"()" if evaluate else ""}',
      scoped_configurable_name.rpartition('/')[2],
    )

  def macro(self, macro_name):
    return _Reference(f'%{macro_name}')


@dataclasses.dataclass(frozen=True)
class SavedConfig:
  """The safe part of a configuration.

  Attributes:
    text: gin text to parse.
    macros: values by name; the repr of a reference or macro is its gin text.
  """

  text: str
  macros: dict[str, Any]


def read(text: str, where: str) -> SavedConfig:
  """Reads a configuration that a run saved; imports and calls nothing.

  Args:
    text: the file's contents.
    where: its name, for errors.

  Raises:
    ValueError: if it is not gin or not from a run of this package, or names a
      module or function that is not allowed.
  """
  imports: list[config_parser.ImportStatement] = []
  # Modules, by the first name of selectors.
  symbols: dict[str, str] = {'gin': 'gin'}
  used: set[str] = set()
  macros: dict[str, Any] = {}
  lines = []
  statements = _statements(text, where)
  first = next(statements, None)
  if getattr(first, 'module', None) != _DYNAMIC_REGISTRATION:
    raise ValueError(
      f"{where}: not a training run's configuration of this package (it does "
      'not start with `from __gin__ import dynamic_registration`); give the '
      'gin files that the model was trained with'
    )
  for statement in statements:
    at = f'{where}, line {statement.location.line_num}'
    if isinstance(statement, config_parser.ImportStatement):
      _check_import(statement, at)
      imports.append(statement)
      name = module = statement.bound_name()
      if statement.is_from or statement.alias:
        # T5X's are kept by the same names as ours, which gin gets for them.
        module = t5x_modules.MODULES.get(statement.module, statement.module)
      if symbols.setdefault(name, module) != module:
        raise ValueError(f'{at}: {name} is imported twice; rename one')
      continue
    if isinstance(statement, config_parser.IncludeStatement):
      raise ValueError(
        f'{at}: includes {statement.filename!r}, which is not allowed in a '
        'saved configuration; copy its contents into this file'
      )
    names = [r.selector for r in _references(getattr(statement, 'value', ()))]
    is_macro = not getattr(statement, 'arg_name', True)
    if not is_macro:
      names.append(statement.selector)
    kept = [_is_kept(name, symbols, at) for name in names]
    if isinstance(statement, config_parser.BlockDeclaration) or not all(kept):
      continue
    key = '/'.join(filter(None, (statement.scope, statement.selector)))
    if is_macro:
      macros[key] = statement.value
      if statement.selector == _TASK_MODULE:
        _check_task_module(statement.value, at)
    else:
      key += f'.{statement.arg_name}'
    lines.append(f'{key} = {statement.value!r}')
    used.update(name.partition('.')[0] for name in names)
  header = [f'from __gin__ import {_DYNAMIC_REGISTRATION.partition(".")[2]}']
  header += [
    statement.format()
    for statement in imports
    # Some task modules are imported only to register their tasks.
    if statement.bound_name() in used
    or _is_in(statement.module, (_TASKS, *_trusted()))
  ]
  return SavedConfig('\n'.join([*header, *lines]) + '\n', macros)


def _statements(text: str, where: str) -> Iterator[Any]:
  try:
    yield from config_parser.ConfigParser(io.StringIO(text), _Delegate())
  except SyntaxError as error:
    line = ' '.join((error.text or '').split())
    raise ValueError(
      f'{where}, line {error.lineno}: not gin: {line!r}; restore the file that '
      'the run saved'
    ) from error
  except (tokenize.TokenError, RecursionError) as error:
    raise ValueError(
      f'{where}: a bracket or quotes are not closed; restore the file that the '
      'run saved'
    ) from error


def _is_in(name: str, modules: Iterable[str]) -> bool:
  return any(f'{name}.'.startswith(f'{module}.') for module in modules)


def _trusted() -> list[str]:
  """Returns the modules that the user trusts, by environment variable."""
  named = os.environ.get(TRUST_VARIABLE, '').split(',')
  return [name.strip() for name in named if name.strip()]


def _check_import(statement: config_parser.ImportStatement, at: str) -> None:
  module = statement.module
  if module in _MODEL_NAMES:
    return
  if _is_in(module, (_TASKS, *_RUN_MODULES, *_trusted())):
    return
  raise ValueError(
    f'{at}: imports {module}, which may run untrusted code; if you know and '
    f'trust that module, set {TRUST_VARIABLE}={module}'
  )


def _check_task_module(value: Any, at: str) -> None:
  if value is None:
    return
  if not isinstance(value, str):
    raise ValueError(
      f"{at}: {_TASK_MODULE} = {value!r}: in a model directory's configuration "
      'it must be a name in quotes, or None'
    )
  if not _is_in(value, (_TASKS, *_trusted())):
    raise ValueError(
      f'{at}: {_TASK_MODULE} = {value!r} would be imported and may run '
      'untrusted code; if you know and trust that module, set '
      f'{TRUST_VARIABLE}={value}'
    )


def _is_kept(selector: str, symbols: Mapping[str, str], at: str) -> bool:
  """Whether a configurable belongs to the model or task, not to the run.

  Raises:
    ValueError: if it belongs to none of them.
  """
  root, _, rest = selector.partition('.')
  if root not in symbols:
    raise ValueError(f'{at}: {root} of {selector} is not imported')
  name = f'{symbols[root]}.{rest}'
  # Also methods of models, which T5X's gin files bind.
  owner, _, method = name.rpartition('.')
  if name in _MODEL or (owner in _MODEL_CLASSES and method[0] != '_'):
    return True
  if _is_in(name, _trusted()):
    return True
  if _is_in(name, _RUN_MODULES) or name in _RUN_NAMES:
    return False
  raise ValueError(
    f"{at}: {selector} is not allowed in a model directory's configuration, "
    'since it may run untrusted code; remove the line, or use the gin files '
    'that the model was trained with'
  )


def _references(value: Any) -> Iterator[_Reference]:
  if isinstance(value, _Reference):
    if value.selector:
      yield value
  elif isinstance(value, dict):
    for item in value.items():
      yield from _references(item)
  elif isinstance(value, (list, tuple, set)):
    for item in value:
      yield from _references(item)
