"""The frame of every figure: header with legends, empty panels, numbers on axes, and files.

matplotlib is imported on first use; its global settings are never changed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from purejaxppo.plots.channels import Channel, draw_colour_bar, draw_legends, place_legends
from purejaxppo.plots.files import as_png, save_figure
from purejaxppo.plots.sheets import PAGE, SCREEN, Page, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["as_png", "columns_of", "format_steps", "lay_out", "save_figure", "say_empty"]


def format_steps(value: float, _position: float | None = None) -> str:
    """A count as people say it: 500, 100k, 1.5M, 2B."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.4g}{suffix}".replace("-", "\N{MINUS SIGN}")
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def lay_out(
    num_panels: int,
    channels: Sequence[Channel],
    title: str,
    caption: str,
    page: Page = PAGE,
    sheet: Sheet = SCREEN,
) -> tuple[Figure, list[Axes]]:
    """A figure with title, legends and empty panels, its height following from the legends' rows.

    Call it, and everything that draws on the figure, within `house_style(sheet)`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = sheet.fit(page)
    caption = " ".join(caption.split())
    text_left = page.left if page.text_left is None else page.text_left
    lines = textwrap.wrap(caption, int(15.5 * (page.width - text_left - 0.2))) if sheet.is_titled else []
    title_height = page.title_height + page.line_height * max(0, len(lines) - 1)
    bars = [channel for channel in channels if channel.kind == "colour_bar"]
    right = page.width - page.right - page.colour_bar * bool(bars)
    figure = Figure(figsize=(page.width, 1.0))
    FigureCanvasAgg(figure)
    figure.set_label(f"{title}. {caption}")
    figure.set_gid(sheet.name)
    # What a notebook asks for: pyplot, without which it would show a line of text, does not know this figure.
    figure._repr_png_ = partial(as_png, figure)  # pyright: ignore[reportAttributeAccessIssue]
    legend_height = draw_legends(figure, channels, page.left, right)
    legend_height += 0.06 * max(0.0, legend_height - 1.5)  # letters are whole pixels: at 100 an inch rows are higher
    rows = -(-num_panels // page.columns)
    header = title_height + legend_height + page.below_legend * bool(legend_height) + page.above_panels
    page = sheet.lower(page, rows, page.bottom + header, title)
    panels_height = rows * page.panel_height + (rows - 1) * page.gap_y
    height = page.bottom + panels_height + header
    figure.set_size_inches(page.width, height)
    place_legends(figure, height - title_height)
    if sheet.is_titled:
        figure.text(text_left / page.width, 1 - 0.18 / height, title, size=13, weight="bold", va="top")
        figure.text(text_left / page.width, 1 - 0.44 / height, "\n".join(lines), size=8.5, color="0.35", va="top")
    axes = _grid(figure, page, rows, right, height)
    for bar in bars:
        box = (
            (right + page.before_colour_bar) / page.width,
            page.bottom / height,
            0.16 / page.width,
            panels_height / height,
        )
        draw_colour_bar(figure, bar, box)
    for unused in axes[num_panels:]:
        unused.set_visible(False)
    return figure, axes[:num_panels]


def _grid(figure: Figure, page: Page, rows: int, right: float, height: float) -> list[Axes]:
    """The panels, row by row; `right` end of the panels and `height` of the figure in inches."""
    panel_width = (right - page.left - (page.columns - 1) * page.gap_x) / page.columns
    panels_height = rows * page.panel_height + (rows - 1) * page.gap_y
    grid = figure.subplots(
        rows,
        page.columns,
        sharex=page.share_x,
        sharey=page.share_y,
        squeeze=False,
        gridspec_kw={
            "left": page.left / page.width,
            "right": right / page.width,
            "bottom": page.bottom / height,
            "top": (page.bottom + panels_height) / height,
            "wspace": page.gap_x / panel_width,
            "hspace": page.gap_y / page.panel_height,
        },
    )
    return list(grid.ravel())


def columns_of(axes: Sequence[Axes]) -> int:
    """Panels beside each other, as `lay_out` has made them."""
    spec = axes[0].get_subplotspec() if axes else None
    return spec.get_gridspec().ncols if spec is not None else 1


def say_empty(ax: Axes, is_vertical: bool = True) -> None:
    """Mark a panel as one without values, by a sentence in place of the ticks of its vertical (or horizontal) axis."""
    ax.text(0.5, 0.5, "no values", transform=ax.transAxes, ha="center", va="center", color="0.5")
    if not is_shared(ax, is_vertical):
        (ax.yaxis if is_vertical else ax.xaxis).set_ticks([])


def is_shared(ax: Axes, is_vertical: bool) -> bool:
    """Whether other panels have this vertical (or horizontal) axis as well."""
    shared = ax.get_shared_y_axes() if is_vertical else ax.get_shared_x_axes()
    return len(shared.get_siblings(ax)) > 1
