"""How the benchmarks' pictures are written: small, one line below, colours as in the package, and their key kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from purejaxppo.plots.files import KEY, as_small_png
from purejaxppo.plots.sheets import house_style

PEER = "#999999"
"""Of whatever is not ours."""


def mark(artist: Artist, label: str) -> None:
    """Let an artist be where the colour of `label` is looked for (`plots.files.lost_colours`)."""
    artist.set_gid(f"{KEY}{label}")


def write(figure: Figure, path: Path, caption: str) -> None:
    """The figure with its caption below, 100 pixels an inch."""
    FigureCanvasAgg(figure)
    with house_style():
        figure.supxlabel(caption, fontsize=7, color="0.3", x=0.01, ha="left")
    figure.set_label(caption)
    path.write_bytes(as_small_png(figure, round(100 * figure.get_figwidth())))


def measured_on(found: dict[str, Any]) -> str:
    """When and on what parts were measured: `2 cores, 2026-11-23 to 2026-11-24`."""
    facts = [part["provenance"] for part in found.values()]
    days = sorted({fact["created"][:10] for fact in facts})
    cores = sorted({fact["machine"].split(", ")[1] for fact in facts})
    return f"{' and '.join(cores)}, {' to '.join(dict.fromkeys((days[0], days[-1])))}"
