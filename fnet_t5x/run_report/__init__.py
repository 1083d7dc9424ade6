"""The picture and the page that `python -m fnet_t5x.report` makes of runs."""
