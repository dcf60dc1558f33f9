"""Devices that programs are compiled for without being there. No command; see accelerator.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax.experimental import topologies

# What XLA's GPU compiler asks a device: the fields of its GpuTargetConfigProto, as an H100 SXM answers.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_core: 233472 shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  l2_cache_size: 52428800 memory_bandwidth: 3352320000000 device_memory_size: 84978434048
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device, and what the model of accelerator.py takes it to do; rates are the vendor's.

    backend: what `jax.default_backend()` says there. memory: bytes. bandwidth: bytes a second. flops: operations a
    second by the type that is multiplied. launch, round_trip: seconds for the shortest kernel, and for the host to look
    at a number of the device's. library_call: seconds of one matrix in a call looped on the host.
    """

    name: str
    backend: str
    extra: str
    memory: int
    bandwidth: float
    flops: dict[str, float]
    launch: float
    round_trip: float
    library_call: float

    def devices(self) -> list[Any]:
        """One described device, in a list; it compiles and cannot run. Raises where its compiler is not installed."""
        if self.backend == "gpu":
            description = {"topology_name": "1x1x1", "topology": "1x1x1", "target_config": _H100}
            return list(topologies.get_topology_desc(platform="cuda", **description).devices)
        return list(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)[:1]


TARGETS = {
    # float32 products are TF32 (dense) unless a program asks for more, which the model does not distinguish.
    "h100": Target(
        name="NVIDIA H100 SXM",
        backend="gpu",
        extra="aot-cuda",
        memory=80 * 10**9,
        bandwidth=3.35e12,
        flops={"f64": 67e12, "f32": 495e12, "bf16": 990e12},
        launch=3e-6,
        round_trip=15e-6,
        library_call=2.5e-3,
    ),
    # Float32 products are bfloat16 by default. Programs run on the device from end to end.
    "tpu-v5e": Target(
        name="TPU v5e",
        backend="tpu",
        extra="aot-tpu",
        memory=16 * 2**30,
        bandwidth=0.819e12,
        flops={"f32": 197e12, "bf16": 197e12},
        launch=1e-6,
        round_trip=0.0,
        library_call=1e-3,
    ),
}
