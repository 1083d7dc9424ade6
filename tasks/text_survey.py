"""Survey of your own corpus, made before a run starts.

Counts documents, chooses the share to hold out for validation, and keeps a
sample of the text. The same files give the same survey on every host.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Sequence

import tensorflow as tf

from fnet_t5x.tasks import document_files, document_source, passages

# Maximum text that a survey reads: enough to characterize a larger corpus.
MAX_BYTES = 1 << 26
# A document above this share of the text is split into passages: as a whole, it
# is too large to be held out, or to be trained on alone.
_LARGE_SHARE = 0.01
_PASSAGE_BYTES = (1 << 10, 1 << 14)
# Held out: 1 %, or more of a small corpus, for a meaningful validation loss.
_SHARE = 0.01
_SMALL_SHARE = 0.05
_ENOUGH_BYTES = 1 << 17
_SAMPLE_BYTES = 1 << 18
_SIZED_FILES = 1000
_SAMPLE_PIECE = 1 << 13


@dataclasses.dataclass(frozen=True)
class Survey:
  """Result of a survey.

  Attributes:
    files: number of files.
    documents: number of documents read.
    num_bytes: UTF-8 bytes of their texts.
    skipped: number of bad documents skipped.
    whole: whether all files were read; a large corpus is read in part.
    estimated_bytes: estimated UTF-8 bytes of the whole corpus.
    passage_bytes: maximum bytes per passage if documents are split; else None.
    share: share of documents to hold out: those whose hash is below it.
    held_out: number of held-out documents or passages among those read.
    held_out_bytes: UTF-8 bytes of their texts.
    sample: pieces of text spread over everything read.
  """

  files: int
  documents: int
  num_bytes: int
  skipped: int
  whole: bool
  estimated_bytes: int
  passage_bytes: int | None
  share: float
  held_out: int
  held_out_bytes: int
  sample: tuple[bytes, ...]


def survey(
  paths: Sequence[str],
  options: document_files.ReadOptions,
  share: float | None,
) -> Survey:
  """Surveys a corpus, once per process.

  Args:
    paths: paths of its files.
    options: options for reading them.
    share: share of the documents to hold out, in [0, 1]; None chooses one, and
      splits large documents into passages.

  Raises:
    DocumentError: a bad document, unless these are skipped.
  """
  return _survey(tuple(paths), options, share)


@functools.lru_cache(maxsize=8)
def _survey(
  paths: tuple[str, ...],
  options: document_files.ReadOptions,
  share: float | None,
) -> Survey:
  texts, read, skipped, whole = _read(paths, options)
  num_bytes = sum(map(len, texts))
  estimated = num_bytes
  if read < len(paths):
    # A partly read file counts as read: better to underestimate.
    estimated = round(
      num_bytes * _disk_bytes(paths) / _disk_bytes(paths[:read])
    )
  passage_bytes = None
  largest = max(map(len, texts), default=0)
  if share is None and largest > _LARGE_SHARE * estimated:
    lowest, highest = _PASSAGE_BYTES
    passage_bytes = min(max(round(_LARGE_SHARE * estimated), lowest), highest)
  cut = _cut(texts, passage_bytes) if passage_bytes else texts
  hashes = [(document_source.unit_hash(text), len(text)) for text in cut]
  if share is None:
    share = _chosen_share(hashes)
  held_out = [size for text_hash, size in hashes if text_hash < share]
  sample = _cut(texts, _SAMPLE_PIECE)
  return Survey(
    files=len(paths),
    documents=len(texts),
    num_bytes=num_bytes,
    skipped=skipped,
    whole=whole,
    estimated_bytes=estimated,
    passage_bytes=passage_bytes,
    share=share,
    held_out=len(held_out),
    held_out_bytes=sum(held_out),
    sample=tuple(sample[:: max(1, num_bytes // _SAMPLE_BYTES)]),
  )


def _read(
  paths: Sequence[str], options: document_files.ReadOptions
) -> tuple[list[bytes], int, int, bool]:
  """Returns texts, files read, documents skipped, and whether all was read."""
  texts, num_bytes, skipped = [], 0, 0

  def on_skipped(error: document_files.DocumentError) -> None:
    nonlocal skipped
    del error
    skipped += 1

  for number, path in enumerate(paths):
    if num_bytes >= MAX_BYTES:
      return texts, number, skipped, False
    for document in document_files.documents(path, options, on_skipped):
      if num_bytes >= MAX_BYTES:
        return texts, number + 1, skipped, False
      texts.append(document.text)
      num_bytes += len(document.text)
  return texts, len(paths), skipped, True


def _cut(texts: Sequence[bytes], size: int) -> list[bytes]:
  return [p for text in texts for p in passages.passages(text, size)]


def _disk_bytes(paths: Sequence[str]) -> int:
  """Returns the size of files; of many, by sampling: remote calls are slow."""
  sampled = paths[:: -(-len(paths) // _SIZED_FILES)]
  sizes = [tf.io.gfile.stat(path).length for path in sampled]
  return max(1, round(sum(sizes) * len(paths) / len(sampled)))


def _chosen_share(hashes: Sequence[tuple[float, int]]) -> float:
  """Returns the minimum share that holds out enough text, but not all of it.

  Args:
    hashes: hash in [0, 1) and bytes of each document or passage.
  """
  if not hashes:
    return _SHARE
  total = sum(size for _, size in hashes)
  if _SHARE * total > _ENOUGH_BYTES:
    # A fixed share for a large corpus, so that adding text does not change it.
    return _SHARE
  wanted = min(_SMALL_SHARE * total, _ENOUGH_BYTES)
  # Copies have the same hash, and are held out together.
  sizes = collections.Counter()
  for text_hash, size in hashes:
    sizes[text_hash] += size
  taken = 0
  for text_hash, next_hash in itertools.pairwise(sorted(sizes)):
    taken += sizes[text_hash]
    if taken >= wanted:
      return (text_hash + next_hash) / 2
  # All but the last; if there is only one text, none.
  return max(sizes)
