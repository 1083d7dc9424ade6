r"""Inference with either engine: `python -m fnet_t5x.infer`.

  python -m fnet_t5x.infer --model_dir=runs/small

takes the model, the task and the last checkpoint from the folder of a training
run. Gin files can describe the same in full:

  python -m fnet_t5x.infer --gin_file=gin/models/fnet_t5_small.gin \
    --gin_file=gin/objectives/span_corruption.gin \
    --gin_file=gin/runs/infer.gin \
    --gin.CHECKPOINT_PATH="'runs/small/checkpoint_10000'" \
    --gin.INFER_OUTPUT_DIR="'runs/small/infer'"
"""

import sys

from fnet_t5x import absent_tpu, command_line

if __name__ == '__main__':
  with command_line.one_line_errors():
    absent_tpu.hide_library()
    command_line.start(sys.argv, 'infer', __doc__)
    # Gin files refer to it as `__main__.infer`, as T5X's do.
    from fnet_t5x.compat.infer import infer

    sys.exit(command_line.run(infer))
