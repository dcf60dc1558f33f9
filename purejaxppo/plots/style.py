"""The sheet that every figure is drawn on: style, geometry, header with legends, and files.

matplotlib is imported on first use; its global settings are never changed.
"""

from __future__ import annotations

import io
import os
import secrets
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purejaxppo.plots.channels import Channel, draw_colour_bar, draw_legends, place_legends
from purejaxppo.results.dataset import sync_and_rename

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = {
    "figure.dpi": 120,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelsize": 8.5,
    "axes.labelcolor": "0.35",
    "axes.edgecolor": "0.6",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.7,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": "0.35",
    "ytick.color": "0.35",
    "legend.fontsize": 8.5,
    "pdf.fonttype": 42,  # text stays text in the PDF
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """Geometry of a figure of panels, in inches."""

    columns: int = 3
    width: float = 11.0
    left: float = 0.72
    right: float = 0.2
    bottom: float = 0.55
    panel_height: float = 2.05
    gap_x: float = 0.78
    gap_y: float = 0.5
    share_x: bool = True
    share_y: bool = False
    text_left: float | None = None
    """Where title and subtitle begin; None: where the panels do."""
    title_height: float = 0.72
    line_height: float = 0.15
    """Of each further line of the subtitle."""
    above_panels: float = 0.22
    below_legend: float = 0.2
    colour_bar: float = 1.0
    before_colour_bar: float = 0.25


PAGE = Page()


@contextmanager
def house_style() -> Iterator[None]:
    """Within this context figures look the same whatever the user's own matplotlib settings; they are restored."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        yield


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write a figure as PNG and PDF beside each other, each in one atomic step; returns both paths.

    `path` may end in .png, .pdf or neither; missing folders are created. Raises OSError when the disk refuses.
    """
    base = Path(path)
    if base.suffix.lower() in (".png", ".pdf"):
        base = base.with_suffix("")
    base.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix in ("png", "pdf"):
        target = base.with_name(f"{base.name}.{suffix}")
        partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        # Without the date the same figure gives the same bytes.
        metadata: dict[str, Any] = {"CreationDate": None} if suffix == "pdf" else {}
        try:
            with house_style():
                figure.savefig(partial, format=suffix, dpi=200, metadata=metadata)
            sync_and_rename(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        written.append(target)
    return written[0], written[1]


def as_png(figure: Figure, dpi: float | str = "figure") -> bytes:
    """The figure as a PNG, at its own resolution or at `dpi` pixels per inch."""
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def wrap(text: str, width: int = 160) -> str:
    """A subtitle in lines that fit on the page."""
    return "\n".join(textwrap.wrap(text, width))


def format_steps(value: float, _position: float | None = None) -> str:
    """A count as people say it: 500, 100k, 1.5M, 2B."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.4g}{suffix}".replace("-", "\N{MINUS SIGN}")
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def lay_out(
    num_panels: int, channels: Sequence[Channel], title: str, subtitle: str, page: Page = PAGE
) -> tuple[Figure, list[Axes]]:
    """A figure with title, legends and empty panels, its height following from the legends' rows.

    Call it, and everything that draws on the figure, within `house_style`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title_height = page.title_height + page.line_height * subtitle.count("\n")
    bars = [channel for channel in channels if channel.kind == "colour_bar"]
    right = page.width - page.right - page.colour_bar * bool(bars)
    figure = Figure(figsize=(page.width, 1.0))
    FigureCanvasAgg(figure)
    # What a notebook asks for: pyplot, without which it would show a line of text, does not know this figure.
    figure._repr_png_ = partial(as_png, figure)  # pyright: ignore[reportAttributeAccessIssue]
    legend_height = draw_legends(figure, channels, page.left, right)
    rows = -(-num_panels // page.columns)
    panels_height = rows * page.panel_height + (rows - 1) * page.gap_y
    header = title_height + legend_height + page.below_legend * bool(legend_height) + page.above_panels
    height = page.bottom + panels_height + header
    figure.set_size_inches(page.width, height)
    place_legends(figure, height - title_height)
    text_left = (page.left if page.text_left is None else page.text_left) / page.width
    figure.text(text_left, 1 - 0.18 / height, title, size=13, weight="bold", va="top")
    figure.text(text_left, 1 - 0.44 / height, subtitle, size=8.5, color="0.35", va="top")
    panel_width = (right - page.left - (page.columns - 1) * page.gap_x) / page.columns
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
    for bar in bars:
        box = (
            (right + page.before_colour_bar) / page.width,
            page.bottom / height,
            0.16 / page.width,
            panels_height / height,
        )
        draw_colour_bar(figure, bar, box)
    return figure, list(grid.ravel())[:num_panels]


def say_empty(ax: Axes, is_vertical: bool = True) -> None:
    """Mark a panel as one without values, by a sentence in place of the ticks of its vertical (or horizontal) axis."""
    ax.text(0.5, 0.5, "no values", transform=ax.transAxes, ha="center", va="center", color="0.5")
    (ax.yaxis if is_vertical else ax.xaxis).set_ticks([])
