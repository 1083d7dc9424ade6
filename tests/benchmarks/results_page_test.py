"""docs/RESULTS.md: up to date with the committed files, and its parts."""

import json

from fnet_t5x import generated_page
from fnet_t5x.benchmarks import results, results_gaps, results_page

HOST = {
  'date': '2026-01-02 03:04 UTC',
  'python': '3.12.1',
  'machine': 'x86_64',
  'processor': 'CPU X',
  'host_memory_bytes': 16 * 2**30,
  'cpus': 2,
  'versions': {'jax': '0.10.2'},
  'commit': 'abc+',
  'xla_flags': '',
}


def encoders(**fields):
  rows = [
    {
      'length': 512,
      'rows': 4,
      'encoder': encoder,
      'direction': direction,
      'median_seconds': seconds,
      'least_seconds': seconds,
      'rounds': 3,
      'speedup': 0.5 / seconds,
    }
    for encoder, seconds in (('BERT', 0.5), ('FNet', 0.25))
    for direction in ('forward', 'forward+backward')
  ]
  settings = {'lengths': [512], 'dtype': 'float32', 'layers': 2}
  return {
    'section': 'encoders',
    'command': 'python -m fnet_t5x.benchmarks.encoders --lengths 512',
    'toy': False,
    'seconds': 90.0,
    'environment': HOST,
    'benchmark': {
      'environment': {'backend': 'cpu', 'device': 'cpu'},
      'settings': settings,
      'rows': rows,
    },
    'error': None,
    **fields,
  }


def render(folder, content):
  (folder / 'encoders.json').write_text(json.dumps(content))
  return results_page.render(folder, folder, accelerators=folder)


def test_the_page_is_what_the_files_say():
  docs = generated_page.DOCS
  # On a difference: python -m fnet_t5x.benchmarks.results --write
  want = results_page.render(docs / results.FOLDER, docs)
  assert (docs / results_page.PAGE).read_text() == want


def test_a_section_as_text(tmp_path):
  page = render(tmp_path, encoders())
  for line in (
    'CPU X, 2 CPU cores, 16 GiB of memory, Python 3.12.1, jax 0.10.2.',
    '| `encoders` | 2026-01-02 03:04 UTC | abc+ | 1.5 |',
    'python -m fnet_t5x.benchmarks.encoders --lengths 512',
    '| 512 tokens x 4 | forward, ms | speedup | forward + backward, ms '
    '| speedup |',
    '| FNet | 250.0 | 2.00x | 250.0 | 2.00x |',
    '* FNet and BERT: 1024, 2048, 4096 tokens per row.',
    '* Generation: `inference` was not run.',
  ):
    assert line in page.splitlines()
  assert 'Is FNet faster than BERT?** Yes' in page
  assert 'A `+` is for' in page and 'toy run:' not in page.lower()
  assert all(
    len(line) <= 80 for line in page.splitlines() if not line.startswith('|')
  )


def test_a_toy_run_is_marked(tmp_path):
  assert 'A toy run:' in render(tmp_path, encoders(toy=True))


def test_what_an_unfinished_section_measured_is_kept(tmp_path):
  page = render(tmp_path, encoders(error='stopped after 9 minutes'))
  assert '| FNet | 250.0 |' in page
  text = ' '.join(page.split())
  assert 'failed: stopped after 9 minutes; what it measured before' in text
  page = render(tmp_path, encoders(error='no', benchmark=None))
  assert '| FNet |' not in page and '`encoders` failed: no.' in page


def test_pictures_are_linked_from_the_page(tmp_path):
  folder = tmp_path / 'measurements'
  folder.mkdir()
  (folder / 'encoders.json').write_text(json.dumps(encoders()))
  (folder / 'encoders.png').write_bytes(b'')
  page = results_page.render(folder, tmp_path, accelerators=folder)
  assert '![FNet and BERT](measurements/encoders.png)' in page


def test_accelerators_are_those_of_real_runs(tmp_path):
  for name, header in (
    ('1.json', {'device_kind': 'cpu', 'backend': 'cpu', 'toy': False}),
    ('2.json', {'device_kind': 'Card X', 'backend': 'gpu', 'toy': True}),
  ):
    content = {'format': 1, 'header': header, 'ended': 'x', 'rows': []}
    (tmp_path / name).write_text(json.dumps(content))
  page = render(tmp_path, encoders())
  assert 'No accelerator has been measured' in page and '### ' not in page
  assert 'GPU and TPU: there is no run' in page
  content['header'] |= {'toy': False}
  (tmp_path / '3.json').write_text(json.dumps(content))
  page = render(tmp_path, encoders())
  assert '### Card X\n' in page and '(`docs/measurements/3.json`)' in page
  assert 'GPU and TPU' not in page


def test_gaps_of_generation_and_quality():
  inference = {
    'settings': {
      'prefixes': [512, 4096],
      'batches': [1, 8],
      'models': ['hybrid', 'gpt2'],
      'dtype': 'bfloat16',
    },
    'rows': [{'model': 'T5', 'prefix': 4, 'rows': 8, 'skipped': 'too large'}],
  }
  quality = {
    'settings': {
      'size': 'mini',
      'objective': 'prefix_lm',
      'dtype': 'bfloat16',
    },
    'rows': [],
  }
  found = results_gaps.gaps(
    {
      name: {'error': None, 'benchmark': benchmark}
      for name, benchmark in (('inference', inference), ('quality', quality))
    },
    pictures=['inference'],
    accelerators=True,
  )
  title = 'Quality after equal training time'
  assert found == [
    'Token mixing: `mixing` was not run.',
    'FNet and BERT: `encoders` was not run.',
    'Generation: 64, 8192 tokens of the prefix.',
    "Generation: Hugging Face's T5 and GPT-2, in PyTorch.",
    'Generation: T5 at 4 x 8: too large.',
    f'{title}: other sizes than mini.',
    f'{title}: objectives fixed_prefix_lm, span_corruption.',
    f'{title}: there is no picture.',
  ]
