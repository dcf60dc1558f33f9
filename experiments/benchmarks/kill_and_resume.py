"""Kill a sweep at random moments, resume it each time, and compare every bit with a sweep that nobody touched.

    python experiments/benchmarks/kill_and_resume.py                    # 64 runs, 10 kills: some minutes

Kills are SIGKILL, at random times that fall into start-up, compiling, computing and saving. Compared are all variables
and coordinates of the dataset and all final parameters.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

from purejaxppo.sweep.provenance import git_commit

SWEEP = """
name = "kill-and-resume"
seeds = {seeds}
[config]
env = "gymnax/CartPole-v1"
total_steps = {steps}
num_log_points = 40
[axes]
learning_rate = [2.5e-4, 1e-3]
pfo_coef = [0.0, 1.0]
"""


def main() -> int:
    """Exit code 0 when all bits agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=64, help="a multiple of 4")
    parser.add_argument("--steps", type=int, default=160_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--memory", help="as of `purejaxppo sweep`, to kill between chunks too")
    parser.add_argument("--longest", type=float, default=20.0, help="longest time before a kill, in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "sweep.toml"
        file.write_text(SWEEP.format(seeds=args.runs // 4, steps=args.steps))
        command = [sys.executable, "-m", "purejaxppo", "sweep", str(file), "--quiet"]
        command += ["--memory", args.memory] if args.memory else []
        begin = time.perf_counter()
        subprocess.run([*command, "--out", str(folder / "whole")], check=True, stdout=subprocess.DEVNULL)
        print(f"uninterrupted: {time.perf_counter() - begin:.0f} s", flush=True)
        killed_at = []
        while len(killed_at) < args.kills:
            seconds = rng.uniform(0.5, args.longest)
            with subprocess.Popen([*command, "--out", str(folder / "killed")], stdout=subprocess.DEVNULL) as process:
                try:
                    process.wait(timeout=seconds)
                    if process.returncode:
                        return process.returncode
                    print(f"finished before kill {len(killed_at) + 1}: give it more --steps")
                    break
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
            killed_at.append(round(seconds, 1))
            reached = log_points(folder / "killed")
            print(f"kill {len(killed_at)} after {seconds:.1f} s, {reached} log points on disk", flush=True)
        subprocess.run([*command, "--out", str(folder / "killed")], check=True, stdout=subprocess.DEVNULL)
        differences = compare(folder / "whole", folder / "killed")
    result = {"commit": git_commit(), "runs": args.runs, "killed_after_seconds": killed_at, "differences": differences}
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{len(killed_at)} kills; " + ("bit-equal" if not differences else f"DIFFERENT: {differences}"))
    return int(bool(differences) or len(killed_at) < args.kills)


def log_points(out: Path) -> int:
    """Number of log points on disk."""
    return len(list(out.glob("parts/*/*.npz")))


def compare(one: Path, other: Path) -> list[str]:
    """Names of everything in which two finished sweeps differ, bit by bit."""
    a, b = (xr.load_dataset(out / "results.nc", engine="netcdf4") for out in (one, other))
    names = [str(name) for name in {**a.variables, **b.variables}]
    different = [name for name in names if name not in a.variables or name not in b.variables]
    different += [name for name in names if name not in different and not a[name].variable.equals(b[name].variable)]
    files = [sorted(path.name for path in out.glob("policies/*.npz")) for out in (one, other)]
    if files[0] != files[1]:
        return [*different, "names of the policies' files"]
    for file in files[0]:
        with np.load(one / "policies" / file) as x, np.load(other / "policies" / file) as y:
            same = x.files == y.files and all(x[name].tobytes() == y[name].tobytes() for name in x.files)
        different += [] if same else [file]
    return different


if __name__ == "__main__":
    sys.exit(main())
