"""Figures from results. matplotlib is imported when the first one is drawn; its global settings are never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from purejaxppo._lazy import lazy

if TYPE_CHECKING:
    from purejaxppo.plots import (
        boxes,
        captions,
        channels,
        collapsed,
        conditions,
        curves,
        factorial,
        figures,
        files,
        panels,
        references,
        scales,
        scatter,
        sensitivity,
        sheets,
        spectrum,
        style,
        survival,
        toy,
    )
    from purejaxppo.plots.curves import overview
    from purejaxppo.plots.factorial import factorial_figure
    from purejaxppo.plots.figures import FIGURES, draw_figure
    from purejaxppo.plots.files import save_figure
    from purejaxppo.plots.sheets import PAPER, SCREEN
    from purejaxppo.plots.toy import toy_figure

__getattr__, __dir__ = lazy(
    __name__,
    {
        "boxes": (),
        "captions": (),
        "channels": (),
        "collapsed": (),
        "conditions": (),
        "curves": ("overview",),
        "factorial": ("factorial_figure",),
        "figures": ("FIGURES", "draw_figure"),
        "files": ("save_figure",),
        "panels": (),
        "references": (),
        "scales": (),
        "scatter": (),
        "sensitivity": (),
        "sheets": ("PAPER", "SCREEN"),
        "spectrum": (),
        "style": (),
        "survival": (),
        "toy": ("toy_figure",),
    },
)

__all__ = [
    "FIGURES",
    "PAPER",
    "SCREEN",
    "boxes",
    "captions",
    "channels",
    "collapsed",
    "conditions",
    "curves",
    "draw_figure",
    "factorial",
    "factorial_figure",
    "figures",
    "files",
    "overview",
    "panels",
    "references",
    "save_figure",
    "scales",
    "scatter",
    "sensitivity",
    "sheets",
    "spectrum",
    "style",
    "survival",
    "toy",
    "toy_figure",
]
