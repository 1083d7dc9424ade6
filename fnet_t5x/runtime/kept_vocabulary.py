"""The vocabulary that a run keeps in its model directory.

A model's ids mean nothing without it, and the cache or the text that it came
from may be gone or changed when the model is used, or trained on.
"""

import gin
import jax
import seqio
import tensorflow as tf

from fnet_t5x.runtime import console, model_directory
from fnet_t5x.tasks import vocabularies  # noqa: F401 (gin is to know it)

# Macros of a path each; the first of a run that kept its vocabulary counts.
_STARTING_POINTS = {'train': ('MODEL_DIR', 'INITIAL_CHECKPOINT_PATH')}
_NAME = 'default_vocabulary.sentencepiece_model_file'


def keep(model_dir: str) -> None:
  """Copies the configured model's vocabulary to `<model_dir>/vocabulary.model`.

  Whole or not at all; nothing is done for a vocabulary of bytes, and where the
  run has kept its vocabulary already.

  Raises:
    ValueError: the run has kept another one.
  """
  path = _configured_file()
  if path is None or jax.process_index() != 0:
    return
  kept = _kept_file(model_dir)
  if tf.io.gfile.exists(kept):
    _check_same(kept, path)
    return
  tf.io.gfile.makedirs(model_dir)
  tf.io.gfile.copy(path, kept + '.tmp', overwrite=True)
  tf.io.gfile.rename(kept + '.tmp', kept, overwrite=True)


def use(model_dir: str) -> None:
  """Has gin's configuration take the vocabulary that a run has kept, if any.

  It takes the place of one that would be trained, or found in the cache. One
  that is named must be the same: another would change what ids mean.

  Args:
    model_dir: of the run that is gone on with, started from or evaluated.

  Raises:
    ValueError: gin names another vocabulary.
  """
  kept = _kept_file(model_dir)
  if not tf.io.gfile.exists(kept):
    return
  named = _named_file()
  if named == kept:
    return
  if named is not None and tf.io.gfile.exists(named):
    _check_same(kept, named)
    return
  with gin.unlock_config():
    gin.bind_parameter(_NAME, kept)
  console.print_line(f'vocabulary: {kept}, as this model was trained with it')


def use_configured(run: str) -> None:
  """Calls `use` for the run or checkpoint that gin's configuration names.

  Args:
    run: 'train', which goes on with a run or starts from a checkpoint of
      another; or 'evaluate' or 'infer', of a checkpoint.
  """
  for macro in _STARTING_POINTS.get(run, ('CHECKPOINT_PATH',)):
    path = _value(f'{macro}/gin.macro.value')
    if isinstance(path, str) and path:
      folder, _ = model_directory.split(path)
      if tf.io.gfile.exists(_kept_file(folder)):
        use(folder)
        return


def _kept_file(model_dir: str) -> str:
  return f'{model_dir.rstrip("/")}/{model_directory.VOCABULARY_FILE}'


def _check_same(kept: str, other: str) -> None:
  contents = []
  for path in (kept, other):
    with tf.io.gfile.GFile(path, 'rb') as f:
      contents.append(f.read())
  if contents[0] != contents[1]:
    raise ValueError(
      f'{other} is another vocabulary than {kept}, which this model was '
      "trained with: ids would change their meaning. Leave the run's own "
      f'(VOCABULARY_FILE={kept!r}), or take another MODEL_DIR'
    )


def _configured_file() -> str | None:
  """Returns the file of the model's vocabulary; None if it has none."""
  if _value('VOCABULARY/gin.macro.value') is None:
    return None
  vocabulary = gin.get_configurable('VOCABULARY/gin.macro')()
  if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
    return None
  return str(vocabulary.sentencepiece_model_file)


def _named_file() -> str | None:
  """Returns the file that gin names; None if it is trained or cached."""
  value = _value(_NAME)
  # A macro's value may be another macro.
  while isinstance(value, gin.config.ConfigurableReference):
    if value.selector != 'gin.macro':
      return None
    value = _value(f'{value.scoped_selector}.value')
  return value or None


def _value(parameter: str):
  """Returns what gin binds a parameter to, references as they are, or None."""
  try:
    return gin.query_parameter(parameter)
  except ValueError:
    return None
