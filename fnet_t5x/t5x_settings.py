"""T5X's settings that the embedded runtime lacks, and what to do instead."""

_ONE_LAYOUT = (
  "the runtime has one checkpoint layout, T5X's on Orbax: leave it out"
)
_OWN_FILES = (
  'the runtime writes JSON lines in chunks, and joins them: leave it out'
)
# By the last part of the name: parameters of configurables, and members of
# T5X's modules.
_INSTEAD = {
  'Checkpointer': _ONE_LAYOUT,
  'LegacyCheckpointManager': _ONE_LAYOUT,
  'OrbaxCheckpointManagerInterface': _ONE_LAYOUT,
  'SaveBestCheckpointer': 'the runtime keeps the last checkpoints, not the '
  'best: set SaveCheckpointConfig.keep = None to keep all, and choose by '
  'metrics.jsonl',
  'UpcycleCheckpointer': 'mixtures of experts need T5X',
  'checkpoint_ds_iter': 'the runtime resumes by chunks: leave it out',
  'checkpoint_manager_cls': _ONE_LAYOUT,
  'checkpointer_cls': _ONE_LAYOUT,
  'create_task_from_tfexample_file': 'use seqio.TFExampleDataSource',
  'file_extension': _OWN_FILES,
  'keep_aux_as_numpy': _OWN_FILES,
  'merge_chunked_results': _OWN_FILES,
  'merge_fn': _OWN_FILES,
  'output_vocab_feature_name': "outputs are decoded by the targets' "
  'vocabulary: leave it out',
  'param_scan_axis': "scanned layers are axis 1 of a parameter, T5X's default: "
  'leave it out',
  'runtime_preprocessors': "put them into the task's preprocessors",
  'training_evaluator_cls': 'the loss of every task is evaluated: leave it out',
}


def instead(name: str) -> str | None:
  """Returns what to do instead of a setting of T5X; None for other names.

  Args:
    name: of a parameter, or of a member such as 'trainer.Trainer'.
  """
  return _INSTEAD.get(name.rpartition('.')[2])
