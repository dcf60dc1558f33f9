"""What the diagnostics cost: the same sweep without, with, and with the plasticity loss, in turn, in one process.

    python experiments/benchmarks/diagnostics_cost.py                 # quickstart and CartPole; 10 segments of each
    python experiments/benchmarks/diagnostics_cost.py --segments 98   # whole runs of the quickstart

Prints and writes (results/diagnostics_cost.json) for every program of a sweep the seconds of a segment (medians): bare,
with diagnostics, and with diagnostics and a measurement of the plasticity loss, which only some log points have. For
the sweep as a whole: what each adds, as a share of the bare time. Compilation is not counted: with it, the shares would
be smaller.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax

from purejaxppo import Sweep
from purejaxppo.sweep.devices import use_cpu_cores
from purejaxppo.sweep.plan import Group, make_groups
from purejaxppo.sweep.program import GroupProgram
from purejaxppo.sweep.provenance import provenance

HERE = Path(__file__).parent
CONFIGS = [HERE.parent / "configs" / f"{name}.toml" for name in ("quickstart", "cartpole")]
VARIANTS: dict[str, dict[str, Any]] = {
    "bare": {"diagnostics": False},
    "diagnostics": {"num_plasticity_points": 0},
    "plasticity": {},
}


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
    """Costs for one sweep: every program's median seconds a segment, times its number of such segments."""
    rows: list[dict[str, Any]] = []
    bare = diagnostics = plasticity = 0.0
    for group in make_groups(Sweep.from_toml(file)):
        num_logs = group.config.num_logs
        num_points = sum(group.config.is_plasticity_point(log) for log in range(num_logs))
        seconds = take_turns(group, min(num_segments, num_logs))
        median = {variant: statistics.median(times) for variant, times in seconds.items()}
        bare += num_logs * median["bare"]
        diagnostics += num_logs * (median["diagnostics"] - median["bare"])
        plasticity += num_points * (median["plasticity"] - median["diagnostics"])
        rows.append(
            {
                "env": group.config.env,
                "runs": len(group.runs),
                "num_epochs": group.config.num_epochs,
                "log_points": num_logs,
                "plasticity_points": num_points,
                "seconds": seconds,
            }
        )
        print(
            f"{file.stem}: {len(group.runs)} runs, {group.config.num_epochs} epochs: a segment takes "
            f"{median['bare']:.3f} s bare, {median['diagnostics']:.3f} s with diagnostics, {median['plasticity']:.3f} "
            f"s with a measurement of plasticity",
            flush=True,
        )
    print(
        f"{file.stem}: whole sweep, {bare:.0f} s bare; diagnostics +{diagnostics / bare:.1%}, "
        f"plasticity +{plasticity / bare:.1%}"
    )
    return {"programs": rows, "cost_diagnostics": diagnostics / bare, "cost_plasticity": plasticity / bare}


def take_turns(group: Group, num_segments: int) -> dict[str, list[float]]:
    """Seconds of each segment of each variant, in turn; the first round warms up and is dropped."""
    programs, arguments, states = {}, {}, {}
    for variant, fields in VARIANTS.items():
        config = dataclasses.replace(group.config, **fields)
        programs[variant] = GroupProgram(dataclasses.replace(group, config=config))
        arguments[variant], keys = programs[variant].arguments()
        states[variant] = programs[variant].init(arguments[variant], keys)
        programs[variant].compile(arguments[variant], keys)
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    order = list(VARIANTS)
    for number in range(num_segments + 1):
        order.append(order.pop(0))
        for variant in order:
            start = time.perf_counter()
            states[variant], metrics = programs[variant].segment(
                arguments[variant], states[variant], variant == "plasticity"
            )
            jax.block_until_ready((states[variant], metrics))
            if number:
                seconds[variant].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
