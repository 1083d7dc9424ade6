"""A run to plan whose network compiles in seconds."""

FILES = (
  'gin/models/fnet_t5_tiny.gin',
  'gin/objectives/span_corruption.gin',
  'gin/runs/pretrain.gin',
)
SMALL = (
  'VOCAB_SIZE = 256',
  'EMBED_DIM = 32',
  'NUM_HEADS = 4',
  'HEAD_DIM = 8',
  'MLP_DIM = 64',
  'NUM_ENCODER_LAYERS = 2',
  'NUM_ATTENTION_LAYERS = 1',
  'NUM_DECODER_LAYERS = 1',
  'BATCH_SIZE = 16',
  "TASK_FEATURE_LENGTHS = {'inputs': 32, 'targets': 16}",
)


def arguments(files=(), bindings=()):
  """Returns gin files and bindings as flags of a command."""
  return (
    *(f'--gin_file={name}' for name in files),
    *(f'--gin.{binding.replace(" = ", "=", 1)}' for binding in bindings),
  )
