"""`python -m fnet_t5x.train --gin_file=...`: a run by either engine."""

import sys

from fnet_t5x import command_line, host_memory

if __name__ == '__main__':
  with command_line.one_line_errors():
    host_memory.keep_freed_memory()
    command_line.start(sys.argv)
    # Gin files reach the engine's function as `__main__.train`, as T5X's do.
    from fnet_t5x.compat.train import train

    sys.exit(command_line.run(train))
