"""What a sweep of a lab's size costs after it has been computed: looking at it, ending it, tables, figures, report.

    python experiments/benchmarks/results_size.py --runs 256 1000
    python experiments/benchmarks/results_size.py --runs 1000 --features 512 --only write running end summary

Nothing is trained. A directory of a sweep that has reached its last log point is made with the code that a sweep uses
(numbers at random, all metrics of the table, as many singular values as features), then each step is a process of its
own: seconds by the clock and of the CPU, and the largest resident memory, as the operating system counts them, with
start-up and imports, all on one core. Where others use the machine too, the CPU's seconds say more than the clock's,
and they grow as well, by up to a half. What was just written is in the page cache. Adds to results/results_size.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Here only what is small: a process is also charged with the memory of the one that starts it.
HERE = Path(__file__).parent
CLI = ("-m", "purejaxppo")
FIGURES = ("overview", "1", "2", "3", "4", "6", "7", "spectrum", "survival", "sensitivity", "factorial")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
WRITE = "import sys, pathlib, results_size as r; r.write(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))"
# What a computing process does when its last log point is written; it has JAX in memory.
END = "import sys, pathlib, purejaxppo.sweep.engine as e; e.store.finish(pathlib.Path(sys.argv[1]))"


def main() -> None:
    """Measure, print a table, write the JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[256, 1000], help="multiples of 8")
    parser.add_argument("--log-points", type=int, default=1000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--only", nargs="+", help="steps by the first word of their names")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "results_size.json")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for num_runs in args.runs:
        with tempfile.TemporaryDirectory() as name:
            steps = measure(Path(name, "sweep"), num_runs, args.log_points, args.features, args.only)
        found.setdefault(f"{num_runs} runs, {args.log_points} log points, {args.features} features", {}).update(steps)
    packages = ("numpy", "xarray", "netCDF4", "matplotlib")
    machine = f"{platform.system()} {platform.machine()}, one of {os.cpu_count()} cores, Python"
    from purejaxppo.sweep.provenance import git_commit

    found["commit"] = git_commit()
    found["machine"] = f"{machine} {platform.python_version()}, load {os.getloadavg()[2]:.0f}"
    found["versions"] = {name: importlib.metadata.version(name) for name in packages}
    args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"{table(found)}\n\nwritten: {args.out}")


