"""Rules from logical axes to mesh axes, in T5X's language: what T5X lacks.

Every axis of our parameters is one that T5X's rules know. Of activations, the
encoder's length has a name of its own, `encoder_length`, so that it can be
spread over devices where the decoder's is not: while decoding that is 1. T5X's
rules leave it whole.
"""

from collections.abc import Sequence

from fnet_t5x.compat import partitioning

LogicalAxisRules = Sequence[tuple[str, str | None]]


def sequence_sharded_logical_axis_rules(
  parameter_partitioning_dims: int = 1,
  additional_rules: LogicalAxisRules | None = None,
) -> LogicalAxisRules:
  """Returns T5X's rules, with the encoder's length spread over 'model'.

  The encoder's activations are then [batch over data, length over model,
  embed]: each device has some tokens of its rows, through the feed-forward
  blocks too. Where a layer mixes tokens, devices exchange tokens for features
  (Fourier) or for heads (attention). Parameters stay spread over 'model'.

  Args:
    parameter_partitioning_dims: of T5X's rules; 2 spreads parameters over
      'data' also.
    additional_rules: appended.
  """
  standard = partitioning.standard_logical_axis_rules(
    activation_partitioning_dims=1,
    parameter_partitioning_dims=parameter_partitioning_dims,
    additional_rules=additional_rules,
  )
  # First of all: an array's first rule takes the mesh axis.
  return [('encoder_length', 'model'), *standard]
