"""Logical axis rules in addition to T5X's.

T5X's rules cover every axis of our parameters. The length of the encoder's
activations has its own name, `encoder_length`, so that it can be sharded while
the decoder's length, which is 1 in decoding, is not. T5X's rules do not shard
it.
"""

from collections.abc import Sequence

from fnet_t5x.compat import partitioning

LogicalAxisRules = Sequence[tuple[str, str | None]]


def sequence_sharded_logical_axis_rules(
  parameter_partitioning_dims: int = 1,
  additional_rules: LogicalAxisRules | None = None,
) -> LogicalAxisRules:
  """Returns T5X's rules, with the encoder's length sharded over 'model'.

  The encoder's activations are then sharded as [batch over data, length over
  model, embed]: each device holds some of the tokens of its rows, also in
  feed-forward blocks. To mix tokens, devices exchange tokens for features
  (Fourier) or for heads (attention). Parameters stay sharded over 'model'.

  Args:
    parameter_partitioning_dims: of T5X's rules; 2 also shards parameters over
      'data'.
    additional_rules: rules to append.
  """
  standard = partitioning.standard_logical_axis_rules(
    activation_partitioning_dims=1,
    parameter_partitioning_dims=parameter_partitioning_dims,
    additional_rules=additional_rules,
  )
  # First, since the first rule that applies to an array gets the mesh axis.
  return [('encoder_length', 'model'), *standard]
