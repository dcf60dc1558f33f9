"""Figure 6: final values per intervention, as horizontal box plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.plots.channels import bundled_fields, choose_channels, line_style, point_names, varying_fields
from purejaxppo.plots.panels import FIGURE_6, Panel
from purejaxppo.plots.style import Page, format_steps, house_style, lay_out, say_empty, wrap
from purejaxppo.results.dataset import Point, points
from purejaxppo.results.runs import describe_runs
from purejaxppo.statistics.summary import final_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRACTION = 0.05
_WHISKER = 1.5  # times the interquartile range, as everywhere
_ROW_HEIGHT = 0.24
_INFINITY = "\N{INFINITY}"


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box plot of some values: quartiles (linear; an infinite value counts as the largest), mean, whiskers (the last
    value within 1.5 interquartile ranges of the box), and the finite values beyond them.
    """

    low_whisker: float
    low: float
    median: float
    high: float
    high_whisker: float
    mean: float
    outliers: np.ndarray
    num_infinite: int


def box_plots(dataset: xr.Dataset, pooled: Sequence[str] = ("num_epochs",)) -> Figure:
    """Figure 6: the distribution over runs of six final values, one box per point of the axes.

    Fields in `pooled` do not make boxes of their own where others are swept as well (the paper pools three epoch counts
    with five seeds). Values are means over the last 5 % of the log points, of ratios and plasticity losses over the
    last 5 % that have any: `final_values`. Runs without a value are left out, infinite ones are counted at the right
    edge.
    """
    everything, names = _pool(points(dataset), pooled)
    finals = {
        panel.metric: final_values(dataset, panel.metric, FRACTION).values if panel.metric in dataset else None
        for panel in FIGURE_6
    }
    swept = [point for point, _ in everything]
    labels = point_names(swept, equals=" ")
    over = f", over all values of {' and '.join(names)}" if names else ""
    counts = sorted({runs.size for _, runs in everything}) or [0]
    per_box = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    plural = "s" * (counts != [1])
    has_infinite = any(values is not None and np.any(np.isinf(values)) for values in finals.values())
    has_missing = any(values is None or np.any(np.isnan(values)) for values in finals.values())
    num_diverged = int(np.sum(dataset["status"].values != 0))
    diverged = f" ({num_diverged} of {dataset.sizes['run']} diverged)" * bool(num_diverged)
    missing = f" Runs without a value are left out{diverged}." * bool(has_missing or num_diverged)
    infinite = f" {_INFINITY}: number of infinite values; they count as the largest." * has_infinite
    subtitle = (
        f"{describe_runs(dataset)}. Each box: the final values of {per_box} run{plural}{over}; a final value is the "
        "mean over the last 5 % of log points (ratios: the last that have any; plasticity: the last 5 % of "
        "measurements). Line: median. Diamond: mean. Box: quartiles. Whiskers: 1.5 interquartile ranges. Dots: "
        f"outliers.{missing}{infinite}"
    )
    bundle = bundled_fields(swept)
    varying = ", ".join([field for field in varying_fields(swept) if field not in bundle] + ["setting"] * bool(bundle))
    with house_style():
        left = 0.5 + 0.068 * max([len(label) for label in labels] + [0])
        rows = max(1.4, 0.3 + _ROW_HEIGHT * len(labels))
        page = Page(
            width=max(11.0, 7.5 + left),
            left=left,
            panel_height=rows,
            gap_x=0.45,
            gap_y=0.78,
            share_x=False,
            share_y=True,
            text_left=0.4,
        )
        title = "Figure 6: final values" + f" by {varying}" * bool(varying)
        figure, axes = lay_out(len(FIGURE_6), [], title, wrap(subtitle), page)
        channels = choose_channels(swept)
        colours = [line_style(channels, point)["color"] for point, _ in everything]
        for ax, panel in zip(axes, FIGURE_6, strict=True):
            ax.set_title(panel.title)
            ax.set_xlabel(panel.label)
            values = finals[panel.metric]
            _draw_boxes(ax, panel, [np.zeros(0) if values is None else values[runs] for _, runs in everything], colours)
            ax.set_yticks(range(len(labels)), labels)
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", visible=False)
            ax.set_ylim(len(labels) - 0.4, -0.6)  # the first point on top
    return figure


def box_of(values: np.ndarray) -> Box | None:
    """The box of some values [S], NaN left out; None where nothing is left."""
    values = np.sort(values[~np.isnan(values)])
    if values.size == 0:
        return None
    low, median, high = _quartiles(values)
    finite = values[np.isfinite(values)]
    reach = _WHISKER * (high - low) if np.isfinite(low) else 0.0
    inside = finite[(finite >= low - reach) & (finite <= high + reach)]
    return Box(
        low_whisker=min(inside.min(initial=low), low),
        low=low,
        median=median,
        high=high,
        high_whisker=max(inside.max(initial=high), high),
        mean=float(np.mean(values)),
        outliers=finite[(finite < low - reach) | (finite > high + reach)],
        num_infinite=values.size - finite.size,
    )


