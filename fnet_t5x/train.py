r"""Training with either engine: `python -m fnet_t5x.train`.

Gin files describe a run: a model, an objective, a source and a run; or one
experiment that includes them. --gin.NAME=VALUE sets a macro; strings need
quotes within quotes. The same command resumes a run that was stopped.

  python -m fnet_t5x.train --gin_file=gin/experiments/quickstart.gin

  python -m fnet_t5x.train --gin_file=gin/experiments/your_text.gin \
    --gin.TEXT_FILES="'~/corpus/*.txt'" --model_dir=runs/mine

  python -m fnet_t5x.train --gin_file=gin/experiments/quickstart.gin \
    --list_macros
"""

import sys

from fnet_t5x import absent_tpu, command_line, host_memory, stop_signals

if __name__ == '__main__':
  with command_line.one_line_errors():
    absent_tpu.hide_library()
    host_memory.keep_freed_memory()
    stop_signals.end_process()
    command_line.start(sys.argv, 'train', __doc__)
    # Gin files refer to it as `__main__.train`, as T5X's do.
    from fnet_t5x.compat.train import exit_code, train

    sys.exit(exit_code(lambda: command_line.run(train)))
