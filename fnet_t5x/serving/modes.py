"""Modes and platforms of exported programs.

Imports nothing, so that a command checks its flags at once.
"""

MODES = ('generate', 'predict', 'score')
# JAX's backends, and the names that `jax.export` has for them.
PLATFORMS = {'cpu': 'cpu', 'gpu': 'cuda', 'tpu': 'tpu'}