def _quartiles(ordered: np.ndarray) -> tuple[float, float, float]:
    """Linear quartiles of sorted values; between a finite value and infinity, and between infinities: infinity."""
    position = np.array([0.25, 0.5, 0.75]) * (ordered.size - 1)
    below, above = ordered[np.floor(position).astype(int)], ordered[np.ceil(position).astype(int)]
    share = position - np.floor(position)
    with np.errstate(invalid="ignore"):
        between = np.where(below == above, below, below + share * (above - below))
    low, median, high = between.tolist()
    return low, median, high


def _draw_boxes(ax: Axes, panel: Panel, groups: Sequence[np.ndarray], colours: Sequence[Any]) -> None:
    """One row per group of values, and the scale and limits of the horizontal axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    boxes = [box_of(values) for values in groups]
    finite = np.concatenate([values[np.isfinite(values)] for values in groups] or [np.zeros(0)])
    if finite.size == 0 and all(box is None for box in boxes):
        say_empty(ax, is_vertical=False)
        return
    is_log = panel.is_log and finite.size > 0 and bool(np.all(finite > 0))
    shown = np.log10(finite) if is_log else finite
    low, high = float(shown.min(initial=np.inf)), float(shown.max(initial=-np.inf))
    if finite.size == 0:
        low, high = 0.0, 1.0
    margin = 0.05 * (high - low) or (0.3 if is_log else max(0.5, 0.05 * abs(high)))
    left, right = low - margin, high + margin
    if panel.is_from_zero:
        left = min(left, -0.03 * right)
    if is_log:
        ax.set_xscale("log")
        left, right = 10**left, 10**right
        spread = high - low
        locator = LogLocator(subs=(1.0, 2.0, 5.0) if spread < 1.3 else (1.0,), numticks=7)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]) if spread < 0.7 else locator)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter(format_power if high >= 10 or low <= -4 else format_steps)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=panel.is_count, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(format_steps)
    if finite.size == 0:  # all infinite: counted, at no place on an axis
        ax.set_xticks([])
    ax.set_xlim(left, right)
    for row, (box, colour) in enumerate(zip(boxes, colours, strict=True)):
        if box is not None:
            _draw_box(ax, row, box, colour, right)


def _draw_box(ax: Axes, row: int, box: Box, colour: Any, edge: float) -> None:
    """One box; what is infinite ends at the right edge of the panel, where the infinite values are counted."""
    ends = np.minimum([box.low_whisker, box.low, box.median, box.high, box.high_whisker], edge)
    stats: dict[str, Any] = dict(zip(("whislo", "q1", "med", "q3", "whishi"), ends.tolist(), strict=True))
    stats |= {"mean": box.mean if np.isfinite(box.mean) else np.nan, "fliers": box.outliers}
    ax.bxp(
        [stats],
        positions=[row],
        widths=0.62,
        orientation="horizontal",
        showmeans=True,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": (*_rgb(colour), 0.3), "edgecolor": colour, "linewidth": 1.0},
        whiskerprops={"color": colour, "linewidth": 1.0},
        capprops={"color": colour, "linewidth": 1.0},
        medianprops={"color": colour, "linewidth": 2.2, "solid_capstyle": "butt"},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "0.1", "markersize": 4.2},
        flierprops={"marker": "o", "markersize": 2.6, "markerfacecolor": colour, "markeredgewidth": 0, "alpha": 0.6},
        zorder=3,
    )
    if box.num_infinite:
        ax.annotate(
            f"{_INFINITY} {box.num_infinite}",
            (1.0, row),
            xytext=(3, 0),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            size=8,
            color="0.25",
            annotation_clip=False,
        )


def format_power(value: float, _position: float | None = None) -> str:
    """A power of ten where numbers span too much for words: 1, 100, $10^{5}$."""
    exponent = round(np.log10(value)) if value > 0 else 0
    return f"{value:g}" if 0 <= exponent <= 3 else f"$10^{{{exponent}}}$"


def _rgb(colour: Any) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)


def _pool(everything: Sequence[Point], pooled: Sequence[str]) -> tuple[list[Point], list[str]]:
    """The points without the pooled fields, their runs joined, and the fields that were pooled; all of them stay where
    nothing else differs between points.
    """
    varying = varying_fields([point for point, _ in everything])
    names = [name for name in pooled if name in varying]
    if not set(varying) - set(names):
        names = []
    members: dict[tuple[Any, ...], list[np.ndarray]] = {}
    fields: dict[tuple[Any, ...], dict[str, Any]] = {}
    for point, runs in everything:
        rest = {name: value for name, value in point.items() if name not in names}
        fields.setdefault(tuple(rest.values()), rest)
        members.setdefault(tuple(rest.values()), []).append(runs)
    return [(fields[key], np.concatenate(parts)) for key, parts in members.items()], names
