"""Tiny training runs for tests of generation."""

import pathlib

import bad_input_test
import gin
import gin_commands
import small_runs

from fnet_t5x.runtime import train as train_lib


def train(folder: pathlib.Path, *lines: str) -> str:
  """Trains a byte-level model for two steps; returns its folder, both saved.

  Args:
    folder: the parent folder.
    lines: gin bindings that override the others.
  """
  gin_file = folder / 'run.gin'
  steps = ('TRAIN_STEPS = 2', 'SAVE_PERIOD = 1')
  gin_file.write_text('\n'.join([bad_input_test.RUN, *steps, *lines]))
  small_runs.register()
  with gin_commands.of_main(train_lib.train):
    gin.clear_config()
    bad_input_test.train(gin_file, folder / 'model')
    gin.clear_config()
  return str(folder / 'model')
