r"""Mixers of an encoder, or of a decoder, after equal training.

  python -m fnet_t5x.benchmarks.mixers --steps 1500 --seeds 1,2,3 \
    --models fourier,fourier+2,linear --text '~/novels/*.txt' \
    --json mixers.json --figure mixers.png

Every layout trains on the same rows, in the same order, for the same number of
steps or, with --minutes, the same time, with a complete schedule of the
learning rate; the loss is that of the same validation targets. A layout is the
mixing of the encoder's layers (a name of `fnet_t5.Mixing`), with '+2' of those
below two attention layers. By default the encoder is alone and predicts masked
tokens: what a token's own place says is little, so that context decides.
With --objective causal_lm there is no encoder: a layout is that of GPT-2's
layers, of causal mixings (fourier, toeplitz), and rows are texts.

Layouts have about as many parameters as attention has, by the width of their
feed-forward blocks (--match). Two controls are always trained: attention, and
no mixing at all; whether the first is better says whether context counts in
this regime, and is printed first. So is the control of each layout: the same
attention layers without a mixer below, and for gated blocks (*_gated) the block
without its mixer (convolution).

--text synthetic:recall are rows in which distance matters: a value that was
said once with its key, at a uniformly distributed distance, is to be recalled.

The clock runs while training only. --json is complete after each run, and a
later call with the same options and file trains only what is missing in it.
"""

import argparse
import os
from typing import Any

from fnet_t5x import absent_tpu, argument_parser, result_table
from fnet_t5x.benchmarks import equal_training
from fnet_t5x.benchmarks.accelerator import networks

OBJECTIVES = (
  'masked_lm',
  'span_corruption',
  'prefix_lm',
  'fixed_prefix_lm',
  'causal_lm',
)
POSITIONS = ('none', 'learned', 'sinusoidal')
SIZES = {
  'study': {'layers': 4, 'embed': 128, 'heads': 4, 'mlp': 512}
  | {'decoder_layers': 2},
  **{
    name: {
      'layers': size['num_encoder_layers'],
      'embed': size['emb_dim'],
      # Here, heads divide the width.
      'heads': size['emb_dim'] // size['head_dim'],
      'mlp': size['mlp_dim'],
      'decoder_layers': size['num_decoder_layers'],
    }
    for name, size in networks.SIZES.items()
  },
}
_MODELS = ['fourier', 'fourier+2', 'linear']
_DECODERS = ['fourier', 'fourier+2', 'toeplitz', 'toeplitz+2']
# Options that say which runs there are, not what they are.
_CHOICES = ('models', 'seeds')


