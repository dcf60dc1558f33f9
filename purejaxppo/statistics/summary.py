"""Final values and the table that a person reads after a sweep."""

from __future__ import annotations

import difflib

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import points, swept_fields
from purejaxppo.results.runs import is_after_start, is_plasticity, steps_of_runs, steps_reached
from purejaxppo.statistics.estimates import bootstrap_interval, iqm
from purejaxppo.statistics.tables import MISSING, align, format_intervals, format_value, markdown, sides_of, with_rule

# Column of the table: what a person reads above it. The order is the order of the columns.
SUMMARY_METRICS = {
    "return_mean": "return",
    "policy_rank": "policy rank",
    "policy_preactivation_norm": "policy norm",
    "policy_dead_neurons": "dead neurons",
    "excess_ratio": "excess ratio",
}
_LOW, _HIGH = "_low", "_high"


def final_values(dataset: xr.Dataset, name: str, fraction: float = 0.1) -> xr.DataArray:
    """Value of a metric at the end of each run [S]: mean over the last `fraction` of its log points, ignoring NaN.

    The window is a share of the log points that the run has reached after the start (rounded up, at least one), so
    that it is the same with and without log point 0. Ratios outside the clip
    range are NaN wherever no sample is outside, in collapsed runs for good: for them it is the mean over as many
    of the last points that have any (the paper's figure 6). Of plasticity losses it is the last `fraction` of the
    measurements, that is of the log points at which any run of the group has one. NaN where there is nothing to
    average, and for a run that diverged: whatever it measured, it was not at its end.
    Raises ConfigError for an unknown metric, one that has no single value per log point, or a fraction outside (0, 1].
    """
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
    if is_plasticity(name):
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


def summary_table(dataset: xr.Dataset, fraction: float = 0.1) -> pd.DataFrame:
    """One row per point of the axes, all numbers: the swept values, `runs`, `diverged`, and for each metric its
    interquartile mean over runs (`final_values`) with a 95 % bootstrap interval (`_low`, `_high`).

    `diverged` counts runs whose status is not 0; runs that have no final value are left out of that metric. `env_steps`
    is the step that all runs of the row have reached. Metrics that the dataset lacks are NaN.
    """
    finals = {
        name: final_values(dataset, name, fraction).values if name in dataset else np.full(dataset.sizes["run"], np.nan)
        for name in SUMMARY_METRICS
    }
    reached = steps_reached(dataset)
    rows = []
    for swept, runs in points(dataset):
        row = dict(swept)
        row["runs"] = runs.size
        row["diverged"] = int(np.sum(dataset["status"].values[runs] != 0))
        row["env_steps"] = int(np.min(reached[runs]))
        for name, values in finals.items():
            low, high = bootstrap_interval(values[runs], iqm)
            row |= {name: float(iqm(values[runs])), name + _LOW: float(low), name + _HIGH: float(high)}
        rows.append(row)
    counts = ["runs", "diverged", "env_steps"]
    measured = [name + part for name in SUMMARY_METRICS for part in ("", _LOW, _HIGH)]
    return pd.DataFrame(rows, columns=[*swept_fields(dataset), *counts, *measured])


def format_table(table: pd.DataFrame, width: int = 100) -> str:
    """The table as aligned text: `-88.2 [-90.1, -86.4]` in each cell.

    Columns that do not fit into `width` characters follow in another block below, under the same row labels.
    """
    labels, cells = table_cells(table)
    blocks: list[list[list[str]]] = [[]]
    room = width - sum(max(map(len, column)) + 2 for column in labels)
    used = 0
    for column in cells:
        wide = max(map(len, column)) + 2
        if blocks[-1] and used + wide - 2 > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += wide
    texts = []
    for block in blocks:
        columns = [*labels, *block]
        texts.append(with_rule(align(list(zip(*columns, strict=True)), sides_of(columns))))
    return "\n\n".join(texts) + f"\n\n{EXPLANATION}\n"


def format_markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, cells as in `format_table`."""
    header, *rows = zip(*(column for part in table_cells(table) for column in part), strict=True)
    return f"{markdown(header, rows)}\n\n{EXPLANATION}\n"


def format_csv(table: pd.DataFrame) -> str:
    """The table as CSV: one column per number, full precision, empty where there is none."""
    return table.to_csv(index=False, lineterminator="\n")


EXPLANATION = (
    "Interquartile mean over runs [95 % bootstrap interval] of each run's mean over its last log points.\n"
    f"{MISSING} = no value; runs without a final value are left out. Diverged = stopped by non-finite numbers."
)


def table_cells(table: pd.DataFrame) -> tuple[list[list[str]], list[list[str]]]:
    """Columns of texts, each with its header first: of the row labels, and of the metrics."""
    measured = {name + part for name in SUMMARY_METRICS for part in ("", _LOW, _HIGH)}
    names = [str(name) for name in table.columns if name not in measured]
    if len(set(table["env_steps"])) <= 1:  # worth its place only while some runs are behind
        names.remove("env_steps")
    labels = [[name, *map(format_value, table[name])] for name in names]
    cells = [
        [header, *format_intervals(list(zip(table[name], table[name + _LOW], table[name + _HIGH], strict=True)))]
        for name, header in SUMMARY_METRICS.items()
    ]
    return labels, cells
