"""Final values and the table that a person reads after a sweep."""

from __future__ import annotations

import difflib
import math

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.analysis.results import points, swept_fields
from purejaxppo.analysis.statistics import bootstrap_interval, iqm
from purejaxppo.diagnostics.registry import METRICS
from purejaxppo.errors import ConfigError

# Column of the table: what a person reads above it. The order is the order of the columns.
SUMMARY_METRICS = {
    "return_mean": "return",
    "policy_rank": "policy rank",
    "policy_preactivation_norm": "policy norm",
    "policy_dead_neurons": "dead neurons",
    "excess_ratio": "excess ratio",
}
_LOW, _HIGH = "_low", "_high"
_MISSING = "-"


def final_values(dataset: xr.Dataset, name: str, fraction: float = 0.1) -> xr.DataArray:
    """Value of a metric at the end of each run [S]: mean over the last `fraction` of its log points, ignoring NaN.

    The window is a share of the log points that the run has reached (rounded up, at least one). Ratios outside the clip
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
    reached = np.isfinite(np.broadcast_to(dataset["env_steps"].values, values.shape))
    has_value = ~np.isnan(values)
    if name in METRICS and METRICS[name].family == "plasticity":
        reached &= _measured(has_value, dataset["group"].values)
    window = np.maximum(np.ceil(np.round(fraction * np.sum(reached, axis=1), 9)), 1)
    countable = has_value if _is_outside_ratio(name) else reached
    # Number of countable log points after this one; the window holds those with fewer than its length.
    later = np.cumsum(countable[:, ::-1], axis=1)[:, ::-1] - countable
    chosen = countable & has_value & (later < window[:, None])
    counts = np.sum(chosen, axis=1)
    means = np.sum(np.where(chosen, values, 0.0), axis=1) / np.maximum(counts, 1)
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
    labels = {name: _aligned(name, column) for name, column in labels.items()}
    cells = {name: _aligned(name, column) for name, column in cells.items()}
    gap = "  "
    room = width - sum(len(column[0]) + len(gap) for column in labels.values())
    blocks: list[list[list[str]]] = [[]]
    used = 0
    for column in cells.values():
        if blocks[-1] and used + len(column[0]) > room:
            blocks.append([])
            used = 0
        blocks[-1].append(column)
        used += len(column[0]) + len(gap)
    texts = []
    for block in blocks:
        lines = [gap.join(line).rstrip() for line in zip(*labels.values(), *block, strict=True)]
        rule = "-" * max(len(line) for line in lines)
        texts.append("\n".join([lines[0], rule, *lines[1:]]))
    return "\n\n".join(texts) + f"\n\n{EXPLANATION}\n"


def format_markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, cells as in `format_table`."""
    labels, cells = table_cells(table)
    columns = {**labels, **cells}
    lines = ["| " + " | ".join(columns) + " |", "|" + " ---: |" * len(columns)]
    for row in zip(*columns.values(), strict=True):
        lines.append(
            "| " + " | ".join(" ".join(cell.replace("[ ", "[").split()).replace("|", "\\|") for cell in row) + " |"
        )
    return "\n".join(lines) + f"\n\n{EXPLANATION}\n"


def format_csv(table: pd.DataFrame) -> str:
    """The table as CSV: one column per number, full precision, empty where there is none."""
    return table.to_csv(index=False, lineterminator="\n")


EXPLANATION = (
    "Interquartile mean over runs [95 % bootstrap interval] of each run's mean over its last log points.\n"
    f"{_MISSING} = no value; runs without a final value are left out. Diverged = stopped by non-finite numbers."
)


def format_value(value: object) -> str:
    """A swept value or a count as a person writes it: 0.00025, 1, 64-64, True."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def table_cells(table: pd.DataFrame) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Header -> texts of the row labels, and of the metrics."""
    measured = {name + part for name in SUMMARY_METRICS for part in ("", _LOW, _HIGH)}
    labels = {
        str(name): [format_value(value) for value in table[name]] for name in table.columns if name not in measured
    }
    if len(set(table["env_steps"])) <= 1:  # worth its place only while some runs are behind
        del labels["env_steps"]
    cells = {}
    for name, header in SUMMARY_METRICS.items():
        triples = list(zip(table[name], table[name + _LOW], table[name + _HIGH], strict=True))
        values = [_number(triple[0], _decimals(triple)) for triple in triples]
        lows = [_number(triple[1], _decimals(triple)) for triple in triples]
        highs = [_number(triple[2], _decimals(triple)) for triple in triples]
        wide_value, wide_low, wide_high = (max(map(len, part), default=0) for part in (values, lows, highs))
        cells[header] = [
            f"{value:>{wide_value}} [{low:>{wide_low}}, {high:>{wide_high}}]"
            if _MISSING not in (low, high)
            else f"{value:>{wide_value}}"
            for value, low, high in zip(values, lows, highs, strict=True)
        ]
    return labels, cells


def _aligned(header: str, column: list[str]) -> list[str]:
    """Header and cells of one column at one width; numbers sit right, cells with intervals left of a common bracket."""
    width = max(len(text) for text in [header, *column])
    if any("[" in text for text in column):
        return [header.ljust(width), *(text.ljust(width) for text in column)]
    return [header.rjust(width), *(text.rjust(width) for text in column)]


def _decimals(triple: tuple[float, float, float]) -> int | None:
    """Decimals that give the largest number of a cell about three digits; None for scientific notation."""
    largest = max((abs(value) for value in triple if math.isfinite(value)), default=0.0)
    if largest == 0:
        return 0
    if largest >= 1e5 or largest < 1e-3:
        return None
    return next((decimals for limit, decimals in ((1000, 0), (10, 1), (1, 2), (0.1, 3)) if largest >= limit), 4)


def _number(value: float, decimals: int | None) -> str:
    if math.isnan(value):
        return _MISSING
    if decimals is None or math.isinf(value):
        return f"{value:.1e}"
    return f"{value:.{decimals}f}"


def steps_reached(dataset: xr.Dataset) -> np.ndarray:
    """Environment steps at the last log point of each run, [S]; 0 before the first."""
    steps = dataset["env_steps"].values.astype(np.float64)
    steps = np.broadcast_to(steps, (dataset.sizes["run"], steps.shape[-1]))
    return np.max(np.where(np.isfinite(steps), steps, 0.0), axis=1, initial=0.0)
