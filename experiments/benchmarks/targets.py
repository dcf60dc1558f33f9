"""Devices that programs are compiled for without being there, and how long they are taken to need. No command.

See accelerator.py, whose head states the model.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from hlo import Module, Step, moved_bytes, multiplied
from jax.experimental import topologies
from libraries import PARALLEL, library_call, row_of, verdict

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
  driver_version: "12.9.0" runtime_version: "12.9.0"
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Else the TPU's library asks a cloud what machine this is, and complains that nobody answers.
_NO_CLOUD = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # rejax is compiled in a process beside this one; there is no device to lock
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device, and what the model takes it to do.

    backend: what `jax.default_backend()` says there; extra: of the package, that brings its compiler.
    memory: bytes. bandwidth: bytes a second, operations: a second of a matrix product, by type of its operands; both as
        a kernel gets them, a share of what the vendor says.
    solver_share: of operations, that a batched library call gets.
    launch, round_trip: seconds that every kernel takes beside its work, and for the host to look at a number of the
        device's. looped_call: seconds of a library's call for one matrix.
    """

    name: str
    backend: str
    extra: str
    memory: int
    bandwidth: float
    operations: dict[str, float]
    solver_share: float
    launch: float
    round_trip: float
    looped_call: float

    def devices(self) -> list[Any]:
        """One described device, in a list; it compiles and cannot run. Raises where its compiler is not installed."""
        if self.backend == "gpu":
            description = {"topology_name": "1x1x1", "topology": "1x1x1", "target_config": _H100}
            return list(topologies.get_topology_desc(platform="cuda", **description).devices)
        for name, value in _NO_CLOUD.items():
            os.environ.setdefault(name, value)
        return list(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)[:1]

    def seconds(self, module: Module, step: Step, num_runs: int) -> dict[str, float]:
        """Predicted seconds of all times that a step is reached in one call of a program, by what takes them."""
        instruction = step.instruction
        if instruction.opcode == "conditional" or (instruction.opcode == "while" and module.trips(instruction) is None):
            return {"round_trips": step.times * self.round_trip}
        if not instruction.is_launch:
            return {}
        call = library_call(module, instruction)
        row = row_of(call) if call else None
        if call and row and not call.target.startswith("__cublas"):
            if verdict(call, num_runs, self.backend, is_in_loop=bool(step.loops)) not in PARALLEL:
                return {"looped_calls": step.times * call.matrices * self.looped_call}
            count = row.operations * call.matrices * call.rows * call.columns**2
            rate = self.solver_share * self.operations["f64" if call.dtype == "f64" else "f32_exact"]
            return {"launches": step.times * self.launch, "batched_calls": step.times * count / rate}
        moving = moved_bytes(module, instruction) / self.bandwidth
        rates = self.operations
        computing = sum(n / rates.get(dtype, rates["f32"]) for dtype, n in multiplied(module, instruction))
        kind = "bytes" if moving >= computing else "operations"
        return {"launches": step.times * self.launch, kind: step.times * max(moving, computing)}

    def bounds(self, program: dict[str, Any]) -> tuple[float, float]:
        """The least and the most seconds of a program by its totals alone, as accelerator.json has them.

        Bytes and products are beside each other in every kernel, or one after the other: what the totals do not tell.
        """
        moving = program["bytes"] / self.bandwidth
        rates = self.operations | {"pred": self.operations["f32_exact"]}  # written so before the float's type was taken
        computing = sum(n / rates[dtype] for dtype, n in program["operations"].items())
        others = sum(program["seconds_by"].get(x, 0.0) for x in ("round_trips", "batched_calls", "looped_calls"))
        others += program["launches"] * self.launch
        return others + max(moving, computing), others + moving + computing


TARGETS = {
    # Fitted once, on 28 November 2026, to the one H100 that we have had (results/gpu_first_h100.json: Breakout, 300
    # runs of 64-64, TF32, without diagnostics; before, 1.09 times that was predicted, and 1.44 times for CartPole):
    # - A kernel is launched and then works, where the longer of the two had been taken, 3 us or its bytes: copies of 15
    #   MB took 9.4 us, and CartPole's kernels 2.9 us each with what they move, so a launch is 2 us.
    # - Elementwise kernels and small products moved 2.7 to 3.0 of the data sheet's 3.35 TB/s, small arrays less: 0.8 of
    #   it, where 0.6 had been taken.
    # - Products in TF32 of Breakout's first layer ran at 122 and 135 of the data sheet's 495 TFLOP/s: 0.26 of it, where
    #   0.6 had been taken.
    # Not seen there, and taken as before: products in float32 and float64 (0.6 of the data sheet), solvers, round
    # trips; products of bfloat16, of which the same share is taken as of TF32's; the call for one matrix: 1024 of 33 x
    # 33 took syevd 0.56 s (jax issue 31368), and larger ones take longer.
    "h100": Target(
        name="NVIDIA H100 SXM",
        backend="gpu",
        extra="aot-cuda",
        memory=80 * 10**9,
        bandwidth=0.8 * 3.35e12,
        operations={"f64": 0.6 * 67e12, "f32_exact": 0.6 * 67e12, "f32": 0.26 * 495e12, "bf16": 0.26 * 989e12},
        solver_share=0.05 / 0.6,
        launch=2e-6,
        round_trip=15e-6,
        looped_call=0.55e-3,
    ),
    # Float32 products are one pass of bfloat16 unless a program asks for more: then six. Google's data sheet, of which
    # 0.6 is taken. Programs run on the device from end to end, so that nothing waits for a host. Nothing is measured.
    "tpu-v5e": Target(
        name="TPU v5e",
        backend="tpu",
        extra="aot-tpu",
        memory=16 * 2**30,
        bandwidth=0.6 * 0.819e12,
        operations={"f32_exact": 0.6 * 197e12 / 6, "f32": 0.6 * 197e12, "bf16": 0.6 * 197e12},
        solver_share=0.05 / 0.6,
        launch=1e-6,
        round_trip=1e-6,
        looped_call=0.55e-3,
    ),
}
# Described to the compiler as an H100: the same processors, and a memory that is larger and 1.43 times as fast.
TARGETS["h200"] = replace(TARGETS["h100"], name="NVIDIA H200", memory=141 * 10**9, bandwidth=0.8 * 4.8e12)
