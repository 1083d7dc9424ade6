"""Folder with a model as programs of `jax.export`, to run without this package.

The parameters are a file of their own, not constants of the programs: one file
serves all modes and platforms, programs compile faster, and safetensors has no
limit of 2 GB.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.core
import jax
import jax.export
import numpy as np
import seqio
from flax.traverse_util import flatten_dict, unflatten_dict

import fnet_t5x
from fnet_t5x.backend import target_backend
from fnet_t5x.convert import array_checks, hf_folder, new_folder
from fnet_t5x.runtime import (
  console,
  decoder_only,
  loaded_model,
  models,
  text_generation,
)
from fnet_t5x.runtime.generation_options import GenerationOptions
from fnet_t5x.serving import programs, readme
from fnet_t5x.serving.modes import PLATFORMS

ABOUT = 'export.json'
LOADER = 'loader.py'
VOCABULARY = 'vocabulary.model'
_BATCH = 'batch'


def write(
  loaded: loaded_model.LoadedModel,
  out: pathlib.Path,
  *,
  modes: Sequence[str] = ('generate',),
  options: GenerationOptions | None = None,
  batch_size: int | None = None,
  platforms: Sequence[str] = tuple(PLATFORMS),
) -> pathlib.Path:
  """Exports a model.

  Args:
    loaded: the model and its parameters.
    out: the folder to write; appears complete, or not at all.
    modes: some of `modes.MODES`.
    options: of the mode 'generate'.
    batch_size: rows per call; None for any number.
    platforms: some of `modes.PLATFORMS`. Each has programs of its own, since
      which algorithm mixes tokens depends on it.

  Returns:
    `out`.

  Raises:
    FileExistsError: `out` exists.
    ImportError: safetensors is not installed.
    ValueError: the model generates no text, a mode or an option is not for it,
      or a parameter is not finite.
  """
  hf_folder.load_library()
  where = loaded.directory.checkpoint
  vocabulary = _vocabulary(loaded)
  made = {
    mode: programs.make(
      mode,
      loaded.model,
      loaded.feature_lengths,
      options or GenerationOptions(),
    )
    for mode in modes
  }
  arrays = {
    name: np.asarray(x)
    for name, x in flatten_dict(
      flax.core.unfreeze(loaded.params), sep='/'
    ).items()
  }
  try:
    array_checks.check(arrays, {name: x.shape for name, x in arrays.items()})
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from error
  about = {
    'model': {
      'network': _name(loaded.model.module),
      'parameters': sum(x.size for x in arrays.values()),
      'step': loaded.step,
      'task': loaded.task_name,
    },
    'versions': {'fnet_t5x': fnet_t5x.__version__, 'jax': jax.__version__},
    'vocabulary': _about_vocabulary(vocabulary),
    'word_may_follow': {
      'characters': ''.join(sorted(text_generation.OPENING)),
      'categories': text_generation.OPENING_CATEGORIES,
      'scripts': text_generation.UNSPACED_SCRIPTS,
    },
    'batch_size': batch_size,
    'platforms': list(platforms),
    'programs': {},
  }
  with new_folder.create(out) as folder:
    for mode, program in made.items():
      for platform in platforms:
        console.print_line(f'{mode} for {platform}')
        exported = export(program, arrays, platform, batch_size)
        path = folder / f'{mode}.{platform}.jax'
        path.write_bytes(exported.serialize())
        about['programs'][mode] = _about_program(program, exported, arrays)
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
      # With the sentinels, which the run's file lacks.
      (folder / VOCABULARY).write_bytes(vocabulary.sp_model)
    hf_folder.write_tensors(folder, arrays)
    hf_folder.write_json(folder / ABOUT, about)
    source = pathlib.Path(__file__).with_name(LOADER)
    (folder / LOADER).write_bytes(source.read_bytes())
    (folder / 'README.md').write_text(readme.text(about))
  console.print_line(
    f'{out}: written; its README.md says how to load it without this package'
  )
  return out


def export(
  program: programs.Program,
  arrays: Mapping[str, Any],
  platform: str,
  batch_size: int | None,
) -> jax.export.Exported:
  """Exports a program.

  Args:
    program: the program.
    arrays: parameters by name, `a/b/c`; only their shapes and dtypes matter.
    platform: one of `modes.PLATFORMS`.
    batch_size: rows per call; None for any number.

  Returns:
    A function of a dict of arrays by name, and of the program's inputs.
  """
  if batch_size is None:
    (batch_size,) = jax.export.symbolic_shape(_BATCH)

  def function(parameters, *inputs):
    return program.function(unflatten_dict(parameters, sep='/'), *inputs)

  with target_backend(platform):
    return jax.export.export(
      jax.jit(function), platforms=[PLATFORMS[platform]]
    )(
      {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in arrays.items()},
      *(
        jax.ShapeDtypeStruct((batch_size, *x.shape), x.dtype)
        for x in program.inputs.values()
      ),
    )


def _about_program(
  program: programs.Program,
  exported: jax.export.Exported,
  arrays: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns inputs, outputs and settings of a program, as JSON."""
  inputs = exported.in_avals[len(arrays) :]
  outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  return {
    'inputs': [
      {
        'name': name,
        **_about_array(aval),
        'ids': aval.dtype == np.int32,
        'eos_follows': name in program.eos_follows,
      }
      for name, aval in zip(program.inputs, inputs, strict=True)
    ],
    'outputs': [
      {'name': name, **_about_array(aval)} for name, aval in outputs.items()
    ],
    'settings': dict(program.settings),
  }


def _about_array(aval: Any) -> dict[str, Any]:
  shape = [x if isinstance(x, int) else str(x) for x in aval.shape]
  return {'shape': shape, 'dtype': str(aval.dtype)}


def _vocabulary(loaded: loaded_model.LoadedModel) -> seqio.Vocabulary:
  """Returns the model's vocabulary.

  Raises:
    ValueError: the model does not generate, or the vocabulary has no file.
  """
  config = loaded.directory.config_file
  model = loaded.model
  if not isinstance(
    model, (models.EncoderDecoderModel, decoder_only.DecoderOnlyModel)
  ):
    raise ValueError(
      f'{config}: its model is {type(model).__name__}, which generates no '
      'text; exported are encoder-decoders and decoders'
    )
  vocabulary = model.output_vocabulary
  if not isinstance(
    vocabulary, (seqio.SentencePieceVocabulary, seqio.ByteVocabulary)
  ):
    raise ValueError(
      f'{config}: its vocabulary is {_name(vocabulary)}; exported are '
      'SentencePiece models and bytes'
    )
  if model.input_vocabulary != vocabulary:
    raise ValueError(
      f'{config}: inputs and targets have vocabularies of their own; exported '
      'are models of one'
    )
  return vocabulary


def _about_vocabulary(vocabulary: seqio.Vocabulary) -> dict[str, Any]:
  has_pieces = isinstance(vocabulary, seqio.SentencePieceVocabulary)
  return {
    'kind': 'sentencepiece' if has_pieces else 'bytes',
    'size': vocabulary.vocab_size,
    'pad_id': vocabulary.pad_id,
    'eos_id': vocabulary.eos_id or 1,
    'unk_id': vocabulary.unk_id,
  }


def _name(instance: object) -> str:
  kind = type(instance)
  return f'{kind.__module__.rpartition(".")[2]}.{kind.__name__}'
