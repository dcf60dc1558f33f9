"""The table that a person reads after a sweep."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.results.dataset import check_results, own_metrics, points, swept_fields
from purejaxppo.results.runs import steps_reached
from purejaxppo.statistics.collapse import count_columns
from purejaxppo.statistics.estimates import estimate_columns
from purejaxppo.statistics.finals import comparable_values, final_values
from purejaxppo.statistics.tables import (
    ESTIMATES,
    MISSING,
    align,
    count_cells,
    estimate_cells,
    format_value,
    latex,
    markdown,
    sides_of,
    with_notes,
    with_rule,
    wrap,
)

__all__ = ["final_values"]  # where it was before it had a file of its own

# Column of the table: what a person reads above it. The order is the order of the columns.
SUMMARY_METRICS = {
    "return_mean": "return",
    "policy_rank": "policy rank",
    "policy_preactivation_norm": "policy norm",
    "policy_dead_neurons": "dead neurons",
    "excess_ratio": "excess ratio",
}
# Of these the highest value is the worst case; of the others the lowest.
HIGH_IS_WORST = ("policy_preactivation_norm", "policy_dead_neurons", "excess_ratio")
_PARTS = ("", "_low", "_high", "_runs")


def summary_table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per point of the axes: the swept values, `runs`, how many of them diverged, collapsed and never learned
    (`collapse.count_columns`), and for each metric the interquartile mean over runs of `comparable_values`, with its
    95 % bootstrap interval (`_low`, `_high`) or, of fewer than 5 runs, the single values (`_runs`).

    A run that diverged counts as the worst case; runs that have no final value are left out of that metric. `env_steps`
    is the step that all runs of the row have reached. Metrics that the dataset lacks are NaN. Those of diagnostics and
    penalties of the user's own follow ours; as nobody says what is bad of them, runs that diverged are left out.
    """
    check_results(dataset)
    names = [*SUMMARY_METRICS, *own_metrics(dataset)]
    missing = np.full(dataset.sizes["run"], np.nan)
    finals = {name: finals_or_worst(dataset, name) if name in dataset else missing for name in names}
    reached, counts = steps_reached(dataset), count_columns(dataset)
    rows = []
    for swept, runs in points(dataset):
        row = dict(swept) | counts(runs) | {"env_steps": int(np.min(reached[runs]))}
        for name, values in finals.items():
            row |= estimate_columns(name, values[runs])
        rows.append(row)
    counted = [*counts(np.zeros(0, dtype=int)), "env_steps"]
    measured = [name + part for name in names for part in _PARTS]
    return pd.DataFrame(rows, columns=[*swept_fields(dataset), *counted, *measured])


def finals_or_worst(dataset: xr.Dataset, metric: str) -> np.ndarray:
    """Final values [S]; of a run that diverged the worst case, where it is known what that is, else NaN."""
    if metric in SUMMARY_METRICS:
        return comparable_values(dataset, metric, metric in HIGH_IS_WORST).values
    return final_values(dataset, metric).values


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
    return with_notes("\n\n".join(texts), EXPLANATION)


def format_markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, cells as in `format_table`."""
    header, *rows = zip(*(column for part in table_cells(table) for column in part), strict=True)
    return with_notes(markdown(header, rows), EXPLANATION)


def format_latex(table: pd.DataFrame) -> str:
    """The table in LaTeX, for the package booktabs, cells as in `format_table`."""
    header, *rows = zip(*(column for part in table_cells(table) for column in part), strict=True)
    return with_notes(latex(header, rows), EXPLANATION, "latex")


def format_csv(table: pd.DataFrame) -> str:
    """The table as CSV: one column per number, full precision, empty where there is none; a few runs' values in one."""
    return table.to_csv(index=False, lineterminator="\n")


EXPLANATION = wrap(f"{ESTIMATES} {MISSING} = no value; such runs are left out.")


def table_cells(table: pd.DataFrame) -> tuple[list[list[str]], list[list[str]]]:
    """Columns of texts, each with its header first: of the row labels, and of the metrics."""
    metrics = [str(name) for name in table.columns if all(f"{name}{part}" in table.columns for part in _PARTS)]
    measured = {name + part for name in metrics for part in _PARTS}
    counted = {"runs", "diverged", "collapsed", "collapsed_low", "collapsed_high", "never_learned"}
    names = [str(name) for name in table.columns if name not in measured | counted]
    if len(set(table["env_steps"])) <= 1:  # worth its place only while some runs are behind
        names.remove("env_steps")
    labels = [[name, *map(format_value, table[name])] for name in names]
    labels += [[name, *cells] for name, cells in count_cells(table)]
    headers = {name: SUMMARY_METRICS.get(name, name.replace("_", " ")) for name in metrics}
    cells = [[header, *estimate_cells(table, name)] for name, header in headers.items()]
    return labels, cells
