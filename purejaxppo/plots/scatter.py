"""Figures 4 and 7: how diagnostics go together, by rank correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.plots.captions import describe_sweep
from purejaxppo.plots.channels import MARKERS, Channel, line_style, with_markers
from purejaxppo.plots.conditions import Facet, arrange
from purejaxppo.plots.files import COLOUR_BAR
from purejaxppo.plots.scales import declutter
from purejaxppo.plots.sheets import SCREEN, Page, Sheet, house_style
from purejaxppo.plots.style import format_steps, lay_out, say_empty
from purejaxppo.results.dataset import Point, points
from purejaxppo.results.runs import is_after_start, recorded
from purejaxppo.statistics.correlations import (
    NUM_CHECKPOINTS,
    RANKS,
    average_and_worst,
    lowest_ratios,
    rank_correlations,
)
from purejaxppo.statistics.estimates import kendall_tau, spearman_rho
from purejaxppo.statistics.tables import format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Metric -> (title, label, whether its axis is logarithmic).
_AGAINST = {
    "policy_dead_neurons": ("Dead policy neurons", "neurons", False),
    "policy_rank": ("Policy rank", "dimensions (PCA, 99 %)", False),
    "policy_preactivation_norm": ("Policy pre-activation norm", "mean L2 norm (log)", True),
}
_SCATTER = Page(above_panels=0.42, panel_height=3.2, gap_x=0.5, gap_y=1.1, share_x=False, share_y=True)
_FACETS = replace(_SCATTER, paper_columns=3, above_panels=0.7, panel_height=2.0, gap_y=0.9, share_x="col")
_MATRICES = Page(
    columns=2, width=8.6, left=1.2, right=1.1, bottom=0.75, panel_height=2.75, gap_x=0.5, gap_y=0.65, share_y=True
)


def ratio_scatter(dataset: xr.Dataset, sheet: Sheet = SCREEN) -> Figure:
    """Figure 4: the lowest mean ratio below 1 - eps against dead neurons, rank and norm of the policy.

    A point is one run in one stretch of training, see `lowest_ratios`. The title of a panel has the rank correlations
    of all its points, tau-b (Kendall) and rho (Spearman); points of one run are not independent, so no p-values.
    More than six points of the axes are drawn in several facets (`arrange`), a row of panels each.
    """
    everything = points(dataset)
    stretches = min(NUM_CHECKPOINTS, int(np.sum(np.any(is_after_start(dataset), axis=0))))
    subtitle = (
        f"{describe_sweep(dataset)}. A point is one run in one of {stretches} equal stretches of its log points: "
        "the lowest mean ratio below the clip range there, against the metric's mean over the stretch. Stretches in "
        "which no sample is below have no point. \N{GREEK SMALL LETTER TAU}: Kendall, \N{GREEK SMALL LETTER RHO}: "
        "Spearman, over the n points of a panel. Dotted: 1 \N{MINUS SIGN} \N{GREEK SMALL LETTER EPSILON}."
    )
    title = "Figure 4: probability ratios below the clip range and the representation"
    limits = [1 - float(value) for value in recorded(dataset, "clip_eps")]
    facets, channels = arrange(everything)
    channels = with_markers(channels, [point for facet in facets for point, _ in facet.points])
    cells = [(facet, name) for facet in facets for name in _AGAINST]
    page = _SCATTER if len(facets) == 1 else replace(_FACETS, left=_FACETS.left if sheet.is_titled else 0.95)
    found = {name: lowest_ratios(dataset, name) for name in _AGAINST}
    with house_style(sheet):
        figure, axes = lay_out(len(cells), channels, title, subtitle, page, sheet)
        for number, (ax, (facet, name)) in enumerate(zip(axes, cells, strict=True)):
            _draw_panel(ax, facet, name, found[name], channels, is_narrow=len(facets) > 1 and not sheet.is_titled)
            for limit in limits:
                ax.axhline(limit, color="0.6", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
            if number >= len(cells) - len(_AGAINST):
                ax.set_xlabel(_AGAINST[name][1])
            if number % len(_AGAINST) == 0:
                ax.set_ylabel("lowest mean of pi_after / pi_before")
        axes[0].set_ylim(-0.03, max([*limits, 0.8]) + 0.06)
        declutter(figure)
    return figure


def _draw_panel(
    ax: Axes,
    facet: Facet,
    name: str,
    found: tuple[np.ndarray, np.ndarray],
    channels: Sequence[Channel],
    is_narrow: bool,
) -> None:
    """The points of one facet against one metric; found: lowest ratios and means of the metric, [S, K] each."""
    from matplotlib.ticker import LogLocator, NullFormatter

    heading, _, is_log = _AGAINST[name]
    shown = np.zeros(len(found[0]), dtype=bool)
    shown[facet.runs] = True
    lowest, means = (np.where(shown[:, None], values, np.nan) for values in found)
    tau, rho = kendall_tau(means, lowest), spearman_rho(means, lowest)
    told = _correlations(tau, rho, int(np.sum(~np.isnan(lowest))))
    if is_narrow:
        heading, told = heading.replace("pre-activation ", ""), told.replace(", n", "\nn")
    ax.set_title("\n".join(filter(None, [facet.name, heading, told])))
    if lowest.size == 0 or np.all(np.isnan(lowest)):
        say_empty(ax)
        return
    _scatter(ax, means, lowest, facet.points, channels)
    if is_log and np.nanmin(means) > 0:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if _decades(means) < 2 else (1.0,)))
        ax.xaxis.set_major_formatter(format_steps)
        ax.xaxis.set_minor_formatter(NullFormatter())


def _scatter(ax: Axes, x: np.ndarray, y: np.ndarray, everything: Sequence[Point], channels: Sequence[Channel]) -> None:
    """The points x, y [S, K] in a shuffled order, so that no colour lies on top of all others."""
    from matplotlib.colors import to_hex

    styles = [(line_style(channels, point), runs) for point, runs in everything]
    order = np.random.default_rng(0).permutation(x.size)
    is_shown = ~np.isnan(y).ravel()
    alpha = float(np.clip(30 / math.sqrt(x.size), 0.2, 0.7))
    for marker in dict.fromkeys(style.get("marker", MARKERS[0]) for style, _ in styles):
        colours = np.full(x.shape, "", dtype=object)
        for style, runs in styles:
            if style.get("marker", MARKERS[0]) == marker:
                colours[runs] = to_hex(style["color"])
        chosen = order[(is_shown & (colours.ravel() != ""))[order]]
        shades = colours.ravel()[chosen].tolist()
        is_many = x.size > 2000
        ax.scatter(
            x.ravel()[chosen], y.ravel()[chosen], s=9, c=shades, marker=marker, alpha=alpha, lw=0, rasterized=is_many
        )


def _decades(values: np.ndarray) -> float:
    """Powers of ten between the smallest and the largest value."""
    return float(np.log10(np.nanmax(values) / np.nanmin(values)))


def rank_matrices(dataset: xr.Dataset, sheet: Sheet = SCREEN) -> Figure:
    """Figure 7: Spearman correlations over training among the five rank measures, average and worst over runs."""
    title = "Figure 7: do the rank measures agree?"
    subtitle = (
        f"{describe_sweep(dataset)}. Spearman correlation over the log points of a run between two rank measures of "
        "the penultimate features; left its mean over runs, right its lowest value in any run. Runs in which a measure "
        "is constant have no correlation and are left out, pair by pair; in brackets how many are left, where not all "
        f"{dataset.sizes['run']}; {_NONE} where no run has one."
    )
    with house_style(sheet):
        page = _MATRICES if sheet.is_titled else replace(_MATRICES, left=1.35, right=1.4, bottom=1.3)
        figure, axes = lay_out(4, [], title, subtitle, page, sheet)
        image: Any = None
        for row, network in enumerate(("policy", "critic")):
            of_runs = rank_correlations(dataset, network)
            counts = np.sum(~np.isnan(of_runs), axis=0)
            left = np.where((counts == 0) | (counts == len(of_runs)), "", np.char.mod("\n(%d)", counts))
            for ax, what, matrix in zip(
                axes[2 * row :], ("average", "worst"), average_and_worst(of_runs), strict=False
            ):
                ax.set_title(f"{network.capitalize()}, {what} over runs")
                image = _draw_matrix(ax, matrix, left, list(RANKS.values()), is_narrow=not sheet.is_titled)
        first, last = axes[0].get_position(), axes[3].get_position()
        box = (last.x1 + 0.26 / figure.get_figwidth(), last.y0, 0.022, first.y1 - last.y0)
        bar = figure.colorbar(image, cax=figure.add_axes(box, label=COLOUR_BAR))
        bar.set_label("Spearman correlation")
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


_NONE = "\N{EN DASH}"


def _draw_matrix(ax: Axes, matrix: np.ndarray, notes: np.ndarray, names: Sequence[str], is_narrow: bool) -> Any:
    """One matrix as coloured cells with their numbers, and a note (text) below each."""
    image = ax.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu", aspect="auto")
    ticks = range(len(names))
    if is_narrow:
        ax.set_xticks(ticks, list(names), rotation=35, ha="right", rotation_mode="anchor")
    else:
        ax.set_xticks(ticks, [name.replace(" ", "\n") for name in names])
    ax.set_yticks(ticks, names)
    ax.grid(False)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    for row, column in np.ndindex(matrix.shape):
        value = matrix[row, column]
        text = _NONE if np.isnan(value) else _signed(float(value))
        colour = "white" if abs(value) > 0.6 else "0.1"
        ax.text(column, row, f"{text}{notes[row, column]}", ha="center", va="center", color=colour)
    return image


def _correlations(tau: float, rho: float, count: int) -> str:
    if math.isnan(tau):
        return f"no correlation, n = {count:,}"
    return f"\N{GREEK SMALL LETTER TAU} = {_signed(tau)}, \N{GREEK SMALL LETTER RHO} = {_signed(rho)}, n = {count:,}"


def _signed(correlation: float) -> str:
    """A correlation with a minus sign as it is typeset."""
    return format_number(correlation, 2).replace("-", "\N{MINUS SIGN}")
