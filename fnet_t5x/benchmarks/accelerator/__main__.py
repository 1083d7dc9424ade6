"""`python -m fnet_t5x.benchmarks.accelerator`."""

from fnet_t5x.benchmarks.accelerator.command import main

main()
