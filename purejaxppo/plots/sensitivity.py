"""What a swept number does: final values against it, and their difference from a level of reference, with bands."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.claims.interventions import DEFAULTS
from purejaxppo.errors import ConfigError
from purejaxppo.plots.captions import describe_sweep, say_bands, say_diverged
from purejaxppo.plots.channels import Channel, describe, is_intervention, is_number, line_style
from purejaxppo.plots.collapsed import collapse_channel, collapse_sentence, shows_return
from purejaxppo.plots.conditions import arrange, check_field, select
from purejaxppo.plots.panels import NORM, POLICY_RANK, RETURN, Panel, panel_of
from purejaxppo.plots.references import describe_references, draw_references, reference_levels
from purejaxppo.plots.scales import declutter, set_scale
from purejaxppo.plots.sheets import PAGE, SCREEN, Sheet, house_style
from purejaxppo.plots.style import lay_out, say_empty
from purejaxppo.results.dataset import points, swept_fields
from purejaxppo.statistics.contrasts import difference
from purejaxppo.statistics.estimates import Estimate, bootstrap_interval, iqm
from purejaxppo.statistics.summary import finals_or_worst
from purejaxppo.statistics.tables import format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEFAULT = (RETURN, POLICY_RANK, NORM)
METRICS = tuple(panel.metric for panel in _DEFAULT)
"""What is shown where nothing is asked for; those that the results lack leave an empty panel."""
_FEW = 3
"""Levels that make a swept number worth a figure of its own."""
Line = tuple[dict[str, Any], dict[float, np.ndarray]]
"""The other swept values, and the runs [S] at each level of the number."""


def sensitivity(
    dataset: xr.Dataset,
    metrics: str | Sequence[str] = METRICS,
    against: str | None = None,
    reference: float | None = None,
    where: Mapping[str, Any] | None = None,
    sheet: Sheet = SCREEN,
) -> Figure:
    """Final values against a swept number, above; below, their difference from the runs at one of its levels.

    against: the field, by default the swept number with most levels, one of an intervention if there is any. reference:
    the level to compare with, by default the field's own default (PFO: 0), else the lowest. The other swept fields make
    the lines. Dots: interquartile mean over runs; bands: 95 % bootstrap intervals; small dots: single runs, below from
    the interquartile mean at the reference. Differences are those of `compare` (`contrasts.difference`): runs of equal
    seed are paired only where that helps. Of metrics on a logarithmic axis it is the ratio in place of the difference.
    Final values are those of the summary (`finals_or_worst`).
    Raises ConfigError for unknown metrics, fields and values, and a field whose values are no numbers.
    """
    chosen = select(dataset, where)
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    panels = list(_DEFAULT) if metrics is METRICS else [panel_of(chosen, name) for name in names]
    field = swept_number(chosen) if against is None else _check_number(chosen, against)
    lines, levels = ([], []) if field is None else _lines(chosen, field)
    base = _reference(field, levels, reference)
    members = [(rest, np.array([number])) for number, (rest, _) in enumerate(lines)]
    facets, channels = arrange(members)
    legends, caption = list(channels), _caption(chosen, [panel.metric for panel in panels], field, base, lines)
    if field and shows_return(panel.metric for panel in panels):
        everything = [(rest | {field: level}, runs) for rest, at in lines for level, runs in at.items()]
        counts = collapse_channel(chosen, everything, [*channels, _level_channel(field, levels)], facets)
        if counts:
            legends = [*channels, _name_lines_once(counts, [len(at) for _, at in lines])]
            caption += f" {collapse_sentence()}"
    page = replace(PAGE, columns=len(panels), paper_columns=len(panels), gap_y=0.36, above_panels=0.38)
    with house_style(sheet):
        title = f"What {field} does" if field else "What a swept number does"
        figure, axes = lay_out(2 * len(panels) * len(facets), legends, title, caption, page, sheet)
        for number, (facet, panel) in enumerate(itertools.product(facets, panels)):
            row, column = divmod(number, len(panels))
            both = axes[2 * row * len(panels) + column], axes[(2 * row + 1) * len(panels) + column]
            name = panel.title if sheet.is_titled else panel.short or panel.title
            both[0].set_title("\n".join(filter(None, [facet.name, name])))
            both[0].set_ylabel(panel.label)
            shown = [lines[place] for place in facet.runs]
            if field and shown and panel.metric in chosen:
                _draw_column(both, panel, chosen, shown, field, levels, base, channels, sheet)
            else:
                for ax in both:
                    say_empty(ax)
        for ax in axes[-len(panels) :]:
            ax.set_xlabel(f"{field}{_scale_of(levels)}" if field else "")
        declutter(figure)
    return figure


def swept_number(dataset: xr.Dataset) -> str | None:
    """The swept number with most levels, at least three; one of an intervention if there is any; None without one."""
    counts = {field: len(set(dataset[field].values.tolist())) for field in swept_fields(dataset)}
    numbers = [field for field, count in counts.items() if count >= _FEW and is_number(dataset[field].values[0].item())]
    return max(numbers, key=lambda field: (is_intervention([field]), counts[field]), default=None)


def _check_number(dataset: xr.Dataset, field: str) -> str:
    if not is_number(dataset[check_field(dataset, field, "against")].values[0].item()):
        raise ConfigError(f"against is {field}, but must be a swept number.")
    return field


def _lines(dataset: xr.Dataset, field: str) -> tuple[list[Line], list[float]]:
    """One line per combination of the other swept values, and all levels of the number in ascending order."""
    lines: dict[tuple[Any, ...], Line] = {}
    for point, runs in points(dataset):
        rest = {name: value for name, value in point.items() if name != field}
        lines.setdefault(tuple(rest.values()), (rest, {}))[1][point[field]] = runs
    several = [line for line in lines.values() if len(line[1]) > 1]
    return several, sorted({level for _, at in several for level in at})


def _reference(field: str | None, levels: Sequence[float], wanted: float | None) -> float | None:
    if wanted is None:
        default = DEFAULTS.get(str(field))
        return default if default in levels else min(levels, default=None)
    if wanted not in levels:
        known = ", ".join(map(format_value, levels))
        raise ConfigError(f"reference is {format_value(wanted)}, but must be one of {known}.")
    return wanted


def _level_channel(field: str, levels: Sequence[float]) -> Channel:
    """The number as what it is in the legend of counts: a part of the name, with no style of its own."""
    return Channel(fields=(field,), levels=tuple((x,) for x in levels), styles=({},) * len(levels), kind="line")


def _name_lines_once(counts: Channel, num_levels: Sequence[int]) -> Channel:
    """The legend of counts, in which only the first of a line's levels shows the line, none where it is the only one:
    the others are no other look.
    """
    first = set(np.cumsum([0, *num_levels]).tolist()) if len(num_levels) > 1 else set()
    styles = (style if place in first else {"linestyle": "none"} for place, style in enumerate(counts.styles))
    return replace(counts, styles=tuple(styles))


def _caption(
    dataset: xr.Dataset, metrics: Sequence[str], field: str | None, base: float | None, lines: Sequence[Line]
) -> str:
    if field is None or base is None:
        return f"{describe_sweep(dataset)}. No number is swept with three levels or more."
    bands = say_bands([runs.size for _, at in lines for runs in at.values()])
    apart = " Bars at 0: such intervals." * ("apart" in _scale_of([level for _, at in lines for level in at]))
    shown = np.concatenate([runs for _, at in lines for runs in at.values()])
    return (
        f"{describe_sweep(dataset)}. Above: final values (mean over a run's last log points), below: their difference "
        f"from those with {describe({field: base})} (on a logarithmic axis: ratio); runs of equal seed are paired only "
        f"where that helps, as in compare. Large dots: interquartile mean over runs. {bands}{apart} Small dots: single "
        f"runs, below from the reference's interquartile mean.{say_diverged(dataset, metrics, shown)} "
        f"{describe_references(dataset, metrics)}"
    )


def _draw_column(
    axes: tuple[Axes, Axes],
    panel: Panel,
    dataset: xr.Dataset,
    lines: Sequence[Line],
    field: str,
    levels: Sequence[float],
    base: float | None,
    channels: Sequence[Channel],
    sheet: Sheet,
) -> None:
    """Final values of one metric, and below what they differ by from those at the level of reference."""
    finals = panel.sign * finals_or_worst(dataset, panel.metric)
    seeds = dataset["seed"].values
    finite = finals[np.isfinite(finals)]
    if finite.size == 0:
        for ax in axes:
            say_empty(ax)
        return
    runs = np.concatenate([runs for _, at in lines for runs in at.values()])
    references = reference_levels(dataset, panel.metric, runs)
    is_ratio = set_scale(axes[0], panel, np.append(finite, list(references.values()))) == "log"
    draw_references(axes[0], references)
    places = dict(zip(levels, _places(levels, base), strict=True))
    differences = []
    for point, at in lines:
        style = line_style(channels, point) | {"label": describe(point)}
        is_apart = 0 in at and _is_log(levels)
        found = {level: _summary(finals[runs]) for level, runs in at.items()}
        _draw_line(axes[0], places, found, style, sheet, is_apart)
        if base in at:
            against = {level: _difference(finals, seeds, runs, at[base], is_ratio) for level, runs in at.items()}
            _draw_line(axes[1], places, against, style, sheet, is_apart)
            differences += [[found.low, found.high, *values] for found, values in against.values()]
    shown = np.array(list(itertools.chain(*differences)), dtype=np.float64)
    shown = shown[np.isfinite(shown)]
    axes[1].axhline(1.0 if is_ratio else 0.0, color="0.4", linewidth=0.9, zorder=1)
    _name_difference(axes[1], panel, shown, describe({field: base}), is_ratio)
    axes[1].set_xticks(list(places.values()), [format_value(level) for level in levels])
    axes[1].set_xlim(min(places.values()) - 0.25, max(places.values()) + 0.25)


def _name_difference(ax: Axes, panel: Panel, shown: np.ndarray, against: str, is_ratio: bool) -> None:
    """Scale and label of the lower panel; a ratio is on a logarithmic axis."""
    if is_ratio:
        set_scale(ax, replace(panel, is_log=True), np.append(shown, 1.0))
        ax.set_ylabel(f"ratio to {against} (log)")
        return
    scale = set_scale(ax, replace(panel, is_from_zero=False, is_log=False), np.append(shown, 0.0))
    ax.set_ylabel(f"difference from {against}{f' ({scale})' * (scale != 'linear')}")


def _is_log(levels: Sequence[float]) -> bool:
    """Whether levels stand at their order of magnitude."""
    positive = [level for level in levels if level > 0]
    return bool(positive) and min(levels) >= 0 and max(positive) / min(positive) >= 10


def _scale_of(levels: Sequence[float]) -> str:
    """What to say of the horizontal axis behind the field's name."""
    if not _is_log(levels):
        return ""
    return " (log; 0 apart)" if 0 in levels else " (log)"


