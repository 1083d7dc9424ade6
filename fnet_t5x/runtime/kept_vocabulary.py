"""The copy of its vocabulary that a run keeps in its model directory.

Ids are meaningless without it, and by the time the model is used or trained
further, the cache or corpus it came from may be gone or changed.
"""

import gin
import jax
import seqio
import tensorflow as tf

from fnet_t5x.runtime import console, model_directory
from fnet_t5x.tasks import vocabularies  # noqa: F401 (registers it)

# Macros with paths; the first that belongs to a run with a vocabulary counts.
_STARTING_POINTS = {'train': ('MODEL_DIR', 'INITIAL_CHECKPOINT_PATH')}
_NAME = 'default_vocabulary.sentencepiece_model_file'


def keep(model_dir: str) -> None:
  """Copies the configured model's vocabulary to `<model_dir>/vocabulary.model`.

  The copy is atomic. Does nothing for a byte vocabulary, or if the run has kept
  its vocabulary already.

  Raises:
    ValueError: the run has kept a different one.
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
  """Configures the vocabulary that a run has kept, if any.

  It takes precedence over one that would be trained or read from the cache. A
  vocabulary file in the configuration must be the same, as a different one
  would change the meaning of ids.

  Args:
    model_dir: folder of the run to resume, initialize from or evaluate.

  Raises:
    ValueError: the configuration names a different vocabulary.
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
  console.print_line(f'vocabulary: {kept}, with which this model was trained')


def use_configured(run: str) -> None:
  """Calls `use` for the run or checkpoint that gin's configuration names.

  Args:
    run: 'train', which resumes a run or starts from another's checkpoint; or
      'evaluate' or 'infer', which restore a checkpoint.
  """
  for macro in _STARTING_POINTS.get(run, ('CHECKPOINT_PATH',)):
    path = _value(f'{macro}/gin.macro.value')
    if isinstance(path, (list, tuple)) and path:
      # An evaluation of several, which one model reads.
      path = path[0]
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
      f'{other} differs from {kept}, the vocabulary of this model: ids would '
      f"change their meaning. Use the run's own (VOCABULARY_FILE={kept!r}), or "
      'another MODEL_DIR'
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
  """Returns the configured file; None if it is trained or cached."""
  value = _value(_NAME)
  # A macro's value may be another macro.
  while isinstance(value, gin.config.ConfigurableReference):
    if value.selector != 'gin.macro':
      return None
    value = _value(f'{value.scoped_selector}.value')
  return value or None


def _value(parameter: str):
  """Returns a gin parameter's value, references unresolved, or None."""
  try:
    return gin.query_parameter(parameter)
  except ValueError:
    return None
