"""The benchmark kit for one accelerator: `python -m` this package.

It imports JAX, Flax, Optax and NumPy only, and runs from a checkout.
"""
