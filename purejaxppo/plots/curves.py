"""Curves against environment steps: any metrics of any runs, and the overview."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.plots.captions import describe_lines, describe_sweep
from purejaxppo.plots.channels import Channel, choose_channels, describe, line_style
from purejaxppo.plots.collapsed import collapse_channel, collapse_sentence, collapse_texts, shows_return
from purejaxppo.plots.conditions import Conditions, Facet, arrange, check_field, group_by, select
from purejaxppo.plots.panels import OVERVIEW, Panel, panel_of
from purejaxppo.plots.references import describe_references, draw_references, reference_levels
from purejaxppo.plots.scales import declutter, set_scale
from purejaxppo.plots.sheets import PAGE, SCREEN, Page, Sheet, house_style, sheet_of
from purejaxppo.plots.style import columns_of, format_steps, lay_out, save_figure, say_empty
from purejaxppo.results.dataset import Point, check_results, points, swept_fields
from purejaxppo.results.runs import curves as values_of_runs
from purejaxppo.results.runs import feature_width, last_step
from purejaxppo.statistics.estimates import MIN_RUNS, bootstrap_interval, iqm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["OVERVIEW", "Panel", "curves", "draw_curves", "overview", "save_figure"]

_MOST_COLUMNS, _MOST_PAPER_COLUMNS = 4, 3
"""Of facets beside each other."""
_MOST_PLACES = 250
"""Log points at which single runs and bands are drawn: one every two or three pixels of a panel."""


def curves(
    dataset: xr.Dataset,
    metrics: str | Sequence[str],
    by: str | Sequence[str] | None = None,
    facet: str | None = None,
    where: Conditions | None = None,
    ax: Axes | None = None,
    sheet: Sheet = SCREEN,
) -> Figure:
    """Any metrics against environment steps: interquartile means over runs with their bands, and the runs themselves.

    metrics: names, a panel each. by: swept fields (or seed) whose combinations make the lines, all swept fields by
    default; runs that differ in other fields are pooled. facet: a field with panels of its own for each value; by
    default, where there are more than six lines. where: {field: value or list of values}, or texts like "pfo_coef=1",
    the runs to draw. ax: an Axes to draw one metric into, with a legend, in place of a figure of its own.
    Raises ConfigError for unknown metrics, fields and values, and where an Axes cannot hold what is asked for.
    """
    check_results(dataset)
    panels = [panel_of(dataset, metric) for metric in ([metrics] if isinstance(metrics, str) else metrics)]
    if not panels:
        raise ConfigError("metrics is empty, but must name at least one; `purejaxppo metrics` lists all.")
    fields = swept_fields(dataset) if by is None else [by] if isinstance(by, str) else list(by)
    fields = [check_field(dataset, field, "by") for field in fields]
    if facet is not None and check_field(dataset, facet, "facet") not in fields:
        fields = [facet, *fields]
    chosen = select(dataset, where)
    everything = group_by(chosen, fields)
    if ax is not None:
        return _draw_into(ax, chosen, panels, everything, facet)
    pooled = [field for field in swept_fields(chosen) if field not in fields and len(set(chosen[field].values)) > 1]
    caption = f"Lines pool all values of {' and '.join(pooled)}." * bool(pooled)
    title = ", ".join(panel.title for panel in panels) + " over training"
    return draw_curves(chosen, panels, everything, title, caption, sheet, facet)


def overview(dataset: xr.Dataset, sheet: Sheet = SCREEN) -> Figure:
    """Six panels against environment steps: what a run of PPO does to return and representation.

    One line per point of the axes: interquartile mean over its runs; band: 95 % bootstrap interval; thin lines: single
    runs; cross: a diverged run's last value. Lines have gaps where a metric has no value. Metrics that the dataset
    lacks leave an empty panel that says so. The figure belongs to no pyplot state; `save_figure` writes it.
    """
    return draw_curves(dataset, OVERVIEW, points(dataset), "Return and representation over training", sheet=sheet)


def draw_curves(
    dataset: xr.Dataset,
    panels: Sequence[Panel],
    everything: Sequence[Point],
    title: str,
    caption: str = "",
    sheet: Sheet = SCREEN,
    facet: str | None = None,
    is_counted: bool = True,
) -> Figure:
    """Panels against environment steps, with one line per point; `everything` may hold any choice of runs.

    Lines as in `overview`. Plasticity losses are measured at some log points only: their lines join the measurements.
    More than six lines are drawn in several facets, see `arrange`: a row of panels per metric, a column per facet.
    `is_counted`: whether collapsed runs are counted per point where the return is shown.
    """
    facets, channels = arrange(everything, facet)
    legends = list(channels)
    is_counted = is_counted and shows_return(panel.metric for panel in panels)
    if is_counted and (counts := collapse_channel(dataset, everything, channels, facets)):
        names_all = len(channels) == 1 and len(channels[0].levels) == len(everything)
        legends = [counts] if names_all else [*channels, counts]
        caption += f" {collapse_sentence()}"
    metrics = [panel.metric for panel in panels]
    read = f"{describe_sweep(dataset)}. {describe_lines(dataset, everything)}"
    caption = f"{read} {caption} {describe_references(dataset, metrics)}"
    cells, page = _cells(panels, facets, sheet, is_apart=facet == "env")
    with house_style(sheet):
        figure, axes = lay_out(len(cells), legends, title, caption, page, sheet)
        columns = columns_of(axes)
        for number, (ax, cell) in enumerate(zip(axes, cells, strict=True)):
            if cell is None:
                ax.set_visible(False)
                continue
            panel, part = cell
            is_first = len(facets) == 1 or number % columns == 0
            _draw_panel(ax, panel, part, dataset, channels, sheet)
            _name_panel(ax, panel, part, dataset, is_first, len(panels) == 1 or number // columns % len(panels) == 0)
            below = number + columns
            if below >= len(cells) or cells[below] is None:
                ax.tick_params(labelbottom=True)
                ax.set_xlabel("environment steps")
        _share_limits(axes, cells, dataset, bool(page.share_y))
        declutter(figure)
        return figure


Cell = tuple[Panel, Facet]


def _cells(
    panels: Sequence[Panel], facets: Sequence[Facet], sheet: Sheet, is_apart: bool
) -> tuple[list[Cell | None], Page]:
    """What each place of the grid shows, row by row, and the page: facets in blocks of columns, metrics below each
    other; with one facet the metrics, and with one metric the facets, fill the rows.
    """
    if len(facets) == 1 or len(panels) == 1:
        cells: list[Cell | None] = [(panel, facet) for panel in panels for facet in facets]
        columns = min(PAGE.columns, len(cells))
        share_y = len(panels) == 1 and not is_apart
    else:
        most = _MOST_COLUMNS if sheet.is_titled else _MOST_PAPER_COLUMNS
        blocks = -(-len(facets) // most)
        columns = -(-len(facets) // blocks)
        cells = []
        for begin in range(0, len(facets), columns):
            block = facets[begin : begin + columns]
            for panel in panels:
                cells += [*((panel, facet) for facet in block), *[None] * (columns - len(block))]
        share_y = not is_apart
    is_grid = len(facets) > 1
    page = Page(
        columns=columns,
        paper_columns=columns if is_grid and len(panels) > 1 else min(columns, PAGE.paper_columns),
        width=min(PAGE.width, 2.2 + 3.6 * columns),
        left=1.1 if is_grid and not sheet.is_titled else PAGE.left,  # labels of two lines
        right=0.28,
        gap_x=0.35 if is_grid and share_y else PAGE.gap_x,
        gap_y=0.32 if is_grid and len(panels) > 1 else PAGE.gap_y,
        above_panels=0.4 if is_grid else PAGE.above_panels,
        panel_height=1.7 if is_grid and len(panels) > 1 else PAGE.panel_height,
        share_y="row" if is_grid and share_y else False,
    )
    return cells, page


def _name_panel(ax: Axes, panel: Panel, facet: Facet, dataset: xr.Dataset, is_first: bool, is_top: bool) -> None:
    """Title and label: of the metric in the first column, of the facet on top."""
    width = feature_width(dataset) if panel.metric == "policy_dead_neurons" else None
    title = f"{panel.title} (of {width})" if width else panel.title
    lines = ([facet.name] if facet.name and is_top else []) + ([title] if is_first else [])
    ax.set_title("\n".join(lines))
    ax.set_ylabel(panel.label if is_first else "")
    ax.xaxis.set_major_formatter(format_steps)
    ax.set_xlim(0, last_step(dataset))


def _draw_panel(
    ax: Axes, panel: Panel, facet: Facet, dataset: xr.Dataset, channels: Sequence[Channel], sheet: Sheet
) -> None:
    """One curve per point of the facet."""
    if panel.metric not in dataset:
        return
    for number, (point, runs) in enumerate(facet.points):
        steps, values = values_of_runs(dataset, panel.metric, runs)
        has_diverged = dataset["status"].values[runs] != 0
        style = line_style(channels, point) | {"label": describe(point)}
        if "marker" in style:  # a few marks, at other places on every line
            every = max(1, steps.size // 6)
            style["markevery"] = (number % every, every)
        _draw_point(ax, steps, panel.sign * values, has_diverged, style, len(facet.points), sheet)


def _draw_point(
    ax: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    has_diverged: np.ndarray,
    style: dict[str, Any],
    num_points: int,
    sheet: Sheet,
) -> None:
    """One point of the axes: thin lines of its runs, band, and interquartile mean; steps [L], values [S, L]."""
    from matplotlib.collections import LineCollection

    colour, dash = style["color"], style["linestyle"]
    if values.shape[0] > 1:
        # Every run is shown, as outcomes may be bimodal; thousands of them as vectors make a PDF that no viewer opens.
        is_many = values.shape[0] * num_points > 64
        has_band = values.shape[0] >= MIN_RUNS
        # Of fewer runs the single ones are all that says how sure the middle is.
        alpha = np.clip(0.9 / np.sqrt(num_points), 0.25, 0.45) if has_band else 0.55
        shown = _spread(steps.size)
        runs = [np.column_stack([steps[shown], row]) for row in values[:, shown]]
        thin = LineCollection(
            runs,
            colors=colour,
            linestyles=[dash],
            linewidths=0.6 * sheet.stroke,
            alpha=alpha,
            zorder=2,
            rasterized=is_many,
        )
        ax.add_collection(thin, autolim=False)
        if has_band:
            low, high = bootstrap_interval(values[:, shown], iqm, num_resamples=1000)
            alpha = np.clip(0.3 / np.sqrt(num_points), 0.1, 0.2)
            ax.fill_between(steps[shown], low, high, color=colour, alpha=alpha, linewidth=0)
    middle = iqm(values)
    ax.plot(steps, middle, linewidth=1.7 * sheet.stroke, markersize=5, markeredgecolor="white", zorder=4, **style)
    # A value between two gaps is no line; it would not be seen.
    is_there = np.pad(np.isfinite(middle), 1)
    is_alone = is_there[1:-1] & ~is_there[:-2] & ~is_there[2:]
    if np.any(is_alone):
        ax.plot(steps[is_alone], middle[is_alone], ".", color=colour, markersize=4, zorder=4, clip_on=False)
    for run in np.flatnonzero(has_diverged):
        if (last := np.flatnonzero(np.isfinite(values[run]))).size:
            mark = (steps[last[-1]], values[run, last[-1]])
            ax.plot(*mark, "x", color=colour, markersize=5, markeredgewidth=1.4, zorder=5, clip_on=False)


def _spread(count: int) -> np.ndarray:
    """Places of at most 250 of so many log points, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, _MOST_PLACES)).round().astype(int))


