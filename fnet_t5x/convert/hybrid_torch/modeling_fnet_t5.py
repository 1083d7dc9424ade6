# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""FNet-T5 in PyTorch: an encoder that mixes tokens, and T5 1.1's decoder.

An encoder layer is x + mixing(norm(x)), then x + mlp(norm(x)). Its mixing is
`fourier`, the real part of a transform over tokens and features (FNet,
arXiv:2105.03824), `attention`, `linear`, or `none`. Each row is mixed over its
own tokens, so that padding, on either side, changes nothing. The decoder, the
output layer and generation are those of transformers' T5.
"""

import functools
import math

import torch
from torch import nn
from transformers import T5ForConditionalGeneration
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5LayerSelfAttention

from .configuration_fnet_t5 import FNetT5Config

# Added where a query may not see a key. Finite: a query that sees no key, which
# is padding, gets an average instead of NaN.
MASKED = -1e10
BUCKETS, MAX_DISTANCE = 32, 128


def fourier_mix(
  x: torch.Tensor, mask: torch.Tensor, scale: str
) -> torch.Tensor:
  """Returns Re(F_length x F_embed) of each row over its own tokens.

  Args:
    x: activations [batch, length, embed].
    mask: [batch, length], true on tokens.
    scale: 'ortho' divides by sqrt(length * embed), 'none' does not.

  Returns:
    The mixed activations; 0 on padding.
  """
  y = torch.zeros_like(x)
  lengths = mask.sum(1)
  norm = 'ortho' if scale == 'ortho' else 'backward'
  for length in lengths.unique().tolist():
    if not length:
      continue
    # Rows of one length share a transform.
    rows = (lengths == length).nonzero()[:, 0]
    columns = mask[rows].nonzero()[:, 1].view(len(rows), length)
    tokens = x[rows[:, None], columns].float()
    mixed = torch.fft.fft2(tokens, norm=norm).real
    y[rows[:, None], columns] = mixed.to(x.dtype)
  return y


def relative_buckets(length: int, device: torch.device) -> torch.Tensor:
  """Returns T5's bucket of each (query, key) offset, [length, length]."""
  place = torch.arange(length, device=device)
  offset = place[None, :] - place[:, None]
  half = BUCKETS // 2
  exact = half // 2
  distance = offset.abs()
  # In float32 with this epsilon: a distance on the border of two buckets must
  # fall on the same side as in training.
  ratio = distance.float() / exact + torch.finfo(torch.float32).eps
  log = ratio.log().double() / math.log(MAX_DISTANCE / exact)
  far = exact + (log * (half - exact)).long()
  bucket = torch.where(distance < exact, distance, far.clamp(max=half - 1))
  return bucket + half * (offset > 0)


def position_bias(table: nn.Embedding, length: int) -> torch.Tensor:
  """Returns the bias of attention logits, [1, heads, query, key]."""
  buckets = relative_buckets(length, table.weight.device)
  return table(buckets).permute(2, 0, 1)[None]


def sinusoidal_positions(
  positions: torch.Tensor, features: int
) -> torch.Tensor:
  """Returns sines, then cosines, of each position, [..., features]."""
  half = (features + 1) // 2
  wave = torch.arange(half, dtype=torch.float32, device=positions.device)
  angle = positions[..., None].float() * 10000.0 ** (-wave / half)
  return torch.cat([angle.sin(), angle.cos()], -1)[..., :features]


class RMSNorm(nn.Module):
  """x / rms(x) * weight, with the root mean square in float32."""

  def __init__(self, config: FNetT5Config):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(config.d_model))
    self.epsilon = config.layer_norm_epsilon

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Normalizes each vector along the last axis."""
    mean_square = x.float().square().mean(-1, keepdim=True)
    normalized = x.float() * torch.rsqrt(mean_square + self.epsilon)
    return normalized.to(self.weight.dtype) * self.weight


class FeedForward(nn.Module):
  """wo(act(wi_0(x)) * wi_1(x)), or wo(act(wi(x)))."""

  def __init__(self, config: FNetT5Config):
    super().__init__()
    names = ['wi_0', 'wi_1'] if config.is_gated_act else ['wi']
    for name in names:
      setattr(self, name, nn.Linear(config.d_model, config.d_ff, bias=False))
    self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
    self.act = ACT2FN[config.dense_act_fn]
    self.dropout = nn.Dropout(config.dropout_rate)
    self.gated = config.is_gated_act

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Applies the block to each position independently."""
    if self.gated:
      x = self.act(self.wi_0(x)) * self.wi_1(x)
    else:
      x = self.act(self.wi(x))
    # transformers' T5 keeps `wo` in float32 where the others are in float16.
    return self.wo(self.dropout(x).to(self.wo.weight.dtype))


