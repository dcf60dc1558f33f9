"""Figure 6: final values per intervention, as horizontal box plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.plots.captions import describe_sweep, say_diverged
from purejaxppo.plots.channels import bundled_fields, choose_channels, line_style, point_names, varying_fields
from purejaxppo.plots.collapsed import collapse_sentence, collapse_texts
from purejaxppo.plots.files import KEY
from purejaxppo.plots.panels import FIGURE_6, Panel
from purejaxppo.plots.references import describe_references, draw_references, reference_levels
from purejaxppo.plots.scales import declutter, set_scale
from purejaxppo.plots.sheets import SCREEN, Page, Sheet, house_style, wrap_text
from purejaxppo.plots.style import lay_out, say_empty
from purejaxppo.results.dataset import Point, points
from purejaxppo.statistics.summary import finals_or_worst

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WHISKER = 1.5  # times the interquartile range, as everywhere
_ROW_HEIGHT = 0.24
_LINE = 0.65  # of a further line in a row, times that
_LABEL, _PAPER_LABEL = 50, 26  # letters in a line
_MOST_OF_TWO_COLUMNS = 3.0  # inches: rows of more height stand in three columns on a paper
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


def box_plots(dataset: xr.Dataset, sheet: Sheet = SCREEN, pooled: Sequence[str] = ("num_epochs",)) -> Figure:
    """Figure 6: the distribution over runs of six final values, one box per point of the axes.

    Fields in `pooled` do not make boxes of their own where others are swept as well (the paper pools three epoch counts
    with five seeds). Values are means over the last 5 % of the log points, of ratios and plasticity losses over the
    last 5 % that have any; of a run that diverged they are the worst case (`finals_or_worst`). Runs without a value are
    left out, infinite ones are counted at the right edge.
    """
    everything, names = _pool(points(dataset), pooled)
    finals = {
        panel.metric: finals_or_worst(dataset, panel.metric) if panel.metric in dataset else None for panel in FIGURE_6
    }
    swept = [point for point, _ in everything]
    labels = point_names(swept, equals=" ")
    all_runs = np.concatenate([runs for _, runs in everything] or [np.zeros(0, dtype=int)])
    counts = collapse_texts(dataset, everything)
    caption = _caption(dataset, everything, names, finals)
    if counts is not None:
        named = [f"{label}: {count}" for label, count in zip(labels, counts, strict=True)]
        caption += f" {collapse_sentence()}" + f" {'; '.join(named)}." * (not sheet.is_titled)
    rows = _rows(labels, counts or [""] * len(labels), sheet)
    bundle = bundled_fields(swept)
    varying = ", ".join([field for field in varying_fields(swept) if field not in bundle] + ["setting"] * bool(bundle))
    title = "Figure 6: final values" + f" by {varying}" * bool(varying)
    with house_style(sheet):
        figure, axes = lay_out(len(FIGURE_6), [], title, caption, _page(rows, sheet), sheet)
        places, total = _places(rows)
        channels = choose_channels(swept)
        styles = [line_style(channels, point) for point, _ in everything]
        for ax, panel in zip(axes, FIGURE_6, strict=True):
            ax.set_title(panel.title if sheet.is_titled else panel.short or panel.title)
            ax.set_xlabel(panel.label)
            values = finals[panel.metric]
            groups = [np.zeros(0) if values is None else values[runs] for _, runs in everything]
            _draw_boxes(ax, panel, groups, places, styles, reference_levels(dataset, panel.metric, all_runs))
            ax.set_yticks(places, rows)
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", visible=False)
            ax.set_ylim(total - 0.4, -0.6)  # the first point on top
        declutter(figure)
    return figure


def _rows(names: Sequence[str], counts: Sequence[str], sheet: Sheet) -> list[str]:
    """What stands beside the rows: names, on the screen with their counts, in lines so short that panels have room."""
    if not sheet.is_titled:
        return [wrap_text(name, _PAPER_LABEL) for name in names]
    rows = []
    for name, count in zip(names, counts, strict=True):
        whole = ": ".join(filter(None, [name, count]))
        parts = [f"{name}:", count] if count else [name]
        rows.append(whole if len(whole) <= _LABEL else "\n".join(wrap_text(part, _LABEL) for part in parts))
    return rows


def _places(rows: Sequence[str]) -> tuple[list[float], float]:
    """The middle of each row, in heights of a row of one line, the first of which is at 0; and the height of all."""
    heights = np.array([1 + _LINE * row.count("\n") for row in rows])
    return (np.cumsum(heights) - heights / 2 - 0.5).tolist(), float(heights.sum())


def _page(rows: Sequence[str], sheet: Sheet) -> Page:
    """Room for the names of the rows on the left, and for every row."""
    left = 0.4 + 0.066 * max([len(line) for row in rows for line in row.split("\n")] + [0])
    height = max(1.4, 0.3 + _ROW_HEIGHT * _places(rows)[1])
    is_high = not sheet.is_titled and height > _MOST_OF_TWO_COLUMNS
    return Page(
        paper_columns=3 if is_high else 2,
        bottom=0.72 if is_high else Page.bottom,  # labels of two lines
        left=left,
        panel_height=height,
        is_rigid=True,
        gap_x=0.45,
        gap_y=0.98 if is_high else 0.78,
        share_x=False,
        share_y=True,
        text_left=0.4,
    )


def _caption(
    dataset: xr.Dataset, everything: Sequence[Point], names: Sequence[str], finals: Mapping[str, np.ndarray | None]
) -> str:
    over = f", over all values of {' and '.join(names)}" if names else ""
    counts = sorted({runs.size for _, runs in everything}) or [0]
    per_box = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    plural = "s" * (counts != [1])
    has_infinite = any(values is not None and np.any(np.isinf(values)) for values in finals.values())
    has_missing = any(values is None or np.any(np.isnan(values)) for values in finals.values())
    worst = say_diverged(dataset, list(finals), np.arange(dataset.sizes["run"]))
    missing = " Runs without a value are left out." * has_missing
    infinite = f" {_INFINITY}: number of infinite values; they count as the largest." * has_infinite
    return (
        f"{describe_sweep(dataset)}. Each box: the final values of {per_box} run{plural}{over}; a final value is the "
        "mean over the last 5 % of log points (ratios: the last that have any; plasticity: the last 5 % of "
        "measurements). Line: median. Diamond: mean. Box: quartiles. Whiskers: 1.5 interquartile ranges. Dots: "
        f"outliers.{worst}{missing}{infinite} {describe_references(dataset, list(finals))}"
    )


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


def _draw_boxes(
    ax: Axes,
    panel: Panel,
    groups: Sequence[np.ndarray],
    places: Sequence[float],
    styles: Sequence[Mapping[str, Any]],
    references: Mapping[str, float],
) -> None:
    """One row per group of values, the levels that they are read against, and the scale of the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    boxes = [box_of(values) for values in groups]
    finite = np.concatenate([values[np.isfinite(values)] for values in groups] or [np.zeros(0)])
    if finite.size == 0:
        if all(box is None for box in boxes):
            say_empty(ax, is_vertical=False)
            return
        ax.set_xticks([])  # all infinite: counted, at no place on an axis
        ax.set_xlim(0, 1)
    else:
        scale = set_scale(ax, panel, np.append(finite, list(references.values())), is_vertical=False)
        if scale == "linear":
            ax.xaxis.set_major_locator(MaxNLocator(5, integer=panel.is_count, steps=[1, 2, 5, 10]))
        draw_references(ax, references, is_vertical=False)
    edge = ax.get_xlim()[1]
    for row, (box, place, style) in enumerate(zip(boxes, places, styles, strict=True)):
        if box is not None:
            _draw_box(ax, place, box, style, edge).set_gid(f"{KEY}row {row + 1}")


def _draw_box(ax: Axes, row: float, box: Box, style: Mapping[str, Any], edge: float) -> Any:
    """One box; what is infinite ends at the right edge of the panel, where the infinite values are counted."""
    ends = np.minimum([box.low_whisker, box.low, box.median, box.high, box.high_whisker], edge)
    stats: dict[str, Any] = dict(zip(("whislo", "q1", "med", "q3", "whishi"), ends.tolist(), strict=True))
    stats |= {"mean": box.mean if np.isfinite(box.mean) else np.nan, "fliers": box.outliers}
    colour, thin = style["color"], {"color": style["color"], "linewidth": 1.0}
    drawn = ax.bxp(
        [stats],
        positions=[row],
        widths=0.62,
        orientation="horizontal",
        showmeans=True,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": (*_rgb(colour), 0.3), "edgecolor": colour, "linewidth": 1.0},
        whiskerprops=thin | {"linestyle": style["linestyle"]},
        capprops=thin,
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
    return drawn["boxes"][0]


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
