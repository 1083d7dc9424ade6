"""Parameter counts of all sizes: `python -m fnet_t5x.planning.parameters`.

  python -m fnet_t5x.planning.parameters --json=parameters.json

Counts each model in gin/models/ from abstract shapes, with T5 1.1's vocabulary
of 32,128, and compares T5 with its published checkpoints.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from fnet_t5x import argument_parser, command_line

# google/t5-v1_1-small to -xxl, counted tensor by tensor.
PUBLISHED = {
  'small': 76_961_152,
  'base': 247_577_856,
  'large': 783_150_080,
  'xl': 2_849_757_184,
  'xxl': 11_135_332_352,
}
VOCAB_SIZE = 32128


@dataclasses.dataclass(frozen=True)
class Parameters:
  """Numbers of parameters by part.

  Attributes:
    encoder: of the encoder, including learned position embeddings.
    decoder: of the decoder, without the output layer.
    embeddings: of the token embedding and the output layer.
  """

  encoder: int
  decoder: int
  embeddings: int

  @property
  def total(self) -> int:
    """Number of all parameters."""
    return self.encoder + self.decoder + self.embeddings


def count(shapes: Mapping[str, Any]) -> Parameters:
  """Counts parameters.

  Args:
    shapes: arrays or shapes by name, with `/` between names of modules.
  """
  totals = {'encoder': 0, 'decoder': 0, 'embeddings': 0}
  for name, leaf in shapes.items():
    part = name.split('/')[0]
    if part not in ('encoder', 'decoder') or 'logits_dense' in name:
      part = 'embeddings'
    totals[part] += math.prod(leaf.shape)
  return Parameters(**totals)


def config_of(name: str, *bindings: str) -> Any:
  """Returns the network configuration of a model's gin file.

  Args:
    name: path of the file, such as gin/models/t5_base.gin.
    *bindings: additional gin bindings.

  Raises:
    ValueError: the file or a binding is not valid gin.
    FileNotFoundError: the file does not exist.
  """
  with _configured(name, bindings) as run:
    return run.config


def of_model(name: str, *bindings: str) -> tuple[Parameters, Any]:
  """Returns the numbers of parameters and the configuration of a model."""
  import jax
  from flax import traverse_util

  with _configured(name, bindings) as run:
    variables = jax.eval_shape(
      lambda: run.model.get_initial_variables(
        jax.random.PRNGKey(0),
        dict.fromkeys(run.lengths, (1, 8)),
      )
    )
    flat = traverse_util.flatten_dict(variables['params'], sep='/')
    return count(flat), run.config


def _configured(name, bindings):
  from fnet_t5x.planning import gin_run

  return gin_run.configured(
    [name, 'gin/runs/pretrain.gin'],
    (
      f'VOCAB_SIZE = {VOCAB_SIZE}',
      "TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 8}",
      *bindings,
    ),
  )


def rows() -> list[dict[str, Any]]:
  """Returns a record per model: size, name, parts, total, ratio to T5 1.1."""
  from fnet_t5x.planning import matched

  records = []
  for size, published in PUBLISHED.items():
    stems = {
      'T5': f't5_{size}',
      'hybrid': f'fnet_t5_{size}',
      **{
        family.replace('_', ' '): f'fnet_t5_{size}_{family}'
        for family in matched.FAMILIES
      },
    }
    for name, stem in stems.items():
      counted, _ = of_model(f'gin/models/{stem}.gin')
      records.append(
        {
          'size': size,
          'model': name,
          **dataclasses.asdict(counted),
          'total': counted.total,
          'published': published,
          'ratio': counted.total / published,
        }
      )
  return records


def as_section(records: list[dict[str, Any]]) -> list[list[str]]:
  """Returns the records of a size as rows of the table."""
  first = records[0]
  cells = [
    [f'{first["size"]}, published', *3 * [''], f'{first["published"]:,}', '']
  ]
  for record in records:
    parts = (
      record[key] for key in ('encoder', 'decoder', 'embeddings', 'total')
    )
    cells.append(
      [
        f'  {record["model"]}',
        *(f'{number:,}' for number in parts),
        f'{record["ratio"]:.4f}',
      ]
    )
  return cells


def main(arguments: list[str] | None = None) -> None:
  """Counts, prints the table, and writes the JSON file."""
  parser = argument_parser.ArgumentParser(
    'fnet_t5x.planning.parameters', __doc__
  )
  parser.add_argument('--json', type=pathlib.Path, help='file to write')
  options = parser.parse_args(arguments)
  with command_line.one_line_errors():
    command_line.use_runtime()
    command_line.import_tensorflow()
    from fnet_t5x import result_table

    if options.json:
      result_table.check_writable(options.json)
    records = rows()
    result_table.print_table(
      'parameters, vocabulary of 32,128, and the ratio to T5 1.1 as published',
      ['', 'encoder', 'decoder', 'embeddings', 'total', 'ratio'],
      [
        as_section([r for r in records if r['size'] == size])
        for size in PUBLISHED
      ],
    )
    if options.json:
      result_table.write_json(
        options.json, 'parameters', {'vocab_size': VOCAB_SIZE}, records
      )


if __name__ == '__main__':
  main()
