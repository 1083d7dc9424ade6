"""Modules of the engine in use: each is T5X's or the embedded runtime's.

Gin files and entry points import only `fnet_t5x.compat.<name>`; the engine is
chosen in `fnet_t5x.compat.engine`.
"""
