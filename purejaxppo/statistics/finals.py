"""Final values of runs, and what stands for the end of a run that diverged.

One window everywhere: the last 5 % of a run's log points, as in the paper's figure 6.
"""

from __future__ import annotations

import difflib

import numpy as np
import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import check_results
from purejaxppo.results.runs import environments, is_after_start, is_sparse, steps_of_runs

FINAL_FRACTION = 0.05
"""Share of a run's log points that is its end (the paper's figure 6)."""


def final_values(dataset: xr.Dataset, name: str, fraction: float = FINAL_FRACTION) -> xr.DataArray:
    """Value of a metric at the end of each run [S]: mean over the last `fraction` of its log points, ignoring NaN.

    The window is a share of the log points that the run has reached after the start (rounded up, at least one), so
    that it is the same with and without log point 0. Ratios outside the clip
    range are NaN wherever no sample is outside, in collapsed runs for good: for them it is the mean over as many
    of the last points that have any (the paper's figure 6). Of plasticity losses and evaluations it is the last
    `fraction` of the measurements, that is of the log points at which any run of the group has one. NaN where there is
    nothing to average, and for a run that diverged: whatever it measured, it was not at its end.
    Raises ConfigError for an unknown metric, one that has no single value per log point, or a fraction outside (0, 1].
    """
    check_results(dataset)
    if name not in dataset or dataset[name].dims != ("run", "log"):
        known = [str(key) for key, value in dataset.data_vars.items() if value.dims == ("run", "log")]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`purejaxppo metrics` lists all."
        raise ConfigError(f"Metric {name!r} has no single value per run and log point in these results; {hint}")
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction is {fraction}, but must be above 0 and at most 1.")
    values = dataset[name].values.astype(np.float64)
    learned = is_after_start(dataset)
    # A run that has come to log point 0 and no further has its end there.
    reached = np.where(np.any(learned, axis=1, keepdims=True), learned, np.isfinite(steps_of_runs(dataset)))
    has_value = ~np.isnan(values)
    if is_sparse(name):
        reached &= _measured(has_value, dataset["group"].values)
    window = np.maximum(np.ceil(np.round(fraction * np.sum(reached, axis=1), 9)), 1)
    countable = reached & has_value if _is_outside_ratio(name) else reached
    # Number of countable log points after this one; the window holds those with fewer than its length.
    later = np.cumsum(countable[:, ::-1], axis=1)[:, ::-1] - countable
    chosen = countable & has_value & (later < window[:, None])
    counts = np.sum(chosen, axis=1)
    # Log point 0 is added apart: the bits of a sum depend on its length.
    at_start, shown = ~np.any(learned, axis=0), np.where(chosen, values, 0.0)
    total = np.sum(np.ascontiguousarray(shown[:, ~at_start]), axis=1) + np.sum(shown[:, at_start], axis=1)
    means = total / np.maximum(counts, 1)
    has_end = (counts > 0) & (dataset["status"].values == 0)
    coords = {key: value for key, value in dataset.coords.items() if value.dims == ("run",)}
    return xr.DataArray(
        np.where(has_end, means, np.nan),
        dims=("run",),
        coords=coords,
        name=name,
        attrs=dataset[name].attrs,
    )


def _measured(has_value: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Whether a log point is one at which the run's group measures, [S, L]: any of its runs has a value there."""
    measured = np.zeros_like(has_value)
    for group in np.unique(groups):
        measured[groups == group] = np.any(has_value[groups == group], axis=0)
    return measured


def _is_outside_ratio(name: str) -> bool:
    """Whether a metric exists only where samples are outside the clip range."""
    return name.startswith(("excess_ratio", "ratio_above_", "ratio_below_")) and not name.endswith("_fraction")


def comparable_values(dataset: xr.Dataset, name: str, is_lowest_best: bool = False) -> xr.DataArray:
    """Final value of a metric in each run [S], in which a run that diverged counts as the worst case.

    That is the lowest value (`is_lowest_best`: the highest) that any run of its environment has measured at any log
    point after the start. Other runs have their `final_values`, NaN where there is none.
    Raises ConfigError as `final_values`.
    """
    finals = final_values(dataset, name)
    values = np.where(is_after_start(dataset), dataset[name].values, np.nan).astype(np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    env_of_run, is_diverged = environments(dataset), dataset["status"].values != 0
    for env in np.unique(env_of_run[is_diverged]):
        measured = values[env_of_run == env]
        measured = measured[~np.isnan(measured)]
        if measured.size:
            finals[is_diverged & (env_of_run == env)] = measured.max() if is_lowest_best else measured.min()
    return finals
