"""Layers one after the other: one by one or scanned, kept or recomputed.

Scanned, like layers are one program run `layers` times, so that compiling costs
one layer whatever the depth. Their parameters are stacked on a new axis, named
`layers`, at position 1 of each (T5X's `t5x.examples.scalable_t5`): a kernel
[embed, mlp] becomes [embed, layers, mlp], a scale [embed] [embed, layers]. As
there, attention's kernels keep heads and kv apart, [embed, layers, heads, kv]
for [embed, joined_kv], and each layer has relative position biases of its own.
The decoding cache is stacked at position 0.

Names. One by one, layer i of the encoder is `encoder/layers_<i>`. Scanned, all
are `encoder/encoder` and `decoder/decoder`, T5X's names. Layers that mix tokens
in different ways cannot be stacked: an encoder of several kinds is a stack for
each run of like layers, `encoder/encoder_0`, `encoder/encoder_1`, and so on
from the input on: Fourier x 10, then attention x 2, are two stacks.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
from flax.linen import partitioning
from jaxtyping import Array, Float

SCAN_AXIS = 1
# What a layer gives `jax.ad_checkpoint.checkpoint_name`.
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
  """Yields each run of equal names: its stack's name, the name, its length.

  ['fourier', 'fourier', 'attention'] with stack 'encoder' gives
  ('encoder_0', 'fourier', 2), ('encoder_1', 'attention', 1); a single run is
  'encoder'.
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
  """Applies `count` layers of one kind, as `config` in `fields` says.

  Args:
    owner: the module that has the layers, in its compact method.
    layer: the layers' class; takes activations, then `shared`.
    fields: its attributes but for the name.
    count: how many.
    x: what the first one takes.
    *shared: what all take besides; bools are compile-time constants.
    stack: the name of the layers where they are scanned.
    first: the number of the first layer where they are not.
    length_axis: the logical name of the activations' length.

  Returns:
    What the last one gives.
  """
  config = fields['config']
  axes = ('batch', length_axis, 'embed')
  x = partitioning.with_sharding_constraint(x, axes)
  if config.remat_policy != 'none':
    layer = partitioning.remat(
      layer,
      # A scan's body is a computation of its own: XLA cannot merge what is
      # recomputed with what was computed.
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
  # Parameters leave the scan at initialisation only.
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
  """What the forward pass keeps for the backward pass; None: nothing.

  'minimal' is T5X's, matrix products with a weight, and the outcome of mixing
  without one, which stands where attention's last product would.
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
