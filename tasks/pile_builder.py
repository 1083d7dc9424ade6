r"""TFDS builder of the Pile, so that pods can read TFRecords.

  python -m fnet_t5x.tasks.pile_builder --manual_dir=/data/pile \
    --data_dir=/data/tensorflow_datasets

`manual_dir` has the Pile's files, as `pile.files` finds them; pass `data_dir`
to runs as --tfds_data_dir. Both may be gs:// folders. By default one process
reads the files in turn; with --beam_options a Beam pipeline does, one file per
worker (`--beam_options=--runner=DataflowRunner,--project=...`).
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from fnet_t5x import command_line

if __name__ == '__main__':
  with command_line.one_line_errors():
    command_line.define_flags()
    flags.DEFINE_string('manual_dir', None, "Folder of the Pile's files.")
    flags.DEFINE_string(
      'data_dir', None, 'Folder of TFDS datasets to write to.'
    )
    flags.DEFINE_list(
      'beam_options', None, 'Options of a Beam pipeline; by default, no Beam.'
    )
    flags.mark_flags_as_required(['manual_dir', 'data_dir'])
    command_line.read(sys.argv, __doc__)
  command_line.import_tensorflow()

import tensorflow_datasets as tfds

from fnet_t5x import data_counters
from fnet_t5x.tasks import document_files, document_source, pile


def _examples(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
  """Yields the documents of a file, keyed by id."""
  options = document_files.ReadOptions()
  for document in document_files.documents(
    path, options, document_source.count_skipped
  ):
    yield document.id, document._asdict()


class FnetPile(tfds.core.GeneratorBasedBuilder):
  """The documents of the Pile: `id`, `text` and `component`."""

  VERSION = tfds.core.Version('1.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Put train/*.jsonl.zst, val.jsonl.zst and test.jsonl.zst, or the Parquet '
    'files of a re-upload, into manual_dir.'
  )

  def __init__(self, *args, use_beam: bool = False, **kwargs):
    """Makes a builder; `use_beam` reads the files in a Beam pipeline."""
    super().__init__(*args, **kwargs)
    self._use_beam = use_beam

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='The Pile: 825 GiB of English text, 22 components.',
      features=tfds.features.FeaturesDict(
        {key: tfds.features.Text() for key in document_files.Document._fields}
      ),
      citation='Gao et al. 2020, arXiv 2101.00027',
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    """Returns generators by split; all splits but the first are optional."""
    splits = {}
    for split in pile.SPLITS:
      try:
        paths = pile.files(split, str(dl_manager.manual_dir))
      except FileNotFoundError:
        if split == pile.SPLITS[0]:
          raise
        continue
      splits[split] = self._generate_examples(paths)
    return splits

  def _generate_examples(self, paths: Sequence[str]):
    if self._use_beam:
      beam = tfds.core.lazy_imports.apache_beam
      return beam.Create(paths) | beam.FlatMap(_examples)
    return (example for path in paths for example in _examples(path))


def main() -> None:
  """Builds the dataset."""
  command_line.parse_gin(flags.FLAGS.gin_file, flags.FLAGS.gin_bindings)
  beam_options = None
  if flags.FLAGS.beam_options is not None:
    beam = tfds.core.lazy_imports.apache_beam
    beam_options = beam.options.pipeline_options.PipelineOptions(
      flags.FLAGS.beam_options
    )
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  builder = FnetPile(
    data_dir=flags.FLAGS.data_dir, use_beam=beam_options is not None
  )
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(
      manual_dir=flags.FLAGS.manual_dir, beam_options=beam_options
    )
  )
  counts = {k: f'{v.num_examples:,}' for k, v in builder.info.splits.items()}
  sizes = ', '.join(f'{count} {split}' for split, count in counts.items())
  print(f'{builder.info.full_name}: {sizes} documents in {builder.data_dir}')
  # Beam's workers have their own logs.
  if skipped := data_counters.counts().get('skipped_documents'):
    print(f'skipped documents, named above: {skipped:,}')


if __name__ == '__main__':
  with command_line.one_line_errors():
    main()
