"""Scales, limits and ticks of an axis from the values on it; ticks whose labels would collide are dropped."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from purejaxppo.plots.panels import Panel
from purejaxppo.plots.sheets import place_texts, sheet_of, wrap_text
from purejaxppo.plots.style import format_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scale = Literal["linear", "log", "symlog"]
_DECADES = 2.0
"""A positive quantity that spans as many is drawn on a logarithmic axis."""
_SIGNED_DECADES = 2.5
"""One of both signs, on a symmetric logarithmic axis; noise around 0 spans about one and a half."""
_MOST_DECADES = 6
"""On one side of a symmetric logarithmic axis."""


def choose_scale(panel: Panel, values: np.ndarray) -> Scale:
    """The scale for finite values: the panel's own, else by how many decades they span, and with which signs.

    Decades are from the tenth to the ninety-ninth percentile of the magnitudes other than 0. What spans many and has
    both signs, or falls to 0, is symmetric logarithmic: linear near 0.
    """
    sizes = np.abs(values[values != 0])
    if sizes.size == 0:
        return "linear"  # all zero: a linear axis shows it, a logarithmic one cannot
    if panel.is_log and np.any(values > 0):
        return "log"
    small, large = np.quantile(sizes, [0.1, 0.99])
    decades = float(np.log10(large / small))
    if np.any(values < 0):
        return "symlog" if decades >= _SIGNED_DECADES and np.any(values > 0) else "linear"
    if panel.is_free and decades >= _DECADES:
        return "log" if sizes.size == values.size else "symlog"
    return "linear"


def set_scale(ax: Axes, panel: Panel, finite: np.ndarray, most: float | None = None, is_vertical: bool = True) -> Scale:
    """Scale, limits and ticks of the vertical (or horizontal) axis from all finite values shown, [K] with K > 0.

    `most`: a value that is to be seen as well, such as the number of units.
    """
    scale = choose_scale(panel, finite)
    axis = ax.yaxis if is_vertical else ax.xaxis
    if scale == "log":
        positive = np.log10(finite[finite > 0])
        (ax.set_yscale if is_vertical else ax.set_xscale)("log", nonpositive="clip")
        _set_log_ticks(axis, float(positive.min()), float(positive.max()))
        low, high = _log_limits(positive)
    elif scale == "symlog":
        low, high = _set_symlog(ax, finite, is_vertical)
    else:
        low, high = _linear_limits(panel, finite, most)
        _set_linear_ticks(axis, panel, finite)
    (ax.set_ylim if is_vertical else ax.set_xlim)(low, high)
    return scale


def _log_limits(powers: np.ndarray) -> tuple[float, float]:
    """Limits for powers of ten; at least a factor of 4 apart, so that ticks appear."""
    low, high = float(powers.min()), float(powers.max())
    margin = max(0.05 * (high - low), 0.5 * (0.6 - (high - low)))
    return 10 ** (low - margin), 10 ** (high + margin)


def _set_log_ticks(axis: Any, low: float, high: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high - low < 2 else (1.0,), numticks=12))
    axis.set_major_formatter(format_power if high >= 10 or low <= -5 else format_steps)
    axis.set_minor_formatter(NullFormatter())


def _set_symlog(ax: Axes, finite: np.ndarray, is_vertical: bool) -> tuple[float, float]:
    """A symmetric logarithmic axis, linear up to the power of ten below the tenth percentile of the magnitudes."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    sizes = np.abs(finite[finite != 0])
    top = int(np.ceil(np.log10(sizes.max()) - 1e-9))
    bottom = max(int(np.floor(np.log10(np.quantile(sizes, 0.1)))), top - _MOST_DECADES)
    linear = 10.0**bottom
    (ax.set_yscale if is_vertical else ax.set_xscale)("symlog", linthresh=linear, linscale=0.5)
    largest = int(np.floor(np.log10(sizes.max()) + 1e-9))
    powers = [10.0**power for power in range(largest, bottom - 1, -max(1, -(-(largest - bottom + 1) // 4)))]
    low, high = float(finite.min()), float(finite.max())
    axis = ax.yaxis if is_vertical else ax.xaxis
    ticks = [-power for power in powers if low < 0] + [0.0] + [power for power in powers if high > 0]
    axis.set_major_locator(FixedLocator(sorted(ticks)))
    axis.set_major_formatter(format_power if top > 9 or bottom < -4 else format_steps)
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    return (1.3 * low if low < -linear else -0.5 * linear), (1.3 * high if high > linear else 0.5 * linear)


def _linear_limits(panel: Panel, finite: np.ndarray, most: float | None) -> tuple[float, float]:
    if panel.is_from_zero:
        top = max(most or 0.0, float(finite.max())) or 1.0
        return -0.03 * top, 1.05 * top
    span = float(finite.max() - finite.min()) or max(1.0, 0.1 * abs(float(finite.max())))
    return float(finite.min() - 0.05 * span), float(finite.max() + 0.05 * span)


def _set_linear_ticks(axis: Any, panel: Panel, finite: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    if panel.is_count:
        axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(ScalarFormatter(useOffset=False))
    if np.abs(finite).max() >= 10_000:
        axis.set_major_formatter(format_steps)


def format_power(value: float, _position: float | None = None) -> str:
    """A power of ten where numbers span too much for words: 1, 100, $10^{5}$."""
    if value == 0:
        return "0"
    exponent = round(np.log10(abs(value)))
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    return f"{sign}{abs(value):g}" if 0 <= exponent <= 3 else f"{sign}$10^{{{exponent}}}$"


def declutter(figure: Figure) -> None:
    """Drop tick labels until none touches the next one of its axis; ticks that are left are evenly spread.

    Axes that several panels share have the same ticks in all of them.
    """
    _wrap_labels(figure)
    place_texts(figure)
    shared: dict[int, list[Any]] = {}
    for ax in figure.axes:
        if ax.get_visible() and ax.get_label() != "colour bar":
            for axis in (ax.xaxis, ax.yaxis):
                shared.setdefault(id(axis.major), []).append(axis)
    for members in shared.values():
        _thin(members, figure)


def _thin(members: Sequence[Any], figure: Figure) -> None:
    from matplotlib.ticker import FixedLocator

    renderer = figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
    low, high = sorted(members[0].get_view_interval())
    slack = 1e-9 * (high - low)
    every = [
        [tick for tick in axis.get_major_ticks() if low - slack <= tick.get_loc() <= high + slack] for axis in members
    ]
    places = [float(tick.get_loc()) for tick in every[0]]
    boxes = [
        [tick.label1.get_window_extent(renderer) for tick in ticks]
        for ticks in every
        if any(tick.label1.get_text() and tick.label1.get_visible() for tick in ticks)
    ]
    strides = range(1, max(2, len(places) + 1))
    fits = [stride for stride in strides if not any(_touch([row[i] for i in _every(places, stride)]) for row in boxes)]
    kept = _every(places, fits[0]) if fits else [0]
    if len(kept) < len(places):
        members[0].set_major_locator(FixedLocator([places[i] for i in kept]))


def _every(places: Sequence[float], stride: int) -> list[int]:
    """Every so-manieth of the ticks, 0 among them where it is one."""
    begin = places.index(0.0) % stride if 0.0 in places else 0
    return list(range(begin, len(places), stride))


def _touch(boxes: Sequence[Any]) -> bool:
    """Whether neighbouring labels come closer than eight pixels, or four above each other.

    At another resolution letters may be wider.
    """
    return any(a.padded(4, 2).overlaps(b.padded(4, 2)) for a, b in itertools.pairwise(boxes))


def _wrap_labels(figure: Figure) -> None:
    """Break the labels of axes that are longer than their small panel on a paper."""
    if sheet_of(figure).height is None:
        return
    for ax in figure.axes:
        lengths = figure.get_size_inches() * ax.get_position().size
        for label, length in zip((ax.xaxis.label, ax.yaxis.label), lengths, strict=True):
            letters = int(1.2 * 72 * length / (0.55 * float(label.get_fontsize())))
            if len(label.get_text()) > letters:
                label.set_text(wrap_text(label.get_text(), letters))
