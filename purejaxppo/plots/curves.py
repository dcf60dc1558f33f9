"""Curves against environment steps: the overview, and any panels of any runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.plots.channels import Channel, choose_channels, describe, line_style
from purejaxppo.plots.panels import OVERVIEW, Panel
from purejaxppo.plots.style import PAGE, format_steps, house_style, lay_out, save_figure, say_empty
from purejaxppo.results.dataset import Point, points
from purejaxppo.results.runs import curves, describe_runs, feature_width, how_to_read, last_step
from purejaxppo.statistics.estimates import bootstrap_interval, iqm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "OVERVIEW",
    "Panel",
    "curves",
    "describe_runs",
    "draw_curves",
    "how_to_read",
    "overview",
    "save_figure",
]


def overview(dataset: xr.Dataset) -> Figure:
    """Six panels against environment steps: what a run of PPO does to return and representation.

    One line per point of the axes: interquartile mean over its runs; band: 95 % bootstrap interval; thin lines: single
    runs; cross: a diverged run's last value. Lines have gaps where a metric has no value. Metrics that the dataset
    lacks leave an empty panel that says so. The figure belongs to no pyplot state; `save_figure` writes it.
    """
    return draw_curves(dataset, OVERVIEW, points(dataset), describe_runs(dataset), how_to_read(dataset))


def draw_curves(
    dataset: xr.Dataset, panels: Sequence[Panel], everything: Sequence[Point], title: str, subtitle: str
) -> Figure:
    """Panels against environment steps, with one line per point; `everything` may hold any choice of runs.

    Lines as in `overview`. Plasticity losses are measured at some log points only: their lines join the measurements.
    """
    with house_style():
        channels = choose_channels([point for point, _ in everything])
        figure, axes = lay_out(len(panels), channels, title, subtitle)
        for ax, panel in zip(axes, panels, strict=True):
            _draw_panel(ax, panel, dataset, everything, channels)
        for ax in axes[-PAGE.columns :]:
            ax.set_xlabel("environment steps")
        return figure


def _draw_panel(
    ax: Axes,
    panel: Panel,
    dataset: xr.Dataset,
    everything: Sequence[Point],
    channels: Sequence[Channel],
) -> None:
    """Title, labels, one curve per point, and axis limits."""
    width = feature_width(dataset) if panel.metric == "policy_dead_neurons" else None
    ax.set_title(f"{panel.title} (of {width})" if width else panel.title)
    ax.set_ylabel(panel.label)
    ax.xaxis.set_major_formatter(format_steps)
    ax.set_xlim(0, last_step(dataset))
    shown = []
    for number, (point, runs) in enumerate(everything):
        if panel.metric not in dataset:
            break
        steps, values = curves(dataset, panel.metric, runs)
        values = panel.sign * values
        has_diverged = dataset["status"].values[runs] != 0
        style = line_style(channels, point) | {"label": describe(point)}
        if "marker" in style:  # a few marks, at other places on every line
            every = max(1, steps.size // 6)
            style["markevery"] = (number % every, every)
        _draw_point(ax, steps, values, has_diverged, style, len(everything))
        shown.append(values)
    finite = np.concatenate([values[np.isfinite(values)] for values in shown] or [np.zeros(0)])
    if finite.size == 0:
        say_empty(ax)
        return
    if width:
        ax.axhline(width, color="0.6", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    _set_limits(ax, panel, finite, width)


def _draw_point(
    ax: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    has_diverged: np.ndarray,
    style: dict[str, Any],
    num_points: int,
) -> None:
    """One point of the axes: thin lines of its runs, band, and interquartile mean; steps [L], values [S, L]."""
    from matplotlib.collections import LineCollection

    colour = style["color"]
    if values.shape[0] > 1:
        # Every run is shown, as outcomes may be bimodal; thousands of them as vectors make a PDF that no viewer opens.
        is_many = values.shape[0] * num_points > 64
        alpha = np.clip(0.9 / np.sqrt(num_points), 0.2, 0.4)
        runs = [np.column_stack([steps, row]) for row in values]
        thin = LineCollection(runs, colors=colour, linewidths=0.6, alpha=alpha, zorder=2, rasterized=is_many)
        ax.add_collection(thin, autolim=False)
        low, high = bootstrap_interval(values, iqm, num_resamples=1000)
        alpha = np.clip(0.3 / np.sqrt(num_points), 0.08, 0.2)
        ax.fill_between(steps, low, high, color=colour, alpha=alpha, linewidth=0)
    middle = iqm(values)
    ax.plot(steps, middle, linewidth=1.7, markersize=5, markeredgecolor="white", zorder=4, **style)
    # A value between two gaps is no line; it would not be seen.
    is_there = np.pad(np.isfinite(middle), 1)
    is_alone = is_there[1:-1] & ~is_there[:-2] & ~is_there[2:]
    if np.any(is_alone):
        ax.plot(steps[is_alone], middle[is_alone], ".", color=colour, markersize=4, zorder=4, clip_on=False)
    for run in np.flatnonzero(has_diverged):
        if (last := np.flatnonzero(np.isfinite(values[run]))).size:
            mark = (steps[last[-1]], values[run, last[-1]])
            ax.plot(*mark, "x", color=colour, markersize=5, markeredgewidth=1.4, zorder=5, clip_on=False)


def _set_limits(ax: Axes, panel: Panel, finite: np.ndarray, width: int | None) -> None:
    """Scale and limits of the vertical axis from all finite values shown."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    positive = finite[finite > 0]
    if panel.is_log and positive.size:  # all zero: a linear axis shows it, a logarithmic one cannot
        low, high = np.log10(positive.min()), np.log10(positive.max())
        margin = max(0.05 * (high - low), 0.5 * (0.6 - (high - low)))  # at least a factor of 4, so that ticks appear
        ax.set_yscale("log", nonpositive="clip")
        ax.set_ylim(10 ** (low - margin), 10 ** (high + margin))
        subs = (1.0, 2.0, 5.0) if high - low < 2 else (1.0,)
        ax.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
        ax.yaxis.set_major_formatter(format_steps)
        ax.yaxis.set_minor_formatter(NullFormatter())
    elif panel.is_from_zero:
        top = max(width or 0.0, float(finite.max())) or 1.0
        ax.set_ylim(-0.03 * top, 1.05 * top)
        if panel.is_count:
            ax.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    else:
        span = float(finite.max() - finite.min()) or max(1.0, 0.1 * abs(float(finite.max())))
        ax.set_ylim(finite.min() - 0.05 * span, finite.max() + 0.05 * span)
    if not panel.is_log:
        ax.ticklabel_format(axis="y", useOffset=False)
        if np.abs(finite).max() >= 10_000:
            ax.yaxis.set_major_formatter(format_steps)
