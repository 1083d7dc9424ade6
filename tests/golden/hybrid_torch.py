"""Outputs of exported hybrids in torch: `hybrid_torch.json`.

From the checkout, with torch and transformers installed:

  PYTHONPATH=tests/helpers:. python tests/golden/hybrid_torch.py

Recorded with torch 2.13.0 and transformers 5.24.0, on a CPU.
"""

import json
import pathlib
import tempfile

import hybrid_folders
import hybrid_torch_outputs

from fnet_t5x.convert import hybrid_conversion


def main() -> None:
  """Writes the outputs of each hybrid."""
  golden = {}
  with tempfile.TemporaryDirectory() as parent:
    for name, lines in hybrid_folders.CASES.items():
      folder = pathlib.Path(parent, name)
      out = pathlib.Path(parent, f'{name}_exported')
      hybrid_folders.write(folder, *lines)
      hybrid_conversion.to_hugging_face(folder, out)
      found = hybrid_torch_outputs.outputs(hybrid_torch_outputs.load(out))
      logits = found['logits'][..., : hybrid_folders.RECORDED]
      golden[name] = found | hybrid_folders.content(out)
      golden[name]['logits'] = logits.tolist()
  path = pathlib.Path(__file__).with_suffix('.json')
  path.write_text(json.dumps(golden) + '\n')


if __name__ == '__main__':
  main()
