"""`python -m fnet_t5x.infer --gin_file=...`: a run by either engine."""

import sys

from fnet_t5x import command_line

if __name__ == '__main__':
  with command_line.one_line_errors():
    command_line.start(sys.argv)
    # Gin files reach the engine's function as `__main__.infer`, as T5X's do.
    from fnet_t5x.compat.infer import infer

    sys.exit(command_line.run(infer))
