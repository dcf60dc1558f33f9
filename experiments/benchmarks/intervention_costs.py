"""What every intervention costs when it is on: time of training over that of plain PPO, in turn in one process.

    python experiments/benchmarks/intervention_costs.py [--only redo muon] [--rounds 7]

Eight runs of Acrobot with the networks of the studies (64, 64; 8 environments; 4 epochs of 4 minibatches), without
diagnostics; of each row of `purejaxppo.interventions` what switches it on, its strengths being the defaults, and what
it needs. Each round times some updates of plain PPO, then as many of the intervention: the ratio's median over rounds,
with the smallest and the largest. What an intervention needs (LayerNorm) is part of its time. Adds to
results/intervention_costs.json, from which the README's table has its column.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from purejaxppo.config import TrainConfig
from purejaxppo.hyperparams import HyperParams
from purejaxppo.interventions import INTERVENTIONS, Intervention
from purejaxppo.sweep.devices import use_cpu_cores
from purejaxppo.sweep.plan import Sweep, make_groups
from purejaxppo.sweep.program import GroupProgram
from purejaxppo.sweep.provenance import provenance

OUT = Path(__file__).parent / "results" / "intervention_costs.json"
RUNS, LEAST_SECONDS = 8, 1.0
BASE = TrainConfig(
    env="gymnax/Acrobot-v1", total_steps=1_024_000, num_log_points=100, hidden_sizes=(64, 64), diagnostics=False
)


def main() -> None:
    """Measure, print a line each, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", help="first letters of names or first fields")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    use_cpu_cores()
    plain = segments({})
    found: dict[str, Any] = json.loads(OUT.read_text()) if OUT.is_file() else {"rows": {}}
    found["provenance"] = provenance()
    for row in (row for row in INTERVENTIONS if is_asked(row, args.only)):
        ratios = in_turn(plain, segments({**row.needs, **row.on}), args.rounds)
        found["rows"][row.name] = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        print(f"{row.name:45} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
        OUT.write_text(json.dumps(found, indent=1) + "\n")


def is_asked(row: Intervention, only: list[str] | None) -> bool:
    """Whether a row is to be measured."""
    names = (row.name.lower(), row.fields[0], *map(str, row.on.values()))
    return only is None or any(name.startswith(word.lower()) for name in names for word in only)


def segments(fields: dict[str, Any]) -> Callable[[], None]:
    """A call that makes ten updates of all runs, from where the one before ended; compiled and warm."""
    config_names = {field.name for field in dataclasses.fields(TrainConfig)}
    config = dataclasses.replace(BASE, **{name: value for name, value in fields.items() if name in config_names})
    hparams = HyperParams(**{name: value for name, value in fields.items() if name not in config_names})
    sweep = Sweep(name="costs", config=config, hparams=hparams, seeds=tuple(range(RUNS)))
    program = GroupProgram(make_groups(sweep)[0])
    runs = program.arguments()
    program.compile(runs)
    state = program.init(runs)

    def once() -> None:
        nonlocal state
        state, _ = program.segment(runs, state)
        jax.block_until_ready(state)

    once()
    return once


def in_turn(plain: Callable[[], None], other: Callable[[], None], rounds: int) -> list[float]:
    """Of each round the time of the other over that of plain PPO, both of as many calls."""
    begin = time.perf_counter()
    plain()
    calls = max(1, round(LEAST_SECONDS / (time.perf_counter() - begin)))
    ratios = []
    for _ in range(rounds):
        seconds = []
        for function in (plain, other):
            begin = time.perf_counter()
            for _ in range(calls):
                function()
            seconds.append(time.perf_counter() - begin)
        ratios.append(seconds[1] / seconds[0])
    return ratios


if __name__ == "__main__":
    main()
