"""Speed of engines and networks: `python -m fnet_t5x.benchmarks.engines`.

  python -m fnet_t5x.benchmarks.engines --sizes tiny --quick

Times a training step, and generation for a batch of inputs, for each engine
(T5X, the embedded runtime) with each network: T5X's own T5 under T5X, our T5
under the runtime, our hybrid under both. Sizes come from the models' gin files;
optimizer, batch and decoding function are the same everywhere. Without T5X, its
rows are skipped.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

# Before anything imports `fnet_t5x.compat`: gin files here build our networks,
# which are then wrapped in each engine's model.
os.environ['FNET_T5X_ENGINE'] = 'runtime'

import gin
import numpy as np
from absl import logging as absl_logging

from fnet_t5x import (
  absent_tpu,
  argument_parser,
  command_line,
  gin_macros,
  result_table,
)
from fnet_t5x.benchmarks.timing import speedup, time_in_turns
from fnet_t5x.gin_root import gin_root

if TYPE_CHECKING:
  import jax

SIZES = ('tiny', 'small')
PACKAGES = {'T5X': 't5x', 'runtime': 'fnet_t5x.runtime'}
BASELINE = ('T5X', "T5X's T5")
CASES = (
  BASELINE,
  ('T5X', 'our hybrid'),
  ('runtime', 'our T5'),
  ('runtime', 'our hybrid'),
)
GIN_MODELS = {
  "T5X's T5": 't5',
  'our T5': 't5',
  'our hybrid': 'fnet_t5',
}
DECODES = {
  'greedy': ('temperature_sample', {'topk': 1}, 1),
  'beam 4': ('beam_search', {}, 4),
}


class Lengths(NamedTuple):
  """Numbers of rows and tokens."""

  batch: int = 4
  inputs: int = 512
  targets: int = 114
  new_tokens: int = 64


def gin_model(name: str, size: str) -> Any:
  """Returns the runtime's model of `gin/models/<name>_<size>.gin`."""
  gin.clear_config()
  gin.add_config_file_search_path(gin_root())
  gin.parse_config_file(f'gin/models/{name}_{size}.gin')
  gin.parse_config(['DROPOUT_RATE = 0.0', "ACTIVATION_DTYPE = 'float32'"])
  return gin_macros.value('MODEL')


def make_model(engine: str, network: str, size: str, decode_fn=None) -> Any:
  """Returns an engine's model of a network."""
  configured = gin_model(GIN_MODELS[network], size)
  module = configured.module
  if network == "T5X's T5":
    theirs = importlib.import_module('t5x.examples.t5.network')
    known = {field.name for field in dataclasses.fields(theirs.T5Config)}
    sizes = dataclasses.asdict(module.config)
    module = theirs.Transformer(
      theirs.T5Config(**{k: v for k, v in sizes.items() if k in known})
    )
  adafactor = _module(engine, 'adafactor')
  rules = dict.fromkeys(('abspos_buckets', 'length'), adafactor.FactorDim.NONE)
  rules |= dict(adafactor.standard_logical_factor_rules())
  return _module(engine, 'models').EncoderDecoderModel(
    module=module,
    input_vocabulary=configured.input_vocabulary,
    output_vocabulary=configured.output_vocabulary,
    optimizer_def=adafactor.Adafactor(
      decay_rate=0.8, step_offset=0, logical_factor_rules=rules
    ),
    z_loss=0.0001,
    decode_fn=decode_fn or _module(engine, 'decoding').beam_search,
  )


def make_batch(lengths: Lengths, vocab_size: int) -> dict[str, jax.Array]:
  """Returns a batch of random tokens, without padding."""
  import jax.numpy as jnp

  random = np.random.default_rng(0)

  def tokens(length):
    return random.integers(3, vocab_size, (lengths.batch, length), np.int32)

  targets = tokens(lengths.targets)
  shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
  batch = {
    'encoder_input_tokens': tokens(lengths.inputs),
    'decoder_target_tokens': targets,
    'decoder_input_tokens': shifted,
    'decoder_loss_weights': np.ones_like(targets),
  }
  return {name: jnp.asarray(value) for name, value in batch.items()}


def train_call(
  engine: str, network: str, size: str, lengths: Lengths, steps: int
) -> Callable[[], Any]:
  """Returns a call that runs training steps."""
  import jax
  import jax.numpy as jnp

  model = make_model(engine, network, size)
  batch = make_batch(lengths, model.module.config.vocab_size)
  partitioner = _module(engine, 'partitioning').PjitPartitioner(
    num_partitions=1
  )
  initializer = _module(engine, 'utils').TrainStateInitializer(
    optimizer_def=model.optimizer_def,
    init_fn=model.get_initial_variables,
    input_shapes={name: x.shape for name, x in batch.items()},
    input_types={name: x.dtype for name, x in batch.items()},
    partitioner=partitioner,
  )
  trainer = _module(engine, 'trainer').Trainer(
    model=model,
    train_state=initializer.from_scratch(jax.random.PRNGKey(0)),
    partitioner=partitioner,
    train_state_axes=initializer.train_state_axes,
    eval_names=(),
    summary_dir=None,
    rng=jax.random.PRNGKey(1),
    learning_rate_fn=lambda step: jnp.float32(0.01),
    num_microbatches=None,
  )
  trainer.compile_train(batch)

  def call():
    trainer.train(itertools.repeat(batch), steps)
    return trainer.train_state.params

  return call


