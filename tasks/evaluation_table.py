"""Table of evaluation tasks by name; importing this module registers them.

Held-out loss tasks are registered with their sources (`language_modeling`).
"""

import types
from collections.abc import Mapping

from fnet_t5x.tasks import (
  glue,
  glue_classification,
  lambada,
  registration,
  squad,
  summarization,
  super_glue,
  translation,
)

EVALUATION_TASKS: Mapping[str, registration.Entry] = types.MappingProxyType(
  {
    entry.name: entry
    for module in (
      glue,
      glue_classification,
      super_glue,
      summarization,
      squad,
      translation,
      lambada,
    )
    for entry in module.ENTRIES
  }
)
