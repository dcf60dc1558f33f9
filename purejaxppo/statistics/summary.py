"""Final values and the table that a person reads after a sweep."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.results.dataset import points, swept_fields
from purejaxppo.results.runs import steps_reached
from purejaxppo.statistics.estimates import bootstrap_interval, iqm
from purejaxppo.statistics.finals import FINAL_FRACTION, final_values
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


def summary_table(dataset: xr.Dataset, fraction: float = FINAL_FRACTION) -> pd.DataFrame:
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
