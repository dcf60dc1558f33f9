"""What the diagnostics cost: the same sweep with them on and off, segment by segment in turn, in one process.

    python experiments/benchmarks/diagnostics_cost.py                 # quickstart and CartPole; 10 segments of each
    python experiments/benchmarks/diagnostics_cost.py --segments 98   # whole runs of the quickstart

Prints and writes (results/diagnostics_cost.json) for every program of a sweep the seconds of a segment with and without
diagnostics (medians) and, for the sweep as a whole, cost = time on / time off - 1. Compilation is not counted: with it,
the share would be smaller.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path

import jax

from purejaxppo import Sweep
from purejaxppo.sweep.engine import GroupProgram, use_cpu_cores
from purejaxppo.sweep.plan import Group, make_groups
from purejaxppo.sweep.provenance import provenance

HERE = Path(__file__).parent
CONFIGS = [HERE.parent / "configs" / f"{name}.toml" for name in ("quickstart", "cartpole")]


def main() -> None:
    """Measure every sweep file named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, default=CONFIGS)
    parser.add_argument("--segments", type=int, default=10)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "diagnostics_cost.json")
    args = parser.parse_args()
    use_cpu_cores()
    result = {"provenance": provenance(), "sweeps": {file.stem: measure(file, args.segments) for file in args.files}}
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {args.out}")


def measure(file: Path, num_segments: int) -> dict[str, object]:
    """Cost for one sweep: every program's median seconds a segment, times its number of segments."""
    rows, total = [], {True: 0.0, False: 0.0}
    for group in make_groups(Sweep.from_toml(file)):
        seconds = alternate(group, min(num_segments, group.config.num_logs))
        median = {is_on: statistics.median(times) for is_on, times in seconds.items()}
        for is_on in total:
            total[is_on] += median[is_on] * group.config.num_logs
        rows.append(
            {
                "env": group.config.env,
                "runs": len(group.runs),
                "num_epochs": group.config.num_epochs,
                "log_points": group.config.num_logs,
                "seconds_on": seconds[True],
                "seconds_off": seconds[False],
                "cost": median[True] / median[False] - 1,
            }
        )
        print(
            f"{file.stem}: {len(group.runs)} runs, {group.config.num_epochs} epochs: a segment takes "
            f"{median[False]:.3f} s without and {median[True]:.3f} s with diagnostics, +{rows[-1]['cost']:.1%}",
            flush=True,
        )
    cost = total[True] / total[False] - 1
    print(
        f"{file.stem}: whole sweep, {total[False]:.0f} s without and {total[True]:.0f} s with diagnostics: +{cost:.1%}"
    )
    return {"programs": rows, "cost": cost}


def alternate(group: Group, num_segments: int) -> dict[bool, list[float]]:
    """Seconds of each segment with and without diagnostics, in turn; the first pair warms up and is dropped."""
    programs, arguments, states = {}, {}, {}
    for is_on in (True, False):
        config = dataclasses.replace(group.config, diagnostics=is_on)
        programs[is_on] = GroupProgram(dataclasses.replace(group, config=config))
        arguments[is_on], keys = programs[is_on].arguments()
        states[is_on] = programs[is_on].init(arguments[is_on], keys)
        programs[is_on].compile(arguments[is_on], keys)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(num_segments + 1):
        for is_on in (True, False) if number % 2 else (False, True):
            start = time.perf_counter()
            states[is_on], metrics = programs[is_on].segment(arguments[is_on], states[is_on])
            jax.block_until_ready((states[is_on], metrics))
            if number:
                seconds[is_on].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