def _places(levels: Sequence[float], base: float | None) -> list[float]:
    """Where levels stand, that of reference at 0: at their order of magnitude where they span more than one;
    0 a step before the smallest.
    """
    if not _is_log(levels):
        span = (max(levels) - min(levels)) / max(1, len(levels) - 1) or 1.0
        places = np.array(levels) / span
    else:
        first = np.log10(min(level for level in levels if level > 0))
        places = np.array([np.log10(level) if level > 0 else first - 1 for level in levels])
    return (places - (0.0 if base is None else places[list(levels).index(base)])).tolist()


def _summary(values: np.ndarray) -> tuple[Estimate, np.ndarray]:
    """Interquartile mean of final values [S] with its interval, and the values."""
    low, high = bootstrap_interval(values, iqm)
    return Estimate(float(iqm(values)), float(low), float(high), values.size), values


def _difference(
    finals: np.ndarray, seeds: np.ndarray, runs: np.ndarray, base: np.ndarray, is_ratio: bool
) -> tuple[Estimate, np.ndarray]:
    """Difference (ratio) of the runs [S] from those at the reference, `base`, as a comparison table has it; and that of
    each run from their interquartile mean.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.log(np.where(finals > 0, finals, np.nan)) if is_ratio else finals
        found = difference(values[runs], values[base], seeds[runs], seeds[base])
        each = values[runs] - iqm(values[base])
    if is_ratio:
        ends, each = np.exp([found.value, found.low, found.high]), np.exp(each)
        return Estimate(value=float(ends[0]), low=float(ends[1]), high=float(ends[2]), num_runs=found.num_runs), each
    return Estimate(found.value, found.low, found.high, found.num_runs), each


def _draw_line(
    ax: Axes,
    places: Mapping[float, float],
    found: Mapping[float, tuple[Estimate, np.ndarray]],
    style: Mapping[str, Any],
    sheet: Sheet,
    is_apart: bool,
) -> None:
    """A line through the estimates with its band, and a dot for each run.

    is_apart: whether the first level is 0 on a logarithmic axis: it is at no distance from the others, so that no line
    joins it to them, and its interval is a bar.
    """
    levels = sorted(found)
    x = np.array([places[level] for level in levels])
    middle, low, high = (
        np.array([getattr(found[level][0], part) for level in levels]) for part in ("value", "low", "high")
    )
    style = dict(style) | {"marker": style.get("marker", "o")}
    joined, dots = slice(int(is_apart), None), list(zip(x, levels, strict=True))
    ax.fill_between(x[joined], low[joined], high[joined], color=style["color"], alpha=0.15, linewidth=0)
    if is_apart:
        ax.plot(x[[0, 0]], [low[0], high[0]], color=style["color"], alpha=0.3, linewidth=4, solid_capstyle="butt")
        x, middle = np.insert(x, 1, np.nan), np.insert(middle, 1, np.nan)
    ax.plot(
        x, middle, linewidth=1.5 * sheet.stroke, markersize=5 * sheet.stroke, markeredgecolor="white", zorder=4, **style
    )
    for place, level in dots:
        values = found[level][1]
        ax.plot(np.full(values.size, place), values, ".", color=style["color"], markersize=3, alpha=0.45, zorder=3)
