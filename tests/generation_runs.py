"""Runs small enough to train in a test, to generate texts with."""

import pathlib

import bad_input_test
import gin
import gin_commands
import small_runs

from fnet_t5x.runtime import train as train_lib


def train(folder: pathlib.Path, *lines: str) -> str:
  """Returns the model directory of two steps, both saved, of bytes.

  Args:
    folder: where to make it.
    lines: of gin, which override the rest.
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
