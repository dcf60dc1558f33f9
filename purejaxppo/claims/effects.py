"""What the paper's claims C1 to C6 say, part by part: how each is measured in a run, and how large it must be.

Every effect has a sign: above 0 is what the paper says. Parts that claim a size (grows, falls, goes to 0) have a
threshold; parts that claim an order (more, faster, better) have 0. No number here was changed after a verdict was seen;
but quickstart and CartPole runs had been looked at before the rules of collapse.py were settled, so that a claim's real
test is a sweep on something else.
What the paper says of entropy (saturates or dies: either way), of the critic's rank (need not fall), of recovery (there
is none: that is in the definition of a collapse) and of sparse rewards makes no prediction that could fail here.

Start and end of a run are the first and last 5 % of the log points that have a value (the paper's figure 6), without
log point 0, at which nothing has been learned. A run that diverged counts with what it measured before, its return with
the lowest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from purejaxppo.results.runs import is_after_start, policy_widths, steps_of_runs
from purejaxppo.statistics.collapse import LASTING_FRACTION, RETURN_JUMPS, collapse_steps, last_steps
from purejaxppo.statistics.estimates import kendall_tau

Measure = Callable[[xr.Dataset], np.ndarray]
"""Dataset -> one value per run [S], NaN where a run has none."""

# One doubling or halving: the paper draws the norm on a logarithmic axis (figure 1), on which less hardly shows.
DOUBLING = 1.0
# The return has fallen when half of what was gained is lost, as in collapse.py.
HALF = 0.5
# "Goes to 0": nine tenths are lost, an order of magnitude.
NINE_TENTHS = 0.9
# An order has no size: whatever is surely above 0 is on the claimed side.
ANY = 0.0
# Logarithms of what can be 0 stop at the smallest normal number of float32, in which it was measured.
TINY = 2.0**-126


@dataclass(frozen=True)
class Part:
    """One effect: what the paper says, how it is measured in each run, and how large it must be."""

    text: str
    metrics: tuple[str, ...]
    """Metrics that it needs."""
    measure: Measure
    """Its value in each run [S]; where runs are compared, the effect is the difference between two runs."""
    threshold: float
    unit: str


def values_of(dataset: xr.Dataset, name: str) -> list[np.ndarray]:
    """The values of a metric that each run has after the start, in order; NaN and infinities are none."""
    values = dataset[name].values.astype(np.float64)
    has_value = np.isfinite(values) & is_after_start(dataset)
    return [row[there] for row, there in zip(values, has_value, strict=True)]


def _window(values: np.ndarray) -> int:
    """Log points in 5 % of a run's, at least one."""
    return max(1, math.ceil(round(LASTING_FRACTION * values.size, 9)))


def _start(values: np.ndarray) -> float:
    return float(np.mean(values[: _window(values)])) if values.size > 1 else math.nan


def _end(values: np.ndarray) -> float:
    return float(np.mean(values[-_window(values) :])) if values.size > 1 else math.nan


def _best(values: np.ndarray, until: int) -> float:
    """Largest mean of 5 % of a run's log points in a row, among the first `until` of them."""
    width = _window(values)
    sums = np.concatenate([np.zeros(1), np.cumsum(values[: max(until, width)])])
    return float(np.max(sums[width:] - sums[:-width]) / width) if values.size > 1 else math.nan


def _log2(values: Iterable[float]) -> np.ndarray:
    return np.log2(np.maximum(np.fromiter(values, dtype=np.float64), TINY))


def _growth(name: str) -> Measure:
    """log2 of end over start."""
    return lambda dataset: _log2(map(_end, values_of(dataset, name))) - _log2(map(_start, values_of(dataset, name)))


def _shrinkage(name: str) -> Measure:
    """log2 of start over end."""
    return lambda dataset: -_growth(name)(dataset)


def _end_log2(name: str, sign: int) -> Measure:
    """log2 of the end, times `sign`."""
    return lambda dataset: sign * _log2(map(_end, values_of(dataset, name)))


