"""One name for two engines: each module here is T5X's, or the runtime's.

Gin files and entry points import `fnet_t5x.compat.<name>` only;
`fnet_t5x.compat.engine` says which engine stands behind it.
"""
