"""What the paper's claims C1 to C6 say, part by part: how each is measured in a run, and how large it must be.

Two kinds. A `Share` happens in a run or not, and is claimed of most runs. An `Effect` has a sign, above 0 is what the
paper says, and a size that counts: of parts that claim an order (more, better) that is anything above 0.

What is said to come with a collapse is measured at the collapse and nowhere else: the mean over the 10 % of a run's log
points from the collapse on, less the mean over the 10 % that end 10 % before it (most of the fall lies between), less
the same difference in the neighbourhood of the collapse (`change_at`). So that what rises or falls all the time, with
the rank or without, counts as nothing; and only runs that collapsed have an effect.

What the paper says of entropy (saturates or dies: either way), of the critic's rank (need not fall), of recovery (there
is none: that is in the definition of a collapse) and of sparse rewards makes no prediction that could fail here. Log
point 0 is no part of training: at it nothing has been learned.

These rules were settled on simulated sweeps (`experiments/benchmarks/verdicts_simulation.py`) after the stress tests on
Acrobot and Pendulum had been seen: a claim's real test is a sweep on something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from purejaxppo.claims.interventions import fields_of_runs
from purejaxppo.results.runs import is_after_start, policy_widths, steps_of_runs, steps_reached
from purejaxppo.statistics.collapse import EVENTS, collapse_steps, has_learned, last_steps
from purejaxppo.statistics.finals import FINAL_FRACTION, comparable_values

Measure = Callable[[xr.Dataset], np.ndarray]
"""Dataset, `with_collapses` -> one value per run [S], NaN where a run has none."""

# One doubling or halving: the paper draws the norm on a logarithmic axis (figure 1), on which less hardly shows.
DOUBLING = 1.0
# "Goes to 0": nine tenths are lost, an order of magnitude.
ORDER = math.log2(10)
# The share of its ability to fit that a policy has lost, as half of the gain for the return (collapse.py).
HALF = 0.5
# An order has no size: whatever is surely above 0 is on the claimed side.
ANY = 0.0
# What makes no difference to anyone: a fifth more or less (2**0.25), and a twentieth of a range.
SAME_SIZE = 0.25
SAME_SHARE = 0.05
# What has fallen by two orders of magnitude is gone; further ones would outweigh what all other runs did.
LEAST = 0.01
# The smallest normal number of float32, in which everything was measured.
TINY = 2.0**-126
# A stretch around a collapse, as a share of a run's log points: four measurements of plasticity of the paper's forty.
STRETCH = 0.1


@dataclass(frozen=True)
class Share:
    """Something that happens in a run or not (1, 0; NaN: not asked of this run), and is claimed of most runs."""

    text: str
    metrics: tuple[str, ...]
    """Metrics that it needs."""
    measure: Measure


@dataclass(frozen=True)
class Effect:
    """Something with a size: how it is measured in each run, how large it must be, and below what it is nothing.

    Where runs are compared, the effect is the difference between two runs.
    """

    text: str
    metrics: tuple[str, ...]
    measure: Measure
    threshold: float
    margin: float
    unit: str
    event: str = ""
    """The collapse, of rank or return, that it is about: without runs in which that has happened it is not tested."""


def with_collapses(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with `last_step`, `rank_collapse_step`, `return_collapse_step` and `has_learned` of every run.

    They are as in `detect_collapse`, NaN (False) where the dataset lacks the metric that they are told from.
    """
    found = {"last_step": last_steps(dataset)}
    for event in ("rank", "return"):
        is_told = has_metric(dataset, EVENTS[event][0])
        found[f"{event}_collapse_step"] = collapse_steps(dataset, event) if is_told else found["last_step"] * np.nan
    is_told = has_metric(dataset, "return_mean")
    found["has_learned"] = has_learned(dataset) if is_told else np.zeros(dataset.sizes["run"], dtype=bool)
    return dataset.assign({name: ("run", values) for name, values in found.items()})


def has_metric(dataset: xr.Dataset, name: str) -> bool:
    """Whether the dataset has a metric over runs and log points."""
    return name in dataset and dataset[name].dims[:2] == ("run", "log")


def has_collapsed(dataset: xr.Dataset, event: str) -> np.ndarray:
    """Whether rank or return of each run has collapsed, [S]; NaN where nothing was measured, unless as it diverged."""
    steps = dataset[f"{event}_collapse_step"]
    return np.where(np.isnan(dataset["last_step"]) & np.isnan(steps), np.nan, np.isfinite(steps))


