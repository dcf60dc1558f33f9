"""What figures are drawn on: the screen's sheet, with title and caption, and a paper's, 5.5 inches wide, without them.

matplotlib is imported on first use; its global settings are never changed.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from purejaxppo.errors import ConfigError

if TYPE_CHECKING:
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
    "legend.title_fontsize": 8.5,
    "pdf.fonttype": 42,  # text stays text in the PDF
    "svg.hashsalt": "purejaxppo",  # the same figure gives the same bytes
}
# Nothing below 7 points: the figure is printed at its own size.
_PAPER_STYLE = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.major.pad": 2.5,
    "ytick.major.pad": 2.5,
    "axes.titlepad": 4,
    "axes.labelpad": 2.5,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """Geometry of a figure of panels, in inches."""

    columns: int = 3
    paper_columns: int = 2
    """The most columns that it has on a paper."""
    width: float = 11.0
    left: float = 0.72
    right: float = 0.2
    bottom: float = 0.55
    panel_height: float = 2.05
    gap_x: float = 0.78
    gap_y: float = 0.5
    share_x: bool | Literal["row", "col"] = True
    share_y: bool | Literal["row", "col"] = False
    text_left: float | None = None
    """Where title and caption begin; None: where the panels do."""
    title_height: float = 0.72
    line_height: float = 0.15
    """Of each further line of the caption."""
    above_panels: float = 0.22
    below_legend: float = 0.2
    colour_bar: float = 1.0
    before_colour_bar: float = 0.25
    is_rigid: bool = False
    """Whether its panels have to be as high as they are, as those with a row for each of many names."""


PAGE = Page()


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a figure is drawn for."""

    name: str
    is_titled: bool
    """Whether title and caption are on it."""
    small: float
    """Size of the smallest text, in points."""
    stroke: float
    """Width of lines, times that on the screen."""
    width: float | None
    """Its width in inches, whatever the figure; None: what the page says."""
    height: float | None
    """The most that its height may be, in inches; None: any."""
    scale: float
    """Margins, gaps and heights of panels, times those on the screen."""
    style: Mapping[str, Any] = field(default_factory=dict)

    def lower(self, page: Page, rows: int, beside: float, title: str) -> Page:
        """The page with panels low enough for this sheet; `beside`: inches that its height has beside the panels.

        Raises ConfigError where that would be too low to be read.
        """
        gaps = (rows - 1) * page.gap_y
        if self.height is None or beside + gaps + rows * page.panel_height <= self.height:
            return page
        panel_height = (self.height - beside - gaps) / rows
        if page.is_rigid or panel_height < _LOWEST:
            least = beside + gaps + rows * (page.panel_height if page.is_rigid else _LOWEST)
            raise ConfigError(
                f"{title.partition(':')[0]} would be {least:.1f} inches high, but a paper has room for "
                f"{self.height:g}; draw fewer settings (--where FIELD=VALUE) or fewer metrics (--metric NAME)."
            )
        return replace(page, panel_height=panel_height)

    def fit(self, page: Page) -> Page:
        """The page on this sheet."""
        if self.width is None:
            return page
        names = ("left", "right", "bottom", "panel_height", "gap_x", "gap_y", "above_panels", "below_legend")
        scaled = {name: self.scale * getattr(page, name) for name in (*names, "colour_bar", "before_colour_bar")}
        scaled["right"] = max(0.22, scaled["right"])  # half of the last label of an axis
        columns = min(page.columns, page.paper_columns)
        return replace(page, width=self.width, columns=columns, title_height=0.08, text_left=None, **scaled)


SCREEN = Sheet(name="screen", is_titled=True, small=8.0, stroke=1.0, width=None, height=None, scale=1.0)
PAPER = Sheet(
    name="paper", is_titled=False, small=7.0, stroke=0.75, width=5.5, height=9.0, scale=0.72, style=_PAPER_STYLE
)
_LOWEST = 0.65
"""Inches, of a panel on a paper."""


@contextmanager
def house_style(sheet: Sheet = SCREEN) -> Iterator[None]:
    """Within this context figures look the same whatever the user's own matplotlib settings; they are restored."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE | dict(sheet.style)]):
        yield


def sheet_of(figure: Any) -> Sheet:
    """The sheet that a figure was laid out on."""
    return PAPER if figure.get_gid() == PAPER.name else SCREEN


def wrap_text(text: str, letters: int, indent: str = "") -> str:
    """Text in lines of so many letters, which do not end within brackets; `indent`: of all but the first."""
    blank = "\N{NO-BREAK SPACE}"
    joined = re.sub(r"[\[(][^])]*[\])]", lambda found: found[0].replace(" ", blank), text)
    return textwrap.fill(joined, letters, subsequent_indent=indent).replace(blank, " ")


def place_texts(figure: Figure) -> None:
    """Put ticks, labels and legends where they will be drawn, so that their places can be asked for.

    Without the thin lines and bands of the panels, which move nothing and take nearly all of the time.
    """
    shown = [artist for ax in figure.axes for artist in ax.collections if artist.get_visible()]
    for artist in shown:
        artist.set_visible(False)
    try:
        figure.draw_without_rendering()
    finally:
        for artist in shown:
            artist.set_visible(True)