def _share_limits(axes: Sequence[Axes], cells: Sequence[Cell | None], dataset: xr.Dataset, is_shared: bool) -> None:
    """Scale and limits of each panel's vertical axis from all that is shown on it, in the whole row if shared."""
    together: dict[tuple[int, str], list[tuple[Axes, Cell]]] = {}
    for number, (ax, cell) in enumerate(zip(axes, cells, strict=True)):
        if cell is not None:
            row = number // columns_of(axes) if is_shared else number
            together.setdefault((row, cell[0].metric), []).append((ax, cell))
    for members in together.values():
        panel = members[0][1][0]
        shown = {ax: _finite(dataset, panel, facet) for ax, (_, facet) in members}
        levels = {ax: reference_levels(dataset, panel.metric, facet.runs) for ax, (_, facet) in members}
        for ax, finite in shown.items():
            if finite.size == 0:
                say_empty(ax)
        finite = np.concatenate(list(shown.values()))
        if finite.size == 0:
            continue
        width = feature_width(dataset) if panel.metric == "policy_dead_neurons" else None
        extra = [level for found in levels.values() for level in found.values()]
        scale = set_scale(members[0][0], panel, np.append(finite, extra), width)
        for ax in shown:
            if width:
                ax.axhline(width, color="0.6", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
            draw_references(ax, levels[ax])
        label = members[0][0].get_ylabel()
        if scale == "symlog" or (panel.is_free and scale == "log"):
            members[0][0].set_ylabel(f"{label} ({scale})".strip())


def _finite(dataset: xr.Dataset, panel: Panel, facet: Facet) -> np.ndarray:
    """All finite values that a panel shows, [K]."""
    if panel.metric not in dataset:
        return np.zeros(0)
    values = [panel.sign * values_of_runs(dataset, panel.metric, runs)[1].ravel() for _, runs in facet.points]
    joined = np.concatenate(values or [np.zeros(0)])
    return joined[np.isfinite(joined)]


def _draw_into(
    ax: Axes, dataset: xr.Dataset, panels: Sequence[Panel], everything: Sequence[Point], facet: str | None
) -> Figure:
    """One panel in an Axes of the user's, with a legend of its lines, which counts collapsed runs beside a return."""
    if len(panels) != 1 or facet is not None:
        raise ConfigError(
            f"ax holds one metric without facets, but {len(panels)} metrics and facet {facet} are asked for; leave ax "
            "out."
        )
    # All in one panel, as it is the user's own, so that all fields must tell lines apart.
    channels = choose_channels([point for point, _ in everything])
    cell = panels[0], Facet(name="", points=tuple(everything))
    figure, num_earlier = ax.get_figure(root=True), len(ax.lines)
    _draw_panel(ax, *cell, dataset, channels, sheet_of(figure))
    _name_panel(ax, *cell, dataset, is_first=True, is_top=True)
    ax.set_xlabel("environment steps")
    _share_limits([ax], [cell], dataset, False)
    counts = collapse_texts(dataset, everything) if shows_return([panels[0].metric]) else None
    for (point, _), count in zip(everything, counts or (), strict=False):
        for line in ax.lines[num_earlier:]:
            if line.get_label() == describe(point):
                line.set_label(f"{describe(point)}: {count}")
    if counts or len(everything) > 1:
        ax.legend(fontsize="small", frameon=False)
    return figure  # pyright: ignore[reportReturnType]
