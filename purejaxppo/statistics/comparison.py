"""Which point of a sweep is best, how sure that is, and how far each is from the first: paired over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.results.dataset import Point, points
from purejaxppo.results.runs import steps_reached
from purejaxppo.statistics.estimates import (
    Estimate,
    bootstrap_interval,
    iqm,
    paired_difference,
    probability_of_best,
    probability_of_improvement,
)
from purejaxppo.statistics.summary import final_values
from purejaxppo.statistics.tables import align, format_interval, format_number, format_value, with_rule

# Column: decimals of its texts, of a probability as many as of the other one.
_NUMBERS = {"value": None, "difference": None, "improvement": 2}


def comparison_table(dataset: xr.Dataset, metric: str = "return_mean", is_lowest: bool = False) -> pd.DataFrame:
    """One row per point: interquartile mean of the final values, chance of being the best, and against the first point.

    `value`: interquartile mean over runs of `final_values`, with its 95 % bootstrap interval (`_low`, `_high`).
    `best`: share of bootstrap samples of the seeds in which its value is the highest (`is_lowest`: the lowest) of all
    points (`probability_of_best`). `difference`: interquartile mean of its difference from the first point's run of the
    same seed, with interval (`paired_difference`). `improvement`: probability that one of its runs is higher
    (`is_lowest`: lower) than one of the first point's, with interval (`probability_of_improvement`).
    Runs that diverged have no value: `value` and `difference` are without them, but to both probabilities they are the
    worst of all. `runs` counts those with a value, `diverged` those that diverged, `env_steps` is the step that all
    runs of the row have reached. Where `env` is swept, each environment has its own best and its own first point. The
    swept values are columns too; what has no meaning in the row of a first point is NaN.
    Raises ConfigError for a metric that these results do not have.
    """
    sign = -1.0 if is_lowest else 1.0
    is_diverged = dataset["status"].values != 0
    finals, reached = final_values(dataset, metric).values, steps_reached(dataset)
    merits = np.where(is_diverged, -np.inf, sign * finals)
    blocks: dict[Any, list[Point]] = {}
    for swept, runs in points(dataset):
        blocks.setdefault(swept.get("env"), []).append((swept, runs))
    rows = []
    for block in blocks.values():
        compared = _compare(block, finals, merits, dataset["seed"].values)
        for (swept, runs), row in zip(block, compared, strict=True):
            counts = {"runs": int(np.sum(~np.isnan(finals[runs]))), "diverged": int(is_diverged[runs].sum())}
            counts["env_steps"] = int(np.min(reached[runs]))
            rows.append(dict(swept) | counts | row)
    return pd.DataFrame(rows)


def _compare(block: Sequence[Point], finals: np.ndarray, merits: np.ndarray, seeds: np.ndarray) -> list[dict[str, Any]]:
    """`best`, `value`, `difference` and `improvement` of points that are compared with each other.

    finals [S]: final value of every run of the dataset; merits [S]: the same in an order in which more is better.
    """
    by_seed = [pd.Series(merits[runs], index=seeds[runs]) for _, runs in block]
    best = probability_of_best(pd.concat(by_seed, axis=1).to_numpy())
    base, rows = block[0][1], []
    nothing = Estimate(np.nan, np.nan, np.nan, 0)
    for number, (_, runs) in enumerate(block):
        estimates = {"value": _middle(finals[runs]), "difference": nothing, "improvement": nothing}
        if number:
            estimates["difference"] = paired_difference(finals[runs], finals[base], seeds[runs], seeds[base])
            estimates["improvement"] = probability_of_improvement(merits[runs], merits[base])
        row = {"best": best[number]}
        for name, estimate in estimates.items():
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        rows.append(row)
    return rows


def _middle(values: np.ndarray) -> Estimate:
    """Interquartile mean of some values [S] with its interval."""
    low, high = bootstrap_interval(values)
    return Estimate(float(iqm(values)), float(low), float(high), int(np.sum(~np.isnan(values))))


def format_comparison(table: pd.DataFrame, metric: str, is_lowest: bool = False) -> str:
    """The table as text; a row is named by what it sets other than the first of its environment."""
    rows = table.to_dict("records")
    swept = list(table.columns)[: list(table.columns).index("runs")]
    kind = "lower" if is_lowest else "higher"
    lines = [["point", "runs", "diverged", metric, "P(best)", "minus the first", f"P({kind} than the first)"]]
    firsts: dict[Any, dict[Any, Any]] = {}
    for row in rows:
        first = firsts.setdefault(row.get("env"), row)
        names = [f"{name}={format_value(row[name])}" for name in swept if row is first or row[name] != first[name]]
        cells = [
            format_interval(row[column], row[f"{column}_low"], row[f"{column}_high"], decimals)
            for column, decimals in _NUMBERS.items()
        ]
        counts = f"{row['runs']}", f"{row['diverged']}"
        lines.append([", ".join(names) or "all runs", *counts, cells[0], format_number(row["best"], 2), *cells[1:]])
    ends = sorted({row["env_steps"] for row in rows})
    uneven = (
        f"\nThe points are at different steps, {ends[0]:,} to {ends[-1]:,}: training of unequal length is compared."
    )
    by_itself = " Every environment by itself." * (len(firsts) > 1)
    explanation = (
        "Interquartile mean over runs of each run's mean over its last 10 % of log points [95 % bootstrap interval].\n"
        f"P(best): share of bootstrap samples of the seeds in which the point is {kind} than all others. Differences: "
        "between\nruns of one seed. Runs that diverged have no value, and count as the worst in both probabilities.\n"
        f"The first point sets everything; the others are named by what differs.{by_itself}"
    ) + uneven * (len(ends) > 1)
    return f"{with_rule(align(lines))}\n\n{explanation}"
