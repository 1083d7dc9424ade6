"""Collectives by mesh: `python -m fnet_t5x.benchmarks.collectives`.

  python -m fnet_t5x.benchmarks.collectives --layouts data model_1d

For each partitioning layout (a file of gin/partitioning/) and each mesh, counts
the collectives of a compiled training step, and of the encoder's forward pass
alone, of the hybrid and of T5, with their MB per device. Devices are simulated:
programs are compiled, but not run.
"""

import argparse
import os
from typing import Any

# Before anything imports `fnet_t5x.compat`, and before JAX counts its devices.
os.environ['FNET_T5X_ENGINE'] = 'runtime'
# The user's flags come last and take precedence.
os.environ['XLA_FLAGS'] = ' '.join(
  ['--xla_force_host_platform_device_count=8', os.environ.get('XLA_FLAGS', '')]
)
os.environ['JAX_PLATFORMS'] = os.environ.get('JAX_PLATFORMS') or 'cpu'

import gin

from fnet_t5x import argument_parser, command_line, gin_macros, result_table
from fnet_t5x.gin_root import gin_root
from fnet_t5x.planning.collectives import collectives

LAYOUTS = {
  'data': [1],
  'model_1d': [2, 4],
  'model_2d': [2, 4],
  'fully_sharded': [1, 2],
  'sequence_sharded': [2, 4],
}
NETWORKS = {'hybrid': 'fnet_t5', 'T5': 't5'}
STEP, ENCODER = 'training step', 'encoder, forward'


def configure(
  network: str, size: str, layout: str, partitions: int, bindings: list[str]
) -> tuple[Any, Any]:
  """Returns the model and the partitioner that the gin files configure."""
  gin.clear_config()
  gin.add_config_file_search_path(gin_root())
  gin.parse_config_file(f'gin/models/{NETWORKS[network]}_{size}.gin')
  gin.parse_config_file(f'gin/partitioning/{layout}.gin')
  gin.parse_config(
    [
      'DROPOUT_RATE = 0.0',
      'VOCABULARY = None',
      f'NUM_PARTITIONS = {partitions}',
      *bindings,
    ]
  )
  return gin_macros.value('MODEL'), gin_macros.value('PARTITIONER')


def compile_texts(
  model: Any, partitioner: Any, batch: int, inputs: int, targets: int
) -> dict[str, str]:
  """Returns the HLO of the compiled training step and of the encoder."""
  import jax
  import jax.numpy as jnp

  from fnet_t5x.runtime import trainer, utils

  shapes = {
    'encoder_input_tokens': (batch, inputs),
    'decoder_input_tokens': (batch, targets),
    'decoder_target_tokens': (batch, targets),
    'decoder_loss_weights': (batch, targets),
  }
  initializer = utils.TrainStateInitializer(
    model.optimizer_def,
    model.get_initial_variables,
    shapes,
    partitioner,
    dict.fromkeys(shapes, jnp.int32),
  )
  state = initializer.global_train_state_shape
  examples = {
    name: jax.ShapeDtypeStruct(shape, jnp.int32)
    for name, shape in shapes.items()
  }
  run = trainer.Trainer(
    model=model,
    train_state=state,
    partitioner=partitioner,
    eval_names=(),
    summary_dir=None,
    train_state_axes=initializer.train_state_axes,
    rng=jax.random.PRNGKey(0),
    learning_rate_fn=lambda step: 0.01,
    num_microbatches=None,
  )
  run.compile_train(examples)

  def encode(params, tokens):
    return model.module.apply(
      {'params': params},
      tokens,
      enable_dropout=False,
      method=model.module.encode,
    )

  rows = partitioner.data_partition_spec
  axes = initializer.train_state_axes.params
  encoder = partitioner.compile(
    partitioner.partition(encode, (axes, rows), rows),
    state.params,
    examples['encoder_input_tokens'],
  )
  return {STEP: run._train_step.as_text(), ENCODER: encoder.as_text()}


def measure(
  size: str,
  layout: str,
  partitions: int,
  batch: int,
  inputs: int,
  targets: int,
  bindings: list[str],
) -> list[dict[str, Any]]:
  """Returns one row per network, program and kind of collective.

  Raises:
    ValueError: if the mesh does not divide an axis sharded over it.
  """
  rows = []
  for network in NETWORKS:
    model, partitioner = configure(network, size, layout, partitions, bindings)
    mesh = tuple(partitioner.mesh.shape.values())
    texts = compile_texts(model, partitioner, batch, inputs, targets)
    for program, text in texts.items():
      found = collectives(text) or [{'kind': 'none', 'count': 0, 'bytes': 0}]
      rows += [
        {
          'layout': layout,
          'mesh': mesh,
          'network': network,
          'program': program,
          **each,
        }
        for each in found
      ]
  return rows


def as_section(rows: list[dict[str, Any]]) -> list[list[str]]:
  """Returns the rows of one mesh as cells, networks side by side."""
  found = {
    (row['program'], row['kind'], row['network']): row
    for row in rows
    if row['count']
  }
  cells = [[f'{rows[0]["layout"]} {rows[0]["mesh"]}', '', '', '', '']]
  for program in (STEP, ENCODER):
    kinds = sorted({kind for p, kind, _ in found if p == program})
    for kind in kinds or ['nothing']:
      line = [f'  {program}: {kind}']
      for network in NETWORKS:
        row = found.get((program, kind, network), {'count': 0, 'bytes': 0})
        line += [str(row['count']), f'{row["bytes"] / 1e6:.2f}']
      cells.append(line)
  return cells


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
  """Returns the options, or ends with one line on standard error."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.benchmarks.collectives', __doc__
  )
  add = parser.add_argument
  add('--size', default='tiny', help='model size, in gin/models/')
  add(
    '--layouts',
    nargs='+',
    default=list(LAYOUTS),
    choices=list(LAYOUTS),
    help='files of gin/partitioning/',
  )
  add('--partitions', nargs='+', type=int, help='devices per replica')
  add('--batch', type=int, default=16, help='rows')
  add('--inputs', type=int, default=256, help='input tokens per row')
  add('--targets', type=int, default=64, help='target tokens per row')
  add(
    '--gin',
    nargs='*',
    default=[],
    help="further bindings, such as 'SCAN_LAYERS = True'",
  )
  return result_table.parse(parser, arguments)


def main(arguments: list[str] | None = None) -> None:
  """Compiles every mesh, prints the table, and writes the JSON file."""
  options = parse(arguments)
  sections = [
    measure(
      options.size,
      layout,
      partitions,
      options.batch,
      options.inputs,
      options.targets,
      options.gin,
    )
    for layout in options.layouts
    for partitions in options.partitions or LAYOUTS[layout]
  ]
  devices = result_table.environment()['device_count']
  heads = [f'{network} {what}' for network in NETWORKS for what in ('', 'MB')]
  result_table.print_table(
    f'{options.size}, {options.batch} rows of {options.inputs} and '
    f'{options.targets} tokens, {devices} devices (data, model)',
    ['', *(head.strip() for head in heads)],
    [as_section(rows) for rows in sections],
  )
  if options.json:
    settings = {k: v for k, v in vars(options).items() if k != 'json'}
    rows = [row for section in sections for row in section]
    result_table.write_json(options.json, 'collectives', settings, rows)


if __name__ == '__main__':
  with command_line.one_line_errors():
    # Before TensorFlow's slow import, to report errors at once.
    parse()
    command_line.import_tensorflow()
    main()
