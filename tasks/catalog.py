"""The tasks by name. Importing it registers all of them."""

import difflib
from collections.abc import Mapping

import seqio

from fnet_t5x.tasks import objectives, sotu

DEFAULT_FEATURE_LENGTHS = {**sotu.DEFAULT_FEATURE_LENGTHS}


def get(name: str) -> seqio.Task | seqio.Mixture:
  """The task or mixture that is registered under `name`, ours or another's.

  Raises:
    ValueError: no such name; lists the closest ones.
  """
  names = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
  if name in names:
    return seqio.get_mixture_or_task(name)
  close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
  if close:
    hint = f'did you mean {" or ".join(close)}?'
  else:
    hint = f'ours are {", ".join(sorted(DEFAULT_FEATURE_LENGTHS))};'
  raise ValueError(
    f"unknown task or mixture '{name}' (MIXTURE_OR_TASK_NAME): {hint} A task of"
    ' your own must be imported in the gin file'
  )


def check_feature_lengths(name: str, lengths: Mapping[str, int]) -> None:
  """Refuses lengths that the task's features cannot have.

  Args:
    name: task or mixture.
    lengths: length in tokens by feature (TASK_FEATURE_LENGTHS).

  Raises:
    ValueError: unknown task; a feature's length is missing or below 1.
  """
  objectives.check_feature_lengths(lengths, list(get(name).output_features))
