"""A group of 256 runs in a quarter of the memory that it needs: does it finish, compile once, and stay within?

    python experiments/benchmarks/memory_limit.py

Two processes, one with all runs at once and one limited to a quarter of that program's memory (or less), and their
peak resident memory as the operating system counts it, minus that of an interpreter that has loaded everything and
run a sweep of one run. Writes results/memory_limit.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SWEEP = """
name = "memory-limit"
seeds = {seeds}
[config]
env = "gymnax/CartPole-v1"
total_steps = 4_096
num_envs = 16
num_steps = 128
num_epochs = 2
num_log_points = 2
hidden_sizes = [256, 256]
"""
# In the process itself: what it compiled, and the most memory it ever had.
MEASURE = """
import json, resource, sys
from pathlib import Path
from purejaxppo import Sweep, run_sweep, use_cpu_cores
from purejaxppo.sweep import program
use_cpu_cores()
compiled, needed = [], []
original = program.GroupProgram.compile
def compile(self, *args):
    compiled.extend([1] * ("segment" not in self._compiled))
    original(self, *args)
    needed.append(self.needed_memory)
program.GroupProgram.compile = compile
memory = int(sys.argv[3]) or None
run_sweep(Sweep.from_toml(sys.argv[1]), sys.argv[2], memory=memory, is_quiet=True)
layout = json.loads(Path(sys.argv[2], "layout.json").read_text())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"peak": peak, "needed": max(needed), "compiled": len(compiled), "chunks": len(layout["chunks"])}))
"""


def main() -> int:
    """Exit code 0 when the limit held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=256)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "memory_limit.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        alone = measure(Path(name, "alone"), 1, 0)
        whole = measure(Path(name, "whole"), args.runs, 0)
        limit = whole["needed"] // 4
        limited = measure(Path(name, "limited"), args.runs, limit)
    own = limited["peak"] - alone["peak"]
    is_within = own <= 1.2 * limit and limited["compiled"] == 1
    from purejaxppo.sweep.provenance import git_commit  # late: what was started is charged with what is in memory here

    result = {
        "commit": git_commit(),
        "limit": limit,
        "alone": alone,
        "whole": whole,
        "limited": limited,
        "above_interpreter": own,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    mib = 1024**2
    print(
        f"{args.runs} runs need {whole['needed'] / mib:.0f} MiB (peak {whole['peak'] / mib:.0f} MiB). Limited to "
        f"{limit / mib:.0f} MiB: {limited['chunks']} chunks, {limited['compiled']} compilation(s), peak "
        f"{limited['peak'] / mib:.0f} MiB, {own / mib:.0f} MiB above one run's {alone['peak'] / mib:.0f} MiB "
        f"({own / limit:.2f} of the limit); written: {args.out}"
    )
    return int(not is_within)


def measure(folder: Path, num_runs: int, memory: int) -> dict[str, int]:
    """Run a sweep in a process of its own; what it measured."""
    folder.mkdir()
    (folder / "sweep.toml").write_text(SWEEP.format(seeds=num_runs))
    command = [sys.executable, "-c", MEASURE, str(folder / "sweep.toml"), str(folder / "out"), str(memory)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