class FourierMixing(nn.Module):
  """Fourier mixing, which has no parameters."""

  def __init__(self, config: FNetT5Config):
    super().__init__()
    self.scale = config.fourier_scale
    self.exact = config.fourier_lengths == 'exact'

  def forward(self, x, mask, positions, bias):
    """Mixes each row, [batch, length, embed]."""
    del positions, bias
    return fourier_mix(
      x, mask if self.exact else torch.ones_like(mask), self.scale
    )


class LinearMixing(nn.Module):
  """y_n = sum over tokens m of W[p_n, p_m] (V x_m), p the place in the row."""

  def __init__(self, config: FNetT5Config):
    super().__init__()
    places = config.max_encoder_length
    self.embed_mixing = nn.Linear(config.d_model, config.d_model, bias=False)
    self.length_mixing = nn.Parameter(torch.zeros(places, places))

  def forward(self, x, mask, positions, bias):
    """Mixes each row, [batch, length, embed]."""
    del bias
    both = mask[:, :, None] & mask[:, None, :]
    weights = self.length_mixing[positions[:, :, None], positions[:, None, :]]
    return (weights * both.to(x.dtype)) @ self.embed_mixing(x)


class Attention(nn.Module):
  """T5's self-attention; logits are not divided by sqrt(d_kv)."""

  def __init__(self, config: FNetT5Config):
    super().__init__()
    inner = config.num_heads * config.d_kv
    self.heads = config.num_heads
    self.q, self.k, self.v = (
      nn.Linear(config.d_model, inner, bias=False) for _ in range(3)
    )
    self.o = nn.Linear(inner, config.d_model, bias=False)
    if config.relpos_bias_per_layer:
      self.relative_attention_bias = nn.Embedding(BUCKETS, config.num_heads)
    self.dropout = nn.Dropout(config.dropout_rate)

  def forward(self, x, mask, positions, bias):
    """Attends within each row; `bias` is None if the layer has its own."""
    del positions
    batch, length, _ = x.shape
    query, key, value = (
      project(x).view(batch, length, self.heads, -1).transpose(1, 2)
      for project in (self.q, self.k, self.v)
    )
    if bias is None:
      bias = position_bias(self.relative_attention_bias, length)
    both = mask[:, None, :, None] & mask[:, None, None, :]
    # In float32: half precision has no number as large as MASKED.
    logits = (query @ key.transpose(2, 3)).float() + bias.float()
    logits = logits + torch.where(both, 0.0, MASKED)
    weights = self.dropout(logits.softmax(-1).to(x.dtype))
    y = (weights @ value).transpose(1, 2)
    return self.o(y.reshape(batch, length, -1))


MIXINGS = {
  'fourier': FourierMixing,
  'linear': LinearMixing,
  'attention': Attention,
}


class EncoderLayer(nn.Module):
  """Pre-norm mixing, then a pre-norm feed-forward block."""

  def __init__(self, config: FNetT5Config, mixing: str):
    super().__init__()
    self.mixing = None
    if mixing != 'none':
      self.mixing_norm = RMSNorm(config)
      self.mixing = MIXINGS[mixing](config)
    self.mlp_norm = RMSNorm(config)
    self.mlp = FeedForward(config)
    self.dropout = nn.Dropout(config.dropout_rate)

  def forward(self, x, mask, positions, bias):
    """Applies the layer."""
    if self.mixing is not None:
      y = self.mixing(self.mixing_norm(x), mask, positions, bias)
      x = x + self.dropout(y)
    return x + self.dropout(self.mlp(self.mlp_norm(x)))


