"""HBM traffic of fusions: only the slice of sliced and updated arrays."""

from fnet_t5x.planning import hlo

# A step of a scanned backward pass from the TPU compiler: a fusion within a
# fusion slices the layer from the stack.
NESTED = """
HloModule nested

%inner (stack.1: bf16[24,64,32], i.1: s32[]) -> bf16[64,32] {
  %stack.1 = bf16[24,64,32]{2,1,0:T(8,128)} parameter(0)
  %i.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,64,32]{2,1,0} dynamic-slice(%stack.1, %i.1, %zero, %zero)
  ROOT %flat = bf16[64,32]{1,0} bitcast(%slice)
}

%outer (i.2: s32[], x: bf16[32,16], stack.2: bf16[24,64,32]) -> f32[64,16] {
  %i.2 = s32[]{:T(128)} parameter(0)
  %x = bf16[32,16]{1,0:T(8,128)} parameter(1)
  %stack.2 = bf16[24,64,32]{2,1,0:T(8,128)} parameter(2)
  %again = bf16[24,64,32]{2,1,0:T(8,128)} bitcast(%stack.2)
  %layer = bf16[64,32]{1,0} fusion(%again, %i.2), kind=kLoop, calls=%inner
  ROOT %y = f32[64,16]{1,0} convolution(%layer, %x), dim_labels=bf_io->bf
}

ENTRY %main (i: s32[], x: bf16[32,16], stack: bf16[24,64,32]) -> f32[64,16] {
  %i = s32[]{:T(128)} parameter(0)
  %x.1 = bf16[32,16]{1,0:T(8,128)LAYOUT} parameter(1)
  %stack = bf16[24,64,32]{2,1,0:T(8,128)} parameter(2)
  ROOT %fusion = f32[64,16]{1,0} fusion(%i, %x.1, %stack), kind=kOutput, \
calls=%outer
}
"""


def test_a_slice_in_a_nested_fusion_is_all_that_is_read():
  index, layer, x, y = 4, 2 * 64 * 32, 2 * 32 * 16, 4 * 64 * 16
  found = hlo.cost(NESTED.replace('LAYOUT', ''))
  assert found.bytes == index + layer + x + y
  # Arrays that are already on chip cost nothing.
  found = hlo.cost(NESTED.replace('LAYOUT', 'S(1)'))
  assert found.bytes == index + layer + y


def test_a_stack_that_something_else_reads_is_read_whole():
  text = NESTED.replace(
    '%again = bf16[24,64,32]{2,1,0:T(8,128)} bitcast(',
    '%again = bf16[24,64,32]{2,1,0:T(8,128)} negate(',
  )
  stack = 2 * 24 * 64 * 32
  assert hlo.cost(text.replace('LAYOUT', '')).bytes > stack
