"""The memory that a plan says is the memory that a step takes."""

import re
import subprocess
import sys

import pytest

RUN = (
  '--gin_file=gin/models/fnet_t5_tiny.gin',
  '--gin_file=gin/objectives/span_corruption.gin',
  '--gin_file=gin/runs/pretrain.gin',
  '--gin.VOCAB_SIZE=256',
  '--gin.EMBED_DIM=32',
  '--gin.NUM_HEADS=4',
  '--gin.HEAD_DIM=8',
  '--gin.MLP_DIM=64',
  '--gin.NUM_ENCODER_LAYERS=2',
  '--gin.NUM_ATTENTION_LAYERS=1',
  '--gin.NUM_DECODER_LAYERS=1',
  # Enough rows that the step outweighs what it is measured with.
  '--gin.BATCH_SIZE=256',
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32}",
)


@pytest.mark.slow
@pytest.mark.skipif(
  sys.platform != 'linux', reason='reads the account of a Linux kernel'
)
def test_a_step_takes_what_was_planned():
  found = subprocess.run(
    [sys.executable, '-m', 'fnet_t5x.planning.measured_memory', *RUN],
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 0, found.stdout + found.stderr
  share = re.search(r'planned .* taken .*: ([\d.]+) of it', found.stdout)[1]
  assert float(share) == pytest.approx(1, abs=0.1)
