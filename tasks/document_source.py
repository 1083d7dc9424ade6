"""A SeqIO source of documents in files, sharded by file and resumable.

A file is read in blocks of documents. Which documents a block holds follows
from the file alone, so that an iterator's saved position is a file and a
number: nothing has to be kept but the documents that wait in buffers.
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
# Open files kept between blocks. An interrupted iterator leaves some behind.
_KEPT_READERS = 128
_LOGGED = 10
# After a blank, SeqIO's vocabularies take these signs for a sentinel's id.
_SENTINEL = re.compile(rb'<extra_id_\d+>')


def place(text: bytes) -> float:
  """Returns a text's place in [0, 1): what is below a share is held out.

  A hash of the text chooses it, so that copies stay together.
  """
  digest = hashlib.blake2b(text, digest_size=8).digest()
  return int.from_bytes(digest, 'big') / 2**64


@dataclasses.dataclass(frozen=True)
class Part:
  """A part of a corpus: what is held out of it, or the rest.

  Attributes:
    share: share of the documents that are held out, in [0, 1].
    held_out: whether the part is those, or the rest.
    passage_bytes: cuts documents into passages of at most so many bytes, each
      of which is then a document; None leaves documents whole.
  """

  share: float = 0.0
  held_out: bool = False
  passage_bytes: int | None = None

  def has(self, text: bytes) -> bool:
    """Whether a text belongs to the part."""
    return (place(text) < self.share) == self.held_out

  def of(
    self, document: document_files.Document
  ) -> Iterator[document_files.Document]:
    """Yields what of a document belongs to the part."""
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
    """The next block's records, and whether there are any blocks left."""
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
      # The documents before it in its block are good.
      block.append(document_files.Record(0, 0, e))
      self._ended = True
    return block, bool(block)

  def documents(self, part: Part) -> tuple[list[document_files.Document], bool]:
    """The next block's documents, and whether it is a block at all.

    Raises:
      DocumentError: a bad document, unless such are skipped.
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
    # The first is faster, and says no for nearly all.
    if b'<extra_id_' in document.text and _SENTINEL.search(document.text):
      _count(
        'documents_with_sentinels',
        f'{self._path}, document {document.id}: its text holds '
        '<extra_id_...>, which a vocabulary reads as a sentinel',
      )


def count_skipped(error: document_files.DocumentError) -> None:
  """Counts and logs a bad document that is left out."""
  _count('skipped_documents', f'skipped document: {error}')


def _count(counter: str, message: str) -> None:
  count = data_counters.add(counter)
  # Every one of the first, then ever fewer: millions may follow.
  if count <= _LOGGED or count & (count - 1) == 0:
    logging.warning('%s (number %d of this run)', message, count)


class _Readers:
  """Readers between blocks, by the block that each will read next.

  Reading block k again opens the file and passes over k blocks: what is read
  depends on the arguments alone, as tf.data asks of a stateless function.
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
  """Block number `block` of a file: ids, texts, components, whether it is."""
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
  """One file's documents, in their order."""
  read = functools.partial(_read_block, options=options, part=part)

  def read_block(block):
    *columns, exists = tf.numpy_function(
      read, [path, block], [tf.string] * 3 + [tf.bool], stateful=False
    )
    columns = (tf.ensure_shape(c, [None]) for c in columns)
    return (*columns, tf.ensure_shape(exists, []))

  def named(ids, texts, components, _):
    return {'id': ids, 'text': texts, 'component': components}

  # One block after the other: the next one's reader is where this one ends.
  blocks = tf.data.Dataset.range(np.iinfo(np.int64).max).map(read_block)
  return blocks.take_while(lambda *x: x[-1]).map(named).unbatch()


class DocumentFileSource(seqio.DataSource):
  """Documents in files: examples of `id`, `text` and `component`.

  Files, options and part are asked for at each use: gin's bindings count
  whenever they come. Every file is a shard. It tells no number of examples on
  purpose: seqio would then hold the texts in a tf.data cache, and each saved
  iterator would carry all of them.
  """

  def __init__(
    self,
    files: Callable[[str], Sequence[str]],
    splits: Sequence[str] = ('train', 'validation', 'test'),
    part: Callable[[str], Part] = lambda split: WHOLE,
    cycle_length: int = 16,
    block_length: int = 16,
  ):
    """Returns a source.

    Args:
      files: paths of a split.
      splits: the splits that there may be.
      part: what part of its files' documents makes up a split.
      cycle_length: files read at a time.
      block_length: documents taken from one of them before the next one.
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
      seed: of that order.
      shard_info: every so many-th file, from which one on.

    Raises:
      FileNotFoundError: there are no files.
      DocumentError: a file is of no format known.
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
  """Returns the files of the first pattern that matches any, sorted.

  Args:
    patterns: globs, local or gs://; several where one corpus is published under
      several layouts.
    what: whose files they are, for the error.
    remedy: what to set, for the error.

  Raises:
    FileNotFoundError: none matches.
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
  """Returns the files of every pattern, sorted, each of them once.

  Args:
    patterns: paths or globs, local (`~` is the home folder) or gs://. What
      exists under the very name is that file, whatever signs the name has.
    what: whose files they are, for the error.
    remedy: what to set, for the error.

  Raises:
    FileNotFoundError: a pattern matches nothing, or there is none.
  """
  patterns = [patterns] if isinstance(patterns, str) else list(patterns)
  if not patterns:
    raise FileNotFoundError(f'{what}: it names no file; {remedy}')
  found = {}
  for pattern in patterns:
    paths = _glob(os.path.expanduser(pattern), what, remedy, literal=True)
    if not paths:
      raise FileNotFoundError(f'{what}: no file matches {pattern}; {remedy}')
    for path in paths:
      # One file may be named in several ways.
      same = path if '://' in path else os.path.realpath(path)
      found.setdefault(same, path)
  return sorted(found.values())


def _glob(
  pattern: str, what: str, remedy: str, literal: bool = False
) -> list[str]:
  try:
    # To the glob, the bracket of a file's name is no bracket.
    if (
      literal and tf.io.gfile.exists(pattern) and not tf.io.gfile.isdir(pattern)
    ):
      return [pattern]
    return sorted(tf.io.gfile.glob(pattern))
  except UnicodeError as e:
    name = os.fsencode(pattern) if isinstance(e.object, str) else e.object
    raise FileNotFoundError(
      f'{what}: the name {name.decode(errors="backslashreplace")} is no UTF-8; '
      'rename it'
    ) from e
  except tf.errors.OpError as e:
    raise FileNotFoundError(
      f'{what}: cannot look for {pattern}: {e.message}; {remedy}'
    ) from e
