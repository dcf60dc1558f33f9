"""Figures from results. matplotlib is imported when the first one is drawn; its global settings are never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purejaxppo._lazy import lazy

if TYPE_CHECKING:
    from purejaxppo.plots import (
        boxes,
        channels,
        curves,
        figures,
        panels,
        scatter,
        spectrum,
        style,
        survival,
        toy,
    )
    from purejaxppo.plots.curves import overview
    from purejaxppo.plots.figures import FIGURES, draw_figure
    from purejaxppo.plots.style import save_figure
    from purejaxppo.plots.toy import toy_figure

__getattr__, __dir__ = lazy(
    __name__,
    {
        "boxes": (),
        "channels": (),
        "curves": ("overview",),
        "figures": ("FIGURES", "draw_figure"),
        "panels": (),
        "scatter": (),
        "spectrum": (),
        "style": ("save_figure",),
        "survival": (),
        "toy": ("toy_figure",),
    },
)

__all__ = [
    "FIGURES",
    "boxes",
    "channels",
    "curves",
    "draw_figure",
    "figures",
    "overview",
    "panels",
    "save_figure",
    "scatter",
    "spectrum",
    "style",
    "survival",
    "toy",
    "toy_figure",
]
