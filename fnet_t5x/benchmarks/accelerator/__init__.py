"""Benchmark kit for one accelerator, run by `python -m` with this package.

It imports JAX, Flax, Optax and NumPy only, and runs from a checkout.
"""
