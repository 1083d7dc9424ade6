"""Table of accelerators: peak FLOP/s, memory and links.

Sources, all per chip:

* TPUs: Google Cloud's pages `cloud.google.com/tpu/docs/` v3, v4, v5e, v5p and
  v6e (peak bfloat16 FLOP/s, HBM capacity and bandwidth, and for v5e and later
  the bidirectional interconnect bandwidth, half of which is one way);
  Jouppi et al. 2023 (arXiv 2304.01433, table 4) for the links of v3
  (4 x 70 GB/s) and v4 (6 x 50 GB/s) and their clocks. The clocks of v5e and v5p
  are peak / (2 x 128 x 128 x matrix units). v6e's is not published.
* GPUs: NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM. FLOP/s are
  the dense figure, half of the one "with sparsity"; the interconnect is half of
  NVLink's bidirectional total, and connects only the 8 GPUs of a host.
* The network between slices (DCN): v5p's page states 50 Gbit/s per chip; those
  of v5e and v6e 6.4 and 25.6 Tbit/s per pod of 256 chips. v4's states none: its
  6.25 GB/s is an estimate, the 25 GB/s that a host typically has (Austin et al.
  2025, How to Scale Your Model, jax-ml.github.io/scaling-book/tpus) over its 4
  chips. Slices of v3 and hosts of GPUs are not in the table: Cloud TPU
  Multislice starts with v4.

A *device* is a JAX device: on TPU v3 one of the two cores of a chip, otherwise
a chip.
"""

import dataclasses
import difflib

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peak rates and memory of one JAX device.

  Attributes:
    name: name in `--topology`.
    device_kind: prefix of `jax.Device.device_kind`.
    backend: JAX's name of the platform.
    flops: peak dense bfloat16 FLOP/s.
    memory: bytes of HBM.
    available: bytes of HBM for programs: on TPU as libtpu 0.0.42 reports for a
      program that does not fit, on GPU the 75 % that JAX allocates unless
      XLA_PYTHON_CLIENT_MEM_FRACTION is set (docs.jax.dev, GPU memory
      allocation).
    bandwidth: HBM bytes/s.
    network: bytes/s that a device can send over all its links.
    slice_network: bytes/s that a device can send to other slices, its share of
      its host's network; None if it cannot, or if that is unknown.
    clock: cycles/s; None if not published.
    tpu_config: libtpu's name of the mapping from cores to devices; None for
      GPUs.
  """

  name: str
  device_kind: str
  backend: str
  flops: float
  memory: int
  available: float
  bandwidth: float
  network: float
  clock: float | None = None
  tpu_config: str | None = None
  slice_network: float | None = None


def _tpu(
  name,
  kind,
  peak_tflops,
  hbm_gib,
  available_gib,
  hbm_gb_per_s,
  network_gb_per_s,
  clock,
  slice_gbit_per_s=None,
  config='default',
):
  return Chip(
    name,
    kind,
    'tpu',
    flops=peak_tflops * 1e12,
    memory=hbm_gib * GIB,
    available=available_gib * GIB,
    bandwidth=hbm_gb_per_s * 1e9,
    network=network_gb_per_s * 1e9,
    clock=clock,
    tpu_config=config,
    slice_network=slice_gbit_per_s and slice_gbit_per_s / 8 * 1e9,
  )


def _gpu(name, kind, peak_tflops, hbm_gb, hbm_gb_per_s, network_gb_per_s):
  return Chip(
    name,
    kind,
    'gpu',
    flops=peak_tflops * 1e12,
    memory=hbm_gb * 10**9,
    available=0.75 * hbm_gb * 1e9,
    bandwidth=hbm_gb_per_s * 1e9,
    network=network_gb_per_s * 1e9,
  )


CHIPS = {
  chip.name: chip
  for chip in (
    # A core is half a chip.
    _tpu('v3', 'TPU v3', 123 / 2, 16, 15.48, 900 / 2, 280 / 2, 0.94e9),
    _tpu('v4', 'TPU v4', 275, 32, 30.75, 1200, 300, 1.05e9, 50, 'megacore'),
    _tpu('v5e', 'TPU v5 lite', 197, 16, 15.75, 819, 200, 1.5e9, 6400 / 256),
    _tpu('v5p', 'TPU v5', 459, 96, 95.74, 2765, 600, 1.75e9, 50, 'megacore'),
    _tpu('v6e', 'TPU v6 lite', 918, 32, 31.25, 1638, 400, None, 25600 / 256),
    _gpu('a100', 'NVIDIA A100', 312, 80, 2039, 300),
    _gpu('h100', 'NVIDIA H100', 989, 80, 3350, 450),
    _gpu('h200', 'NVIDIA H200', 989, 141, 4800, 450),
  )
}


def find(name: str) -> Chip:
  """Returns a chip by its name in `--topology`.

  Raises:
    ValueError: the table has no such chip.
  """
  if name in CHIPS:
    return CHIPS[name]
  close = difflib.get_close_matches(name, CHIPS, n=1)
  hint = f'did you mean {close[0]}? ' if close else ''
  raise ValueError(
    f'unknown chip {name!r}: {hint}known are {", ".join(CHIPS)}, and cpu for '
    'simulated devices'
  )


def peak_flops(device_kind: str) -> float | None:
  """Returns the peak bfloat16 FLOP/s of a device, or None if unknown.

  Args:
    device_kind: value of `jax.Device.device_kind`.
  """
  # 'TPU v5 lite' before 'TPU v5', which is what JAX calls v5p.
  for chip in sorted(CHIPS.values(), key=lambda c: -len(c.device_kind)):
    if device_kind.startswith(chip.device_kind):
      return chip.flops
  return None
