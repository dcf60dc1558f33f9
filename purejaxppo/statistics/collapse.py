"""When runs collapse: what each run lost at which step, which diagnostic warned first, and survival curves over seeds.

The return has collapsed where it is beyond its limit for good, to the end of what was measured (paper: no recovery), so
that is known in hindsight only. The diagnostics, which are to warn, need no hindsight: the first time that they are
beyond their limit for 5 % of the log points in a row. They are dated at the beginning of that stretch; whoever watches
knows at its end, 5 % of the log points later. A return that is the same at most log points and rarely anything else
(rare success) has a typical jump of 0, and noise in it can look like a collapse: look at the curves. Nothing is
smoothed; log points without a value (no episode finished) count neither way, nor does log point 0: a network that has
learned nothing has nothing to lose, and what its rank falls by on the first rollouts is no collapse.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from purejaxppo.config import unknown_name
from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import points
from purejaxppo.results.runs import diverged_steps, is_after_start, policy_widths, steps_of_runs

# Half of what was gained: the return is then nearer to that of a run that has learned nothing than to the run's best.
RETURN_FRACTION = 0.5
# What was gained counts only if half of it exceeds three typical (median) jumps between log points: the largest of 100
# values of pure noise lies about 3.5 standard deviations above the lower of two others, and half of that is two jumps.
RETURN_JUMPS = 3.0
# Three quarters of the dimensions gone: half of them go in runs that keep their return (CartPole: 4 to 2). A rank of 1,
# all states on one line, is the collapse of the paper's toy example and counts whatever the maximum was.
RANK_FRACTION = 0.25
# The paper's go to all of them; a few live ones may be left that carry nothing.
DEAD_FRACTION = 0.95
# The paper's goes to 0; two orders of magnitude below its maximum the policy is the same in all states.
VARIANCE_FRACTION = 0.01
# The paper's final values are means over the last 5 % of training (figure 6); what is shorter may be a bad moment.
LASTING_FRACTION = 0.05

EVENTS = {
    "return": (
        "return_mean",
        "every return, to the end, is below half of the way from the run's lower end (its first or its last return) up "
        "to the running best; or the run diverged",
    ),
    "rank": (
        "policy_rank",
        "the policy's rank (PCA) is at most a quarter of its running maximum, or has fallen to 1, for 5 % of the run's "
        "log points in a row",
    ),
    "dead": (
        "policy_dead_neurons",
        "at least 95 % of the policy's penultimate units are dead for 5 % of the run's log points in a row",
    ),
    "variance": (
        "policy_variance",
        "the policy variance is below 1 % of its running maximum for 5 % of the run's log points in a row",
    ),
}
"""What can collapse: its metric, and from which step on it has."""
WARNINGS = ("rank", "dead", "variance")


@dataclass(frozen=True)
class SurvivalCurve:
    """Kaplan-Meier estimate of the share of runs that have not collapsed yet: K steps, constant between them."""

    steps: np.ndarray
    """0, then every environment step at which a run collapsed or was last seen, ascending, [K]."""
    probability: np.ndarray
    """Probability of surviving beyond each step, [K]; 1 at step 0."""
    low: np.ndarray
    """Lower end of the pointwise interval, [K]."""
    high: np.ndarray
    """Upper end, [K]."""
    num_runs: int
    num_events: int


def survival(steps_of_event: np.ndarray, last_steps: np.ndarray, level: float = 0.95) -> SurvivalCurve:
    """Kaplan-Meier curve of runs with events at `steps_of_event` [S] (NaN: none until `last_steps` [S], censored).

    The interval is Greenwood's on the log-log scale (`scipy.stats.ecdf`); it is [1, 1] before the first event, where
    its variance is 0, and NaN where the probability is 0 and the formula has none. Runs with neither step were never
    measured and are left out; `last_steps` is not looked at where there is an event.
    Raises ValueError for arrays of different shapes, steps below 0 and a level outside (0, 1).
    """
    events, ends = np.asarray(steps_of_event, dtype=np.float64), np.asarray(last_steps, dtype=np.float64)
    if events.ndim != 1 or events.shape != ends.shape:
        raise ValueError(f"steps_of_event has shape {events.shape} and last_steps {ends.shape}, but both must be [S].")
    if np.any(events < 0) or np.any(ends < 0):
        raise ValueError("steps_of_event and last_steps must not be below 0.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, but must lie between 0 and 1.")
    has_event = ~np.isnan(events)
    events, censored = events[has_event], ends[~has_event & ~np.isnan(ends)]
    num_runs = events.size + censored.size
    start = np.ones(1)
    if num_runs == 0:
        return SurvivalCurve(np.zeros(1), start, start, start, 0, 0)
    curve = stats.ecdf(stats.CensoredData(uncensored=events, right=censored)).sf
    with warnings.catch_warnings():  # says that there is no interval at 0 and 1, which is dealt with below
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        interval = curve.confidence_interval(confidence_level=level, method="log-log")
    probability = curve.probabilities
    low, high = (np.where(probability == 1, 1.0, end.probabilities) for end in (interval.low, interval.high))
    return SurvivalCurve(
        steps=np.concatenate([np.zeros(1), curve.quantiles]),
        probability=np.concatenate([start, probability]),
        low=np.concatenate([start, low]),
        high=np.concatenate([start, high]),
        num_runs=num_runs,
        num_events=events.size,
    )


def survival_by_point(dataset: xr.Dataset, event: str = "return") -> list[tuple[dict[str, Any], SurvivalCurve]]:
    """Survival of one kind of collapse (`EVENTS`) over the runs of each point of the axes: (swept values, curve).

    A run that has not collapsed is censored at the last step that it has measured. Runs that diverge count as collapsed
    in return and are censored for every other event.
    Raises ConfigError for an unknown event and for results without its metric.
    """
    events, ends = collapse_steps(dataset, event), last_steps(dataset)
    return [(swept, survival(events[runs], ends[runs])) for swept, runs in points(dataset)]


def detect_collapse(dataset: xr.Dataset) -> xr.Dataset:
    """What each run lost, and when: a Dataset over runs, with the coordinates of the runs.

    `return_collapse_step`, `rank_collapse_step`, `dead_collapse_step`, `variance_collapse_step`: environment step at
    which each of `EVENTS` begins, NaN for never. `first_warning`: which of rank, dead and variance collapsed first, and
    before the return did (`rank+dead` at the same step), else "none"; `warning_lead_steps`: by how many steps before
    the return, NaN without one. `last_step`: last step measured.
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
    table["last_step"] = (last_steps(dataset), "last environment step at which anything was measured")
    return xr.Dataset(
        {name: ("run", values, {"definition": text}) for name, (values, text) in table.items()},
        coords={name: value for name, value in dataset.coords.items() if value.dims == ("run",)},
    )


