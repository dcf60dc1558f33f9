"""Survival curves with exact intervals, from the steps at which runs collapsed or were last seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from purejaxppo.statistics.estimates import tails


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

    The interval is the beta product of Fay, Brittain & Proschan 2013 (Biostatistics 14, 723): with Y runs at risk and d
    events at each step, the upper end is the upper quantile of the product of Beta(Y - d + 1, d) over the steps so far,
    the lower end the lower quantile of that times Beta(Y', 1), as if the next of the Y' runs left failed at once; the
    product is taken as the beta of the same two moments. As long as no run is censored it is exactly the binomial
    interval of Clopper & Pearson, so that it holds for every number of runs; it is never of width 0.
    Runs with neither step were never measured and are left out; `last_steps` is not looked at where there is an event.
    Raises ValueError for arrays of different shapes, steps below 0 and a level outside (0, 1).
    """
    events, ends = np.asarray(steps_of_event, dtype=np.float64), np.asarray(last_steps, dtype=np.float64)
    if events.ndim != 1 or events.shape != ends.shape:
        raise ValueError(f"steps_of_event has shape {events.shape} and last_steps {ends.shape}, but both must be [S].")
    if np.any(events < 0) or np.any(ends < 0):
        raise ValueError("steps_of_event and last_steps must not be below 0.")
    alpha = tails(level)
    has_event = ~np.isnan(events)
    seen = np.where(has_event, events, ends)
    is_there = ~np.isnan(seen)
    seen, has_event = seen[is_there], has_event[is_there]
    steps = np.unique(np.append(seen, 0.0))
    failed = np.array([np.sum(has_event & (seen == step)) for step in steps])
    at_risk = np.array([np.sum(seen >= step) for step in steps])
    left = np.array([np.sum(seen > step) for step in steps])
    left[-1] = at_risk[-1] - failed[-1]  # the curve ends here, and these have lived until now
    probability = np.cumprod(1 - failed / np.maximum(at_risk, 1))
    # First and second moment of Beta(Y - d + 1, d), which is 1 where d is 0.
    first = np.cumprod((at_risk - failed + 1) / (at_risk + 1))
    second = np.cumprod((at_risk - failed + 1) * (at_risk - failed + 2) / ((at_risk + 1) * (at_risk + 2)))
    high = _beta_quantile(first, second, alpha[1])
    low = _beta_quantile(first * left / (left + 1), second * left / (left + 2), alpha[0])
    return SurvivalCurve(
        steps=steps, probability=probability, low=low, high=high, num_runs=seen.size, num_events=int(failed.sum())
    )


def _beta_quantile(first: np.ndarray, second: np.ndarray, probability: float) -> np.ndarray:
    """Quantile of the beta distribution with these moments; the mean itself where the variance is 0."""
    variance = second - first**2
    is_spread = variance > 1e-12
    size = first * (1 - first) / np.where(is_spread, variance, 1.0) - 1
    above, below = (np.where(is_spread, share * size, 1.0) for share in (first, 1 - first))
    return np.where(is_spread, stats.beta.ppf(probability, above, below), first)
