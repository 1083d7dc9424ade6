"""Hybrids as large as T5: `python -m fnet_t5x.planning.matched`.

  python -m fnet_t5x.planning.matched --write

A Fourier layer has no projections, so that a hybrid of T5's shape is smaller
than T5 and trains with less arithmetic. For a fair comparison it may spend what
it saves: on encoder layers, until it has T5's parameters
(`matched_parameters`), or until an example takes T5's training arithmetic
(`matched_flops`).

It spends on depth, not width: every other macro of a size is shared with the
decoder, which is to stay T5's. The nearest depth is at most half a layer off
what was saved; the table says what that is of the whole. The last two layers
attend, as in any hybrid here.

Arithmetic is counted by the formulas of `planning.flops` for packed rows of
T5's lengths on TPU, where both axes are transformed by matrices, the dearest
way. `--write` writes the size files and the models' files.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from fnet_t5x import argument_parser, command_line
from fnet_t5x.planning import parameters

FAMILIES = ('matched_parameters', 'matched_flops')
INPUTS, TARGETS = 512, 114
_WHAT = {
  'matched_parameters': 'as many parameters as T5 1.1 {size}',
  'matched_flops': 'as much training arithmetic as T5 1.1 {size}',
}


@dataclasses.dataclass(frozen=True)
class Match:
  """A hybrid matched to a size of T5.

  Attributes:
    size: T5's name.
    family: what is matched.
    macros: of the size file.
    parameters: of the hybrid, with T5's vocabulary.
    flops: of training on an example.
    t5_parameters: T5's.
    t5_flops: T5's.
  """

  size: str
  family: str
  macros: Mapping[str, int]
  parameters: int
  flops: float
  t5_parameters: int
  t5_flops: float

  @property
  def size_file(self) -> str:
    """Where its size is, from the root of gin files."""
    return f'gin/sizes/{self.family}/{self.size}.gin'

  @property
  def model_file(self) -> str:
    """Where its model is."""
    return f'gin/models/fnet_t5_{self.size}_{self.family}.gin'

  @property
  def size_text(self) -> str:
    """What the size file holds."""
    from fnet_t5x.planning.gin_run import SIZE

    what = _WHAT[self.family].format(size=self.size)
    lines = '\n'.join(f'{name} = {self.macros[name]}' for name in SIZE)
    return (
      f'# A hybrid of {what}.\n'
      '# Written by python -m fnet_t5x.planning.matched --write\n'
      '#\n'
      '# Provides:\n'
      '#   EMBED_DIM, NUM_HEADS, HEAD_DIM, MLP_DIM, NUM_ENCODER_LAYERS,\n'
      '#   NUM_DECODER_LAYERS\n'
      f'{lines}\n'
    )

  @property
  def model_text(self) -> str:
    """What the model file holds."""
    what = _WHAT[self.family].format(size=self.size)
    return (
      f'# The hybrid of {what}.\n'
      '# Written by python -m fnet_t5x.planning.matched --write\n'
      '#\n'
      '# Required, commonly overridden, provides: as '
      'gin/architectures/fnet_t5.gin.\n'
      "include 'gin/architectures/fnet_t5.gin'\n"
      f"include '{self.size_file}'\n"
    )


def nearest(cost: Callable[[int], float], target: float, start: int) -> int:
  """Returns the depth whose cost is closest to `target`.

  Args:
    cost: of a depth, growing by the same for each layer.
    target: what to come close to.
    start: a depth that costs less.
  """
  a_layer = cost(start + 1) - cost(start)
  return start + max(round((target - cost(start)) / a_layer), 0)


def match(size: str, family: str) -> Match:
  """Works out the hybrid of a family that matches a size of T5."""
  from fnet_t5x.planning import gin_run

  t5_config = parameters.config_of(f'gin/models/t5_{size}.gin')
  t5_flops = _training_flops(t5_config)
  name = f'gin/models/fnet_t5_{size}.gin'
  config = parameters.config_of(name)
  total = parameters_by_depth(name, config.num_decoder_layers)

  @functools.cache
  def deep(depth):
    return parameters.config_of(name, f'NUM_ENCODER_LAYERS = {depth}')

  costs = {
    'matched_parameters': (total, parameters.PUBLISHED[size]),
    'matched_flops': (lambda depth: _training_flops(deep(depth)), t5_flops),
  }
  depth = nearest(*costs[family], start=t5_config.num_encoder_layers)
  values = (
    config.emb_dim,
    config.num_heads,
    config.head_dim,
    config.mlp_dim,
    depth,
    config.num_decoder_layers,
  )
  return Match(
    size=size,
    family=family,
    macros=dict(zip(gin_run.SIZE, values, strict=True)),
    parameters=total(depth),
    flops=_training_flops(deep(depth)),
    t5_parameters=parameters.PUBLISHED[size],
    t5_flops=t5_flops,
  )


def parameters_by_depth(name: str, decoder_layers: int) -> Callable[[int], int]:
  """Returns the function from the encoder's depth to a model's parameters.

  Layers of a kind are alike: three shallow networks tell what each adds.
  """

  def shallow(encoder, decoder):
    counted, _ = parameters.of_model(
      name,
      f'NUM_ENCODER_LAYERS = {encoder}',
      f'NUM_DECODER_LAYERS = {decoder}',
    )
    return counted.total

  least = shallow(2, 1)
  encoder_layer = shallow(3, 1) - least
  decoder_layer = shallow(2, 2) - least
  return lambda depth: (
    least + (depth - 2) * encoder_layer + (decoder_layers - 1) * decoder_layer
  )


def _training_flops(config: Any) -> float:
  from fnet_t5x.planning import flops

  return flops.example_flops(config, INPUTS, TARGETS).training


def as_cells(found: Match) -> list[str]:
  """Returns a match as a row of the table."""
  return [
    f'{found.size}, {found.family.removeprefix("matched_")}',
    str(found.macros['NUM_ENCODER_LAYERS']),
    f'{found.parameters:,}',
    f'{found.parameters / found.t5_parameters:.4f}',
    f'{found.flops / 1e9:,.1f}',
    f'{found.flops / found.t5_flops:.4f}',
  ]


def main(arguments: list[str] | None = None) -> None:
  """Works out all sizes, prints the table, and writes files if asked."""
  parser = argument_parser.ArgumentParser('fnet_t5x.planning.matched', __doc__)
  parser.add_argument(
    '--write', action='store_true', help='whether to write the gin files'
  )
  options = parser.parse_args(arguments)
  with command_line.one_line_errors():
    command_line.use_runtime()
    command_line.import_tensorflow()
    from fnet_t5x.benchmarks import report
    from fnet_t5x.gin_root import gin_root

    sections = []
    for size in parameters.PUBLISHED:
      found = [match(size, family) for family in FAMILIES]
      sections.append([as_cells(each) for each in found])
      for each in found if options.write else ():
        root = pathlib.Path(gin_root())
        for name, text in (
          (each.size_file, each.size_text),
          (each.model_file, each.model_text),
        ):
          (root / name).parent.mkdir(exist_ok=True)
          (root / name).write_text(text)
    report.print_table(
      "hybrids matched to T5 1.1: encoder layers, parameters with T5's "
      'vocabulary, training GFLOPs an example',
      [
        '',
        'encoder',
        'parameters',
        'of T5',
        'GFLOPs',
        'of T5',
      ],
      sections,
    )


if __name__ == '__main__':
  main()
