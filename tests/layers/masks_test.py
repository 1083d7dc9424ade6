import jax.numpy as jnp
import numpy as np

from fnet_t5x.layers import masks

TARGETS = jnp.array([[6, 7, 8, 3, 4, 5, 0]])
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 2, 0]])
PREFIX = jnp.array([[1, 1, 0, 1, 1, 0, 0]])


def reference(targets, segments=None, prefix=None):
  batch, length = targets.shape
  mask = np.zeros((batch, 1, length, length))
  for b, query, key in np.ndindex(batch, length, length):
    sees = key <= query
    if prefix is not None:
      sees |= bool(prefix[b, query] and prefix[b, key])
    sees &= bool(targets[b, query] > 0 and targets[b, key] > 0)
    if segments is not None:
      sees &= bool(segments[b, query] == segments[b, key])
    mask[b, 0, query, key] = sees
  return mask


def test_decoder_mask_is_causal_and_hides_padding():
  got = masks.make_decoder_mask(TARGETS, jnp.float32)
  np.testing.assert_array_equal(got, reference(TARGETS))


def test_decoder_mask_with_segments_and_prefix():
  got = masks.make_decoder_mask(
    TARGETS,
    jnp.float32,
    decoder_causal_attention=PREFIX,
    decoder_segment_ids=SEGMENTS,
  )
  np.testing.assert_array_equal(got, reference(TARGETS, SEGMENTS, PREFIX))


def test_attention_mask_compares_pairs_and_adds_axes():
  mask = masks.make_attention_mask(
    jnp.array([[1, 2]]), jnp.array([[2, 1, 1]]), jnp.equal, extra_batch_dims=1
  )
  assert mask.shape == (1, 1, 1, 2, 3)
  np.testing.assert_array_equal(mask[0, 0, 0], [[0, 1, 1], [1, 0, 0]])


def test_combining_skips_none():
  assert masks.combine_masks(None, None) is None
  assert masks.combine_biases(None) is None
  one, other = jnp.array([1.0, 1.0, 0.0]), jnp.array([1.0, 0.0, 0.0])
  np.testing.assert_array_equal(
    masks.combine_masks(one, None, other), [1, 0, 0]
  )
  np.testing.assert_array_equal(
    masks.combine_biases(one, None, other), [2, 1, 0]
  )
