"""SeqIO source of documents in files, sharded by file and resumable.

A file is read in blocks of documents. The file alone determines which documents
a block holds, so an iterator's saved position is a file and a block number;
apart from that, only the documents in buffers are saved.
"""

import collections
import dataclasses
import functools
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from absl import logging

from fnet_t5x import data_counters
from fnet_t5x.tasks import document_files, passages

_BLOCK_BYTES = 1 << 16
# Maximum number of files kept open between blocks: interrupted iterators leave
# some behind.
_KEPT_READERS = 128
_LOGGED = 10
# After a space, SeqIO's vocabularies encode this text as a sentinel.
_SENTINEL = re.compile(rb'<extra_id_\d+>')


def unit_hash(text: bytes) -> float:
  """Returns a hash of a text in [0, 1); texts below a share are held out.

  Copies of a text have the same hash, so they stay in one split.
  """
  digest = hashlib.blake2b(text, digest_size=8).digest()
  return int.from_bytes(digest, 'big') / 2**64


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of a corpus: its held-out documents, or the rest.

  Attributes:
    share: share of the documents that are held out, in [0, 1].
    held_out: whether this part is the held-out one.
    passage_bytes: if given, documents are split into passages of at most this
      many bytes, and each passage counts as a document.
  """

  share: float = 0.0
  held_out: bool = False
  passage_bytes: int | None = None

  def has(self, text: bytes) -> bool:
    """Returns whether a text belongs to this part."""
    return (unit_hash(text) < self.share) == self.held_out

  def of(
    self, document: document_files.Document
  ) -> Iterator[document_files.Document]:
    """Yields the documents or passages of a document that are in this part."""
    if self.passage_bytes is None:
      if self.has(document.text):
        yield document
      return
    cut = passages.passages(document.text, self.passage_bytes)
    for number, text in enumerate(cut, 1):
      if self.has(text):
        yield document._replace(id=f'{document.id}:{number}', text=text)


WHOLE = Part()


class _BlockReader:
  """Reads a file block by block."""

  def __init__(self, path: str, options: document_files.ReadOptions):
    self._path = path
    self._options = options
    self._records = document_files.records(path, options)
    self._ended = False

  def records(self) -> tuple[list[document_files.Record], bool]:
    """Returns the next block's records, and whether there was a block."""
    block, size = [], 0
    try:
      while size < _BLOCK_BYTES and not self._ended:
        record = next(self._records, None)
        if record is None:
          self._ended = True
        else:
          block.append(record)
          size += record.size
    except document_files.DocumentError as e:
      # The documents before it in the block are good: keep them.
      block.append(document_files.Record(0, 0, e))
      self._ended = True
    return block, bool(block)

  def documents(self, part: Part) -> tuple[list[document_files.Document], bool]:
    """Returns the next block's documents, and whether there was a block.

    Raises:
      DocumentError: a bad document, unless these are skipped.
    """
    block, exists = self.records()
    documents = []
    for record in block:
      try:
        document = document_files.parse(self._path, record, self._options)
      except document_files.DocumentError as e:
        if not self._options.skip_bad_documents:
          raise
        count_skipped(e)
        continue
      for taken in part.of(document):
        self._count_sentinels(taken)
        documents.append(taken)
    return documents, exists

  def _count_sentinels(self, document: document_files.Document) -> None:
    # The first test is faster, and rejects nearly all documents.
    if b'<extra_id_' in document.text and _SENTINEL.search(document.text):
      _count(
        'documents_with_sentinels',
        f'{self._path}, document {document.id}: its text holds '
        '<extra_id_...>, which a vocabulary reads as a sentinel',
      )


def count_skipped(error: document_files.DocumentError) -> None:
  """Counts and logs a skipped document."""
  _count('skipped_documents', f'skipped document: {error}')


def _count(counter: str, message: str) -> None:
  count = data_counters.add(counter)
  # The first few, then at powers of two: there may be millions.
  if count <= _LOGGED or count & (count - 1) == 0:
    logging.warning('%s (number %d in this run)', message, count)


class _Readers:
  """Cache of open readers, keyed by the block that each will read next.

  On a cache miss, block k is read by opening the file and skipping k blocks:
  the result depends on the arguments alone, as tf.data requires of a stateless
  function.
  """

  def __init__(self):
    self._waiting = collections.OrderedDict()
    self._lock = threading.Lock()

  def take(
    self, path: str, options: document_files.ReadOptions, block: int
  ) -> _BlockReader:
    with self._lock:
      reader = self._waiting.pop((path, options, block), None)
    if reader is None:
      reader = _BlockReader(path, options)
      for _ in range(block):
        reader.records()
    return reader

  def put(
    self,
    path: str,
    options: document_files.ReadOptions,
    block: int,
    reader: _BlockReader,
  ) -> None:
    with self._lock:
      self._waiting[path, options, block] = reader
      while len(self._waiting) > _KEPT_READERS:
        self._waiting.popitem(last=False)


_READERS = _Readers()


def _read_block(
  path: bytes,
  block: int,
  options: document_files.ReadOptions,
  part: Part,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.bool_]:
  """Returns a block's ids, texts and components, and whether it exists."""
  name, block = path.decode(), int(block)
  reader = _READERS.take(name, options, block)
  documents, exists = reader.documents(part)
  if exists:
    _READERS.put(name, options, block + 1, reader)
  columns = zip(*documents, strict=True) if documents else ([], [], [])
  ids, texts, components = (np.array(list(c), object) for c in columns)
  return ids, texts, components, np.bool_(exists)


