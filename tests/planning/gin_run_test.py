"""What gin files say of a run, and what is said where they say too little."""

import gin
import pytest
from planned_runs import FILES

from fnet_t5x import command_line
from fnet_t5x.networks import fnet_t5, t5
from fnet_t5x.planning import gin_run

MODEL = FILES[0]


def test_run_is_what_the_command_line_says():
  bindings = ['BATCH_SIZE = 24', 'NUM_MICROBATCHES = 3', 'TRAIN_STEPS = 500']
  with gin_run.configured(FILES, bindings) as run:
    assert run.batch_size == 24
    assert run.num_microbatches == 3
    assert run.total_steps == 500
    assert run.tokens == 24 * (512 + 114)
    assert run.batch['encoder_segment_ids'].shape == (24, 512)
    assert run.batch['decoder_input_tokens'].shape == (24, 114)
  # The next run starts from nothing.
  assert not gin.config_str().strip()


def test_unpacked_batches_have_no_segments():
  with gin_run.configured(FILES, ['PACK = False']) as run:
    assert 'encoder_segment_ids' not in run.batch
    assert run.total_steps is None
    assert run.num_microbatches == 1


def test_comparing_takes_architecture_and_size_and_nothing_else():
  bindings = ['VOCAB_SIZE = 512', "ACTIVATION_DTYPE = 'float32'"]
  compare = 'gin/models/t5_small.gin'
  with gin_run.configured(FILES, bindings) as run:
    assert isinstance(run.config, fnet_t5.FNetT5Config)
    assert run.config.emb_dim == 128
  with gin_run.configured(FILES, bindings, compare=compare) as run:
    assert type(run.config) is t5.T5Config
    assert (run.config.emb_dim, run.config.num_encoder_layers) == (512, 8)
    assert run.config.vocab_size == 512
    assert run.config.dtype == 'float32'


@pytest.mark.parametrize(
  ('files', 'bindings', 'compare', 'message'),
  [
    ([MODEL, 'gin/runs/pretrain.gin'], [], None, 'TASK_FEATURE_LENGTHS not'),
    (FILES[:2], [], None, 'DROPOUT_RATE not set'),
    (FILES[:2], ['DROPOUT_RATE = 0.0'], None, 'do not configure train'),
    (FILES, ['BATCH_SIZE = "many"'], None, "BATCH_SIZE is 'many'"),
    (FILES, ['TASK_FEATURE_LENGTHS = None'], None, 'a plan needs it'),
    (FILES, ['BATCHSIZE = 8'], None, 'no gin file of this run has the macro'),
    (FILES, [], 'gin/runs/pretrain.gin', 'it sets no ARCHITECTURE'),
    (FILES, [], 'gin/models/none.gin', 'is in none of'),
  ],
)
def test_what_is_missing_is_one_line(files, bindings, compare, message):
  with (
    pytest.raises((ValueError, FileNotFoundError), match=message) as error,
    gin_run.configured(files, bindings, compare=compare),
  ):
    pass
  assert '\n' not in command_line.one_line(error.value)
