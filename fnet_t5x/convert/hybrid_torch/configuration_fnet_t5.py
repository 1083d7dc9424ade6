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
"""Configuration of FNet-T5: T5's, and that of the mixing encoder."""

from collections.abc import Sequence

from transformers import T5Config


class FNetT5Config(T5Config):
  """T5's configuration, extended by that of the mixing encoder.

  Attributes:
    encoder_mixing: 'fourier', 'attention', 'linear' or 'none' for each of the
      `num_layers` layers.
    encoder_position_embedding: 'none', 'learned' or 'sinusoidal'.
    max_encoder_length: longest input, in tokens, that learned positions and
      linear mixing support.
    fourier_scale: 'ortho', or 'none' for FNet's unnormalized transform.
    fourier_lengths: 'exact' transforms each row over its own tokens, 'padded'
      over its padding too.
    relpos_bias_per_layer: whether each layer has its own relative position
      biases.
    logits_via_embedding: whether the token embedding is the output layer.
  """

  model_type = 'fnet_t5'

  # Newer versions of transformers make configurations dataclasses, and all
  # accept this form.
  def __init__(
    self,
    encoder_mixing: Sequence[str] = (),
    encoder_position_embedding: str = 'learned',
    max_encoder_length: int = 512,
    fourier_scale: str = 'ortho',
    fourier_lengths: str = 'exact',
    relpos_bias_per_layer: bool = False,
    logits_via_embedding: bool = False,
    **kwargs,
  ):
    self.encoder_mixing = list(encoder_mixing)
    self.encoder_position_embedding = encoder_position_embedding
    self.max_encoder_length = max_encoder_length
    self.fourier_scale = fourier_scale
    self.fourier_lengths = fourier_lengths
    self.relpos_bias_per_layer = relpos_bias_per_layer
    self.logits_via_embedding = logits_via_embedding
    super().__init__(**kwargs)
