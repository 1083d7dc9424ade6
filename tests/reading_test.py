"""docs/reading.md: its code runs, and its links lead to what they name."""

import ast
import doctest
import re

import pytest
from checkout import ROOT

DOCUMENT = ROOT / 'docs/reading.md'
LINKS = re.findall(r'\[`(\w+)\.(\w+)`\]\((\S+?)\)', DOCUMENT.read_text())


@pytest.mark.slow
def test_its_code_gives_what_it_says():
  failed, tried = doctest.testfile(
    str(DOCUMENT), module_relative=False, optionflags=doctest.ELLIPSIS
  )
  assert tried > 20
  assert failed == 0


@pytest.mark.parametrize(('module', 'name', 'path'), LINKS)
def test_a_link_leads_to_the_definition(module, name, path):
  source = (DOCUMENT.parent / path).resolve()
  assert source.stem == module
  defined = {
    node.name
    for node in ast.parse(source.read_text()).body
    if isinstance(node, ast.ClassDef | ast.FunctionDef)
  }
  assert name in defined
