"""Decompression of files whose authors are not trusted: in bounded steps.

A few bytes may stand for gigabytes. What is decompressed at a time is bounded
by this module, not by the file.
"""

import zlib
from collections.abc import Iterable, Iterator

import zstandard

# Most bytes that are given out at a time.
_CHUNK_BYTES = 1 << 18
# zlib copies what it did not use yet at every step: little at a time.
_GZIP_INPUT_BYTES = 1 << 16
# A block of 4 bytes may stand for 128 KiB, and zstandard gives out all that its
# input stands for: 16 MiB at most, for so much of it.
_ZSTD_INPUT_BYTES = 1 << 9
# What the program zstd takes, unless told otherwise. Memory of this size is
# needed to decompress.
_ZSTD_WINDOW_BYTES = 1 << 27


class CompressedError(Exception):
  """Compressed data that cannot be read: why, and the remedy."""


def decompressed(data: Iterable[bytes], compression: str) -> Iterator[bytes]:
  """Yields what compressed data stands for, in chunks of at most 256 KiB.

  Both formats allow several frames in a file. The libraries' own readers of
  files do not serve: zstandard's takes the end of a truncated file for the end
  of its text, gzip's loses the last bytes before it.

  Args:
    data: chunks of any size.
    compression: 'gz' or 'zst'.

  Raises:
    CompressedError: the data is damaged or ends too early, or it takes a window
      of more than 128 MiB to decompress.
  """
  frames = {'gz': _gzip, 'zst': _zstd}[compression]
  try:
    for output in frames(data):
      for start in range(0, len(output), _CHUNK_BYTES):
        yield output[start : start + _CHUNK_BYTES]
  except (EOFError, zlib.error, zstandard.ZstdError) as e:
    if 'too much memory' in str(e):
      raise CompressedError(
        f'needs a window of more than {_ZSTD_WINDOW_BYTES >> 20} MiB; compress '
        'it again without --long or --ultra'
      ) from e
    raise CompressedError(f'truncated or damaged ({e}); fetch it again') from e


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
        # A full step may leave some of its output for the next one.
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