def _rank_fall(dataset: xr.Dataset) -> np.ndarray:
    """log2 of the rank's best 5 % of the first half over its end: below 0 where it goes on to grow."""
    ranks = values_of(dataset, "policy_rank")
    return _log2(_best(x, x.size // 2) for x in ranks) - _log2(map(_end, ranks))


def _returns_end(dataset: xr.Dataset) -> np.ndarray:
    """Return at the end; of a run that diverged the lowest that it had."""
    returns = values_of(dataset, "return_mean")
    is_diverged = dataset["status"].values != 0
    ends = [x.min(initial=math.inf) if lost else _end(x) for x, lost in zip(returns, is_diverged, strict=True)]
    return np.where(np.isfinite(ends), ends, np.nan)


def _return_lost(dataset: xr.Dataset) -> np.ndarray:
    """Return lost since the best 5 % of the first half, as a share of what the run had gained over its lower end.

    Below 0 where it goes on to rise; of a run that diverged, since the best of all. NaN in runs that never gained more
    than noise (collapse.py): they had nothing to lose.
    """
    lost = np.full(dataset.sizes["run"], np.nan)
    is_diverged, ends = dataset["status"].values != 0, _returns_end(dataset)
    for run, values in enumerate(values_of(dataset, "return_mean")):
        if values.size < 2:
            continue
        gained = _best(values, values.size) - min(_start(values), ends[run])
        if gained / 2 > RETURN_JUMPS * np.median(np.abs(np.diff(values))):
            best = _best(values, values.size if is_diverged[run] else values.size // 2)
            lost[run] = (best - ends[run]) / gained
    return lost


def _association(name: str, sign: int) -> Measure:
    """Kendall's tau-b over the log points of a run between its rank and another metric, times `sign`."""

    def measure(dataset: xr.Dataset) -> np.ndarray:
        pairs = zip(dataset["policy_rank"].values, dataset[name].values, is_after_start(dataset), strict=True)
        return np.array([sign * kendall_tau(rank[on], other[on]) for rank, other, on in pairs], dtype=np.float64)

    return measure


def _sooner(dataset: xr.Dataset) -> np.ndarray:
    """Share of what a run measured that came after the collapse of its rank; 0 where it never collapsed."""
    steps, ends = collapse_steps(dataset, "rank"), last_steps(dataset)
    return 1 - np.where(np.isnan(steps), ends, steps) / ends


def _lost_in_collapse(measured: Measure) -> Measure:
    """Share that is gone at the end of what a run measured, on average, before its return collapsed.

    measured: dataset -> [S, L]. NaN without a collapse, without anything before it, and where it is divergence.
    """

    def measure(dataset: xr.Dataset) -> np.ndarray:
        table, collapses = measured(dataset).astype(np.float64), collapse_steps(dataset, "return")
        steps = steps_of_runs(dataset)
        lost = np.full(len(table), np.nan)
        for run, has_value in enumerate(np.isfinite(table) & is_after_start(dataset)):
            values, is_before = table[run][has_value], steps[run][has_value] < collapses[run]
            if is_before.any() and not is_before.all() and np.mean(values[is_before]) > 0:
                lost[run] = 1 - _end(values) / np.mean(values[is_before])
        return lost

    return measure


WITHIN_RUNS: dict[str, tuple[Part, ...]] = {
    "C1": (
        Part(
            "the norm of pre-activations grows",
            ("policy_preactivation_norm",),
            _growth("policy_preactivation_norm"),
            DOUBLING,
            "doublings",
        ),
        Part("the rank falls", ("policy_rank",), _rank_fall, DOUBLING, "halvings"),
        Part("the return falls with it", ("return_mean",), _return_lost, HALF, "of the gain"),
    ),
    "C3": (
        Part(
            "the policy's plasticity loss grows",
            ("policy_plasticity_loss",),
            _growth("policy_plasticity_loss"),
            DOUBLING,
            "doublings",
        ),
        Part(
            "it grows as the rank falls",
            ("policy_plasticity_loss", "policy_rank"),
            _association("policy_plasticity_loss", -1),
            ANY,
            "-tau",
        ),
    ),
    "C4": (
        Part(
            "the mean ratio below 1 - eps falls",
            ("ratio_below_mean",),
            _shrinkage("ratio_below_mean"),
            DOUBLING,
            "halvings",
        ),
        Part(
            "it falls as the rank falls",
            ("ratio_below_mean", "policy_rank"),
            _association("ratio_below_mean", 1),
            ANY,
            "tau",
        ),
    ),
    "C5": (
        Part(
            "the policy variance goes to 0",
            ("policy_variance", "return_mean"),
            _lost_in_collapse(lambda dataset: dataset["policy_variance"].values),
            NINE_TENTHS,
            "lost",
        ),
        Part(
            "the live units go to 0",
            ("policy_dead_neurons", "policy_singular_values", "return_mean"),
            _lost_in_collapse(lambda dataset: policy_widths(dataset)[:, None] - dataset["policy_dead_neurons"].values),
            NINE_TENTHS,
            "lost",
        ),
        Part(
            "|PPO objective| goes to 0",
            ("policy_loss", "return_mean"),
            _lost_in_collapse(lambda dataset: np.abs(dataset["policy_loss"].values)),
            NINE_TENTHS,
            "lost",
        ),
    ),
}
EPOCHS = (
    Part(
        "larger norm of pre-activations",
        ("policy_preactivation_norm",),
        _end_log2("policy_preactivation_norm", 1),
        ANY,
        "doublings",
    ),
    Part("lower rank", ("policy_rank",), _end_log2("policy_rank", -1), ANY, "halvings"),
    Part("earlier collapse of the rank", ("policy_rank",), _sooner, ANY, "of the run"),
)
HELP = (
    Part("higher rank", ("policy_rank",), _end_log2("policy_rank", 1), ANY, "doublings"),
    Part("higher return", ("return_mean",), _returns_end, ANY, "of the range"),
)
