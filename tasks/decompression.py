"""Streaming decompression of untrusted files, in bounded memory.

A few compressed bytes may expand to gigabytes. This module, not the file,
bounds how much is decompressed at a time.
"""

import zlib
from collections.abc import Iterable, Iterator

import zstandard

# Maximum size of an output chunk.
_CHUNK_BYTES = 1 << 18
# zlib copies its unconsumed input at every call: keep it small.
_GZIP_INPUT_BYTES = 1 << 16
# A 4-byte block may expand to 128 KiB, and zstandard returns everything that
# its input expands to: at most 16 MiB for this much input.
_ZSTD_INPUT_BYTES = 1 << 9
# The zstd program's default limit. Decompression allocates this much memory.
_ZSTD_WINDOW_BYTES = 1 << 27


class CompressedError(Exception):
  """Unreadable compressed data; the message has the cause and the remedy."""


def decompressed(data: Iterable[bytes], compression: str) -> Iterator[bytes]:
  """Yields decompressed data, in chunks of at most 256 KiB.

  Both formats allow several frames per file. The libraries' own file readers
  do not detect truncation well: zstandard's takes a truncated file for a
  complete one, gzip's drops the last bytes before the cut.

  Args:
    data: chunks of any size.
    compression: 'gz' or 'zst'.

  Raises:
    CompressedError: the data is damaged or truncated, or needs a window of
      more than 128 MiB.
  """
  frames = {'gz': _gzip, 'zst': _zstd}[compression]
  try:
    for output in frames(data):
      for start in range(0, len(output), _CHUNK_BYTES):
        yield output[start : start + _CHUNK_BYTES]
  except (EOFError, zlib.error, zstandard.ZstdError) as e:
    if 'too much memory' in str(e):
      raise CompressedError(
        f'needs a window of more than {_ZSTD_WINDOW_BYTES >> 20} MiB; '
        'recompress it without --long or --ultra'
      ) from e
    raise CompressedError(
      f'truncated or damaged ({e}); download it again'
    ) from e


def _cut(data: Iterable[bytes], size: int) -> Iterator[bytes]:
  for chunk in data:
    for start in range(0, len(chunk), size):
      yield chunk[start : start + size]


def _gzip(data: Iterable[bytes]) -> Iterator[bytes]:
  member, started = None, False
  for chunk in _cut(data, _GZIP_INPUT_BYTES):
    while True:
      if member is None:
        if started:
          # Zeros may pad a file after any of its members.
          chunk = chunk.lstrip(b'\0')
        if not chunk:
          break
        member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        started = True
      output = member.decompress(chunk, _CHUNK_BYTES)
      yield output
      if member.eof:
        chunk, member = member.unused_data, None
      else:
        chunk = member.unconsumed_tail
        # A full chunk means that more output may be pending.
        if not chunk and len(output) < _CHUNK_BYTES:
          break
  if member:
    raise EOFError('the file ends before its compressed data does')


def _zstd(data: Iterable[bytes]) -> Iterator[bytes]:
  decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
  frame = None
  for chunk in _cut(data, _ZSTD_INPUT_BYTES):
    while chunk:
      frame = frame or decompressor.decompressobj()
      yield frame.decompress(chunk)
      chunk = b''
      if frame.eof:
        chunk, frame = frame.unused_data, None
  if frame:
    raise EOFError('the file ends before its compressed data does')
