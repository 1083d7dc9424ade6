"""Peak arithmetic of known chips, to relate a run's rate to."""

# bfloat16 dense FLOP/s a JAX device, from the vendors' data sheets: Google
# Cloud's TPU system pages; NVIDIA's A100, H100 SXM and H200 data sheets (half
# of the "with sparsity" figure). TPU v3 shows each of a chip's two cores.
_PEAK_FLOPS = {
  'TPU v3': 123e12 / 2,
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5p': 459e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'NVIDIA A100': 312e12,
  'NVIDIA H100': 989e12,
  'NVIDIA H200': 989e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Returns a device's peak bfloat16 FLOP/s, None where it is not known.

  Args:
    device_kind: as `jax.Device.device_kind` says.
  """
  for name, flops in sorted(_PEAK_FLOPS.items(), key=lambda x: -len(x[0])):
    if device_kind.startswith(name):
      return flops
  return None
