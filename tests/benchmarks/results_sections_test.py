"""The sections: their commands exist, and a whole run ends in time."""

import importlib
import pathlib
import shlex

import pytest

from fnet_t5x.benchmarks.results_sections import SECTIONS, shown_text


@pytest.mark.parametrize('section', SECTIONS.values(), ids=SECTIONS)
@pytest.mark.parametrize('toy', [False, True])
def test_commands_are_valid(section, toy, tmp_path):
  module = importlib.import_module(f'fnet_t5x.benchmarks.{section.name}')
  words = section.words(toy, 'text.txt')
  options = module.parse([*words, f'--json={tmp_path / "a.json"}'])
  assert hasattr(options, 'figure') == section.draws
  assert hasattr(options, 'text') == section.reads_text


def test_a_whole_run_is_within_90_minutes():
  assert sum(section.limit for section in SECTIONS.values()) < 90


def test_a_command_as_it_is_shown():
  quality, mixing = SECTIONS['quality'], SECTIONS['mixing']
  shown = shlex.split(quality.command(text='/home/me/novels/*.txt'))
  assert shown[:3] == ['python', '-m', 'fnet_t5x.benchmarks.quality']
  assert shown[-2:] == ['--text', 'novels/*.txt']
  assert quality.words(text='/a/b')[-1] == '/a/b'
  assert 'text' not in mixing.command(text='/a/b')
  assert mixing.command(toy=True) != mixing.command()
  assert shown_text(str(pathlib.Path('/a/novels/'))) == 'novels'