def table(found: dict[str, Any]) -> str:
    """CPU seconds and largest memory of every step and size, in Markdown."""
    sizes = [name for name in found if name not in ("commit", "machine", "versions")]
    lines = [["", *sizes], ["---", *["---:"] * len(sizes)]]
    for step in dict.fromkeys(step for size in sizes for step in found[size]):
        rows = [found[size].get(step) for size in sizes]
        lines.append([step, *(f"{row['cpu_seconds']:.1f} s, {row['peak_mib']:,} MiB" if row else "" for row in rows)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure(out: Path, num_runs: int, num_logs: int, features: int, only: list[str] | None) -> dict[str, Any]:
    """Every step of one size, in the order in which a user takes them; prints a line each."""
    folder, steps = str(out), {}
    commands = {
        "write": ("-c", WRITE, folder, str(num_runs), str(num_logs), str(features)),
        "running: summary": (*CLI, "summary", folder),
        "running: overview": (*CLI, "plot", folder),
        "running: report": (*CLI, "report", folder),
        "end": ("-c", END, folder),
        **{name: (*CLI, name, folder) for name in ("summary", "compare", "claims", "report")},
        **{f"figure {name}": (*CLI, "plot", folder, "--figure", name) for name in FIGURES},
    }
    print(f"{num_runs} runs, {num_logs} log points, {features} features")
    for name, command in commands.items():
        if only is None or name.split()[0].rstrip(":") in ("write", *only):
            steps[name] = run(command)
            print(f"  {name:18} {'  '.join(f'{key} {value:8,.1f}' for key, value in steps[name].items())}", flush=True)
        if name == "write":
            steps[name] |= json.loads((out / "written.json").read_text())
    if (out / "results.nc").is_file():
        steps["end"]["file_mib"] = round((out / "results.nc").stat().st_size / 2**20)
    return steps


def run(command: tuple[str, ...]) -> dict[str, float]:
    """One command in a process of its own; raises CalledProcessError when it fails."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    cpu = usage.ru_utime + usage.ru_stime
    seconds = {"seconds": round(time.perf_counter() - begin, 1), "cpu_seconds": round(cpu, 1)}
    return seconds | {"peak_mib": round(usage.ru_maxrss / 1024)}  # kibibytes on Linux


def write(out: Path, num_runs: int, num_logs: int, features: int) -> None:
    """The directory of a sweep just before its end, and `written.json`: the milliseconds that a log point took."""
    import numpy as np

    from purejaxppo.results.registry import METRICS
    from purejaxppo.sweep import store
    from purejaxppo.sweep.engine import lay_out
    from purejaxppo.sweep.parts import write_part
    from purejaxppo.sweep.plan import make_groups, parse_sweep

    config = {"total_steps": num_logs * 1024, "num_log_points": num_logs, "hidden_sizes": [features, features]}
    axes = {"num_epochs": [4, 8], "pfo_coef": [0.0, 1.0, 10.0, 100.0]}
    sweep = parse_sweep({"name": "size", "seeds": num_runs // 8, "config": config, "axes": axes})
    store.create(out, sweep)
    groups = make_groups(sweep)
    store.write_layout(out, lay_out(groups, None), None)
    seconds = []
    for chunk in store.read_layout(out) or []:
        rng, config = np.random.default_rng(chunk.indices[0]), groups[chunk.group].config
        walk = np.ones((chunk.num_runs, len(METRICS)), np.float32)
        for log_point in range(1 + config.num_logs):
            walk += 0.03 * rng.standard_normal(walk.shape, np.float32)
            metrics = metrics_of(np.abs(walk), features, config.is_plasticity_point(log_point))
            begin = time.perf_counter()
            write_part(out / store.PARTS / chunk.name, log_point, metrics)
            seconds.append(time.perf_counter() - begin)
    size = sum(path.stat().st_size for path in out.glob("parts/*/*")) / 2**20
    written = {"ms_a_log_point": round(1000 * float(np.mean(seconds)), 2), "parts": len(seconds), "mib": round(size)}
    (out / "written.json").write_text(json.dumps(written))


def metrics_of(walk: Any, features: int, is_plasticity_point: bool) -> Any:
    """Metrics of a log point, numbers and spectra, from as many random walks [S, M] as there are metrics.

    In a sweep's order: what is measured at some log points only comes last.
    """
    import numpy as np

    from purejaxppo.metrics import Metrics
    from purejaxppo.results.registry import METRICS

    left_out = {"evaluation", "run"} | ({"plasticity"} if not is_plasticity_point else set())
    shown = [metric for metric in METRICS.values() if metric.family not in left_out]
    numbers = [metric for metric in shown if metric.dims == ("run", "log")]
    names = [metric.name for metric in numbers if metric.family != "plasticity"]
    names += ["status", *(metric.name for metric in numbers if metric.family == "plasticity")]
    values = walk[:, : len(names)].copy()
    values[:, names.index("status")] = 0
    for column, name in enumerate(names):
        if "rank" in name or "dead" in name:  # whole numbers of dimensions and neurons
            values[:, column] = np.clip(np.round(0.3 * features * values[:, column]), 0, features)
    index = np.arange(features, dtype=np.float32)
    spectra = {
        metric.name: np.exp(-index[None, :] / (1 + 0.1 * features * walk[:, [column]])) * walk[:, [-1 - column]]
        for column, metric in enumerate(metric for metric in shown if metric.dims == ("run", "log", "D"))
    }
    return Metrics(names=tuple(names), scalars=values, spectra=spectra)


if __name__ == "__main__":
    main()
