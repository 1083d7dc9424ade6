r"""Quality of the hybrid, T5, GPT-2 and controls after equal training.

  python -m fnet_t5x.benchmarks.quality --minutes 5 --seeds 1,2,3 \
    --text '~/novels/*.txt' --json quality.json --figure quality.png

Every network trains on the same tokens, in the same order, for the same time
(or number of steps, with --steps), with a complete schedule of the learning
rate; the loss is that of the same validation targets. By default they are
prefix-LM examples: the network reads a prefix, and predicts its continuation.
T5, the hybrid and the controls encode the prefix; GPT-2 reads prefix and
continuation as one text, with the loss of the continuation alone. All networks
have about as many parameters as T5 of the given size, by their depth alone.

The clock runs while training only: not while compiling, evaluating, or
preparing tokens. A network of the list trains for each seed before any trains
for the next one, so that a run stopped early compares all of them; --json is
complete after each. Two controls are always trained, since without them a good
loss says nothing about mixing: the hybrid without mixing below its attention
layers ('control'), and T5 against no mixing at all ('none'), which says whether
context counts in this regime, and is printed first.
"""

import argparse
import math
import pathlib
import sys
from typing import Any

from fnet_t5x import absent_tpu, argument_parser, result_table

MODELS = {
  'hybrid': 'hybrid',
  't5': 'T5',
  'gpt2': 'GPT-2',
  'control': 'control',
  'none': 'none',
}
# Always trained.
CONTROLS = ('t5', 'control', 'none')
OBJECTIVES = ('fixed_prefix_lm', 'prefix_lm', 'span_corruption')
# Shares of a run at which the loss is measured.
FRACTIONS = (0.02, 0.05, *(i / 10 for i in range(1, 11)))
_SIZES = ('toy', 'mini', 'small', 'base')


def tokens_of(options: argparse.Namespace) -> Any:
  """Returns the tokens that the networks train on, a `PreparedCorpus`."""
  from fnet_t5x import command_line

  command_line.use_runtime()
  command_line.import_tensorflow()
  from fnet_t5x.benchmarks.accelerator import prepared_corpus
  from fnet_t5x.tasks import corpus

  files, validation = options.text, None
  if files is None:
    files, validation = (
      list(map(str, corpus.document_paths(split)))
      for split in ('train', 'validation')
    )
  elif '*' not in files and pathlib.Path(files).is_dir():
    files = f'{files.rstrip("/")}/*'
  return prepared_corpus.tokenize(
    files,
    validation,
    objective=options.objective,
    lengths={'inputs': options.inputs, 'targets': options.targets},
    rows={'train': options.train_rows, 'validation': options.validation_rows},
    pieces=options.pieces,
  )


def train(
  options: argparse.Namespace, corpus: Any, save: Any = lambda records: None
) -> list[dict[str, Any]]:
  """Trains every network with every seed.

  Args:
    options: the command line.
    corpus: a `PreparedCorpus`.
    save: called with all records so far, after each run.

  Returns:
    A record per run: `model`, `seed`, `parameters`, `flops_per_step`, and the
    `points` of its curve, as `timed_training.train_for` yields them, each with
    `flops`; and the last one's values.
  """
  import jax.numpy as jnp
  import numpy as np

  from fnet_t5x.benchmarks.accelerator import timed_training

  data = tuple(
    {
      side: jnp.asarray(corpus.arrays[f'{split}_{side}'].astype(np.int32))
      for side in ('inputs', 'targets')
    }
    for split in ('train', 'validation')
  )
  rows = [len(split['inputs']) for split in data]
  if min(rows) < options.rows:
    raise ValueError(
      f'the text yields {rows[0]} rows to train on and {rows[1]} to validate; '
      f'--rows {options.rows} needs at least as many'
    )
  sizes = timed_training.Sizes(
    options.size, options.rows, rows[1], options.steps_apart
  )
  prepared = {
    name: _prepare(name, options, corpus.vocab_size, sizes, data)
    for name in options.models
  }
  records = []
  for turn, seed in enumerate(options.seeds):
    # Another network begins with each seed, since machines slow down and
    # recover.
    start = turn % len(options.models)
    for name in (*options.models[start:], *options.models[:start]):
      programs, described = prepared[name]
      points = []
      for point in timed_training.train_for(
        programs,
        sizes,
        data,
        seed,
        options.minutes * 60,
        steps=options.steps,
        fractions=FRACTIONS,
        peak_rate=options.learning_rate,
      ):
        flops = point['steps'] * described['flops_per_step']
        points.append({**point, 'flops': flops})
      last = {k: v for k, v in points[-1].items() if k not in ('at', 'share')}
      records.append(
        {'model': MODELS[name], 'seed': seed, **described, **last}
        | {'points': points}
      )
      print(
        f'{MODELS[name]}, seed {seed}: {last["loss"]:.4f} after '
        f'{last["steps"]} steps, {last["seconds"]:.0f} s',
        file=sys.stderr,
        flush=True,
      )
      save(records)
  return records


