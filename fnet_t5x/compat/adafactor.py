"""Adafactor and its factor rules."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from collections.abc import Mapping

  import flax.core
  from t5x import adafactor as _t5x
  from t5x.adafactor import *  # noqa: F403

  def standard_logical_factor_rules() -> Mapping[str, _t5x.FactorDim]:
    """Returns T5X's rules, and rules for the axes that T5X lacks."""
    ours = dict.fromkeys(('abspos_buckets', 'length'), _t5x.FactorDim.NONE)
    return flax.core.freeze({**ours, **_t5x.standard_logical_factor_rules()})
else:
  from fnet_t5x.runtime.adafactor import *  # noqa: F403
