"""Survival curves: the share of runs that have not collapsed yet, by point of the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.plots.captions import describe_sweep
from purejaxppo.plots.channels import Channel, condition_names, describe, line_style
from purejaxppo.plots.collapsed import collapse_channel, collapse_sentence
from purejaxppo.plots.conditions import arrange
from purejaxppo.plots.scales import declutter
from purejaxppo.plots.sheets import SCREEN, Page, Sheet, house_style
from purejaxppo.plots.style import columns_of, format_steps, lay_out, say_empty
from purejaxppo.results.dataset import points
from purejaxppo.results.runs import last_step
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
Curves = Sequence[tuple[dict[str, Any], SurvivalCurve]]
_LONGEST_NAME = 24


def survival_figure(dataset: xr.Dataset, sheet: Sheet = SCREEN) -> Figure:
    """Share of runs that have not lost their return, rank, live neurons and variance yet, against steps.

    What each collapse is: `collapse.EVENTS`. A panel whose metric the dataset lacks says so.
    """
    panels = {event: _curves_of(dataset, event) for event in EVENTS}
    facets, channels = arrange(points(dataset))
    counts = collapse_channel(dataset, points(dataset), channels, facets)
    return draw_survival(panels, last_step(dataset), describe_sweep(dataset), sheet, counts)


def draw_survival(
    panels: Mapping[str, Curves], end: float, runs: str, sheet: Sheet = SCREEN, counts: Channel | None = None
) -> Figure:
    """One panel per event with a step line and its 95 % band per point, up to `end` steps.

    Beside a panel: its points, the runs of each that had the event, and all runs; on a paper that is in the caption.
    More than six points are drawn in several facets (`arrange`). `counts`: a legend of runs whose return collapsed.
    """
    everything = list({str(point): point for curves in panels.values() for point, _ in curves}.values())
    facets, channels = arrange([(point, np.array([number])) for number, point in enumerate(everything)])
    names = dict(zip(map(str, everything), condition_names(everything, channels), strict=True))
    shown = [(event, facet) for event in panels for facet in facets]
    page = _page(list(names.values()), len(facets), sheet)
    legends = [counts] if counts and len(channels) == 1 else channels
    legends = [*legends, counts] if counts and counts not in legends else legends
    with house_style(sheet):
        title = "Survival: share of runs that have not collapsed yet"
        caption = _caption(panels, runs, sheet) + (f" {collapse_sentence()}" if counts else "")
        figure, axes = lay_out(len(shown), legends, title, caption, page, sheet)
        columns = columns_of(axes)
        for number, (ax, (event, facet)) in enumerate(zip(axes, shown, strict=True)):
            ax.set_title("\n".join(filter(None, [facet.name, TITLES.get(event, event)])))
            ax.xaxis.set_major_formatter(format_steps)
            ax.set_xlim(0, end)
            ax.set_ylim(-0.03, 1.06)
            if number % columns == 0:
                ax.set_ylabel("share of runs")
            if number + columns >= len(axes):
                ax.tick_params(labelbottom=True)
                ax.set_xlabel("environment steps")
            members = [str(point) for point, _ in facet.points]
            curves = [(point, curve) for point, curve in panels[event] if curve.num_runs and str(point) in members]
            if not curves:
                say_empty(ax)
                continue
            for point, curve in curves:
                style = line_style(channels, point) | {"label": describe(point)}
                _draw_curve(ax, curve, style, end, len(curves), sheet)
            if sheet.is_titled:
                _count_events(ax, channels, names, curves)
        declutter(figure)
    return figure


def _page(names: Sequence[str], num_facets: int, sheet: Sheet) -> Page:
    """Two panels beside each other, or as many as there are facets up to three, with room for the counts."""
    columns = 3 if num_facets == 3 else 2
    heading = 0.16 * (num_facets > 1)
    page = Page(
        columns=columns, paper_columns=columns, panel_height=2.3, gap_y=0.5 + heading, above_panels=0.22 + heading
    )
    if not sheet.is_titled:
        return page
    beside = 0.55 + 0.067 * min(_LONGEST_NAME, max(map(len, names), default=0))  # inches that names and counts take
    width = max(11.0, page.left + columns * (2.4 + 0.5 + beside))
    return replace(page, width=width, right=max(1.0, beside), gap_x=0.5 + beside, before_colour_bar=beside + 0.1)


def _caption(panels: Mapping[str, Curves], runs: str, sheet: Sheet) -> str:
    """How to read the lines; of a figure for a paper also how many runs had each event."""
    text = (
        f"{runs}. Kaplan-Meier estimates, bands: pointwise 95 % intervals. A run that ends without the event is "
        "censored; a curve ends where its last run does."
    )
    for event in panels:
        text += f" {TITLES[event]}: {EVENTS[event][1]}." if event in EVENTS else ""
    if sheet.is_titled:
        return f"{text} On the right: runs with the event / all runs."
    for event, curves in panels.items():
        found = [f"{describe(point)} {curve.num_events} / {curve.num_runs}" for point, curve in curves]
        text += f" {TITLES.get(event, event)}, runs with the event / all runs: {'; '.join(found)}." * bool(found)
    return text


def _curves_of(dataset: xr.Dataset, event: str) -> list[tuple[dict[str, Any], SurvivalCurve]]:
    """The curves of one event; none where the dataset cannot tell it."""
    try:
        return survival_by_point(dataset, event)
    except ConfigError:
        return []


def _draw_curve(
    ax: Axes, curve: SurvivalCurve, style: dict[str, Any], end: float, num_curves: int, sheet: Sheet
) -> None:
    """A step line with its band, to the last step at which a run was seen; where none survives, to `end`."""
    last = curve.steps[-1] if curve.probability[-1] > 0 else max(end, curve.steps[-1])
    steps = np.append(curve.steps, last)
    probability, low, high = (np.append(part, part[-1]) for part in (curve.probability, curve.low, curve.high))
    if "marker" in style:
        style = style | {"markevery": max(1, steps.size // 4)}
    width = 1.7 * sheet.stroke
    ax.plot(steps, probability, drawstyle="steps-post", linewidth=width, markeredgecolor="white", zorder=4, **style)
    alpha = float(np.clip(0.3 / num_curves, 0.05, 0.2))  # without an event all bands lie on each other
    ax.fill_between(steps, low, high, step="post", color=style["color"], alpha=alpha, linewidth=0)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _count_events(ax: Axes, channels: Sequence[Channel], names: Mapping[str, str], curves: Curves) -> None:
    """Runs with the event / all runs of each curve beside the panel, in its colour."""
    size = 7.5
    for number, (point, curve) in enumerate(curves):
        name = _cut(names[str(point)], _LONGEST_NAME)
        ax.annotate(
            f"{name}: {curve.num_events} / {curve.num_runs}",
            (1.0, 1.0),
            xytext=(5, -1.45 * size * (number + 0.5)),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            size=size,
            color=line_style(channels, point)["color"],
            annotation_clip=False,
        )
