"""Cost of compiled programs whose cost is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnet_t5x.planning import hlo

TRIPS = 7


def text_of(function, *shapes, dtype=jnp.float32):
  operands = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
  return jax.jit(function).lower(*operands).compile().as_text()


def test_a_product_of_matrices_is_two_operations_a_triple():
  found = hlo.cost(text_of(jnp.dot, (64, 128), (128, 32)))
  assert found.flops == 2 * 64 * 128 * 32
  assert found.bytes == 4 * (64 * 128 + 128 * 32 + 64 * 32)


def test_a_batched_product_counts_every_row():
  def product(x, y):
    return jnp.einsum('bhqd,bhkd->bhqk', x, y)

  found = hlo.cost(text_of(product, (2, 3, 16, 8), (2, 3, 32, 8)))
  assert found.flops == 2 * (2 * 3) * 16 * 32 * 8


def test_the_body_of_a_loop_counts_once_a_trip():
  def function(x, kernels):
    return jax.lax.scan(lambda x, k: (jnp.tanh(x @ k), None), x, kernels)[0]

  text = text_of(function, (64, 64), (TRIPS, 64, 64))
  once, all_trips = hlo.cost(text, count_loops=False), hlo.cost(text)
  assert once.flops == 2 * 64**3
  assert all_trips.flops == TRIPS * once.flops
  # Each trip reads one of the stacked kernels, not all.
  assert all_trips.bytes < TRIPS * 4 * 12 * 64**2


# Loop in the text of the TPU compiler: without a trip count.
LOOP = """
HloModule loop

%condition (state: (s32[], f32[8,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(24)
  %state = (s32[]{:T(128)}, f32[8,8]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (inner: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %inner = (s32[]{:T(128)}, f32[8,8]{1,0}) parameter(0)
  %x = f32[8,8]{1,0:T(8,128)} get-tuple-element(%inner), index=1
  %y = f32[8,8]{1,0:T(8,128)S(1)} convolution(%x, %x), dim_labels=bf_io->bf, \
backend_config={"window_config":{"estimated_cycles":"100"}}
  %j = s32[]{:T(128)} get-tuple-element(%inner), index=0
  ROOT %out = (s32[]{:T(128)}, f32[8,8]{1,0}) tuple(%j, %y)
}

ENTRY %main (start: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %start = (s32[]{:T(128)}, f32[8,8]{1,0}) parameter(0)
  ROOT %loop = (s32[], f32[8,8]) while(%start), condition=%condition, body=%body
}
"""


def test_a_loop_up_to_a_constant_needs_no_note_of_its_trips():
  found = hlo.cost(LOOP)
  assert found.flops == 24 * 2 * 8**3
  assert found.cycles == 24 * 100
  # The operand twice, from HBM; the result is on chip, S(1).
  assert found.bytes == 24 * 2 * 4 * 8 * 8
  assert hlo.cost(LOOP, count_loops=False).cycles == 100


@pytest.mark.parametrize('groups', [1, 2])
def test_a_convolution_counts_the_pairs_that_exist(groups):
  def convolution(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (2, 1),
      [(1, 1), (0, 2)],
      lhs_dilation=(2, 1),
      rhs_dilation=(1, 2),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=groups,
    )

  shapes = ((2, 5, 6, 4), (3, 3, 4 // groups, 6))
  text = text_of(convolution, *shapes)
  if 'convolution(' not in text:
    pytest.skip('this backend makes no convolution of it')
  # A product of ones with ones adds one per pair.
  ones = [jnp.ones(shape, jnp.float32) for shape in shapes]
  pairs = float(np.sum(convolution(*ones)))
  assert hlo.cost(text).flops == 2 * pairs


def test_fourier_transforms_count_as_published():
  text = text_of(lambda x: jnp.fft.fft(x).real, (4, 256), dtype=jnp.complex64)
  assert hlo.cost(text).flops == 4 * 5 * 256 * 8
  text = text_of(lambda x: jnp.abs(jnp.fft.rfft(x)), (4, 256))
  assert hlo.cost(text).flops == 4 * 2.5 * 256 * 8


def test_of_two_branches_the_dearer_counts():
  def function(x, choose):
    return jax.lax.cond(
      choose[0, 0] > 0, lambda: x @ x, lambda: jnp.tanh(x) + 1
    )

  assert hlo.cost(text_of(function, (64, 64), (1, 1))).flops == 2 * 64**3


def test_bytes_are_near_the_compilers_count():
  def function(x, y):
    return jax.nn.softmax(x @ y, axis=-1) @ y.T

  operands = [jax.ShapeDtypeStruct((256, 256), jnp.float32)] * 2
  compiled = jax.jit(function).lower(*operands).compile()
  theirs = compiled.cost_analysis()
  ours = hlo.cost(compiled.as_text())
  assert ours.bytes == pytest.approx(theirs['bytes accessed'], rel=0.25)
  assert ours.flops == 2 * 2 * 256**3


def test_what_is_no_program_is_refused():
  with pytest.raises(ValueError, match='compiled HLO module'):
    hlo.cost('hello')
