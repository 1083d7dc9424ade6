"""A survey of a corpus of one's own, made before a run starts.

It counts documents, chooses what is held out for validation, and keeps a
sample of the text. The same files give the same survey, on every host.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from fnet_t5x.tasks import document_files, passages

# Text that a survey reads at most: enough to tell what a larger corpus is.
MAX_BYTES = 1 << 26
# A corpus of fewer documents is cut into passages, so that there is something
# to hold out that is no large part of it.
MIN_DOCUMENTS = 100
_PASSAGE_BYTES = (1 << 10, 1 << 14)
# Held out: 1 %, or more of a small corpus, for a loss that means something.
_SHARE = 0.01
_SMALL_SHARE = 0.05
_ENOUGH_BYTES = 1 << 17
_SAMPLE_BYTES = 1 << 18
_SAMPLE_OF_A_DOCUMENT = 1 << 13


def place(text: bytes) -> float:
  """Returns a text's place in [0, 1): what is below a share is held out.

  A hash of the text chooses it, so that copies stay together.
  """
  digest = hashlib.blake2b(text, digest_size=8).digest()
  return int.from_bytes(digest, 'big') / 2**64


@dataclasses.dataclass(frozen=True)
class Survey:
  """What is known of a corpus.

  Attributes:
    files: how many there are.
    documents: those that were read.
    num_bytes: of their texts, UTF-8.
    skipped: bad documents left out of what was read.
    whole: whether all files were read; a larger corpus is read in part.
    estimated_bytes: of the texts of the whole corpus.
    passage_bytes: most bytes of what is held out or trained on as one; None
      for whole documents.
    share: what lies below this place is held out.
    held_out: how many documents, or passages, that are.
    held_out_bytes: of their texts.
    sample: pieces of text from all over what was read.
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
  """Surveys a corpus; remembers it as long as its files stay as they are.

  Args:
    paths: of its files.
    options: how they are read.
    share: the share of the documents that is held out, in [0, 1]; None
      chooses one, and cuts a corpus of few documents into passages.

  Raises:
    DocumentError: a bad document, unless such are skipped.
    ValueError: there is too little text to hold any of it out.
  """
  files = []
  for path in paths:
    stat = tf.io.gfile.stat(path)
    files.append((path, stat.length, stat.mtime_nsec))
  return _survey(tuple(files), options, share)


@functools.lru_cache(maxsize=8)
def _survey(
  files: tuple[tuple[str, int, int], ...],
  options: document_files.ReadOptions,
  share: float | None,
) -> Survey:
  texts = _Texts(options)
  read_bytes = on_disk = 0
  for path, length, _ in files:
    if read_bytes >= MAX_BYTES:
      break
    read_bytes += texts.read(path, MAX_BYTES - read_bytes)
    on_disk += length
  whole = not texts.cut and on_disk == sum(length for _, length, _ in files)
  estimated = texts.num_bytes
  if not whole and on_disk:
    # A file that was cut short counts as if it had been read: too few rather
    # than too many bytes.
    estimated = round(
      texts.num_bytes * sum(length for _, length, _ in files) / on_disk
    )
  passage_bytes = None
  if share is None and texts.documents < MIN_DOCUMENTS:
    least, most = _PASSAGE_BYTES
    passage_bytes = min(max(estimated // MIN_DOCUMENTS, least), most)
  places = texts.places(passage_bytes)
  if share is None:
    share = _chosen_share(places)
  held_out = [size for position, size in places if position < share]
  return Survey(
    files=len(files),
    documents=texts.documents,
    num_bytes=texts.num_bytes,
    skipped=texts.skipped,
    whole=whole,
    estimated_bytes=estimated,
    passage_bytes=passage_bytes,
    share=share,
    held_out=len(held_out),
    held_out_bytes=sum(held_out),
    sample=texts.sample(),
  )


def _chosen_share(places: Sequence[tuple[float, int]]) -> float:
  """The least share that holds out as much as is wanted, and not everything.

  Args:
    places: place and bytes of each document or passage.
  """
  if not places:
    return _SHARE
  total = sum(size for _, size in places)
  wanted = max(_SHARE * total, min(_SMALL_SHARE * total, _ENOUGH_BYTES))
  ordered = sorted(places)
  different = sorted({position for position, _ in ordered})
  taken, share = 0, 0.0
  for position, size in ordered:
    taken += size
    share = position
    if taken >= wanted:
      break
  above = [p for p in different if p > share]
  if above:
    return (share + above[0]) / 2
  # Nothing would be left to train on: all but the last one.
  return share


class _Texts:
  """What a survey keeps of the documents that it reads."""

  def __init__(self, options: document_files.ReadOptions):
    self._options = options
    # Few documents may have to be cut: their texts are kept until it is known
    # that there are many.
    self._few: list[bytes] = []
    self._places: list[tuple[float, int]] = []
    self._sample: list[bytes] = []
    self._sampled = 0
    self.documents = self.skipped = self.num_bytes = 0
    self.cut = False

  def read(self, path: str, most: int) -> int:
    """Reads a file's documents, and returns the bytes of their texts."""
    taken = 0
    for text in self._documents(path):
      if taken >= most:
        self.cut = True
        break
      taken += len(text)
      self._add(text)
    return taken

  def _documents(self, path: str) -> Iterator[bytes]:
    records = document_files.records(path, self._options)
    while True:
      try:
        record = next(records, None)
        if record is None:
          return
        yield document_files.parse(path, record, self._options).text
      except document_files.DocumentError:
        if not self._options.skip_bad_documents:
          raise
        self.skipped += 1

  def _add(self, text: bytes) -> None:
    self.documents += 1
    self.num_bytes += len(text)
    self._places.append((place(text), len(text)))
    if self.documents < MIN_DOCUMENTS:
      self._few.append(text)
    else:
      self._few.clear()
    # Of 2^k documents every 2^j-th: from all over, and bounded.
    piece = text[:_SAMPLE_OF_A_DOCUMENT]
    self._sample.append(piece)
    self._sampled += len(piece)
    if self._sampled > 2 * _SAMPLE_BYTES:
      self._sample = self._sample[::2]
      self._sampled = sum(map(len, self._sample))

  def places(self, passage_bytes: int | None) -> list[tuple[float, int]]:
    """Place and bytes of each document, or of each passage."""
    if passage_bytes is None:
      return self._places
    return [
      (place(passage), len(passage))
      for text in self._few
      for passage in passages.passages(text, passage_bytes)
    ]

  def sample(self) -> tuple[bytes, ...]:
    """Pieces of text, at most some hundred kilobytes of them."""
    pieces = self._sample
    if len(pieces) < MIN_DOCUMENTS and self._few:
      # Long documents differ from end to end.
      pieces = [
        piece
        for text in self._few
        for piece in list(passages.passages(text, _SAMPLE_OF_A_DOCUMENT))
      ]
      pieces = pieces[:: max(1, sum(map(len, pieces)) // _SAMPLE_BYTES)]
    return tuple(pieces)