def _prepare(name, options, vocab_size, sizes, data):
  """Returns a network's warm programs, and what its records have in common."""
  import jax
  import jax.numpy as jnp

  from fnet_t5x.benchmarks.accelerator import networks, timed_training
  from fnet_t5x.costs import flops

  module = networks.make_matched(
    network_of(name),
    options.size,
    vocab_size=vocab_size,
    dtype=jnp.dtype(options.dtype),
    # GPT-2 has no scanned layers, which are a little slower.
    scan_layers=False,
    max_encoder_length=options.inputs,
    max_target_length=options.targets,
  )
  programs = timed_training.make_programs(module, sizes, data)
  timed_training.warm_up(programs, sizes, data)
  batch = jax.eval_shape(
    lambda tokens, rows: timed_training.batch_of(module, tokens, rows),
    data[0],
    jax.ShapeDtypeStruct((sizes.rows,), jnp.int32),
  )
  return programs, {
    'parameters': networks.count_parameters(module),
    'flops_per_step': flops.batch_flops(
      module.config, batch, jax.default_backend()
    ),
  }


def network_of(name: str) -> Any:
  """Returns the network of a name on the command line."""
  from fnet_t5x.benchmarks.accelerator import networks

  if name == 'gpt2':
    return networks.DECODER_ONLY
  if name == 'none':
    return networks.Network('none', 'none', 0)
  return networks.NETWORKS[MODELS[name]]


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.quality', __doc__
  )
  parser.add_list(
    '--models',
    str,
    ['hybrid', 't5', 'gpt2', 'control'],
    f'which to train, of {", ".join(MODELS)}; {", ".join(CONTROLS)} always are',
    choices=MODELS,
  )
  parser.add_argument(
    '--minutes', type=float, default=math.inf, help='of training, per run'
  )
  parser.add_argument(
    '--steps', type=int, default=math.inf, help='steps per run, not minutes'
  )
  parser.add_list('--seeds', int, [1, 2, 3], 'random seeds of each network')
  parser.add_argument(
    '--text',
    help='files to train on: one, a glob or a folder; by default the shipped '
    'corpus',
  )
  parser.add_argument(
    '--objective', default='fixed_prefix_lm', choices=OBJECTIVES
  )
  parser.add_argument(
    '--inputs', type=int, default=256, help='input tokens per row'
  )
  parser.add_argument(
    '--targets', type=int, default=256, help='target tokens per row'
  )
  parser.add_argument(
    '--pieces', type=int, default=3996, help='pieces of the vocabulary'
  )
  parser.add_argument(
    '--size', default='mini', choices=_SIZES, help='of T5; others match it'
  )
  parser.add_argument('--rows', type=int, default=16, help='rows per batch')
  parser.add_argument(
    '--train_rows', type=int, default=24000, help='rows to train on'
  )
  parser.add_argument(
    '--validation_rows', type=int, default=256, help='rows to validate on'
  )
  parser.add_argument(
    '--learning_rate', type=float, default=0.01, help='highest learning rate'
  )
  parser.add_argument('--dtype', default='float32', help='float32 or bfloat16')
  parser.add_argument(
    '--figure', type=pathlib.Path, help='PNG file for the curves'
  )
  options = result_table.parse(parser, arguments)
  if math.isinf(options.minutes) == math.isinf(options.steps):
    parser.error('give either --minutes or --steps')
  numbers = ('inputs', 'targets', 'pieces', 'rows', 'steps')
  for name in numbers:
    if getattr(options, name) < 1:
      parser.error(f'--{name} {getattr(options, name)}: must be at least 1')
  for name in ('train_rows', 'validation_rows'):
    if getattr(options, name) < options.rows:
      parser.error(f'--{name} must be at least --rows, {options.rows}')
  for name in ('minutes', 'learning_rate'):
    value = getattr(options, name)
    if not value > 0:
      parser.error(f'--{name} {value:g}: must be greater than 0')
  if options.dtype not in ('float32', 'bfloat16'):
    parser.error(f'--dtype {options.dtype}: choose float32 or bfloat16')
  result_table.check_figure(parser, options.figure)
  options.models = [
    name for name in MODELS if name in {*options.models, *CONTROLS}
  ]
  options.steps_apart = 8
  return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
  """Returns the command line for JSON, without paths."""
  return {
    name: None if value == math.inf else value
    for name, value in vars(options).items()
    if name not in ('json', 'figure', 'text')
  }


def main(arguments: list[str] | None = None) -> None:
  """Trains, prints the table, and writes the JSON file and the figure."""
  options = parse(arguments)
  from fnet_t5x import command_line

  with command_line.one_line_errors():
    corpus = tokens_of(options)

    def save(records):
      if options.json:
        settings = settings_of(options) | {'vocab_size': corpus.vocab_size}
        result_table.write_json(options.json, 'quality', settings, records)

    records = train(options, corpus, save)
  from fnet_t5x.benchmarks import quality_summary

  print(quality_summary.context_line(records))
  where = result_table.environment()
  limit = (
    f'{options.minutes:g} minutes'
    if math.isinf(options.steps)
    else f'{options.steps} steps'
  )
  seeds = ', '.join(map(str, options.seeds))
  result_table.print_table(
    f'{where["device"]}, {options.size}, {limit} each, seeds {seeds}, '
    f'{options.objective} {options.inputs}/{options.targets}: validation loss, '
    'nats per target token, median over seeds',
    quality_summary.COLUMNS,
    [quality_summary.as_rows(records)],
  )
  if options.figure:
    from fnet_t5x.benchmarks import quality_figure

    options.figure.write_bytes(quality_figure.draw(records))


if __name__ == '__main__':
  absent_tpu.hide_library()
  main()
