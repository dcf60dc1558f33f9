"""When runs collapse: which run lost what at which step, which diagnostic warned first, and survival curves over seeds.

**A run has collapsed** when its return is lost for good, or when it diverged: its last 5 % of log points lie below half
of the way from the return of untrained networks up to the best return that it held. That is the one definition behind
"collapsed k of n". It is about the return, because that is what an interquartile mean over runs hides (two dead runs of
eight), because it means the same in every network, and because a low rank alone costs some policies nothing. What
happens to the representation has its own three events, which are to warn: rank, dead units, policy variance.

- *No single log point decides.* A level is the median of 5 % of a run's log points in a row, at least three: the last
  return, and the maximum from which a rank or a variance has fallen, are levels; the best return that a run held is
  one of twice as many. Untrained networks' return is the
  median over the runs of an environment of the first return that each measured, at log point 0 where an episode ended
  in it.
- *A run that never learned has nothing to lose.* Beside the way up to its best and down to its end a run moves up
  and down as noise does. What was gained counts only where it exceeds `RETURN_JUMPS` times that movement from a log
  point to the next, and a third of all such movement of its level (`LEVEL_MOVES`): noise, rare successes and most slow
  wandering stay below that. Such a run is counted as one that never learned.
- *Divergence counts as collapse*, of the return and of the representation: the run is lost, and nothing finite is left
  of either. To censor it would say that it might have lived; as it is not independent of what it lost before, that
  would be biased, and a competing event would need a second curve to say the same.
- *A rank of 1 from the first log point on, to the end*, is a collapse before the first look, dated there.

The return is judged in hindsight (paper: no recovery). The diagnostics need none: the first time that they are beyond
their limit at most of 5 % of the log points in a row; whoever watches knows 5 % of the log points later. Log points
without a value (no episode finished) count neither way, nor does log point 0 other than as said.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import ndimage

from purejaxppo.errors import ConfigError
from purejaxppo.fields import unknown_name
from purejaxppo.results.dataset import points
from purejaxppo.results.runs import diverged_steps, is_after_start, policy_widths, steps_of_runs
from purejaxppo.statistics.estimates import exact_interval
from purejaxppo.statistics.finals import FINAL_FRACTION
from purejaxppo.statistics.kaplan_meier import SurvivalCurve, survival
from purejaxppo.statistics.tables import format_count

# Half of what was gained: the return is then nearer to that of a run that has learned nothing than to the run's best.
RETURN_FRACTION = 0.5
# Neighbouring values of pure noise differ by 1.13 standard deviations on average; its best level lies 1 to 2 above the
# mean, so that what noise seems to gain is below half of this. `experiments/benchmarks/statistics.py` counts.
RETURN_JUMPS = 5.0
# The values are means of as many log points in a row as leave a hundred of them: noise is judged at one time scale,
# however often it was written down, as levels are.
NUM_VALUES = 100
# Runs that lose their return and win it back before they lose it for good have moved twice what they gained besides.
LEVEL_MOVES = 1 / 3
# Three quarters of the dimensions gone: half of them go in runs that keep their return (CartPole: 4 to 2). A rank of 1,
# all states on one line, is the collapse of the paper's toy example and counts whatever the maximum was.
RANK_FRACTION = 0.25
# The paper's go to all of them; a few live ones may be left that carry nothing.
DEAD_FRACTION = 0.95
# The paper's goes to 0; two orders of magnitude below its maximum the policy is the same in all states.
VARIANCE_FRACTION = 0.01
# As long as the end of a run; what is shorter may be a bad moment.
LASTING_FRACTION = FINAL_FRACTION

EVENTS = {
    "return": (
        "return_mean",
        "the return, to the end, is below half of the way from the return of untrained networks up to the best that "
        "the run held for a tenth of its log points; or the run diverged",
    ),
    "rank": (
        "policy_rank",
        "the policy's rank (PCA) is at most a quarter of the largest that it held before, or has fallen to 1, at most "
        "of 5 % of the run's log points in a row; or is 1 from the first log point to the end; or the run diverged",
    ),
    "dead": (
        "policy_dead_neurons",
        "at least 95 % of the policy's penultimate units are dead at most of 5 % of the run's log points in a row; or "
        "the run diverged",
    ),
    "variance": (
        "policy_variance",
        "the policy variance is below 1 % of the largest that it held before at most of 5 % of the run's log points in "
        "a row; or the run diverged",
    ),
}
"""What can collapse: its metric, and from which step on it has. A run has collapsed where its return has."""
WARNINGS = ("rank", "dead", "variance")


@dataclass(frozen=True)
class CollapseCount:
    """How many of some runs collapsed, with the exact 95 % interval of that share."""

    num_collapsed: int
    num_runs: int
    low: float
    high: float
    num_diverged: int
    """Of those that collapsed, the ones that diverged."""
    num_unlearned: int
    """Of the others, those that never learned, so that they had nothing to lose."""

    @property
    def cell(self) -> str:
        """For a table: `3 of 8 [9 %, 76 %]`."""
        return format_count(self.num_collapsed, self.num_runs, self.low, self.high)

    @property
    def label(self) -> str:
        """For a figure: `collapsed 3 of 8 [9 %, 76 %], 1 never learned`."""
        return f"collapsed {self.cell}" + f", {self.num_unlearned} never learned" * (self.num_unlearned > 0)


@dataclass(frozen=True)
class Outcomes:
    """What became of every run: S runs."""

    is_collapsed: np.ndarray
    """Whether its return is lost, or it diverged; [S]."""
    has_learned: np.ndarray
    """Whether it ever gained more return than noise can feign; [S]."""
    is_diverged: np.ndarray
    """[S]."""

    def count(self, runs: np.ndarray | None = None) -> CollapseCount:
        """The count over the runs at some positions, over all by default."""
        chosen = np.arange(self.is_collapsed.size) if runs is None else np.asarray(runs)
        collapsed = self.is_collapsed[chosen]
        num_collapsed = int(collapsed.sum())
        low, high = exact_interval(num_collapsed, chosen.size)
        return CollapseCount(
            num_collapsed=num_collapsed,
            num_runs=chosen.size,
            low=low,
            high=high,
            num_diverged=int(self.is_diverged[chosen].sum()),
            num_unlearned=int(np.sum(~self.has_learned[chosen] & ~collapsed)),
        )


def outcomes(dataset: xr.Dataset) -> Outcomes:
    """Which runs have collapsed, and which never learned, so far.

    Raises ConfigError for results without return_mean.
    """
    is_diverged = dataset["status"].values != 0
    return Outcomes(
        is_collapsed=~np.isnan(collapse_steps(dataset, "return")) | is_diverged,
        has_learned=has_learned(dataset),
        is_diverged=is_diverged,
    )


def count_columns(dataset: xr.Dataset) -> Callable[[np.ndarray], dict[str, float]]:
    """What a table says of the runs at some positions: a function of them, which gives columns.

    `runs`, `diverged`; `collapsed`, with the exact interval of its share, `_low` and `_high`; `never_learned`. The
    latter are NaN for results without return_mean.
    """
    found = outcomes(dataset) if "return_mean" in dataset else None
    is_diverged = dataset["status"].values != 0

    def columns(runs: np.ndarray) -> dict[str, float]:
        table: dict[str, float] = {"runs": runs.size, "diverged": int(np.sum(is_diverged[runs]))}
        if found is None:
            return table | dict.fromkeys(("collapsed", "collapsed_low", "collapsed_high", "never_learned"), math.nan)
        count = found.count(runs)
        table |= {"collapsed": count.num_collapsed, "collapsed_low": count.low, "collapsed_high": count.high}
        return table | {"never_learned": count.num_unlearned}

    return columns


def has_learned(dataset: xr.Dataset) -> np.ndarray:
    """Whether each run gained more return than noise can feign, [S]; see the head of this file.

    Raises ConfigError for results without return_mean.
    """
    values, present = _metric(dataset, "return_mean"), _present(dataset, "return_mean")
    untrained = _untrained_returns(dataset)
    limits = [_limit_of_return(values[run][on], untrained[run]) for run, on in enumerate(present)]
    return np.array([limit is not None for limit in limits], dtype=bool)


def survival_by_point(dataset: xr.Dataset, event: str = "return") -> list[tuple[dict[str, Any], SurvivalCurve]]:
    """Survival of one kind of collapse (`EVENTS`) over the runs of each point of the axes: (swept values, curve).

    A run that has not collapsed is censored at the last step that it has measured; one that diverges has collapsed.
    Raises ConfigError for an unknown event and for results without its metric.
    """
    events, ends = collapse_steps(dataset, event), last_steps(dataset)
    return [(swept, survival(events[runs], ends[runs])) for swept, runs in points(dataset)]


def detect_collapse(dataset: xr.Dataset) -> xr.Dataset:
    """What each run lost, and when: a Dataset over runs, with the coordinates of the runs.

    `return_collapse_step`, `rank_collapse_step`, `dead_collapse_step`, `variance_collapse_step`: environment step at
    which each of `EVENTS` begins, NaN for never. `first_warning`: which of rank, dead and variance collapsed first, and
    before the return did (`rank+dead` at the same step), else "none"; `warning_lead_steps`: by how many steps before
    the return, NaN without one. `has_learned`: whether it ever had a return to lose. `last_step`: last step measured.
    Raises ConfigError for results without one of the metrics, which means without diagnostics.
    """
    steps = {event: collapse_steps(dataset, event) for event in EVENTS}
    first = np.min(np.nan_to_num([steps[event] for event in WARNINGS], nan=np.inf), axis=0)
    is_warned = first < np.nan_to_num(steps["return"], nan=-np.inf)
    names = ["+".join(event for event in WARNINGS if steps[event][run] == first[run]) for run in range(first.size)]
    table = {
        f"{event}_collapse_step": (steps[event], f"environment step from which on {definition}; NaN for never")
        for event, (_, definition) in EVENTS.items()
    }
    table["first_warning"] = (
        np.where(is_warned, np.array(names, dtype=str), "none"),
        "which of rank, dead and variance collapsed first, before the return; none where none or not the return did",
    )
    table["warning_lead_steps"] = (
        np.where(is_warned, steps["return"] - np.where(is_warned, first, 0.0), np.nan),
        "return_collapse_step minus the step of first_warning, at which 5 % of the log points beyond the limit begin",
    )
    table["has_learned"] = (has_learned(dataset), "whether the run gained more return than noise can feign")
    table["last_step"] = (last_steps(dataset), "last environment step at which anything was measured")
    return xr.Dataset(
        {name: ("run", values, {"definition": text}) for name, (values, text) in table.items()},
        coords={name: value for name, value in dataset.coords.items() if value.dims == ("run",)},
    )


def collapse_steps(dataset: xr.Dataset, event: str = "return") -> np.ndarray:
    """Environment step at which one of `EVENTS` begins in each run [S]; NaN where it never does.

    Raises ConfigError for an unknown event and for results without its metric.
    """
    if event not in EVENTS:
        raise unknown_name("event", event, list(EVENTS))
    name = EVENTS[event][0]
    values, present = _metric(dataset, name), _present(dataset, name)
    widths = policy_widths(dataset) if event == "dead" else np.zeros(len(values))
    untrained = _untrained_returns(dataset) if event == "return" else np.zeros(len(values))
    steps = diverged_steps(dataset)
    for run, reached in enumerate(steps_of_runs(dataset)):
        shown = values[run][present[run]]
        if event == "return":
            begin = _begin_of_loss(shown, untrained[run])
        else:
            begin = _begin_of_warning(event, shown, widths[run])
        if begin is not None:
            steps[run] = reached[np.flatnonzero(present[run])[begin]]
    return steps


def last_steps(dataset: xr.Dataset) -> np.ndarray:
    """Last environment step at which any of the collapse metrics has a value in each run [S]; NaN where none has.

    Log point 0 is no step of training.
    """
    names = [name for name, _ in EVENTS.values() if name in dataset and dataset[name].dims == ("run", "log")]
    if not names:
        return np.full(dataset.sizes["run"], np.nan)
    measured = np.any([np.isfinite(dataset[name].values) for name in names], axis=0) & is_after_start(dataset)
    steps = np.where(measured, steps_of_runs(dataset), -1.0).max(axis=1, initial=-1.0)
    return np.where(steps < 0, np.nan, steps)


def _window(num_values: int) -> int:
    """Log points of a level: 5 % of them, an odd number, at least three."""
    return max(3, math.ceil(round(LASTING_FRACTION * num_values, 9))) | 1


def _levels(values: np.ndarray, width: int) -> np.ndarray:
    """Medians of all windows of so many values in a row, by their first one; none where there are too few values."""
    if values.size < width:
        return np.zeros(0)
    return ndimage.median_filter(values, size=width, mode="nearest")[width // 2 : values.size - width // 2]


def _untrained_returns(dataset: xr.Dataset) -> np.ndarray:
    """Return of untrained networks for each run, [S]: the median of the first returns of its environment's runs."""
    returns = _metric(dataset, "return_mean")
    has_any = np.isfinite(returns)
    firsts = returns[np.arange(len(returns)), np.argmax(has_any, axis=1)] if returns.size else np.zeros(len(returns))
    environments = dataset["env"].values.astype(str) if "env" in dataset.coords else np.full(len(returns), "")
    untrained = np.full(len(returns), np.nan)
    for env in np.unique(environments):
        measured = firsts[(environments == env) & has_any.any(axis=1)]
        if measured.size:
            untrained[environments == env] = np.median(measured)
    return untrained


