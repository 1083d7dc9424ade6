"""Decompression: frames, padding, damage, and bombs in bounded memory."""

import gzip
import itertools
import os
import random
import subprocess
import sys
import zlib

import pytest
import zstandard

from fnet_t5x.tasks import decompression

_COMPRESS = {'gz': gzip.compress, 'zst': zstandard.compress}
_CHUNK = 1 << 18
_TEXT = random.Random(0).randbytes(700_000) + b'a' * 3_000_000


def _chunks(data, size):
  return (data[i : i + size] for i in range(0, len(data), size))


def _decompressed(data, compression, size=_CHUNK):
  return b''.join(decompression.decompressed(_chunks(data, size), compression))


@pytest.mark.parametrize('size', [1000, 65_536, _CHUNK, 10**7])
@pytest.mark.parametrize('compression', ['gz', 'zst'])
def test_several_frames_in_chunks_of_any_size(compression, size):
  texts = [_TEXT[:10], _TEXT, b'', _TEXT[::2]]
  data = b''.join(map(_COMPRESS[compression], texts))
  assert _decompressed(data, compression, size) == b''.join(texts)


@pytest.mark.parametrize('compression', ['gz', 'zst'])
def test_chunks_are_of_bounded_size(compression):
  data = _COMPRESS[compression](b'\n' * 50_000_000)
  sizes = [len(c) for c in decompression.decompressed([data], compression)]
  assert max(sizes) <= _CHUNK
  assert sum(sizes) == 50_000_000


@pytest.mark.slow
@pytest.mark.parametrize('zeros', [1, 511, 65_536, _CHUNK, 3 * _CHUNK])
@pytest.mark.parametrize('before_edge', [-1, 0, 1, 7])
def test_zeros_may_follow_any_gzip_member(before_edge, zeros):
  # A member that ends about where a chunk does.
  for length in itertools.count(_CHUNK - 400):
    text = random.Random(1).randbytes(length)
    member = gzip.compress(text, compresslevel=0)
    if len(member) >= _CHUNK - before_edge:
      break
  data = member + b'\0' * zeros + gzip.compress(b'after') + b'\0' * zeros
  assert _decompressed(data, 'gz') == text + b'after'


def test_zeros_alone_are_not_a_gzip_file():
  with pytest.raises(decompression.CompressedError, match='damaged'):
    _decompressed(b'\0' * 9, 'gz')


def test_skippable_zstd_frames_are_skipped():
  skipped = b'\x50\x2a\x4d\x18' + (7).to_bytes(4, 'little') + b'skipped'
  data = skipped + zstandard.compress(b'a') + skipped + zstandard.compress(b'b')
  assert _decompressed(data, 'zst') == b'ab'


@pytest.mark.parametrize('compression', ['gz', 'zst'])
@pytest.mark.parametrize(
  'damage',
  [
    lambda data: data[:-1],
    lambda data: data[: len(data) // 2],
    lambda data: data[:3],
    lambda data: data + b'garbage that is no frame',
    lambda data: b'no frame' + data,
  ],
)
def test_damage_is_an_error(compression, damage):
  data = damage(_COMPRESS[compression](_TEXT))
  with pytest.raises(
    decompression.CompressedError, match=r'^truncated or damaged .*; download'
  ):
    _decompressed(data, compression)


@pytest.mark.parametrize('log', [27, 28, 31])
def test_windows_of_zstd_are_bounded(log):
  parameters = zstandard.ZstdCompressionParameters(window_log=log)
  compressor = zstandard.ZstdCompressor(compression_params=parameters)
  # As a stream: if the size were known, the window would be no larger.
  frame = compressor.compressobj()
  data = frame.compress(b'a' * 1000) + frame.flush()
  if log == 27:
    assert _decompressed(data, 'zst') == b'a' * 1000
    return
  with pytest.raises(
    decompression.CompressedError, match=r'more than 128 MiB; .*without --long'
  ):
    _decompressed(data, 'zst')


_MEGABYTE = 1_000_000
# Not ru_maxrss, which a process inherits from its parent.
_READ = """
import re, sys
from fnet_t5x.tasks import document_files
options = document_files.ReadOptions(
  skip_bad_documents=True, max_document_bytes=1_000_000
)
def read(path):
  skipped = 0
  def count(error):
    nonlocal skipped
    skipped += 1
  documents = document_files.documents(path, options, count)
  print([d.id for d in documents], skipped)
def memory(kind):
  with open('/proc/self/status') as f:
    return int(re.search(kind + r':\\s+(\\d+) kB', f.read())[1]) // 1000
read(sys.argv[1])
idle = memory('VmRSS')
read(sys.argv[2])
print(memory('VmHWM') - idle)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('compression', ['gz', 'zst'])
@pytest.mark.parametrize('content', [b'a', b'\n', b' \n', b'{"a": 1}\n'])
def test_memory_does_not_grow_with_a_bomb(tmp_path, compression, content):
  """An endless line, and endlessly many lines; 300 MB of each."""
  frame = {
    'gz': lambda: zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS),
    'zst': lambda: zstandard.ZstdCompressor(level=19).compressobj(),
  }[compression]()
  good = b'{"text": "a"}\n'
  bomb = content * (_MEGABYTE // len(content))
  # Each of these is a separate line.
  megabytes = 3 if b'{' in content else 300
  data = frame.compress(good)
  for _ in range(megabytes):
    data += frame.compress(bomb)
  data += frame.compress(b'\n' + good) + frame.flush()
  assert len(data) < _MEGABYTE
  path = tmp_path / f'bomb.jsonl.{compression}'
  path.write_bytes(data)
  first = tmp_path / 'first.jsonl'
  first.write_bytes(good)
  result = subprocess.run(
    [sys.executable, '-c', _READ, str(first), str(path)],
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
    capture_output=True,
    text=True,
    check=True,
  )
  _, seen, megabytes_taken = result.stdout.splitlines()
  lines = megabytes * bomb.count(b'\n')
  skipped = {b'a': 1, b'{"a": 1}\n': lines}.get(content, 0)
  last = f'bomb.jsonl.{compression}:{lines + 3}'
  assert seen == f"['bomb.jsonl.{compression}:1', '{last}'] {skipped}"
  assert int(megabytes_taken) < 60