class FNetT5Encoder(nn.Module):
  """Embeddings, layers with a mixing each, and a norm."""

  # Generation passes its inputs by this name.
  main_input_name = 'input_ids'

  def __init__(self, config: FNetT5Config, embed_tokens: nn.Embedding):
    super().__init__()
    if len(config.encoder_mixing) != config.num_layers:
      raise ValueError(
        f'encoder_mixing names {len(config.encoder_mixing)} layers, '
        f'num_layers is {config.num_layers}'
      )
    self.config = config
    self.embed_tokens = embed_tokens
    if config.encoder_position_embedding == 'learned':
      self.position_embedding = nn.Embedding(
        config.max_encoder_length, config.d_model
      )
    shares_bias = not config.relpos_bias_per_layer
    self.relative_attention_bias = None
    if shares_bias and 'attention' in config.encoder_mixing:
      self.relative_attention_bias = nn.Embedding(BUCKETS, config.num_heads)
    self.layers = nn.ModuleList(
      EncoderLayer(config, mixing) for mixing in config.encoder_mixing
    )
    self.final_layer_norm = RMSNorm(config)
    self.dropout = nn.Dropout(config.dropout_rate)

  def get_input_embeddings(self) -> nn.Embedding:
    """Returns the token embedding."""
    return self.embed_tokens

  def set_input_embeddings(self, new_embeddings: nn.Embedding) -> None:
    """Sets the token embedding."""
    self.embed_tokens = new_embeddings

  def forward(
    self,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    output_hidden_states: bool | None = None,
    return_dict: bool | None = None,
    **unused,
  ) -> BaseModelOutput | tuple:
    """Encodes each row.

    Args:
      input_ids: tokens [batch, length].
      attention_mask: [batch, length], 1 on tokens, which are adjacent, and 0 on
        padding; None derives it from `input_ids`.
      inputs_embeds: embedded tokens, instead of `input_ids`.
      output_hidden_states: whether to return the layers' outputs too.
      return_dict: False returns a tuple.

    Raises:
      ValueError: a row has more tokens than the encoder has positions.
    """
    config = self.config
    if attention_mask is None:
      if input_ids is None:
        attention_mask = torch.ones_like(inputs_embeds[..., 0])
      else:
        attention_mask = input_ids != config.pad_token_id
    mask = attention_mask.bool()
    x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
    # Of each token in its row, from 0 on. Padding continues to count.
    first = mask.int().argmax(1, keepdim=True)
    place = torch.arange(mask.shape[1], device=mask.device)[None, :]
    positions = (place - first).clamp(min=0)
    positions = self._checked(positions, mask)
    if config.encoder_position_embedding == 'learned':
      x = x + self.position_embedding(positions)
    elif config.encoder_position_embedding == 'sinusoidal':
      x = x + sinusoidal_positions(positions, x.shape[-1]).to(x.dtype)
    bias = None
    if self.relative_attention_bias is not None:
      bias = position_bias(self.relative_attention_bias, x.shape[1])
    x = self.dropout(x)
    states = [x]
    for layer in self.layers:
      x = layer(x, mask, positions, bias)
      states.append(x)
    x = self.dropout(self.final_layer_norm(x))
    output = BaseModelOutput(
      last_hidden_state=x,
      hidden_states=tuple(states) if output_hidden_states else None,
    )
    return output.to_tuple() if return_dict is False else output

  def _checked(self, positions, mask):
    """Returns positions within the tables, if there are any."""
    config = self.config
    if (
      config.encoder_position_embedding != 'learned'
      and 'linear' not in config.encoder_mixing
    ):
      return positions
    limit = config.max_encoder_length
    longest = int(mask.sum(1).max())
    if longest > limit:
      raise ValueError(
        f'encoder inputs of {longest} tokens: max_encoder_length is {limit}; '
        f'truncate them (max_length={limit}, truncation=True)'
      )
    return positions.clamp(max=limit - 1)


class OwnBiasSelfAttention(T5LayerSelfAttention):
  """Decoder self-attention that ignores the first layer's position biases."""

  def forward(self, *args, **kwargs):
    """Attends, with this layer's own biases."""
    return super().forward(*args, **{**kwargs, 'position_bias': None})


class FNetT5ForConditionalGeneration(T5ForConditionalGeneration):
  """T5 with the mixing encoder."""

  config_class = FNetT5Config
  # Residual connections stay on one device.
  _no_split_modules = ['T5Block', 'EncoderLayer']  # noqa: RUF012

  def __init__(self, config: FNetT5Config):
    super().__init__(config)
    self.encoder = FNetT5Encoder(config, self.shared)
    if not config.logits_via_embedding:
      # Newer versions of transformers tie T5's output layer at first.
      self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
      if isinstance(self._tied_weights_keys, dict):
        self._tied_weights_keys = {
          name: source
          for name, source in self._tied_weights_keys.items()
          if name != 'lm_head.weight'
        }
    if config.relpos_bias_per_layer:
      for i, block in enumerate(self.decoder.block):
        block.layer[0] = OwnBiasSelfAttention(
          self.decoder.config, has_relative_attention_bias=True, layer_idx=i
        )
    self.post_init()

  # Generation looks at the parameters' names.
  @functools.wraps(T5ForConditionalGeneration.forward)
  def forward(self, input_ids=None, attention_mask=None, *args, **kwargs):
    """Derives a missing mask from the padding."""
    if attention_mask is None and input_ids is not None:
      attention_mask = (input_ids != self.config.pad_token_id).long()
    return super().forward(input_ids, attention_mask, *args, **kwargs)
