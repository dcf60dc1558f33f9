"""Runs split over CPU cores as devices, against the same runs on one of them: segments in turn, in one process.

    python experiments/benchmarks/devices.py

Writes results/devices.json: environment steps a second of 16 CartPole runs on one device and on all, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import jax

from purejaxppo import Sweep
from purejaxppo.sweep.devices import use_cpu_cores
from purejaxppo.sweep.plan import make_groups
from purejaxppo.sweep.program import GroupProgram
from purejaxppo.sweep.provenance import provenance

HERE = Path(__file__).parent


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--file", type=Path, default=HERE.parent / "configs" / "cartpole.toml")
    parser.add_argument("--segments", type=int, default=15)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "devices.json")
    args = parser.parse_args()
    use_cpu_cores()
    group = make_groups(Sweep.from_toml(args.file))[0]
    devices = {1: jax.local_devices()[:1], len(jax.local_devices()): jax.local_devices()}
    programs = {number: GroupProgram(group, devices=which) for number, which in devices.items()}
    arguments = {number: program.arguments() for number, program in programs.items()}
    states = {number: program.init(arguments[number]) for number, program in programs.items()}
    for number, program in programs.items():
        program.compile(arguments[number])
    seconds: dict[int, list[float]] = {number: [] for number in programs}
    for turn in range(args.segments + 1):
        for number, program in programs.items():
            start = time.perf_counter()
            states[number], metrics = program.segment(arguments[number], states[number])
            jax.block_until_ready((states[number], metrics))
            if turn:  # the first one warms up
                seconds[number].append(time.perf_counter() - start)
    steps = len(group.runs) * group.config.steps_per_log
    rate = {number: steps / statistics.median(times) for number, times in seconds.items()}
    ratio = rate[max(rate)] / rate[1]
    result = {"provenance": provenance(), "steps_per_second": rate, "ratio": ratio, "seconds": seconds}
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    for number, value in rate.items():
        print(f"{len(group.runs)} runs on {number} device(s): {value:,.0f} environment steps a second")
    print(f"ratio {ratio:.2f}; written: {args.out}")


if __name__ == "__main__":
    sys.exit(main())
