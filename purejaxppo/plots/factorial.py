"""What each of several two-level choices does, alone and together: main effects and interactions with intervals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.plots.captions import describe_sweep
from purejaxppo.plots.channels import Channel, choose_channels
from purejaxppo.plots.collapsed import collapse_channel, collapse_sentence
from purejaxppo.plots.panels import NORM, POLICY_RANK, RETURN, Panel
from purejaxppo.plots.sheets import SCREEN, Page, Sheet, house_style
from purejaxppo.plots.style import lay_out, say_empty
from purejaxppo.results.dataset import points
from purejaxppo.statistics.factorial import factorial_effects

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Panel, whether effects are doublings of the metric, and whether low is good.
FACTORIAL = ((RETURN, False, False), (POLICY_RANK, True, False), (NORM, True, True))
_TOLD, _NOT_TOLD = "#0072b2", "0.55"
_ROW_HEIGHT = 0.3


def factorial_figure(dataset: xr.Dataset, sheet: Sheet = SCREEN) -> Figure:
    """Effects of the swept two-level fields on return, rank and norm, from the main ones to that of all together.

    Dots and lines: mean over seeds and its 95 % interval (`factorial_effects`), blue and filled where it is told from
    0 after Holm's correction over the panel, else grey and hollow. Results without a full factorial leave a figure that
    says so.
    """
    tables = [_effects(dataset, *row) for row in FACTORIAL]
    num_seeds = max((int(table["num_seeds"].iloc[0]) for table in tables if table is not None), default=0)
    names = next((table["effect"].tolist() for table in tables if table is not None), [])
    caption = (
        f"{describe_sweep(dataset)}. What the named level adds to a run's final value, on average over the other "
        "fields' levels; of products: half of how much one field's effect changes with the other's level. Mean over "
        f"the {num_seeds} seeds (runs of equal seed are compared), 95 % interval (Student's t); blue "
        "and filled: told from 0, p < 0.05 after Holm over the rows of a panel; grey and hollow: not."
    )
    counts = _counts(dataset) if names else None
    caption += f" {collapse_sentence()}" * bool(counts)
    with house_style(sheet):
        title = "Main effects and interactions"
        figure, axes = lay_out(len(FACTORIAL), [counts] if counts else [], title, caption, _page(names), sheet)
        for ax, (panel, is_log, _), table in zip(axes, FACTORIAL, tables, strict=True):
            ax.set_title(panel.title if sheet.is_titled else panel.short or panel.title)
            ax.set_xlabel("doublings" if is_log else panel.label)
            if table is None:
                say_empty(ax)
                continue
            _draw(ax, table, sheet)
    return figure


def _counts(dataset: xr.Dataset) -> Channel | None:
    """How many runs of every point have collapsed, as a legend without lines."""
    everything = points(dataset)
    counts = collapse_channel(dataset, everything, choose_channels([point for point, _ in everything]), [])
    return counts and replace(counts, styles=({"linestyle": "none"},) * len(everything))


def _effects(dataset: xr.Dataset, panel: Panel, is_log: bool, is_lowest: bool) -> pd.DataFrame | None:
    """The effects on a panel's metric; None where the results have no such metric, or no factorial."""
    if panel.metric not in dataset:
        return None
    try:
        table = factorial_effects(dataset, panel.metric, in_doublings=is_log, is_lowest=is_lowest)
    except ConfigError:
        return None
    return table if np.isfinite(table["value"].to_numpy()).any() else None


def _draw(ax: Axes, table: pd.DataFrame, sheet: Sheet) -> None:
    """One row an effect, the main ones on top."""
    ax.axvline(0.0, color="0.4", linewidth=0.9, zorder=1)
    for row, (value, low, high, p) in enumerate(table[["value", "low", "high", "p_holm"]].to_numpy()):
        colour = _TOLD if p < 0.05 else _NOT_TOLD
        if np.isfinite([low, high]).all():
            ax.plot([low, high], [row, row], color=colour, linewidth=2.0 * sheet.stroke, solid_capstyle="butt")
        face, edge = (colour, "white") if p < 0.05 else ("white", colour)
        dot = {"color": colour, "markerfacecolor": face, "markeredgecolor": edge, "markersize": 6 * sheet.stroke}
        ax.plot(value, row, "o", **dot)
    orders = table["order"].to_numpy()
    for row in np.flatnonzero(np.diff(orders)) + 0.5:
        ax.axhline(row, color="0.85", linewidth=0.8, zorder=0)
    names = [effect.replace(" x ", "\n\N{MULTIPLICATION SIGN} ") for effect in table["effect"]]
    ax.set_yticks(range(len(table)), names)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_ylim(len(table) - 0.4, -0.6)


def _page(names: list[str]) -> Page:
    """Room for the names of the rows on the left, and for every row and its lines."""
    lines = [line for name in names for line in name.split(" x ")]
    left = 0.5 + 0.068 * max([len(line) for line in lines] + [0])
    rows = max(1.4, 0.3 + sum(max(_ROW_HEIGHT, 0.16 * (name.count(" x ") + 1.4)) for name in names))
    return Page(
        width=max(11.0, 7.0 + left),
        left=left,
        panel_height=rows,
        gap_x=0.35,
        gap_y=0.78,
        is_rigid=True,
        share_x=False,
        share_y=True,
        text_left=0.4,
    )
