"""Matched models: the files are up to date, and no depth is closer."""

import pathlib

import pytest

from fnet_t5x.costs import flops
from fnet_t5x.gin_root import gin_root
from fnet_t5x.planning import matched, parameters

SIZES = list(parameters.PUBLISHED)


@pytest.mark.slow
@pytest.mark.parametrize('family', matched.FAMILIES)
@pytest.mark.parametrize('size', SIZES)
def test_files_are_what_the_command_computes(size, family):
  found = matched.match(size, family)
  root = pathlib.Path(gin_root())
  assert (root / found.model_file).read_text() == found.model_text


def test_small_is_counted_as_its_own_file_says():
  """The count by layers equals that of the whole network."""
  found = matched.match('small', 'matched_parameters')
  counted, config = parameters.of_model(found.model_file)
  assert counted.total == found.parameters
  assert config.num_encoder_layers == found.encoder_layers
  assert config.layer_mixing[-2:] == ('attention', 'attention')
  assert config.num_decoder_layers == 8
  example = flops.example_flops(config, 512, 114)
  assert found.flops == example.training


@pytest.mark.slow
@pytest.mark.parametrize('size', ['base', 'xl'])
def test_no_other_depth_is_nearer(size):
  """One layer more or less is farther from T5's parameters."""
  found = matched.match(size, 'matched_parameters')
  depth = found.encoder_layers
  name = f'gin/models/fnet_t5_{size}.gin'
  of_depth = matched.parameters_by_depth(
    name, parameters.config_of(name).num_decoder_layers
  )
  off = {
    d: abs(of_depth(d) - parameters.PUBLISHED[size])
    for d in (depth - 1, depth, depth + 1)
  }
  assert min(off, key=off.get) == depth
  assert off[depth] < 0.005 * parameters.PUBLISHED[size]


def test_nearest_rounds_to_the_depth_that_costs_most_alike():
  cost = {2: 10, 3: 14}.get
  assert [matched.nearest(cost, target, 2) for target in (9, 15, 17, 22)] == [
    2,
    3,
    4,
    5,
  ]
