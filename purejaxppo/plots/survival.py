"""Survival curves: the share of runs that have not collapsed yet, by point of the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.plots.channels import Channel, choose_channels, describe, line_style
from purejaxppo.plots.style import Page, format_steps, house_style, lay_out, say_empty, wrap
from purejaxppo.results.runs import describe_runs, last_step
from purejaxppo.statistics.collapse import EVENTS, SurvivalCurve, survival_by_point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "return": "Return",
    "rank": "Policy rank",
    "dead": "Dead policy neurons",
    "variance": "Policy variance",
}
_PAGE = Page(columns=2, right=1.6, panel_height=2.3, gap_x=2.1, before_colour_bar=1.7)
_PAGE_WITHOUT_COUNTS = Page(columns=2, panel_height=2.3)
_MOST_COUNTS = 20
_LONGEST_LABEL = 15
_LONGEST_NAME = 34


def survival_figure(dataset: xr.Dataset) -> Figure:
    """Share of runs that have not lost their return, rank, live neurons and variance yet, against steps.

    What each collapse is: `collapse.EVENTS`. A panel whose metric the dataset lacks says so.
    """
    panels = {event: _curves_of(dataset, event) for event in EVENTS}
    return draw_survival(panels, last_step(dataset), describe_runs(dataset))


def draw_survival(
    panels: Mapping[str, Sequence[tuple[dict[str, Any], SurvivalCurve]]], end: float, runs: str
) -> Figure:
    """One panel per event with a step line and its 95 % band per point, up to `end` steps.

    Beside a panel, with up to 20 points: their values, the runs that collapsed, and all runs (at risk at the start).
    """
    everything = [point for curves in panels.values() for point, _ in curves]
    is_counted = max(map(len, panels.values()), default=0) <= _MOST_COUNTS
    counts = " On the right: runs that collapsed / all runs." * is_counted
    subtitle = (
        f"{runs}. Kaplan-Meier estimates; bands: pointwise 95 % intervals (Greenwood, log-log). A run that ends "
        f"without the event is censored; a curve ends where its last run does.{counts} Return: below half of what was "
        "gained, to the end, or the run diverged. Rank: a quarter of its maximum, or 1. Dead: 95 % of the units. "
        "Variance: 1 % of its maximum. A run that never had a return or a rank to lose has not lost it."
    )
    with house_style():
        channels = choose_channels(everything)
        names = _names(everything, channels)
        beside = 0.55 + 0.067 * max(map(len, names.values()), default=0)  # inches that names and counts take
        wide = replace(_PAGE, right=max(_PAGE.right, beside), gap_x=max(_PAGE.gap_x, 0.5 + beside))
        title = "Survival: share of runs that have not collapsed yet"
        figure, axes = lay_out(
            len(panels), channels, title, wrap(subtitle), wide if is_counted else _PAGE_WITHOUT_COUNTS
        )
        for number, (ax, (event, curves)) in enumerate(zip(axes, panels.items(), strict=True)):
            ax.set_title(TITLES.get(event, event))
            ax.xaxis.set_major_formatter(format_steps)
            ax.set_xlim(0, end)
            ax.set_ylim(-0.03, 1.06)
            curves = [(point, curve) for point, curve in curves if curve.num_runs]
            if not curves:
                say_empty(ax)
                continue
            for point, curve in curves:
                _draw_curve(ax, curve, line_style(channels, point) | {"label": describe(point)}, end, len(curves))
            if is_counted:
                _count_events(ax, channels, names, curves)
            if number % _PAGE.columns == 0:
                ax.set_ylabel("share of runs")
        for ax in axes[-_PAGE.columns :]:
            ax.set_xlabel("environment steps")
    return figure


def _curves_of(dataset: xr.Dataset, event: str) -> list[tuple[dict[str, Any], SurvivalCurve]]:
    """The curves of one event; none where the dataset cannot tell it."""
    try:
        return survival_by_point(dataset, event)
    except ConfigError:
        return []


def _draw_curve(ax: Axes, curve: SurvivalCurve, style: dict[str, Any], end: float, num_curves: int) -> None:
    """A step line with its band, to the last step at which a run was seen; where none survives, to `end`."""
    last = curve.steps[-1] if curve.probability[-1] > 0 else max(end, curve.steps[-1])
    steps = np.append(curve.steps, last)
    probability, low, high = (np.append(part, part[-1]) for part in (curve.probability, curve.low, curve.high))
    if "marker" in style:
        style = style | {"markevery": max(1, steps.size // 4)}
    ax.plot(steps, probability, drawstyle="steps-post", linewidth=1.7, markeredgecolor="white", zorder=4, **style)
    alpha = float(np.clip(0.3 / np.sqrt(num_curves), 0.05, 0.2))
    ax.fill_between(steps, low, high, step="post", color=style["color"], alpha=alpha, linewidth=0)


def _names(everything: Sequence[dict[str, Any]], channels: Sequence[Channel]) -> dict[tuple[Any, ...], str]:
    """A short name of every point, as in the legend; cut where it is long, values sooner than named settings."""
    longest = _LONGEST_NAME if any(channel.names for channel in channels) else _LONGEST_LABEL
    return {
        tuple(point.values()): _cut(", ".join(channel.label(point) for channel in channels), longest)
        for point in everything
    }


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _count_events(
    ax: Axes,
    channels: Sequence[Channel],
    names: Mapping[tuple[Any, ...], str],
    curves: Sequence[tuple[dict[str, Any], SurvivalCurve]],
) -> None:
    """Collapsed / all runs of each curve beside the panel, in its colour."""
    texts = []
    for point, curve in curves:
        name = names[tuple(point.values())]
        texts.append((line_style(channels, point)["color"], name, f"{curve.num_events} / {curve.num_runs}"))
    size = 7.5 if len(texts) <= 14 else 5.5
    for number, (colour, label, count) in enumerate(texts):
        ax.annotate(
            f"{label}: {count}" if label else count,
            (1.0, 1.0),
            xytext=(5, -1.45 * size * (number + 0.5)),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            size=size,
            color=colour,
            annotation_clip=False,
        )
