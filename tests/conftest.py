"""Test settings: eight simulated CPU devices, strict arithmetic, one engine."""

import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    # Tests mostly compile; a lower effort gives the same arithmetic.
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_use_fusion_emitters=false',
  ]
)

# The processes of a test compile the same, and so does the next `make test`. A
# folder for each of pytest's workers: entries are not written at once.
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(
  pathlib.Path(__file__).parents[1]
  / '.pytest_cache/jax'
  / os.environ.get('PYTEST_XDIST_WORKER', 'main')
)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'

# Tests of the engine `t5x` override this.
os.environ['FNET_T5X_ENGINE'] = 'runtime'

import gin
import jax

# A process serves one command, and gin files call its function
# `__main__.train`; one process of tests stands for several commands.
gin.enter_interactive_mode()
jax.config.update('jax_numpy_rank_promotion', 'raise')
