"""Stacks of layers: unrolled or scanned, with or without remat.

Scanned layers of one kind are a single program run `layers` times: compile time
is that of one layer, whatever the depth. Their parameters are stacked along a
new axis, named `layers`, at position 1 (as in `t5x.examples.scalable_t5`): a
kernel [embed, mlp] becomes [embed, layers, mlp], and a scale [embed] becomes
[embed, layers]. As there, attention kernels keep heads and kv apart,
[embed, layers, heads, kv] instead of [embed, joined_kv], and each layer has its
own relative position biases. The decoding cache is stacked along axis 0.

Names: unrolled, layer i of the encoder is `encoder/layers_<i>`. Scanned, the
stacks are `encoder/encoder` and `decoder/decoder`, T5X's names. Layers with
different mixings cannot be stacked: such an encoder has one stack for each run
of layers with the same mixing, `encoder/encoder_0`, `encoder/encoder_1`, ...,
starting at the input. Fourier x 10 followed by attention x 2 is two stacks.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
from flax.linen import partitioning
from jaxtyping import Array, Float

SCAN_AXIS = 1
# `jax.ad_checkpoint.checkpoint_name` of a mixing's output.
MIXING = 'mixing'

RematPolicy = Literal[
  'none',
  'minimal',
  'full',
  'dots_saveable',
  'dots_with_no_batch_dims_saveable',
  'nothing_saveable',
  'everything_saveable',
]

Activations = Float[Array, 'batch length embed']


def runs(names: Sequence[str], stack: str) -> Iterator[tuple[str, str, int]]:
  """Yields (name of the stack, name, length) for each run of equal names.

  ['fourier', 'fourier', 'attention'] with stack 'encoder' yields
  ('encoder_0', 'fourier', 2) and ('encoder_1', 'attention', 1). The stack of a
  single run is 'encoder'.
  """
  found = [(name, len(list(run))) for name, run in itertools.groupby(names)]
  for i, (name, length) in enumerate(found):
    yield (stack if len(found) == 1 else f'{stack}_{i}'), name, length


def apply_layers(
  owner: nn.Module,
  layer: type[nn.Module],
  fields: Mapping[str, Any],
  count: int,
  x: Activations,
  *shared: Any,
  stack: str,
  first: int = 0,
  length_axis: str = 'length',
) -> Activations:
  """Applies `count` layers of one kind, scanned or not, as configured.

  Args:
    owner: the module that creates the layers, in its compact method.
    layer: class of the layers; called with activations, then `shared`.
    fields: attributes of the layers except the name. `config` among them sets
      `scan_layers` and `remat_policy`.
    count: number of layers.
    x: input of the first layer.
    *shared: further arguments, the same for all layers. Bools are compile-time
      constants.
    stack: name of the stack if scanned.
    first: index of the first layer if unrolled.
    length_axis: logical name of the activations' length axis.

  Returns:
    The output of the last layer.
  """
  config = fields['config']
  axes = ('batch', length_axis, 'embed')
  x = partitioning.with_sharding_constraint(x, axes)
  if config.remat_policy != 'none':
    layer = partitioning.remat(
      layer,
      # A scan's body is a separate computation: there XLA cannot undo remat by
      # common subexpression elimination.
      prevent_cse=not config.scan_layers,
      policy=_saved(config.remat_policy),
      static_argnums=tuple(
        i for i, value in enumerate(shared, 1) if isinstance(value, bool)
      ),
    )
  if not config.scan_layers:
    for i in range(first, first + count):
      x = layer(**fields, name=f'layers_{i}')(x, *shared)
      x = partitioning.with_sharding_constraint(x, axes)
    return x
  # The scan outputs parameters at initialisation only.
  initialising = owner.is_mutable_collection('params')
  params_axis = SCAN_AXIS if initialising else partitioning.ScanIn(SCAN_AXIS)
  scanned = partitioning.scan_with_axes(
    _scan_body(layer, axes),
    variable_axes={'params': params_axis, 'cache': 0},
    split_rngs={'params': True, 'dropout': True},
    in_axes=(nn.broadcast,) * len(shared),
    length=count,
    axis_name='layers',
  )
  x, _ = scanned(**fields, name=stack)(x, *shared)
  return x


def _scan_body(layer, axes):
  class ScanBody(layer):
    def __call__(self, x, *shared):
      x = super().__call__(x, *shared)
      return partitioning.with_sharding_constraint(x, axes), None

  return ScanBody


def _saved(policy: RematPolicy):
  """Returns the checkpoint policy of what is saved for the backward pass.

  'minimal' saves what T5X's does, products with weights, and also the output of
  Fourier mixing, which is no such product but takes the place of attention's
  output projection. None saves nothing but the layer's input.
  """
  if policy == 'full':
    return None
  policies = jax.checkpoint_policies
  if policy == 'minimal':
    return policies.save_from_both_policies(
      policies.dots_with_no_batch_dims_saveable,
      policies.save_only_these_names(MIXING),
    )
  return getattr(policies, policy)
