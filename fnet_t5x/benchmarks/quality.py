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
All but GPT-2 have the same learning rate.

The clock runs while training only: not while compiling, evaluating, or
preparing tokens. A network of the list trains for each seed before any trains
for the next one, so that a run stopped early compares all of them; --json is
complete after each. Two controls are always trained, since without them a good
loss says nothing about mixing: the hybrid without mixing below its attention
layers ('control'), and T5 against no mixing at all ('none'), which says whether
context counts in this regime, and is printed first.
"""

import argparse
from typing import Any

from fnet_t5x import absent_tpu, argument_parser, result_table
from fnet_t5x.benchmarks import equal_training

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
# Adafactor's steps are relative to the size of a parameter, and GPT-2's begin
# at 0.02, T5's embedding at 1.0: at T5's rate GPT-2 is far behind. The best of
# 0.003, 0.01, 0.03 and 0.1 after 28 steps of the command in docs/RESULTS.md.
GPT2_LEARNING_RATE = 0.03
_SIZES = ('toy', 'mini', 'small', 'base')


def tokens_of(options: argparse.Namespace) -> Any:
  """Returns the tokens that the networks train on, a `PreparedCorpus`."""
  return equal_training.tokenize(
    options,
    options.objective,
    {'inputs': options.inputs, 'targets': options.targets},
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
    The records of `equal_training.train_all`, with `parameters` and
    `flops_per_step`.
  """
  data = equal_training.on_device(corpus.arrays)
  sizes = equal_training.sizes_of(options, data)
  prepared = {
    name: _prepare(name, options, corpus.vocab_size, sizes, data)
    for name in options.models
  }
  labels = {name: MODELS[name] for name in options.models}
  return equal_training.train_all(
    options, prepared.__getitem__, data, labels, save
  )


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
  rate = options.gpt2_learning_rate if name == 'gpt2' else options.learning_rate
  return programs, {
    'learning_rate': rate,
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
  equal_training.add_options(parser)
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
    '--size', default='mini', choices=_SIZES, help='of T5; others match it'
  )
  parser.add_argument(
    '--gpt2_learning_rate',
    type=float,
    default=GPT2_LEARNING_RATE,
    help="highest learning rate of GPT-2, instead of the others'",
  )
  options = equal_training.parse(
    parser,
    arguments,
    ('inputs', 'targets'),
    ('learning_rate', 'gpt2_learning_rate'),
  )
  options.models = [
    name for name in MODELS if name in {*options.models, *CONTROLS}
  ]
  return options


def main(arguments: list[str] | None = None) -> None:
  """Trains, prints the table, and writes the JSON file and the figure."""
  options = parse(arguments)
  from fnet_t5x import command_line

  with command_line.one_line_errors():
    corpus = tokens_of(options)

    def save(records):
      if options.json:
        settings = equal_training.settings_of(options) | {
          'vocab_size': corpus.vocab_size
        }
        result_table.write_json(options.json, 'quality', settings, records)

    records = train(options, corpus, save)
  from fnet_t5x.benchmarks import quality_summary

  print(quality_summary.context_line(records))
  where = result_table.environment()
  seeds = ', '.join(map(str, options.seeds))
  limit = equal_training.limit_of(options)
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
