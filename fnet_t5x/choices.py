"""Settings that are one of a few words: a check of their values."""

from typing import Any, get_args


def check_choice(name: str, value: str, choices: Any) -> None:
  """Raises ValueError unless `value` is one of the Literal's choices.

  Args:
    name: of the setting, for the message.
    value: of the setting.
    choices: a `typing.Literal`.
  """
  if value not in get_args(choices):
    raise ValueError(
      f'{name}={value!r} is not known; choose one of '
      f'{", ".join(get_args(choices))}'
    )
