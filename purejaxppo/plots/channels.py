"""How the points of a sweep become colours, dashes and markers, and the legends that say so.

One axis of the sweep is one visual channel with a legend of its own: a sweep of 3 epoch counts x 3 coefficients needs
3 + 3 legend entries, not 9. Colours are told apart by colour-blind readers (Okabe & Ito 2008).

One encoding in all figures: colour says what was done to PPO, dashes and markers the rest. Plain PPO is blue and solid,
PFO with a coefficient of 1 is vermilion, in every study.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from purejaxppo.claims.interventions import DEFAULTS
from purejaxppo.interventions import INTERVENTIONS
from purejaxppo.plots.files import COLOUR_BAR
from purejaxppo.plots.sheets import wrap_text
from purejaxppo.statistics.tables import format_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Okabe-Ito without its yellow, which disappears on white; most distinct pairs first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", *((0, dash) for dash in ((4, 1.6), (1.1, 1.3), (6, 1.5, 1.1, 1.5), (9, 2.2), (3, 1, 1, 1, 1, 1))))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "d")
COLOUR_MAP = "viridis"
_LETTER = 0.6
"""Width of a letter, times the size of the font: most words are narrower."""
_PLAIN, _PFO, *_FREE = COLOURS
_INTERVENTION_FIELDS = {field for intervention in INTERVENTIONS for field in intervention.fields}
# Lightest end of the map left out: pale yellow lines cannot be seen on white.
_COLOUR_MAP_END = 0.9


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One visual channel: the swept fields it shows, their levels, and the line style of each level."""

    fields: tuple[str, ...]
    levels: tuple[tuple[Any, ...], ...]
    styles: tuple[dict[str, Any], ...]
    names: tuple[str, ...] = ()
    """Text of each level, where the values themselves would be a long list."""
    kind: str
    """colour, dash, marker, line (all of them together), or colour_bar (many ordered levels, shown as a colour bar in
    place of a legend)."""
    notes: tuple[str, ...] = ()
    """What a legend has behind the text of each level."""
    heading: str = ""
    """What stands above the legend; empty: names of the fields, as the user typed them in the sweep."""

    @property
    def title(self) -> str:
        """What stands above the legend."""
        return self.heading or ("setting" if self.names else ", ".join(self.fields))

    @property
    def texts(self) -> list[str]:
        """Text of each level."""
        return list(self.names) or [", ".join(format_value(part) for part in level) for level in self.levels]

    @property
    def labels(self) -> list[str]:
        """Text of each level in a legend."""
        return [text + note for text, note in zip(self.texts, self.notes or [""] * len(self.levels), strict=True)]

    def label(self, point: dict[str, Any], is_noted: bool = False) -> str:
        """Text of the level of a point of the axes, or what a legend has of it."""
        texts = self.labels if is_noted else self.texts
        return texts[self.levels.index(tuple(point[field] for field in self.fields))]

    def style(self, point: dict[str, Any]) -> dict[str, Any]:
        """Line style that this channel gives to a point of the axes."""
        return self.styles[self.levels.index(tuple(point[field] for field in self.fields))]


def choose_channels(points: Sequence[dict[str, Any]]) -> list[Channel]:
    """Channels for the fields that differ between points: colour, then dash, the others marker.

    The colour goes to what was done to PPO: the fields of a list of settings (`bundled_fields`), whose levels are named
    by what they change, else the first field of an intervention, else the first field. The second one gets the colour
    if it has more levels than there are good dashes, and more than the first. A single field with more levels than
    there are colours is told apart by colour and dash together, many settings beside another field by colours of a map
    in which neighbours are far apart; numbers that say nothing of what was done to PPO, such as epochs, are shades of
    it in order.
    """
    bundle = bundled_fields(points)
    fields = [field for field in varying_fields(points) if field not in bundle]
    if not bundle and not fields:
        return []
    fields.sort(key=lambda field: not is_intervention((field,)))
    if not bundle and len(fields) > 1:
        first, second = (len({point[field] for point in points}) for field in fields[:2])
        if second > max(first, 4):
            fields[:2] = fields[1::-1]
    names = _bundle_names(points, bundle) if bundle else {}
    head = bundle or (fields.pop(0),)
    groups = [(field,) for field in fields[:1]] + [tuple(fields[1:])] * (len(fields) > 1)
    channels = [_colour_channel(head, tuple(names) or _levels(points, head), tuple(names.values()), not groups)]
    for group, kind in zip(groups, ("dash", "marker"), strict=False):
        levels = _levels(points, group)
        channels.append(Channel(fields=group, levels=levels, styles=_styles(kind, len(levels)), kind=kind))
    return channels