def _return_follows(dataset: xr.Dataset) -> np.ndarray:
    """Whether the return has collapsed too; NaN where the rank has not, and in runs that never had one to lose."""
    has_fallen = has_collapsed(dataset, "return")
    is_asked = (has_collapsed(dataset, "rank") == 1) & (dataset["has_learned"].values | (has_fallen == 1))
    return np.where(is_asked, has_fallen, np.nan)


def window_means(values: np.ndarray) -> np.ndarray:
    """Means of every 5 % in a row of a run's values [L], without NaN; empty where there are fewer than two values."""
    present = values[np.isfinite(values)]
    width = max(1, math.ceil(round(FINAL_FRACTION * present.size, 9)))
    sums = np.concatenate([np.zeros(1), np.cumsum(present)])
    return (sums[width:] - sums[:-width]) / width if present.size > 1 else np.zeros(0)


def learned_values(dataset: xr.Dataset, name: str) -> np.ndarray:
    """A metric [S, L] in double precision, NaN at log point 0 and where it is not finite."""
    values = dataset[name].values.astype(np.float64)
    return np.where(np.isfinite(values) & is_after_start(dataset), values, np.nan)


def _norm_doubles(dataset: xr.Dataset) -> np.ndarray:
    """Whether the last 5 % of a run's norms are at least twice its first 5 %, on average."""
    means = map(window_means, learned_values(dataset, NORM))
    return np.array([float(x[-1] >= 2 * x[0]) if x.size else np.nan for x in means], dtype=np.float64)


def change_at(values: np.ndarray, place: int) -> float:
    """Change of the values of one run [L], NaN for none, at a log point, less the median change in its neighbourhood.

    The change is the mean over 10 % of the log points from `place` on, less the mean over the 10 % that end 10 % before
    it; at the ends of the run, over what there is. In the neighbourhood: of the places 20 to 30 % of the log points
    away, on either side, those at which the whole stretch of 30 % is there; it shares no log point with the 10 % before
    `place`, in which the fall is. NaN where a mean has no value, or there is no such place.
    """
    size = values.size
    width = max(1, round(STRETCH * size))
    sums = np.concatenate([np.zeros(1), np.cumsum(np.nan_to_num(values))])
    counts = np.concatenate([np.zeros(1), np.cumsum(np.isfinite(values))])

    def mean(begin: np.ndarray) -> np.ndarray:
        end = np.clip(begin + width, 0, size)
        begin = np.clip(begin, 0, size)
        count = counts[end] - counts[begin]
        return np.where(count > 0, (sums[end] - sums[begin]) / np.maximum(count, 1), np.nan)

    at = np.arange(size)
    change = mean(at) - mean(at - 2 * width)
    is_near = (abs(at - place) >= 2 * width) & (abs(at - place) <= 3 * width)
    nearby = change[is_near & (at >= 2 * width) & (at + width <= size)]
    nearby = nearby[np.isfinite(nearby)]
    return float(change[place] - np.median(nearby)) if nearby.size else math.nan


def _loss_at(event: str, measured: Measure) -> Measure:
    """What is lost of something, dataset -> [S, L], where the rank or the return collapses: `change_at`, times -1."""

    def measure(dataset: xr.Dataset) -> np.ndarray:
        values, steps, learned = measured(dataset), steps_of_runs(dataset), is_after_start(dataset)
        lost = np.full(len(values), np.nan)
        for run, step in enumerate(dataset[f"{event}_collapse_step"].values):
            place = int(np.searchsorted(steps[run][learned[run]], step))
            if place < learned[run].sum():  # elsewhere are runs without a collapse, and those that diverged
                lost[run] = -change_at(values[run][learned[run]], place)
        return lost

    return measure


def _fit(dataset: xr.Dataset) -> np.ndarray:
    """What the policy keeps of a fresh network's ability to fit new targets, [S, L], from 0 to 1.

    (constant - loss) / (constant - fresh): 1 for a refit that ends as well as that of the run's initial network, 0 for
    one that ends no better than the best constant output, however far away it began. NaN where a fresh network is no
    better than that: nothing can be lost.
    """
    over_constant, over_fresh = (
        dataset[f"policy_plasticity_excess_over_{other}"].values.astype(np.float64) for other in ("constant", "fresh")
    )
    room = over_fresh - over_constant
    return np.clip(-over_constant / np.where(room > 0, room, np.nan), 0.0, 1.0)