def _documents(
  path: tf.Tensor,
  options: document_files.ReadOptions,
  part: Part,
) -> tf.data.Dataset:
  """Returns one file's documents, in file order."""
  read = functools.partial(_read_block, options=options, part=part)

  def read_block(block):
    *columns, exists = tf.numpy_function(
      read, [path, block], [tf.string] * 3 + [tf.bool], stateful=False
    )
    columns = (tf.ensure_shape(c, [None]) for c in columns)
    return (*columns, tf.ensure_shape(exists, []))

  def named(ids, texts, components, _):
    return {'id': ids, 'text': texts, 'component': components}

  # Sequentially: the reader of a block continues with the next one.
  blocks = tf.data.Dataset.range(np.iinfo(np.int64).max).map(read_block)
  return blocks.take_while(lambda *x: x[-1]).map(named).unbatch()


class DocumentFileSource(seqio.DataSource):
  """Documents in files, as examples with `id`, `text` and `component`.

  Files, options and part are looked up at each use, so gin bindings made after
  registration take effect. Every file is a shard. The number of examples is
  deliberately not reported: SeqIO would then keep the texts in a tf.data cache,
  and every saved iterator would include all of them.
  """

  def __init__(
    self,
    files: Callable[[str], Sequence[str]],
    splits: Sequence[str] = ('train', 'validation', 'test'),
    part: Callable[[str], Part] = lambda split: WHOLE,
    cycle_length: int = 16,
    block_length: int = 16,
  ):
    """Makes a source.

    Args:
      files: returns the paths of a split.
      splits: all possible splits.
      part: returns the part of its files' documents that a split consists of.
      cycle_length: number of files read concurrently.
      block_length: consecutive documents taken from each of them.
    """
    super().__init__(splits=splits)
    self._files = files
    self._part = part
    self._cycle_length = cycle_length
    self._block_length = block_length

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> Sequence[str]:
    return self._files(split)

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused_kwargs: Any,
  ) -> tf.data.Dataset:
    """Returns the documents of a split, or of one shard of it.

    Args:
      split: one of the splits.
      shuffle: whether to read the files in random order.
      seed: seed of that order.
      shard_info: the shard to return; files are dealt out round-robin.

    Raises:
      FileNotFoundError: there are no files.
      DocumentError: a file has an unknown format.
    """
    paths = self.list_shards(split)
    for path in paths:
      document_files.suffix_of(path)
    files = tf.data.Dataset.from_tensor_slices(np.array(paths, dtype=str))
    if shard_info:
      files = files.shard(shard_info.num_shards, shard_info.index)
    if shuffle:
      files = files.shuffle(len(paths), seed=seed)
    return files.interleave(
      functools.partial(
        _documents,
        options=document_files.ReadOptions(),
        part=self._part(split),
      ),
      cycle_length=self._cycle_length,
      block_length=self._block_length,
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )


def matching_files(
  patterns: str | Sequence[str], what: str, remedy: str
) -> list[str]:
  """Returns the sorted files of the first pattern that matches any.

  Args:
    patterns: globs, local or gs://; several for a corpus that is published in
      several layouts.
    what: name of the corpus, for the error.
    remedy: what to set, for the error.

  Raises:
    FileNotFoundError: no pattern matches.
  """
  patterns = [patterns] if isinstance(patterns, str) else list(patterns)
  for pattern in patterns:
    if paths := _glob(pattern, what, remedy):
      return paths
  raise FileNotFoundError(
    f'{what}: no file matches {" or ".join(patterns)}; {remedy}'
  )


def files_of_all(
  patterns: str | Sequence[str], what: str, remedy: str
) -> list[str]:
  """Returns the files of all patterns, sorted, without duplicates.

  Args:
    patterns: paths or globs, local (`~` is the home folder) or gs://. A pattern
      that is the exact name of a file means that file, even if the name has
      characters that are special in globs.
    what: name of the corpus, for the error.
    remedy: what to set, for the error.

  Raises:
    FileNotFoundError: there is no pattern, or one of them matches nothing.
  """
  patterns = [patterns] if isinstance(patterns, str) else list(patterns)
  if not patterns:
    raise FileNotFoundError(f'{what}: no file is named; {remedy}')
  found = {}
  for pattern in patterns:
    paths = _glob(os.path.expanduser(pattern), what, remedy, literal=True)
    if not paths:
      raise FileNotFoundError(f'{what}: no file matches {pattern}; {remedy}')
    for path in paths:
      # A file may match under several names.
      same = path if '://' in path else os.path.realpath(path)
      found.setdefault(same, path)
  return sorted(found.values())


def _glob(
  pattern: str, what: str, remedy: str, literal: bool = False
) -> list[str]:
  try:
    # As a glob, a name with brackets would not match itself.
    if (
      literal and tf.io.gfile.exists(pattern) and not tf.io.gfile.isdir(pattern)
    ):
      return [pattern]
    return sorted(tf.io.gfile.glob(pattern))
  except UnicodeError as e:
    name = os.fsencode(pattern) if isinstance(e.object, str) else e.object
    raise FileNotFoundError(
      f'{what}: the name {name.decode(errors="backslashreplace")} is not UTF-8;'
      ' rename it'
    ) from e
  except tf.errors.OpError as e:
    raise FileNotFoundError(
      f'{what}: cannot search for {pattern}: {e.message}; {remedy}'
    ) from e
