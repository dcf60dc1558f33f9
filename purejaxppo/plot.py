"""Drawing from a notebook: `pjp.plot.curves(dataset, "policy_rank", by="pfo_coef")`; the code is in `plots/`.

`curves` draws any metric over training, `sensitivity` final values against a swept number, `figure` the paper's figures
by name; each returns a matplotlib Figure, on the `SCREEN` or for a `PAPER`. `save` writes it.
"""

from __future__ import annotations

from purejaxppo.plots.curves import curves
from purejaxppo.plots.figures import draw_figure as figure
from purejaxppo.plots.files import save_figure as save
from purejaxppo.plots.sensitivity import sensitivity
from purejaxppo.plots.sheets import PAPER, SCREEN

__all__ = ["PAPER", "SCREEN", "curves", "figure", "save", "sensitivity"]