def generate_call(
  engine: str, network: str, size: str, lengths: Lengths, decode: str
) -> Callable[[], Any]:
  """Returns a call that generates the maximum number of tokens."""
  import jax

  function, options, number = DECODES[decode]
  decode_fn = functools.partial(
    getattr(_module(engine, 'decoding'), function), **options
  )
  model = make_model(engine, network, size, decode_fn)
  vocab_size = model.module.config.vocab_size
  batch = make_batch(lengths._replace(targets=lengths.new_tokens), vocab_size)
  shapes = {name: x.shape for name, x in batch.items()}
  init = jax.jit(lambda rng: model.get_initial_variables(rng, shapes)['params'])
  params = init(jax.random.PRNGKey(0))

  @jax.jit
  def generate(params, batch):
    return model.predict_batch_with_aux(
      params,
      batch,
      num_decodes=number,
      # No token has this id, so that no row ends early.
      decoder_params={'eos_id': vocab_size},
    )

  return lambda: generate(params, batch)


def _module(engine: str, name: str) -> Any:
  return importlib.import_module(f'{PACKAGES[engine]}.{name}')


def measure(
  size: str,
  what: str,
  lengths: Lengths,
  *,
  steps: int = 1,
  rounds: int = 20,
  seconds: float = 60.0,
) -> list[dict[str, Any]]:
  """Times a training step or a generation with every engine and network.

  Args:
    size: model size, as in the gin files.
    what: 'train step', or a key of `DECODES`.
    lengths: of the batch.
    steps: training steps per call.
    rounds: maximum number of rounds.
    seconds: time after which no new round begins.

  Returns:
    One record per case, with median and minimum seconds per step or generation,
    and `speedup` over T5X with its own T5; without T5X, over the runtime with
    our T5.
  """
  cases = [c for c in CASES if importlib.util.find_spec(PACKAGES[c[0]])]
  calls = {}
  for engine, network in cases:
    if what == 'train step':
      call = train_call(engine, network, size, lengths, steps)
    else:
      call = generate_call(engine, network, size, lengths, what)
    calls[engine, network] = call
  times = time_in_turns(calls, rounds=rounds, seconds=seconds)
  per_call = steps if what == 'train step' else 1
  return [
    {
      'size': size,
      'what': what,
      'engine': engine,
      'network': network,
      'median_seconds': float(np.median(taken)) / per_call,
      'least_seconds': float(taken.min()) / per_call,
      'rounds': len(taken),
      'speedup': speedup(times[cases[0]], taken),
    }
    for (engine, network), taken in times.items()
  ]


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.engines', __doc__
  )
  helps = {
    'batch': 'rows',
    'inputs': 'input tokens per row',
    'targets': 'target tokens per row in training',
    'new_tokens': 'generated tokens per row',
  }
  whats = ('train step', *DECODES)
  parser.add_argument(
    '--sizes', nargs='+', default=SIZES, help='model sizes, in gin/models/'
  )
  parser.add_argument(
    '--what', nargs='+', default=whats, choices=whats, help='what to time'
  )
  for field, default in Lengths()._asdict().items():
    name = field.replace('_', '-')
    parser.add_argument(
      f'--{name}', type=int, default=default, help=helps[field]
    )
  parser.add_argument('--quick', action='store_true', help='three rounds only')
  options = result_table.parse(parser, arguments)
  if min(getattr(options, field) for field in Lengths._fields) < 1:
    parser.error('--batch, --inputs, --targets, --new-tokens: at least 1')
  folder = pathlib.Path(gin_root()) / 'gin/sizes'
  known = sorted(path.stem for path in folder.glob('*.gin'))
  for size in options.sizes:
    if size not in known:
      parser.error(f'--sizes {size}: choose from {", ".join(known)}')
  return options


def print_section(rows: list[dict[str, Any]], lengths: Lengths) -> None:
  """Prints what `measure` returned as a table."""
  first = rows[0]
  if first['what'] == 'train step':
    work = f'training on {lengths.targets} targets'
  else:
    work = f'generating {lengths.new_tokens} tokens'
  device = result_table.environment()['device']
  result_table.print_table(
    f'{first["size"]}, {first["what"]} ({device}, float32): {lengths.batch} '
    f'rows of {lengths.inputs} inputs, {work}; '
    f'median ms, and speedup over {first["engine"]} with {first["network"]}',
    ['', 'ms', ''],
    [
      [
        [
          f'{row["engine"]}, {row["network"]}',
          f'{1e3 * row["median_seconds"]:.1f}',
          f'{row["speedup"]:.2f}x',
        ]
        for row in rows
      ]
    ],
  )


def main(arguments: list[str] | None = None) -> None:
  """Measures every size, prints its tables, and writes the JSON file."""
  options = parse(arguments)
  lengths = Lengths(*(getattr(options, field) for field in Lengths._fields))
  limits = {'rounds': 3, 'seconds': 0.0} if options.quick else {}
  sections = []
  for size in options.sizes:
    for what in options.what:
      sections.append(measure(size, what, lengths, **limits))
      # At once, since measuring takes minutes.
      print_section(sections[-1], lengths)
  if len(sections[0]) < len(CASES):
    print('T5X is not importable: its rows are skipped')
  if options.json:
    settings = {
      'sizes': list(options.sizes),
      'what': list(options.what),
      **lengths._asdict(),
      'quick': options.quick,
    }
    rows = [row for section in sections for row in section]
    result_table.write_json(options.json, 'engines', settings, rows)


if __name__ == '__main__':
  # Before TensorFlow's slow import, to report errors at once.
  parse(None)
  absent_tpu.hide_library()
  # T5X's Adafactor logs a warning for every parameter.
  absl_logging.set_verbosity(absl_logging.ERROR)
  command_line.import_tensorflow()
  main()
