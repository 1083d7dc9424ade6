"""Eight simulated CPU devices, and strict arithmetic, for every test."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    # Most of a test's time is compiling; the arithmetic is the same.
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
  ]
)

import jax

jax.config.update('jax_numpy_rank_promotion', 'raise')
