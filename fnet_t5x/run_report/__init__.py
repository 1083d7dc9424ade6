"""Figure and HTML page of training runs, for `python -m fnet_t5x.report`."""
