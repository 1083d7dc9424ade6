"""Golden values of Hugging Face's T5 and GPT-2.

torch 2.13.0 and transformers 5.24.0, from the repository's root:

  PYTHONPATH=tests/helpers:. python tests/golden/hugging_face.py > h.json

Tensors are drawn from their names (`helpers/hugging_face_models.py`).
"""

import json

import hugging_face_models
import numpy as np

CASES = {
  't5_1_1': hugging_face_models.T5,
  't5_1_0': hugging_face_models.T5_ORIGINAL,
  'gpt2': hugging_face_models.GPT2,
}
NEW_TOKENS = 12
BEAMS = 4


def tokens(name):
  """Returns inputs [2, 7], and T5's decoder inputs [2, 5], which begin with 0.

  GPT-2's rows begin with its <|endoftext|>, T5's may end in padding.
  """
  random = np.random.default_rng(0)
  inputs = random.integers(2, 18, (2, 7))
  targets = random.integers(2, 18, (2, 5))
  targets[:, 0] = 0
  inputs[0, 5:] = 0
  if name == 'gpt2':
    inputs = random.integers(2, 18, (2, 7))
    inputs[:, 0] = hugging_face_models.GPT2['bos_token_id']
  return inputs, targets


if __name__ == '__main__':
  import hugging_face_torch  # needs torch

  print(
    json.dumps(
      {
        name: hugging_face_torch.outputs(
          hugging_face_torch.build(config),
          *tokens(name),
          NEW_TOKENS,
          BEAMS,
        )
        for name, config in CASES.items()
      }
    )
  )
