"""The Python API for trained models: `fnet_t5x.load`."""

import os
import sys
import typing

if typing.TYPE_CHECKING:
  from fnet_t5x.runtime.mask_filling import MaskFiller
  from fnet_t5x.runtime.text_generation import TextGenerator

_ENGINE = 'FNET_T5X_ENGINE'


def load(
  model_dir: str, checkpoint_step: int | None = None
) -> 'TextGenerator | MaskFiller':
  """Loads the model of a training run for text generation, or to fill in masks.

      generator = fnet_t5x.load('runs/quickstart')
      generator.generate('My fellow citizens,', num_samples=3, seed=1)
      for piece in generator.stream('My fellow citizens,', temperature=0):
        print(piece, end='')

  A masked language model fills in masks instead:

      filler = fnet_t5x.load('runs/fnet')
      for candidate in filler.fill_masks('My fellow [MASK],', top_k=3)[0]:
        print(candidate.text, candidate.probability)

  Several models can be loaded one after another. Loading clears this process's
  gin configuration.

  Args:
    model_dir: the folder of a training run, or a checkpoint in it.
    checkpoint_step: step of the checkpoint; None for the last one.

  Raises:
    FileNotFoundError: if `model_dir` is not the folder of a training run, or
      has no such checkpoint.
    ValueError: if its configuration may run untrusted code or does not match
      the checkpoint, if the model does neither, or if the engine is T5X.
  """
  from fnet_t5x import absent_tpu
  from fnet_t5x.runtime import model_directory

  # Fails before the slow imports; for remote folders it needs one of them.
  if '://' not in os.fspath(model_dir):
    model_directory.locate(model_dir, checkpoint_step)
  absent_tpu.hide_library()
  _use_runtime()
  if 'tensorflow' not in sys.modules:
    from fnet_t5x import command_line

    command_line.import_tensorflow()
  import gin

  from fnet_t5x import encoder_models
  from fnet_t5x.runtime import loaded_model, mask_filling, text_generation

  gin.clear_config()
  try:
    loaded = loaded_model.load(model_dir, checkpoint_step)
    if isinstance(loaded.model, encoder_models.EncoderOnlyModel):
      return mask_filling.MaskFiller(loaded)
    if isinstance(loaded.model, encoder_models.ClassificationModel):
      raise ValueError(
        f'{model_dir}: the model classifies texts and generates none; evaluate '
        'it with fnet_t5x.eval, or write its classes with fnet_t5x.infer'
      )
    return text_generation.TextGenerator(loaded)
  finally:
    gin.clear_config()


def _use_runtime() -> None:
  """Selects the embedded runtime for all later imports.

  It loads models trained by either engine: both write the same checkpoints.

  Raises:
    ValueError: if T5X has been selected already.
  """
  before = os.environ.get(_ENGINE)
  os.environ[_ENGINE] = before or 'runtime'
  try:
    from fnet_t5x.compat import engine
  finally:
    if before is None:
      del os.environ[_ENGINE]
    else:
      os.environ[_ENGINE] = before
  if engine.USES_T5X:
    raise ValueError(
      'fnet_t5x.load needs the embedded runtime, and this process uses T5X: '
      f'set {_ENGINE}=runtime, or unset it, before fnet_t5x is imported'
    )
