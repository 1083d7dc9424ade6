"""Hugging Face's T5 and GPT-2 in PyTorch, for the comparison of generation.

Needs torch and transformers, which this project does not install.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from fnet_t5x.benchmarks.accelerator import networks
from fnet_t5x.benchmarks.generation_case import Sizes

# By the name of our network of the same shape.
NAMES = {'T5': "Hugging Face's T5", 'GPT-2': "Hugging Face's GPT-2"}
_PACKAGES = ('torch', 'transformers')


def missing() -> str | None:
  """Returns a package that is not installed, or None."""
  for name in _PACKAGES:
    if importlib.util.find_spec(name) is None:
      return name
  return None


def versions() -> dict[str, str]:
  """Returns the versions of the packages."""
  import torch
  import transformers

  return {
    'torch': str(torch.__version__),
    'transformers': transformers.__version__,
  }


def needed_bytes(name: str, sizes: Sizes) -> float:
  """Returns about the memory that a model needs, in bytes.

  Mostly logits and weights of attention over the prefix, a layer at a time.

  Args:
    name: 'T5' or 'GPT-2'.
    sizes: of the generation.
  """
  shape = networks.SIZES[sizes.size]
  heads = shape['num_heads']
  if name == 'GPT-2':
    heads = shape['emb_dim'] // shape['head_dim']
  width = 4 if sizes.dtype == 'float32' else 2
  return 3.0 * width * sizes.rows * heads * sizes.prefix**2


class HuggingFaceCase:
  """Greedy generation by `generate`, of one token and of all.

  Attributes:
    model: the PyTorch model, of the shape of our network.
  """

  def __init__(self, module: Any, sizes: Sizes, seed: int = 0):
    """Makes a model with random parameters.

    Args:
      module: our T5 or GPT-2.
      sizes: of the generation.
      seed: of parameters and prefix.
    """
    import torch

    torch.manual_seed(seed)
    decoder_only = networks.is_decoder_only(module)
    make = _gpt2 if decoder_only else _t5
    model = make(module.config, sizes)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    dtype = getattr(torch, sizes.dtype)
    self.model = model.to(device=device, dtype=dtype).eval()
    self._sizes = sizes
    self._prefix = torch.randint(
      3, module.config.vocab_size, (sizes.rows, sizes.prefix), device=device
    )

  def first(self) -> Any:
    """Returns the first token of each row."""
    return self._generate(1)

  def whole(self) -> Any:
    """Returns all tokens of each row."""
    return self._generate(self._sizes.tokens)

  def costs(self) -> Mapping[str, Any]:
    """Returns `parameters`, without learned positions."""
    return {
      'parameters': sum(
        parameter.numel()
        for name, parameter in self.model.named_parameters()
        if 'wpe' not in name
      )
    }

  def _generate(self, tokens):
    import torch

    with torch.inference_mode():
      found = self.model.generate(
        self._prefix,
        attention_mask=torch.ones_like(self._prefix),
        do_sample=False,
        num_beams=1,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        use_cache=True,
      )
    if torch.cuda.is_available():
      torch.cuda.synchronize()
    return found[:, -tokens:].cpu().numpy()


def _t5(config, sizes):
  import torch
  from transformers import T5Config, T5ForConditionalGeneration

  model = T5ForConditionalGeneration(
    T5Config(
      vocab_size=config.vocab_size,
      d_model=config.emb_dim,
      d_kv=config.head_dim,
      d_ff=config.mlp_dim,
      num_layers=config.num_encoder_layers,
      num_decoder_layers=config.num_decoder_layers,
      num_heads=config.num_heads,
      feed_forward_proj='gated-gelu',
      dropout_rate=0.0,
      tie_word_embeddings=False,
      decoder_start_token_id=0,
      pad_token_id=0,
      eos_token_id=1,
    )
  )
  # Recent versions of the library tie T5 1.1's output layer all the same.
  model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
  return model


def _gpt2(config, sizes):
  from transformers import GPT2Config, GPT2LMHeadModel

  return GPT2LMHeadModel(
    GPT2Config(
      vocab_size=config.vocab_size,
      n_positions=sizes.prefix + sizes.tokens,
      n_embd=config.emb_dim,
      n_layer=config.num_layers,
      n_head=config.num_heads,
      n_inner=config.feed_forward_width,
      bos_token_id=0,
      pad_token_id=0,
      eos_token_id=1,
    )
  )
