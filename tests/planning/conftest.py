"""Gin's command set to the planner's for every test here."""

import gin_commands
import pytest

from fnet_t5x.planning import gin_run


@pytest.fixture(autouse=True)
def _planner():
  with gin_commands.of_main(gin_run.train):
    yield
