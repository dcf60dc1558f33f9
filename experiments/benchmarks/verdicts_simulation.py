"""How often do the verdicts of `purejaxppo claims` come out right? Simulated sweeps of which the truth is known.

    python experiments/benchmarks/verdicts_simulation.py [--sweeps 200]

Each sweep has plain PPO with 4 and 8 epochs and the paper's four interventions at both, n seeds each, with 100 log
points. Worlds in which nothing (or something else than what a claim says) goes on: in how many sweeps has any claim or
part that is not true there another verdict than NO DIFFERENCE, INCONCLUSIVE, NOT OBSERVED or NOT TESTED? And worlds in
which the paper is right, or its opposite is: how often does each claim get which verdict? Writes
results/verdicts_simulation.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.claims.environment import CONTRADICTED, NOT_OBSERVED, SUPPORTED
from purejaxppo.claims.interventions import paper_steps
from purejaxppo.claims.verdicts import evaluate_claims
from purejaxppo.config import TrainConfig
from purejaxppo.hyperparams import HyperParams
from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.statistics.estimates import exact_interval
from purejaxppo.sweep.plan import Sweep, to_json
from purejaxppo.sweep.provenance import git_commit

HERE = Path(__file__).parent
ENV = "gymnax/CartPole-v1"
WIDTH = 64
LOG_POINTS = 100
TIME = np.arange(1, LOG_POINTS + 1) / LOG_POINTS
EVERY = 4
"""Log points from a measurement of plasticity to the next."""
PLAIN = {"pfo_coef": 0.0, "share_trunk": False, "reset_optimizer": False, "adam_beta2": 0.999}
HELPS = ({}, {"pfo_coef": 1.0}, {"share_trunk": True}, {"reset_optimizer": True}, {"adam_beta2": 0.9})
POINTS = tuple({"num_epochs": epochs} | PLAIN | help for epochs in (4, 8) for help in HELPS)
CLAIMS = ("C1", "C2", "C3", "C4", "C5", "C6")


@dataclass(frozen=True)
class Runs:
    """S runs of a sweep: P points of n seeds, seeds fastest."""

    rng: np.random.Generator
    num_seeds: int
    points: tuple[dict[str, Any], ...] = POINTS

    @property
    def is_plain(self) -> np.ndarray:
        """[S]."""
        return np.repeat([all(point[name] == PLAIN[name] for name in PLAIN) for point in self.points], self.num_seeds)

    @property
    def has_more_epochs(self) -> np.ndarray:
        """[S]."""
        return np.repeat([point["num_epochs"] == 8 for point in self.points], self.num_seeds)

    def luck(self, mean: float, deviation: float) -> np.ndarray:
        """One normal value for each run, [S, 1], half of its variance that of the seed."""
        seeds = np.tile(self.rng.normal(size=self.num_seeds), len(self.points))
        both = (seeds + self.rng.normal(size=seeds.size)) / np.sqrt(2)
        return (mean + deviation * both)[:, None]

    def noise(self, deviation: float, memory: float = 0.5) -> np.ndarray:
        """Noise of a log point that is remembered at the next, [S, L]."""
        noise = self.rng.normal(size=(len(self.points) * self.num_seeds, LOG_POINTS))
        for at in range(1, LOG_POINTS):
            noise[:, at] = memory * noise[:, at - 1] + np.sqrt(1 - memory**2) * noise[:, at]
        return deviation * noise


Metrics = dict[str, np.ndarray]
"""Name -> [S, L]."""


def gone(begins: np.ndarray, takes: np.ndarray) -> np.ndarray:
    """0 before a collapse, 1 after it, [S, L]; `begins`, `takes` [S, 1] in shares of the run, NaN for never."""
    return np.nan_to_num(np.clip((TIME - begins) / takes, 0, 1))


def metrics_of(
    runs: Runs, lost: Metrics, growth: np.ndarray, rises: bool = False, worse: np.ndarray | float = 0.0
) -> Metrics:
    """Metrics of runs that have lost so much (0 to 1, [S, L]) of `rank`, `return`, `fit`, `units`, `ratio`, `rest`.

    growth: doublings of the norm over the whole run, [S, 1]. rises: the rank triples on the way to its fall. worse:
    halvings by which the rank falls lower than to 4, [S, 1].
    """
    rank = np.log2(runs.luck(30, 3)) - rises * np.log2(3) * (1 - TIME) + runs.noise(0.15)
    rank = rank + (runs.luck(2, 0.3) - worse - rank) * lost["rank"]
    learned = np.minimum(1, 5 * TIME) * (1 - lost["return"])
    constant, fresh = 0.002, 0.001
    loss = (fresh + 1.2 * (constant - fresh) * lost["fit"]) * 2 ** runs.noise(0.4)
    ratios = np.minimum(2 ** (-0.5 - 3 * lost["ratio"] + runs.noise(0.5)), 0.8)
    # Where the policy no longer moves, half of the log points have no sample below the clip range.
    is_none = runs.rng.random(ratios.shape) < 0.5 * (lost["rest"] == 1)
    metrics = {
        "policy_rank": np.maximum(np.round(2**rank), 1),
        "policy_preactivation_norm": 10 * 2 ** (growth * TIME + runs.noise(0.1)),
        "return_mean": runs.luck(100, 10) * learned + runs.noise(8),
        "policy_plasticity_excess_over_constant": loss - constant,
        "policy_plasticity_excess_over_fresh": loss - fresh,
        "policy_dead_neurons": np.clip(np.round(10 + (WIDTH - 10) * lost["units"] + runs.noise(1)), 0, WIDTH),
        "ratio_below_mean": np.where(is_none, np.nan, ratios),
        "policy_variance": 0.2 * 2 ** (-7 * lost["rest"] + runs.noise(0.4)),
        "policy_loss": -0.01 * 2 ** (-7 * lost["rest"] + runs.noise(1)),
    }
    is_measured = np.arange(LOG_POINTS) % EVERY == EVERY - 1
    for name in metrics:
        if "plasticity" in name:
            metrics[name] = np.where(is_measured, metrics[name], np.nan)
    return metrics


def nothing(runs: Runs) -> Metrics:
    """Sound runs, and interventions and epochs that change nothing. Norms drift either way."""
    zero = np.zeros((runs.is_plain.size, LOG_POINTS))
    return metrics_of(runs, dict.fromkeys(("rank", "return", "fit", "units", "ratio", "rest"), zero), runs.luck(0, 0.5))


def some_fail(runs: Runs) -> Metrics:
    """As `nothing`, but each run has a chance of one in eight to learn nothing and to end with a rank of a tenth."""
    metrics = nothing(runs)
    fails = runs.rng.random((runs.is_plain.size, 1)) < 1 / 8
    metrics["return_mean"] = np.where(fails, runs.noise(8), metrics["return_mean"])
    metrics["policy_rank"] = np.where(
        fails, np.maximum(np.round(metrics["policy_rank"] / 10), 1), metrics["policy_rank"]
    )
    return metrics


def chance(runs: Runs) -> Metrics:
    """Rank and return collapse by tossed coins, at any time, in every run alike; all else drifts up or down."""
    num_runs = runs.is_plain.size
    lost = {}
    for name in ("rank", "return"):
        begins = runs.rng.uniform(0.2, 0.9, (num_runs, 1))
        lost[name] = gone(np.where(runs.rng.random((num_runs, 1)) < 0.5, begins, np.nan), np.full((num_runs, 1), 0.05))
    return drift(runs, **lost)


def drift(runs: Runs, **lost: np.ndarray) -> Metrics:
    """Everything is lost little by little, each on a curve of its own, by some runs more than by others; or won."""
    for name in ("rank", "return", "fit", "units", "ratio", "rest"):
        curve = TIME ** runs.rng.choice([0.5, 1.0, 2.0])
        sign = 1.0 if name == "rank" else runs.rng.choice([-1.0, 1.0])
        share = np.clip(runs.luck(0.8, 0.1), 0, 0.95) * (curve if sign > 0 else 1 - curve)
        lost.setdefault(name, 0.5 * share if name == "return" else share)
    return metrics_of(runs, lost, runs.luck(0, 0.5))


def story(runs: Runs, rises: bool = False, late: bool = False, opposite: bool = False) -> Metrics:
    """What the paper tells: in every plain run rank, plasticity, clipping and then the return go, sooner with 8 epochs.

    rises: the rank rises until then. late: all goes at the same moment, after 80 % of the run. opposite: plasticity,
    units and clipping come back when the rank goes. Of plain runs one in twenty is spared, with an intervention nine in
    ten are.
    """
    num_runs = runs.is_plain.size
    begins = runs.rng.uniform(0.72, 0.85, (num_runs, 1)) - 0.1 * runs.has_more_epochs[:, None]
    takes = runs.rng.uniform(0.02, 0.08, (num_runs, 1))
    if late:
        begins, takes = runs.rng.uniform(0.82, 0.88, (num_runs, 1)), np.full((num_runs, 1), 0.01)
    is_spared = runs.rng.random((num_runs, 1)) < np.where(runs.is_plain[:, None], 0.05, 0.9)
    begins = np.where(is_spared, np.nan, begins)
    lost: Metrics = dict.fromkeys(("rank", "return", "fit", "units", "ratio", "rest"), gone(begins, takes))
    lost["return"] = lost["rest"] = gone(begins + (not late) * takes, takes)
    if opposite:
        lost |= dict.fromkeys(("fit", "units", "ratio"), 1 - lost["rank"])
        lost["rest"] = np.zeros_like(lost["rest"])
    growth = runs.luck(2.5, 0.3) + runs.has_more_epochs[:, None] - ~runs.is_plain[:, None]
    return metrics_of(runs, lost, growth, rises, 1.5 * runs.has_more_epochs[:, None])


@dataclass(frozen=True)
class World:
    """Runs that are made by `make`, of which the first `length` is seen."""

    make: Callable[..., Metrics]
    untrue: tuple[str, ...] = ()
    """Claims that are not true there, nor their opposites."""
    expected: dict[str, str] = field(default_factory=dict)
    """Verdicts that other claims should have."""
    length: float = 1.0
    options: dict[str, bool] = field(default_factory=dict)


NULL = ("C2", "C3", "C4", "C5", "C6")
TOLD: dict[str, str] = dict.fromkeys(CLAIMS, SUPPORTED)
UNSEEN: dict[str, str] = dict.fromkeys(("C1", "C2", "C3", "C4", "C5"), NOT_OBSERVED)
OPPOSITE = {"C1": SUPPORTED, "C3": CONTRADICTED, "C4": CONTRADICTED, "C6": SUPPORTED}
# Where all goes at once, 4 epochs and 8 do, and half of the ratios are missing as soon as the rank goes.
TOGETHER: dict[str, str] = dict.fromkeys(("C1", "C3", "C5", "C6"), SUPPORTED)
WORLDS = {
    "nothing happens": World(nothing, CLAIMS),
    "one run in eight fails": World(some_fail, CLAIMS),
    "collapse by chance, and unrelated trends": World(chance, CLAIMS),
    "unrelated trends, rank falling": World(drift, NULL),
    "the paper's story": World(story, (), TOLD),
    "the paper's story, cut at 60 %": World(story, (), UNSEEN, 0.6),
    "a rank that rises before it falls": World(story, (), TOLD, options={"rises": True}),
    "a rank that rises, cut at 60 %": World(story, (), UNSEEN, 0.6, {"rises": True}),
    "all at once, after 80 %": World(story, (), TOGETHER, options={"late": True}),
    "the opposite: plasticity and clipping come back": World(story, (), OPPOSITE, options={"opposite": True}),
}
MOST_FALSE, LEAST_RIGHT = 0.05, 0.8
"""What is allowed of false verdicts, and demanded of expected ones where there are 16 seeds, in shares of sweeps."""


def simulate(world: World, num_seeds: int, rng: np.random.Generator) -> xr.Dataset:
    """The results of one sweep."""
    runs = Runs(rng, num_seeds)
    plan = Sweep(name="simulated", seeds=tuple(range(num_seeds)), config=TrainConfig(env=ENV), hparams=HyperParams())
    seen = round(world.length * LOG_POINTS)
    num_runs = runs.is_plain.size
    group = GroupResult(
        metrics={name: values[:, :seen] for name, values in world.make(runs, **world.options).items()},
        env_steps=np.round(TIME[:seen] * paper_steps(ENV)).astype(np.int64),
        seeds=np.tile(plan.seeds, len(runs.points)),
        swept={name: [point[name] for point in runs.points for _ in plan.seeds] for name in runs.points[0]},
        status=np.zeros(num_runs),
        run_index=np.arange(num_runs),
    )
    return to_dataset([group], {"sweep": to_json(plan)})


def is_false(world: World, table: pd.DataFrame) -> bool:
    """Whether any claim or part of it is called what it is not.

    SUPPORTED or CONTRADICTED where neither it nor its opposite is true; CONTRADICTED where that is not expected.
    """
    for claim, verdict in zip(table["claim"], table["verdict"], strict=True):
        if verdict == CONTRADICTED and world.expected.get(claim) != CONTRADICTED and claim != "C5":
            return True
        if verdict in (SUPPORTED, CONTRADICTED) and claim in world.untrue:
            return True
    return False


def rates(world: World, num_seeds: int, num_sweeps: int, seed: int = 0) -> dict[str, Any]:
    """The share of sweeps of a world with a false verdict, and how often each claim (C6: intervention) got which."""
    false, verdicts = 0, {claim: Counter() for claim in CLAIMS}
    for number in range(num_sweeps):
        table = evaluate_claims(simulate(world, num_seeds, np.random.default_rng([seed, num_seeds, number])))
        false += is_false(world, table)
        for claim, verdict in table.loc[table["part"] == "", ["claim", "verdict"]].itertuples(index=False):
            verdicts[claim][verdict] += 1
    shares = {claim: {name: n / found.total() for name, n in found.most_common()} for claim, found in verdicts.items()}
    return {
        "seeds": num_seeds,
        "sweeps": num_sweeps,
        "false": false / num_sweeps,
        "false_interval": exact_interval(false, num_sweeps),
        "verdicts": shares,
    }


def run(
    num_sweeps: int = 200, seeds: Iterable[int] = (4, 8, 16), names: Iterable[str] = tuple(WORLDS)
) -> dict[str, list[dict[str, Any]]]:
    """`rates` of every world at every number of seeds: world -> [one for each].

    Worlds in which nothing is untrue have a quarter of the sweeps: their rates are far from their limits.
    """
    return {
        name: [rates(WORLDS[name], size, num_sweeps if WORLDS[name].untrue else -(-num_sweeps // 4)) for size in seeds]
        for name in names
    }


def failures(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What is not as it should be in the result of `run`, one sentence each."""
    wrong = []
    for name, rows in found.items():
        for row in rows:
            at = f"{name}, {row['seeds']} seeds"
            if row["false"] > MOST_FALSE:
                wrong.append(f"{at}: false verdicts in {row['false']:.1%} of sweeps")
            for claim, verdict in WORLDS[name].expected.items():
                share = row["verdicts"][claim].get(verdict, 0.0)
                if share < LEAST_RIGHT and (row["seeds"] >= 16 or verdict == NOT_OBSERVED):
                    wrong.append(f"{at}: {claim} is {verdict} in {share:.0%} of sweeps")
    return wrong


def main() -> int:
    """Exit code 0 where all is as it should be, see `failures`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "verdicts_simulation.json")
    args = parser.parse_args()
    begin = time.perf_counter()
    found = run(args.sweeps)
    for name, rows in found.items():
        for row in rows:
            told = "; ".join(
                f"{claim} " + ", ".join(f"{verdict} {share:.0%}" for verdict, share in shares.items())
                for claim, shares in row["verdicts"].items()
            )
            print(f"{name}, {row['seeds']} seeds: false in {row['false']:.1%}; {told}")
    at = {"commit": git_commit()}
    found = {name: [row | at for row in rows] for name, rows in found.items()}
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    wrong = failures(found)
    print("\n".join([*wrong, f"{time.perf_counter() - begin:.0f} s; written to {args.out}"]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