def parse(arguments: list[str] | None) -> argparse.Namespace:
  """Parses the command line; exits on invalid input."""
  parser = argument_parser.ArgumentParser('fnet_t5x.benchmarks.mixers', __doc__)
  parser.add_list(
    '--models',
    str,
    None,
    'layouts to train; their controls always are; by default '
    f'{",".join(_MODELS)}, of decoders {",".join(_DECODERS)}',
  )
  equal_training.add_options(parser)
  parser.add_argument('--objective', default='masked_lm', choices=OBJECTIVES)
  parser.add_argument(
    '--length', type=int, default=128, help='input tokens per row'
  )
  parser.add_argument(
    '--targets',
    type=int,
    help='target tokens per row of the objectives with a decoder; by default '
    'a quarter of the inputs in span corruption, else as many',
  )
  parser.add_argument(
    '--characters',
    action='store_true',
    help='tokens are characters, up to --pieces different ones',
  )
  parser.add_argument(
    '--size', default='study', choices=SIZES, help='sizes that are not given'
  )
  for name, what in (
    ('layers', 'depth of the encoder'),
    ('embed', 'width'),
    ('heads', 'attention heads, which divide the width'),
    ('mlp', "width of attention's feed-forward blocks, and of the decoder's"),
    ('decoder_layers', 'depth of the decoder'),
  ):
    parser.add_argument(f'--{name}', type=int, help=what)
  parser.add_argument(
    '--positions', default='learned', choices=POSITIONS, help='of the encoder'
  )
  parser.add_argument(
    '--match',
    default='parameters',
    choices=('parameters', 'none'),
    help='what feed-forward blocks are adjusted for',
  )
  parser.add_argument(
    '--cores',
    type=int,
    default=1,
    help='CPU cores of a run, which may go on beside other work; 0 for all',
  )
  options = equal_training.parse(parser, arguments, ('length',))
  for name, value in SIZES[options.size].items():
    if getattr(options, name) is None:
      setattr(options, name, value)
    if getattr(options, name) < 1:
      parser.error(f'--{name} {getattr(options, name)}: must be at least 1')
  if options.embed % options.heads:
    parser.error(
      f'--embed {options.embed} is not a multiple of --heads {options.heads}'
    )
  if options.targets is None:
    quarter = options.objective == 'span_corruption'
    options.targets = -(-options.length // 4) if quarter else options.length
  if options.targets < 1:
    parser.error(f'--targets {options.targets}: must be at least 1')
  _check_text(parser, options)
  if options.models is None:
    is_decoder = options.objective == 'causal_lm'
    options.models = _DECODERS if is_decoder else _MODELS
  from fnet_t5x.benchmarks import mixer_layouts

  try:
    options.models = [
      layout.name
      for layout in mixer_layouts.with_controls(
        mixer_layouts.layout_of(name, options.layers, options.objective)
        for name in options.models
      )
    ]
  except ValueError as error:
    parser.error(f'--models {error}')
  return options


def _check_text(parser, options):
  kind, colon, name = (options.text or '').partition(':')
  options.data = 'text'
  if kind != 'synthetic' or not colon:
    return
  if name != 'recall':
    parser.error(f'--text {options.text}: choose synthetic:recall')
  if options.objective != 'masked_lm':
    parser.error('--text synthetic:recall is for --objective masked_lm')
  if options.characters:
    parser.error('--text synthetic:recall has no --characters')
  if options.length < 4:
    parser.error(f'--length {options.length}: must be at least 4 for recall')
  options.data = options.text


def _use_cores(cores: int) -> None:
  """Sets the size of XLA's pools of threads, before JAX makes them."""
  if cores > 0:
    os.environ['NPROC'] = str(cores)
  if cores == 1:
    flags = os.environ.get('XLA_FLAGS', '')
    os.environ['XLA_FLAGS'] = f'{flags} --xla_cpu_multi_thread_eigen=false'


def train(
  options: argparse.Namespace,
  rows: Any,
  save: Any = lambda records: None,
  records: Any = (),
) -> list[dict[str, Any]]:
  """Trains every layout with every seed.

  Args:
    options: the command line.
    rows: `mixer_data.Rows`.
    save: called with all records so far, after each run.
    records: those of runs that need not be repeated.

  Returns:
    The records of `equal_training.train_all`, with `parameters` and `mlp_dim`
    of the encoder.
  """
  from fnet_t5x.benchmarks import mixer_layouts
  from fnet_t5x.benchmarks.accelerator import timed_training

  sizes = equal_training.sizes_of(options, rows.data)

  def prepare(name):
    layout = mixer_layouts.layout_of(name, options.layers)
    mlp_dim = mixer_layouts.mlp_dim_of(layout, options, rows.vocab_size)
    module = mixer_layouts.make(layout, options, rows.vocab_size, mlp_dim)
    programs = timed_training.make_programs(
      module, sizes, rows.data, rows.make_batch
    )
    timed_training.warm_up(programs, sizes, rows.data)
    return programs, {
      'parameters': networks.count_parameters(module),
      'mlp_dim': mlp_dim,
    }

  labels = {name: name for name in options.models}
  return equal_training.train_all(
    options, prepare, rows.data, labels, save, records
  )


def main(arguments: list[str] | None = None) -> None:
  """Trains, prints the table, and writes the JSON file and the figure."""
  options = parse(arguments)
  _use_cores(options.cores)
  from fnet_t5x import command_line

  with command_line.one_line_errors():
    from fnet_t5x.benchmarks import mixer_data

    rows = mixer_data.rows_of(options)
    settings = equal_training.settings_of(options) | {
      'vocab_size': rows.vocab_size,
      'tokens': rows.digest,
      'device': result_table.environment()['device'],
    }
    lasting = {k: v for k, v in settings.items() if k not in _CHOICES}
    done = equal_training.recorded(options.json, 'mixers', lasting)

    def save(records):
      if options.json:
        result_table.write_json(options.json, 'mixers', settings, records)

    records = train(options, rows, save, done)
  _report(options, records, settings['device'])


def _report(options, records, device):
  from fnet_t5x.benchmarks import mixer_layouts, mixers_summary, quality_summary

  print(quality_summary.context_line(records, mixer_layouts.BASELINE))
  layouts = {
    name: mixer_layouts.layout_of(name, options.layers)
    for name in dict.fromkeys(record['model'] for record in records)
  }
  controls = {
    name: mixer_layouts.control_of(layout).name
    for name, layout in layouts.items()
  }
  seeds = ', '.join(map(str, dict.fromkeys(r['seed'] for r in records)))
  result_table.print_table(
    f'{device}, {options.layers} layers of {options.embed}, '
    f'{options.data}, {equal_training.limit_of(options)} each, seeds {seeds}, '
    f'{options.objective} {options.length}: validation loss, nats per target '
    'token, mean over seeds',
    mixers_summary.COLUMNS,
    [mixers_summary.as_rows(records, controls)],
  )
  if options.figure:
    from fnet_t5x.benchmarks import quality_figure

    panels = ('steps', 'seconds')
    options.figure.write_bytes(quality_figure.draw(records, panels))


if __name__ == '__main__':
  absent_tpu.hide_library()
  main()