def bundled_fields(points: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The fields of a list of settings: those whose values do not all come with all values of the others.

    That is how interventions are swept, each changing a field or two. Fewer than three such fields are no bundle: two
    axes of which some points are missing are still two axes.
    """
    fields = []
    for field in varying_fields(points):
        partners: dict[Any, set[tuple[Any, ...]]] = {}
        for point in points:
            rest = tuple(value for name, value in point.items() if name != field)
            partners.setdefault(point[field], set()).add(rest)
        if len({frozenset(rests) for rests in partners.values()}) > 1:
            fields.append(field)
    return tuple(fields) if len(fields) > 2 else ()


def point_names(points: Sequence[dict[str, Any]], equals: str = "=") -> list[str]:
    """Every point in words, as in `describe`: of several what they differ in, of a list of settings what changes."""
    bundle = bundled_fields(points)
    settings = _bundle_names(points, bundle)
    told = set(varying_fields(points) if len(points) > 1 else points[0] if points else ()) - set(bundle)
    names = []
    for point in points:
        parts = [f"{field}{equals}{format_value(value)}" for field, value in point.items() if field in told]
        if bundle:
            parts.append(settings[tuple(point[field] for field in bundle)].replace("=", equals))
        names.append(", ".join(parts) or "all runs")
    return names


def _bundle_names(points: Sequence[dict[str, Any]], bundle: tuple[str, ...]) -> dict[tuple[Any, ...], str]:
    """Levels of a bundle in order of appearance, each named by what it sets other than the first.

    The first one is `defaults` where that is what all its values are.
    """
    names: dict[tuple[Any, ...], str] = {}
    for point in points:
        level = tuple(point[field] for field in bundle)
        first = next(iter(names), level)
        changed = [field for field, value, base in zip(bundle, level, first, strict=True) if value != base]
        if not names and any(value != DEFAULTS.get(field) for field, value in zip(bundle, level, strict=True)):
            changed = list(bundle)
        names.setdefault(level, ", ".join(f"{field}={format_value(point[field])}" for field in changed) or "defaults")
    return names


def varying_fields(points: Sequence[dict[str, Any]]) -> list[str]:
    """The fields that differ between points."""
    return [field for field in (points[0] if points else {}) if len({point[field] for point in points}) > 1]


def is_intervention(fields: Sequence[str]) -> bool:
    """Whether one of the fields says what was done to PPO."""
    return bool(set(fields) & _INTERVENTION_FIELDS)


def condition_names(points: Sequence[dict[str, Any]], channels: Sequence[Channel], is_noted: bool = False) -> list[str]:
    """A short name of every point: its values in the order of the legends, or what it changes; `is_noted`: for one."""
    return [", ".join(channel.label(point, is_noted) for channel in channels) or "all runs" for point in points]


def with_markers(channels: Sequence[Channel], points: Sequence[dict[str, Any]]) -> list[Channel]:
    """The channels for points in place of lines: colours stay, the other fields share the markers.

    Only combinations of their values that some point has get a marker: there are too few for all. Dashes that tell
    levels of one colour apart become markers as well.
    """
    colour, others = [_with_markers(channel) for channel in channels[:1]], channels[1:]
    if not others:
        return colour
    fields = tuple(field for channel in others for field in channel.fields)
    levels = _levels(points, fields)
    return [*colour, Channel(fields=fields, levels=levels, styles=_styles("marker", len(levels)), kind="marker")]


def _with_markers(channel: Channel) -> Channel:
    """A channel of colours and dashes with a marker in place of each dash."""
    dashes = [style["linestyle"] for style in channel.styles if "linestyle" in style]
    if not dashes:
        return channel
    markers = dict(zip(dict.fromkeys(dashes), itertools.cycle(MARKERS), strict=False))
    styles = tuple({"color": style["color"], "marker": markers[style["linestyle"]]} for style in channel.styles)
    return replace(channel, styles=styles, kind="marker")


def describe(point: dict[str, Any]) -> str:
    """A point of the axes in words: `num_epochs=4, pfo_coef=0`."""
    return ", ".join(f"{field}={format_value(value)}" for field, value in point.items()) or "all runs"


def line_style(channels: Sequence[Channel], point: dict[str, Any]) -> dict[str, Any]:
    """Line style of a point: what all channels say together."""
    style: dict[str, Any] = {"color": COLOURS[0], "linestyle": DASHES[0]}
    for channel in channels:
        style |= channel.style(point)
    return style


def _levels(points: Sequence[dict[str, Any]], fields: tuple[str, ...]) -> tuple[tuple[Any, ...], ...]:
    """Distinct values of some fields: numbers in ascending order, others as they come."""
    levels = list(dict.fromkeys(tuple(point[field] for field in fields) for point in points))
    return tuple(sorted(levels) if all(isinstance(part, int | float) for level in levels for part in level) else levels)


def _colour_channel(
    fields: tuple[str, ...], levels: tuple[tuple[Any, ...], ...], names: tuple[str, ...], is_only: bool
) -> Channel:
    is_ordered = not names and all(is_number(level[0]) for level in levels)
    fixed = _fixed_colours(fields, levels, names)
    others = len(levels) - len(fixed)
    left = [colour for colour in (*_FREE, _PFO, _PLAIN) if colour not in fixed.values()]
    kind, is_name = "colour", is_intervention(fields) or not is_ordered
    if others <= len(left) and is_name:
        free = iter([{"color": colour} for colour in left])
    elif is_only and len(left) < others and (is_name or others <= len(_FREE) * len(DASHES)):
        dashes = _styles("dash", -(-others // len(_FREE)))
        free = iter([{"color": colour} | dash for dash in dashes for colour in _FREE])
    elif is_ordered:
        kind = "colour_bar" if len(levels) > len(COLOURS) else "colour"
        fixed, free = {}, iter([{"color": colour} for colour in _map_colours(len(levels))])
    else:
        free = iter([{"color": colour} for colour in _spread_colours(others)])
    styles = [{"color": fixed[i]} if i in fixed else next(free) for i in range(len(levels))]
    if any("linestyle" in style for style in styles):
        styles = [{"linestyle": DASHES[0]} | style for style in styles]
    return Channel(fields=fields, levels=levels, styles=tuple(styles), names=names, kind=kind)


def _fixed_colours(
    fields: tuple[str, ...], levels: tuple[tuple[Any, ...], ...], names: tuple[str, ...]
) -> dict[int, str]:
    """Colours of the levels that are plain PPO, and PFO with a coefficient of 1 and nothing else."""
    fixed: dict[int, str] = {}
    for number, level in enumerate(levels if is_intervention(fields) else ()):
        point = dict(zip(fields, level, strict=True))
        if all(value == DEFAULTS.get(field) for field, value in point.items()):
            fixed[number] = _PLAIN
        elif (names[number] if names else describe(point)) == "pfo_coef=1":
            fixed[number] = _PFO
    return fixed


def is_number(value: Any) -> bool:
    """Whether a swept value is a number, which True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _styles(kind: str, count: int) -> tuple[dict[str, Any], ...]:
    if kind == "colour":
        return tuple({"color": colour} for colour in COLOURS[:count])
    if kind == "marker":
        return tuple({"marker": MARKERS[i % len(MARKERS)]} for i in range(count))
    more = tuple((0, (2 + i, 1.5, 1, 1.5, 1, 1.5)) for i in range(max(0, count - len(DASHES))))
    return tuple({"linestyle": dash} for dash in (*DASHES, *more)[:count])


def _map_colours(count: int) -> list[Any]:
    import matplotlib
    import numpy as np

    return list(matplotlib.colormaps[COLOUR_MAP](np.linspace(0, _COLOUR_MAP_END, count)))


def _spread_colours(count: int) -> list[Any]:
    """Colours of the map in an order in which any few that follow each other are far apart."""
    colours = _map_colours(count)
    # Places modulo 1 of multiples of the golden ratio are spread evenly, however many are taken.
    order = sorted(range(count), key=lambda place: place * 0.6180339887 % 1)
    return [colours[order.index(place)] for place in range(count)]


def draw_legends(figure: Figure, channels: Sequence[Channel], left: float, right: float) -> float:
    """Add one legend per channel, side by side between `left` and `right` (inches), in as many rows as that takes.

    Returns their height in inches. They hang from the bottom edge of the figure until `place_legends` moves them.
    """
    x, rows = left, [0.0]
    for channel in channels:
        if channel.kind == "colour_bar":
            continue
        legend, width, height = _fitting_legend(figure, channel, right - left)
        if x > left and x + width > right:
            x = left
            rows[-1] += 0.12
            rows.append(0.0)
        legend.set_bbox_to_anchor((x, -sum(rows[:-1])), transform=figure.dpi_scale_trans)
        rows[-1] = max(rows[-1], height)
        x += width + 0.5
    return sum(rows)


def place_legends(figure: Figure, top: float) -> None:
    """Move the legends of `draw_legends` so that they hang from `top` (inches from the bottom of the figure)."""
    for legend in figure.legends:
        anchor = figure.dpi_scale_trans.inverted().transform_bbox(legend.get_bbox_to_anchor())
        legend.set_bbox_to_anchor((anchor.x0, anchor.y0 + top), transform=figure.dpi_scale_trans)


def _fitting_legend(figure: Figure, channel: Channel, width: float) -> tuple[Legend, float, float]:
    """Legend of one channel with as many columns as fit into `width`; its size in inches."""
    count = len(channel.levels)
    legend, box_width, height = _legend(figure, channel, count, width)
    for rows in range(2, count + 1):
        if box_width <= width:
            break
        legend.remove()
        legend, box_width, height = _legend(figure, channel, -(-count // rows), width)
    return legend, box_width, height


def _legend(figure: Figure, channel: Channel, columns: int, width: float) -> tuple[Legend, float, float]:
    """Legend of one channel in so many columns, in lines of `width` inches at most; its size in inches."""
    from matplotlib import rcParams
    from matplotlib.lines import Line2D

    size = rcParams["legend.fontsize"]
    is_text = all(style.get("linestyle") == "none" and "marker" not in style for style in channel.styles)
    handle = 0.0 if is_text else 3.0
    letters = int((72 * width / size - handle - 1) / _LETTER)
    is_swatch = channel.kind == "colour" and not any("linestyle" in style for style in channel.styles)
    base: dict[str, Any] = {"color": "0.25", "linewidth": 3.2 if is_swatch else 1.7, "solid_capstyle": "butt"}
    if channel.kind == "marker":
        base |= {"linestyle": "none", "markersize": 5}
    legend = figure.legend(
        [Line2D([], [], **(base | style)) for style in channel.styles],
        [wrap_text(label, letters, indent="  ") for label in channel.labels],
        title=wrap_text(channel.title, letters),
        loc="upper left",
        ncols=columns,
        alignment="left",
        frameon=False,
        borderpad=0.0,
        borderaxespad=0.0,
        columnspacing=1.6,
        handlelength=1.4 if is_swatch or channel.kind == "marker" else handle,
        handletextpad=0.0 if is_text else 0.8,
        title_fontproperties={"weight": "bold", "size": size},
    )
    box = legend.get_window_extent(figure.canvas.get_renderer())  # pyright: ignore[reportAttributeAccessIssue]
    return legend, box.width / figure.dpi, box.height / figure.dpi


def draw_colour_bar(figure: Figure, channel: Channel, box: tuple[float, float, float, float]) -> None:
    """Colour bar of a channel with many ordered levels, one equal step per level; `box` in figure fractions."""
    from matplotlib import rcParams
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    count = len(channel.levels)
    mappable = ScalarMappable(
        BoundaryNorm([level - 0.5 for level in range(count + 1)], count),
        ListedColormap([style["color"] for style in channel.styles]),
    )
    bar = figure.colorbar(mappable, cax=figure.add_axes(box, label=COLOUR_BAR))
    shown = range(0, count, -(-count // 16))
    bar.set_ticks(list(shown), labels=[channel.labels[level] for level in shown])
    bar.ax.tick_params(length=0)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.set_title(channel.title, loc="left", fontsize=rcParams["legend.fontsize"], fontweight="bold")