def collapse_steps(dataset: xr.Dataset, event: str) -> np.ndarray:
    """Environment step at which one of `EVENTS` begins in each run [S]; NaN where it never does.

    Raises ConfigError for an unknown event and for results without its metric.
    """
    if event not in EVENTS:
        raise unknown_name("event", event, list(EVENTS))
    values = _metric(dataset, EVENTS[event][0])
    limits = policy_widths(dataset) if event == "dead" else np.zeros(len(values))
    has_any, ends = np.isfinite(values) & is_after_start(dataset), diverged_steps(dataset)
    steps = np.full(len(values), np.nan)
    for run, reached in enumerate(steps_of_runs(dataset)):
        has_value = has_any[run]
        beyond = _is_beyond(event, values[run][has_value], limits[run])
        index = _begin(beyond, np.flatnonzero(has_value), is_to_end=event == "return")
        if index is not None:
            steps[run] = reached[index]
        elif event == "return":
            steps[run] = ends[run]
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


def _is_beyond(event: str, values: np.ndarray, width: float) -> np.ndarray:
    """Where the values of one run [L], without gaps, are beyond the limit of an event, [L]."""
    if values.size == 0:
        return np.zeros(0, dtype=bool)
    best = np.maximum.accumulate(values)
    if event == "rank":
        return (values <= np.maximum(RANK_FRACTION * best, 1.0)) & (values < best)
    if event == "dead":
        return values >= DEAD_FRACTION * width
    if event == "variance":
        return values < VARIANCE_FRACTION * best
    # The way up begins where the run began or where it ended, whichever is lower: the first log point can come after
    # much of the learning, and a return that fell below it has fallen all the more.
    floor = min(values[0], values[-1])
    typical_jump = np.median(np.abs(np.diff(values))) if values.size > 1 else 0.0
    fall = RETURN_FRACTION * (best - floor)
    return (values < best - fall) & (fall > RETURN_JUMPS * typical_jump)


def _begin(is_beyond: np.ndarray, log_points: np.ndarray, is_to_end: bool) -> int | None:
    """Log point at which the first lasting stretch beyond a limit begins; with `is_to_end`, the one that ends the run.

    is_beyond, log_points: [L], the log points that have a value. Lasting: 5 % of them in a row, and at least two.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_beyond, [False]])))
    begins, ends = edges[::2], edges[1::2]
    lasting = ends - begins >= max(2, math.ceil(round(LASTING_FRACTION * is_beyond.size, 9)))
    if is_to_end:
        lasting &= ends == is_beyond.size
    return int(log_points[begins[lasting][0]]) if np.any(lasting) else None


def _metric(dataset: xr.Dataset, name: str) -> np.ndarray:
    """A metric [S, L] in double precision; raises ConfigError where the results lack it."""
    if name not in dataset or dataset[name].dims != ("run", "log"):
        raise ConfigError(f"{name} is not in these results, but collapse is told from it; were diagnostics off?")
    return dataset[name].values.astype(np.float64)
