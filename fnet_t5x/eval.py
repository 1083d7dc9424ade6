r"""Evaluation with either engine: `python -m fnet_t5x.eval`.

  python -m fnet_t5x.eval --model_dir=runs/small

takes the model, the task and the last checkpoint from the folder of a training
run. Gin files can describe the same in full:

  python -m fnet_t5x.eval --gin_file=gin/models/fnet_t5_small.gin \
    --gin_file=gin/objectives/span_corruption.gin \
    --gin_file=gin/runs/eval.gin \
    --gin.CHECKPOINT_PATH="'runs/small/checkpoint_10000'" \
    --gin.EVAL_OUTPUT_DIR="'runs/small/eval'"
"""

import sys

from fnet_t5x import absent_tpu, command_line

if __name__ == '__main__':
  with command_line.one_line_errors():
    absent_tpu.hide_library()
    command_line.start(sys.argv, 'eval', __doc__)
    # Gin files refer to it as `__main__.evaluate`, as T5X's do.
    from fnet_t5x.compat.eval import evaluate

    sys.exit(command_line.run(evaluate))
