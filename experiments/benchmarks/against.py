"""This version against another checkout of the package, in turn: seconds of training without diagnostics, and with.

    git worktree add /tmp/before afb7696
    python experiments/benchmarks/against.py /tmp/before --rounds 5

    python experiments/benchmarks/against.py /tmp/before --rounds 9 --settings "diagnosis 8192 x 64"

Each tree trains in a process of its own, which take turns; a process compiles and warms up first, and then times pieces
of training. Written: the ratio of the other tree's time to this one's, the median over rounds of the ratios of
neighbours, and all seconds. Settings: the paper's MuJoCo baselines on hopper (16 runs), CartPole (16 runs x 4
environments), Breakout flat (4 runs x 64 environments). A diagnosis of N x D: what log points (ten, of smaller matrices
more) of two CartPole runs whose rollouts have N samples, and whose hidden layers D units, take beyond the same without
diagnostics.

Writes results/against.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from purejaxppo.sweep.provenance import git_commit

HERE = Path(__file__).parent
SMALL = {"activation": "tanh", "total_steps": 500_000, "num_plasticity_points": 0}
CARTPOLE = {"env": "gymnax/CartPole-v1", "num_envs": 4, "minibatch_size": 128} | SMALL
BREAKOUT = {"env": "gymnax/Breakout-MinAtar", "num_envs": 64, "minibatch_size": 2048} | SMALL
# name -> (sweep file's contents, segments of a piece)
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {
    "paper_mujoco": (
        {"preset": "paper_mujoco", "seeds": 16, "config": {"num_log_points": 2441, "diagnostics": False}},
        2,
    ),
    "cartpole": ({"seeds": 16, "config": CARTPOLE | {"diagnostics": False}}, 20),
    "breakout": ({"seeds": 4, "config": BREAKOUT | {"diagnostics": False}}, 5),
    "cartpole, diagnosed": ({"seeds": 16, "config": CARTPOLE}, 20),
    "breakout, diagnosed": ({"seeds": 4, "config": BREAKOUT}, 5),
}
SHAPES = [(512, 64), (1024, 64), (2048, 64), (8192, 64), (2048, 128), (8192, 128), (1024, 512)]


def _diagnosis(samples: int, units: int) -> tuple[dict[str, Any], int]:
    """A sweep with a log point at every update, which has one epoch of one minibatch, and segments of a piece."""
    config = {"env": "gymnax/CartPole-v1", "num_envs": samples // 128, "minibatch_size": samples, "num_epochs": 1}
    config |= SMALL | {"hidden_sizes": [units, units], "total_steps": 100 * samples, "num_log_points": 100}
    return {"seeds": 2, "config": config}, max(10 * 8192 * 64**2 // (samples * units**2), 10)


DIAGNOSES = {f"diagnosis {samples} x {units}": _diagnosis(samples, units) for samples, units in SHAPES}


def main() -> None:
    """Take turns, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tree", type=Path, help="the other checkout's root")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--settings", nargs="+", choices=[*SETTINGS, *DIAGNOSES], default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "against.json")
    args = parser.parse_args()
    trees = {"other": args.tree.resolve(), "this": HERE.parents[1]}
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for name in args.settings:
        workers = {tree: _Worker(path, name) for tree, path in trees.items()}
        compiling = {tree: worker.answer() for tree, worker in workers.items()}
        seconds: dict[str, list[float]] = {tree: [] for tree in trees}
        for _ in range(args.rounds):
            for tree, worker in workers.items():
                seconds[tree].append(worker.time_piece())
        for worker in workers.values():
            worker.end()
        ratios = [old / new for old, new in zip(seconds["other"], seconds["this"], strict=True)]
        about = {"ratio": statistics.median(ratios), "commit": git_commit()}
        result[name] = about | {"seconds": seconds, "compiling": compiling}
        print(
            f"{name}: {statistics.median(ratios):.3f} times as fast ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
        args.out.write_text(json.dumps(result, indent=2) + "\n")


class _Worker:
    """A process that trains with one tree's package: compiled once, then a piece at every line it gets."""

    def __init__(self, tree: Path, setting: str):
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", setting]
        environment = os.environ | {"PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def answer(self) -> float:
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())

    def time_piece(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def work(setting: str) -> None:
    """Compile, say how long it took, then say how long a piece took for every line of standard input."""
    from purejaxppo.sweep.devices import use_cpu_cores

    use_cpu_cores()
    begin = time.perf_counter()
    if setting in DIAGNOSES:
        content, segments = DIAGNOSES[setting]
        diagnosed = _pieces(content, segments)
        bare = _pieces(content | {"config": content["config"] | {"diagnostics": False}}, segments)
        pieces = (next(diagnosed) - next(bare) for _ in sys.stdin)
    else:
        pieces = (seconds for _, seconds in zip(sys.stdin, _pieces(*SETTINGS[setting]), strict=False))
    print(time.perf_counter() - begin, flush=True)
    for seconds in pieces:
        print(seconds, flush=True)


def _pieces(content: dict[str, Any], segments: int) -> Iterator[float]:
    """Seconds of pieces of so many segments of a sweep that is compiled and warmed up at once."""
    import jax

    from purejaxppo.sweep.plan import make_groups, parse_sweep
    from purejaxppo.sweep.program import GroupProgram

    program = GroupProgram(make_groups(parse_sweep(content))[0])
    arguments = program.arguments()
    if isinstance(arguments, tuple):  # versions before 0.2: (hyper-parameters, keys)
        state = program.init(*arguments)
        program.compile(*arguments)
        first = arguments[0]
    else:
        state, first = program.init(arguments), arguments
        program.compile(arguments)
    state, _ = jax.block_until_ready(program.segment(first, state))

    def pieces(state: Any) -> Iterator[float]:
        while True:
            begin = time.perf_counter()
            for _ in range(segments):
                state, metrics = program.segment(first, state)
            jax.block_until_ready((state, metrics))
            yield time.perf_counter() - begin

    return pieces(state)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2])
    else:
        main()
