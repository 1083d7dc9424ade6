"""The evaluation tasks by name. Importing it registers all of them.

The held-out losses are registered beside their sources (`language_modeling`).
"""

import types
from collections.abc import Mapping

from fnet_t5x.tasks import (
  glue,
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
      super_glue,
      summarization,
      squad,
      translation,
      lambada,
    )
    for entry in module.ENTRIES
  }
)
