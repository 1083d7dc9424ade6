"""Encoder-decoder and decoder-only models: loss, prediction and scoring."""

from fnet_t5x.compat.engine import USES_T5X

if USES_T5X:
  from t5x.models import *  # noqa: F403
else:
  from fnet_t5x.runtime.decoder_only import (  # noqa: F401 (T5X's names)
    DecoderOnlyModel,
    remove_prefix,
  )
  from fnet_t5x.runtime.models import *  # noqa: F403
