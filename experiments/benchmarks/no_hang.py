"""Does the whole program ever hang? It is started afresh many times on all cores, each time under a limit.

    python experiments/benchmarks/no_hang.py --repeats 20

What is repeated is a process: two programs (orthogonal initialisation, policy and critic, all diagnostics) of 16 runs
each, split over all cores, to the table and the figure. See `purejaxppo/blas.py` for what used to hang.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SWEEP = """
name = "no-hang"
seeds = 8
[config]
env = "gymnax/CartPole-v1"
total_steps = 20_000
initialization = "orthogonal"
num_log_points = 20
[axes]
num_epochs = [1, 2]
pfo_coef = [0.0, 1.0]
"""


def main() -> int:
    """Repeat; write every repeat's seconds; exit code 1 if one hung or failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds after which a repeat counts as hung")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "no_hang.json")
    args = parser.parse_args()
    seconds, num_bad = [], 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sweep.toml")
        file.write_text(SWEEP)
        for number in range(args.repeats):
            command = [sys.executable, "-m", "purejaxppo", "sweep", str(file), "--out", str(Path(folder, str(number)))]
            start = time.perf_counter()
            try:
                code = subprocess.run(command, capture_output=True, timeout=args.limit, check=False).returncode
            except subprocess.TimeoutExpired:
                code = None
            seconds.append(round(time.perf_counter() - start, 1))
            num_bad += code != 0
            print(f"{number + 1}: {seconds[-1]} s, {'hung' if code is None else f'exit code {code}'}", flush=True)
    from purejaxppo.sweep.provenance import git_commit  # late: what was started is charged with what is in memory here

    result = {
        "commit": git_commit(),
        "repeats": args.repeats,
        "limit": args.limit,
        "hung_or_failed": num_bad,
        "seconds": seconds,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{num_bad} of {args.repeats} hung or failed; written: {args.out}")
    return int(num_bad > 0)


if __name__ == "__main__":
    sys.exit(main())
