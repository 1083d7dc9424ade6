"""Folders of the checkout that is tested."""

import pathlib

import fnet_t5x

ROOT = pathlib.Path(fnet_t5x.__file__).parents[1]
GOLDEN_DIR = ROOT / 'tests/golden'