def _limit_of_return(values: np.ndarray, untrained: float) -> float | None:
    """Half of the way from the untrained return up to the best level of one run [L]; None where it never learned."""
    width = _window(values.size)
    held = _levels(values, 2 * width - 1)
    if held.size == 0:
        return None
    best, end = held.max(), np.median(values[-width:])
    gain = best - untrained
    # What a run moves other than up to its best and down to its end: from a log point to the next, without the two
    # moves that a single one can make, and of its level.
    means = _block_means(values, max(1, values.size // NUM_VALUES))
    steps = np.sort(np.abs(np.diff(means)))[:-2]
    jump = max(0.0, steps.sum() - _direct(means, best, end)) / max(1, steps.size)
    blocks = _block_medians(values, values.size // width)
    moves = max(0.0, np.abs(np.diff(blocks)).sum() - _direct(blocks, blocks.max(), blocks[-1]))
    return best - RETURN_FRACTION * gain if gain > max(RETURN_JUMPS * jump, LEVEL_MOVES * moves) else None


def _block_means(values: np.ndarray, width: int) -> np.ndarray:
    """Means of so many values in a row, what is left over at the start being with the first ones."""
    starts = np.arange(values.size % width, values.size, width)
    starts[0] = 0
    return np.add.reduceat(values, starts) / np.diff(starts, append=values.size)


def _block_medians(values: np.ndarray, count: int) -> np.ndarray:
    """Median of each of so many neighbouring parts, the first ones longer by one value where they cannot be equal."""
    size, num_longer = divmod(values.size, count)
    longer, others = np.split(values, [num_longer * (size + 1)])
    parts = longer.reshape(num_longer, size + 1), others.reshape(-1, size)
    return np.concatenate([np.median(part, axis=1) for part in parts])


def _direct(values: np.ndarray, best: float, end: float) -> float:
    """The way from the first value up to the best, and from there down to the end."""
    return max(0.0, best - values[0]) + max(0.0, best - end)


def _begin_of_loss(values: np.ndarray, untrained: float) -> int | None:
    """Index of the first return below the limit, of one run [L], after which its level stays below to the end."""
    limit, levels = _limit_of_return(values, untrained), _levels(values, _window(values.size))
    if limit is None or levels[-1] >= limit:
        return None
    after = np.flatnonzero(levels >= limit)[-1] + 1 if np.any(levels >= limit) else 0
    return int(after + np.flatnonzero(values[after:] < limit)[0])


def _begin_of_warning(event: str, values: np.ndarray, width: float) -> int | None:
    """Index of the first value beyond the limit, of one run [L], that begins a level beyond it."""
    levels = _levels(values, _window(values.size))
    if levels.size == 0:
        return None
    best = np.maximum.accumulate(levels)
    first = values[: levels.size]
    if event == "rank":
        limits = np.maximum(RANK_FRACTION * best, 1.0)
        has_fallen = (levels < best) | np.all(levels <= 1)
        is_beyond = (levels <= limits) & (first <= limits) & has_fallen
    elif event == "dead":
        is_beyond = np.minimum(levels, first) >= DEAD_FRACTION * width
    else:
        is_beyond = np.maximum(levels, first) < VARIANCE_FRACTION * best
    return int(np.argmax(is_beyond)) if np.any(is_beyond) else None


def _present(dataset: xr.Dataset, name: str) -> np.ndarray:
    """Where a metric has a value after the start, [S, L]."""
    return np.isfinite(dataset[name].values) & is_after_start(dataset)


def _metric(dataset: xr.Dataset, name: str) -> np.ndarray:
    """A metric [S, L] in double precision; raises ConfigError where the results lack it."""
    if name not in dataset or dataset[name].dims != ("run", "log"):
        raise ConfigError(f"{name} is not in these results, but collapse is told from it; were diagnostics off?")
    return dataset[name].values.astype(np.float64)
