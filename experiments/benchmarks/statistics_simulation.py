"""What intervals, shares, tests and the definition of collapse do where the truth is known; run by statistics.py."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.statistics.collapse import outcomes
from purejaxppo.statistics.contrasts import difference, select_best
from purejaxppo.statistics.estimates import bootstrap_interval, iqm, probability_of_improvement
from purejaxppo.statistics.kaplan_meier import survival
from purejaxppo.statistics.tables import format_value, text
from purejaxppo.sweep.provenance import git_commit

OUT = Path(__file__).parent / "results" / "statistics.json"
VERDICT_SWEEPS = 8
"""Simulated sweeps of a world: a minute in all. `verdicts_simulation.py` has 200."""
Rows = list[dict[str, Any]]
Sample = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def two_kinds(share: float) -> Sample:
    """Returns of runs of which a share fails: about -500, the others about -90."""
    return lambda rng, shape: np.where(rng.random(shape) < share, -500.0, -90.0) + 5 * rng.normal(size=shape)


RETURNS: dict[str, Sample] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "lognormal": lambda rng, shape: rng.lognormal(size=shape),
    "t, 3 degrees": lambda rng, shape: rng.standard_t(3, size=shape),
    "10 % fail": two_kinds(0.1),
    "40 % fail": two_kinds(0.4),
}


def intervals(scale: float) -> Rows:
    """Share of samples in which the interval of the interquartile mean holds the truth; plain percentiles beside it."""
    rows = []
    for name, sample in RETURNS.items():
        truth = float(iqm(sample(np.random.default_rng(0), (1_000_000,))))
        for num_runs in (5, 6, 8, 10, 12, 16):
            values = sample(np.random.default_rng(num_runs), (num_runs, max(50, int(2000 * scale))))
            # The level at which the expanded interval has the tails of the plain one.
            wide = stats.norm.isf(0.025) / math.sqrt(num_runs / (num_runs - 1))
            plain = 2 * float(stats.t.cdf(wide, num_runs - 1)) - 1
            row: dict[str, Any] = {"returns": name, "runs": num_runs}
            for kind, level in (("expanded", 0.95), ("plain", plain)):
                low, high = bootstrap_interval(values, num_resamples=1000, level=level)
                row[kind] = float(np.mean((low <= truth) & (truth <= high)))
            rows.append(row)
    return rows


def survival_bands(scale: float) -> Rows:
    """Probability that the band holds the true survival: exactly, from the binomial counts of runs that were followed
    to the end; and with uniform censoring, by simulation. Greenwood's band, log-log, is that of version 0.2.
    """
    rows = []
    rng = np.random.default_rng(0)
    for num_runs in (4, 8, 16):
        for collapse in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9):
            row = {"runs": num_runs, "collapse": collapse, "followed": 0.0, "greenwood": 0.0}
            for failed in range(num_runs + 1):
                weight = float(stats.binom.pmf(failed, num_runs, collapse))
                events = np.where(np.arange(num_runs) < failed, 1.0, np.nan)
                curve = survival(events, np.full(num_runs, 2.0))
                row["followed"] += weight * (curve.low[-1] <= 1 - collapse <= curve.high[-1])
                row["greenwood"] += weight * _greenwood_holds(failed, num_runs, 1 - collapse)
            held = [_censored_band_holds(rng, num_runs, collapse) for _ in range(max(50, int(1000 * scale)))]
            rows.append(row | {"censored": float(np.mean(held))})
    return rows


def _greenwood_holds(failed: int, num_runs: int, truth: float) -> bool:
    left = 1 - failed / num_runs
    if left in (0, 1):
        return left == truth
    error = 1.959964 * math.sqrt(failed / (num_runs * (num_runs - failed))) / math.log(left)
    return left ** math.exp(-error) <= truth <= left ** math.exp(error)


def _censored_band_holds(rng: np.random.Generator, num_runs: int, collapse: float) -> bool:
    """Events at an exponential rate, `collapse` of them by step 1, and runs that are at any step of 0 to 2 so far."""
    events, ends = rng.exponential(-1 / math.log(1 - collapse), num_runs), rng.uniform(0, 2, num_runs)
    curve = survival(np.where(events <= ends, events, np.nan), ends)
    place = int(np.flatnonzero(curve.steps <= 1)[-1])
    return bool(curve.low[place] <= 1 - collapse <= curve.high[place])


def shares(scale: float) -> Rows:
    """Equal points: the largest bootstrap share, how often it exceeds its level, and whether all are candidates."""
    rows = []
    for num_points in (2, 6, 12):
        for num_runs in (4, 8, 16):
            rng = np.random.default_rng([num_points, num_runs])
            samples = rng.normal(size=(max(10, int(100 * scale)), num_runs, num_points))
            found = [select_best(sample, num_resamples=500) for sample in samples]
            largest = np.array([one.shares.max() for one in found])
            rows.append(
                {"points": num_points, "runs": num_runs, "median": float(np.median(largest))}
                | {"in 5 %": float(np.quantile(largest, 0.95)), "level": float(np.mean([one.level for one in found]))}
                | {"beyond level": float(np.mean([one.shares.max() > one.level for one in found]))}
                | {"all candidates": float(np.mean([one.is_candidate.all() for one in found]))}
            )
    return rows


def contrasts(scale: float) -> Rows:
    """Two points that do not differ: how often p is at most 0.05, the interval holds 0, and pairs were used."""
    rows = []
    for num_runs in (5, 8, 16):
        for correlation in (0.0, 0.5, 0.9):
            rng = np.random.default_rng([num_runs, int(10 * correlation)])
            covariance = [[1, correlation], [correlation, 1]]
            samples = rng.multivariate_normal([0, 0], covariance, (max(20, int(400 * scale)), num_runs))
            seeds = np.arange(num_runs)
            found = [difference(x, y, seeds, seeds, num_resamples=500) for x, y in samples.transpose(0, 2, 1)]
            rows.append(
                {"runs": num_runs, "correlation": correlation}
                | {"p <= 0.05": float(np.mean([one.p <= 0.05 for one in found]))}
                | {"interval holds 0": float(np.mean([one.low <= 0 <= one.high for one in found]))}
                | {"width": float(np.mean([one.high - one.low for one in found]))}
                | {"paired": float(np.mean([one.is_paired for one in found]))}
            )
    return rows


def improvement(scale: float) -> Rows:
    """Share of samples in which the interval of the probability of improvement holds the truth, of normal runs."""
    rows = []
    for num_runs in (4, 8, 16):
        for truth in (0.5, 0.7, 0.9, 0.97):
            rng, shift = np.random.default_rng(num_runs), math.sqrt(2) * float(stats.norm.ppf(truth))
            samples = rng.normal(size=(max(50, int(1000 * scale)), 2, num_runs))
            found = [probability_of_improvement(x + shift, y) for x, y in samples]
            held = float(np.mean([one.low <= truth <= one.high for one in found]))
            rows.append(
                {"runs": num_runs, "truth": truth, "holds": held, "narrowest": min(o.high - o.low for o in found)}
            )
    return rows


def _autocorrelated(rng: np.random.Generator, shape: tuple[int, int], memory: float) -> np.ndarray:
    values = rng.normal(size=shape)
    for t in range(1, shape[1]):
        values[:, t] = memory * values[:, t - 1] + math.sqrt(1 - memory**2) * values[:, t]
    return values


def _rare(rng: np.random.Generator, shape: tuple[int, int], share: float) -> np.ndarray:
    return np.where(rng.random(shape) < share, 100 * rng.random(shape), 0.0) - 500


def _lost(rng: np.random.Generator, shape: tuple[int, int], gain: float, rest: float = 0.0) -> np.ndarray:
    """Learns for a fifth of the run, and loses all but a `rest` in a tenth of it, somewhere from 40 to 80 %."""
    time = np.linspace(0, 1, shape[1])
    left = np.clip((rng.uniform(0.4, 0.8, (shape[0], 1)) + 0.1 - time) / 0.1, rest, 1)
    return gain * np.clip(time / 0.2, 0, 1) * left + rng.normal(size=shape)


WORLDS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "noise": lambda rng, shape: rng.normal(size=shape),
    "noise, memory 0.7": lambda rng, shape: _autocorrelated(rng, shape, 0.7),
    "noise, memory 0.95": lambda rng, shape: _autocorrelated(rng, shape, 0.95),
    "success at 5 %": lambda rng, shape: _rare(rng, shape, 0.05),
    "success at 20 %": lambda rng, shape: _rare(rng, shape, 0.2),
    "worse and worse": lambda rng, shape: rng.normal(size=shape) - np.linspace(0, 10, shape[1]),
    "learned, 8 noises": lambda rng, shape: _lost(rng, shape, 8, rest=1.0),
    "lost 8 noises": lambda rng, shape: _lost(rng, shape, 8),
    "lost 20 noises": lambda rng, shape: _lost(rng, shape, 20),
}


def collapse(scale: float) -> Rows:
    """Share of runs that collapsed, and that learned, by the definition; above the last three lines none has either."""
    rows = []
    for name, world in WORLDS.items():
        for num_logs in (20, 40, 100, 300):
            num_runs = max(50, int(400 * scale))
            returns = world(np.random.default_rng(num_logs), (num_runs, num_logs))
            result = GroupResult(
                metrics={"return_mean": returns},
                env_steps=np.arange(1, num_logs + 1),
                seeds=np.arange(num_runs),
                swept={},
                status=np.zeros(num_runs),
                run_index=np.arange(num_runs),
            )
            found = outcomes(to_dataset([result], {}))
            collapsed, learned = float(found.is_collapsed.mean()), float(found.has_learned.mean())
            rows.append({"runs that": name, "log points": num_logs, "collapsed": collapsed, "learned": learned})
    return rows


def verdicts(scale: float) -> Rows:
    """Share of sweeps with a false verdict in worlds where a claim is untrue: `verdicts_simulation.py`, in short."""
    from verdicts_simulation import run  # pyright: ignore[reportMissingImports]

    found = run(max(4, int(VERDICT_SWEEPS * scale)))
    return [
        {"world": name} | {key: row[key] for key in ("seeds", "sweeps", "false")}
        for name, rows in found.items()
        for row in rows
    ]


PARTS: dict[str, Callable[[float], Rows]] = {
    "intervals": intervals,
    "survival": survival_bands,
    "shares": shares,
    "contrasts": contrasts,
    "improvement": improvement,
    "collapse": collapse,
    "verdicts": verdicts,
}


def table_of(rows: Rows) -> str:
    """Rows as text: shares with three decimals."""
    cells = [[f"{x:.3f}" if isinstance(x, float) else format_value(x) for x in row.values()] for row in rows]
    return text(list(rows[0]), cells)


def main() -> int:
    """Run the parts, print their tables, and write what they found beside what other parts did before."""
    parser = argparse.ArgumentParser(prog="statistics.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="simulated samples, as a multiple of the usual number")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    found = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    for part in args.parts:
        begin = time.perf_counter()
        rows = PARTS[part](args.scale)
        seconds = time.perf_counter() - begin
        what = " ".join((PARTS[part].__doc__ or "").split())
        about = {"what": what, "seconds": round(seconds, 1), "scale": args.scale, "commit": git_commit()}
        found[part] = about | {"rows": rows}
        print(f"{part}: {what} ({seconds:.0f} s)\n\n{table_of(rows)}\n", flush=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0
