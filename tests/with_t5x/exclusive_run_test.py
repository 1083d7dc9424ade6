"""T5X's training run in a folder that another run has locked."""

import t5x_processes

from fnet_t5x.runtime import directory_lock


def test_a_second_run_ends_in_one_line(tmp_path):
  model_dir = tmp_path / 'model'
  model_dir.mkdir()
  with (
    directory_lock.held(str(model_dir)),
    t5x_processes.started(
      tmp_path,
      'fnet_t5x.train',
      'pretrain',
      processes=1,
      devices=1,
      BATCH_SIZE=8,
      TRAIN_STEPS=1,
      MODEL_DIR=str(model_dir),
    ) as running,
  ):
    t5x_processes.finish(tmp_path, running, code=1)
  *_, last, _ = t5x_processes.log(tmp_path, 0).splitlines()
  assert f'MODEL_DIR {model_dir} is in use by another run' in last
  assert [path.name for path in model_dir.iterdir()] == [directory_lock.FILE]
