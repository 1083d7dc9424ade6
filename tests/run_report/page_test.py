"""HTML page: numbers in the right cells, and no active content."""

import base64
import html.parser
import json

from fnet_t5x.run_report import curves, page

PICTURE = b'\x89PNG not really'


class Reader(html.parser.HTMLParser):
  """Collects tags, attributes and the cells of tables, row by row."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.attributes, self.rows, self.open = [], [], [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    if tag == 'tr':
      self.rows.append([])
    if tag in ('td', 'th'):
      self.rows[-1].append('')
    if tag not in ('meta', 'img'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open and self.open[-1] in ('td', 'th'):
      self.rows[-1][-1] += data


def run(name, macros=(), **values):
  rows = [
    {
      'step': step,
      'collection': 'train',
      'cross_ent_per_target_token': 4.0 - step / 10,
      'timing/seconds': 300.0,
      'timing/steps_per_second': 0.0333,
      'timing/target_tokens_per_second': 12345.4,
    }
    for step in (10, 20)
  ]
  rows += [
    {
      'step': step,
      'collection': 'training_eval/task',
      'cross_ent_per_target_token': loss,
      **values,
    }
    for step, loss in ((10, 3.25), (20, 3.5))
  ]
  found = curves.run_of_rows(name, rows)
  found.macros = dict(macros)
  return found


def test_results_of_a_run():
  read = Reader(page.make([run('a', bits_per_byte=1.5)], PICTURE))
  assert not read.open
  heads, cells = read.rows[:2]
  assert dict(zip(heads, cells, strict=True)) == {
    'run': 'a',
    'steps': '20',
    'training time': '10.0 min',
    'training loss': '2.0000',
    'validation loss': '3.5000',
    'best (step)': '3.2500 (10)',
    'bits per byte': '1.5000',
    'steps/s': '0.0333',
    'target tokens/s': '12,345',
  }
  (source,) = [value for name, value in read.attributes if name == 'src']
  kind, _, data = source.partition(',')
  assert kind == 'data:image/png;base64'
  assert base64.b64decode(data) == PICTURE


def test_one_row_per_task():
  rows = [
    {
      'step': 5,
      'collection': f'training_eval/{task}',
      'cross_ent_per_target_token': loss,
    }
    for task, loss in (('one', 1.0), ('two', 2.0))
  ]
  heads, lines = page.results([curves.run_of_rows('a', rows)])
  assert heads[1] == 'validation task' and 'bits per byte' not in heads
  place = heads.index('validation loss')
  assert [(line[0], line[1], line[place]) for line in lines] == [
    ('a', 'one', '1.0000'),
    ('a', 'two', '2.0000'),
  ]


def test_macros_that_differ_come_first():
  macros = {'BATCH_SIZE': '8', 'Z_LOSS': '0.0', 'MODEL_DIR': "'a'"}
  read = Reader(
    page.make(
      [
        run('a', {**macros, 'RANDOM_SEED': '1'}),
        run('b', {**macros, 'RANDOM_SEED': '2', 'MODEL_DIR': "'b'"}),
      ],
      PICTURE,
    )
  )
  assert ['', 'a', 'b'] in read.rows
  assert ['RANDOM_SEED', '1', '2'] in read.rows
  assert ['BATCH_SIZE', '8'] in read.rows
  assert ['Z_LOSS', '0.0'] in read.rows
  assert not any('MODEL_DIR' in row for row in read.rows)
  assert 'details' in read.tags


def test_names_are_escaped():
  evil = '<script>alert(1)</script>"&\''
  rows = [
    {
      'step': 1,
      'collection': f'{kind}/{evil}',
      'cross_ent_per_target_token': 1.0,
      evil: 2.0,
    }
    for kind in ('training_eval', 'inference_eval')
  ]
  found = curves.run_of_rows(evil, [json.loads(json.dumps(r)) for r in rows])
  found.macros = {evil: evil}
  found.notes = [evil]
  read = Reader(page.make([found, run('b')], PICTURE))
  assert 'script' not in read.tags
  assert {name for name, _ in read.attributes} <= {
    *('lang', 'charset', 'http-equiv', 'content', 'name', 'alt', 'src', 'class')
  }
  assert sum(cell.count(evil) for row in read.rows for cell in row) >= 6