def _ratio_below(dataset: xr.Dataset) -> np.ndarray:
    """Mean ratio below 1 - eps, [S, L]; 1 - eps where no sample is below it.

    Such log points must not drop out: in collapsed policies they are most.
    """
    limit = 1 - fields_of_runs(dataset, "clip_eps").astype(np.float64)[:, None]
    ratios, is_measured = dataset["ratio_below_mean"].values.astype(np.float64), np.isfinite(dataset[RANK].values)
    return np.where(np.isfinite(ratios) | ~is_measured, ratios, limit)


def _live_units(dataset: xr.Dataset) -> np.ndarray:
    return policy_widths(dataset)[:, None] - dataset["policy_dead_neurons"].values.astype(np.float64)


def _size(name: str) -> Measure:
    return lambda dataset: np.abs(dataset[name].values.astype(np.float64))


def _log2(measured: Measure) -> Measure:
    """log2 of something that is not below 0, [S, L]; what is below a hundredth of a run's largest counts as that."""

    def measure(dataset: xr.Dataset) -> np.ndarray:
        values = measured(dataset)
        largest = np.max(values, axis=1, keepdims=True, initial=TINY, where=np.isfinite(values))
        return np.log2(np.maximum(values, LEAST * largest))

    return measure


def _end(name: str, sign: int, is_lowest_best: bool = False) -> Measure:
    """log2 of a metric at the end of each run, of one that diverged the worst of all, times `sign`."""
    return lambda dataset: sign * np.log2(np.maximum(comparable_values(dataset, name, is_lowest_best).values, TINY))


def _time_collapsed(dataset: xr.Dataset) -> np.ndarray:
    """Share of a run's steps that came after the collapse of its rank, or its divergence; 0 where it kept it."""
    steps, ends = dataset["rank_collapse_step"].values, steps_reached(dataset)
    return np.where(np.isnan(steps), 0.0, 1 - steps / np.maximum(ends, 1.0))


NORM, RANK, RETURN, DEAD = "policy_preactivation_norm", "policy_rank", "return_mean", "policy_dead_neurons"
EXCESSES = ("policy_plasticity_excess_over_constant", "policy_plasticity_excess_over_fresh")
FIT, LIVE = _loss_at("rank", _fit), _loss_at("rank", _log2(_live_units))
RATIO = _loss_at("rank", _log2(_ratio_below))
RANGE = "of the range"
"""The unit of returns, whose scale is that of an environment and a setting."""

WITHIN_RUNS: dict[str, tuple[Share | Effect, ...]] = {
    "C1": (
        Share("the norm of pre-activations doubles", (NORM,), _norm_doubles),
        Share("the rank collapses", (RANK,), lambda dataset: has_collapsed(dataset, "rank")),
        Share("the return collapses with it", (RANK, RETURN), _return_follows),
    ),
    "C3": (
        Effect("the policy fits new targets worse", (*EXCESSES, RANK), FIT, HALF, SAME_SHARE, "of a fresh fit", "rank"),
        Effect("and its units die", (DEAD, RANK), LIVE, DOUBLING, SAME_SIZE, "halvings", "rank"),
    ),
    "C4": (
        Effect(
            "the mean ratio below 1 - eps falls",
            ("ratio_below_mean", RANK),
            RATIO,
            DOUBLING,
            SAME_SIZE,
            "halvings",
            "rank",
        ),
    ),
    "C5": tuple(
        Effect(text, (metric, RETURN), _loss_at("return", measured), ORDER, SAME_SIZE, "halvings", "return")
        for text, metric, measured in (
            ("the policy variance goes to 0", "policy_variance", _log2(_size("policy_variance"))),
            ("the live units go to 0", DEAD, _log2(_live_units)),
            ("|PPO objective| goes to 0", "policy_loss", _log2(_size("policy_loss"))),
        )
    ),
}
EPOCHS = (
    Effect("larger norm of pre-activations", (NORM,), _end(NORM, 1, True), ANY, SAME_SIZE, "doublings"),
    Effect("lower rank", (RANK,), _end(RANK, -1), ANY, SAME_SIZE, "halvings", "rank"),
    Effect("earlier collapse", (RANK,), _time_collapsed, ANY, SAME_SHARE, "of the run", "rank"),
)
HELP = (
    Effect("higher rank", (RANK,), _end(RANK, 1), ANY, SAME_SIZE, "doublings"),
    Effect(
        "higher return", (RETURN,), lambda dataset: comparable_values(dataset, RETURN).values, ANY, SAME_SHARE, RANGE
    ),
)
