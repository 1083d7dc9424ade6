"""Results of converting a network's parameters."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Converted(NamedTuple):
  """Our parameters, from another library's tensors.

  Attributes:
    arrays: parameters by our name.
    dropped: names of tensors that are not used, by reason.
    macros: values for our gin file of the architecture.
    bindings: further values that it does not set by macros.
    imports: statements that the bindings need.
    notes: lines for the report.
  """

  arrays: dict[str, np.ndarray]
  dropped: dict[str, list[str]]
  macros: Mapping[str, Any]
  bindings: Mapping[str, Any]
  imports: Sequence[str]
  notes: Sequence[str]


class Exported(NamedTuple):
  """Another library's tensors, from our parameters.

  Attributes:
    tensors: by their name.
    config: content of config.json.
    generation: content of generation_config.json: special ids.
    tokenizer: class of a tokenizer that reads our SentencePiece models with
      the same ids; None if the architecture has none.
    notes: lines for the report.
  """

  tensors: dict[str, np.ndarray]
  config: Mapping[str, Any]
  generation: Mapping[str, Any]
  tokenizer: str | None
  notes: Sequence[str]
