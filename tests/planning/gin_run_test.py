"""Runs configured by gin files, and messages for missing settings."""

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
  # The next run starts from an empty configuration.
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
    (FILES, [], 'gin/runs/pretrain.gin', 'pretrain.gin .* ARCHITECTURE'),
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


@pytest.mark.parametrize(
  ('bindings', 'size'),
  [
    ([], 4096),
    (['VOCABULARY_PIECES = 8000'], 8192),
    (['VOCAB_SIZE = 640'], 640),
  ],
)
def test_a_vocabulary_that_is_still_to_be_trained(bindings, size):
  # There is no text: the number of pieces suffices.
  files = [*FILES, 'gin/sources/text.gin', 'gin/vocabularies/own.gin']
  bindings = ["TEXT_FILES = '/nowhere/*.txt'", *bindings]
  with gin_run.configured(files, bindings) as run:
    assert run.config.vocab_size == size


def test_a_vocabulary_of_a_file_needs_the_file():
  files = [*FILES, 'gin/vocabularies/file.gin']
  bindings = ["VOCABULARY_FILE = '/nowhere/a.model'"]
  with (
    pytest.raises(FileNotFoundError) as error,
    gin_run.configured(files, bindings),
  ):
    pass
  line = command_line.one_line(error.value)
  assert line.startswith('no SentencePiece model at /nowhere/a.model')
