"""What a plasticity loss is to be read against: the best constant output, and the network of the run's start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEVELS = {"constant": "best constant", "fresh": "fresh network"}
"""Part of the metric's name -> the words beside the line."""
_COLOUR = "0.3"


def reference_levels(dataset: xr.Dataset, metric: str, runs: np.ndarray) -> dict[str, float]:
    """Words -> median over runs of the loss that the panel of a plasticity loss is to be read against.

    `{network}_plasticity_constant_loss` and `_fresh_loss`, the same at every measurement of a run. Empty for other
    metrics, and for results that lack them.
    """
    if not metric.endswith("_plasticity_loss"):
        return {}
    levels = {}
    for part, words in _LEVELS.items():
        name = metric.replace("_plasticity_loss", f"_plasticity_{part}_loss")
        if name in dataset and runs.size:
            values = dataset[name].values[runs].astype(np.float64)
            if np.any(finite := np.isfinite(values)):
                levels[words] = float(np.median(values[finite]))
    return levels


def draw_references(ax: Axes, levels: Mapping[str, float], is_vertical: bool = True) -> None:
    """Dashed lines at levels of the vertical (or horizontal) axis, each with its words along the end; call it when the
    limits are set.
    """
    from matplotlib.patheffects import withStroke

    ordered = sorted(levels.items(), key=lambda item: item[1])
    for number, (words, level) in enumerate(ordered):
        look = {"color": _COLOUR, "linewidth": 0.9, "linestyle": (0, (5, 3)), "zorder": 3, "label": f"_{words}"}
        is_upper = number == len(ordered) - 1  # its words stand above it, the lower one's below
        if is_vertical:
            ax.axhline(level, **look)
            place = {"xy": (1.0, level), "xycoords": ax.get_yaxis_transform(), "xytext": (-2, 3 * is_upper - 1.5)}
            place |= {"ha": "right", "va": "bottom" if is_upper else "top"}
        else:
            ax.axvline(level, **look)
            place = {"xy": (level, 0.0), "xycoords": ax.get_xaxis_transform(), "xytext": (3 * is_upper - 1.5, 2)}
            place |= {"ha": "left" if is_upper else "right", "va": "bottom", "rotation": 90}
        ax.annotate(
            words,
            **place,
            textcoords="offset points",
            size=7,
            color=_COLOUR,
            zorder=6,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def describe_references(dataset: xr.Dataset, metrics: Sequence[str]) -> str:
    """What the lines are, or that these results have none; nothing where no plasticity loss is shown."""
    shown = [metric for metric in metrics if metric.endswith("_plasticity_loss") and metric in dataset]
    if not shown:
        return ""
    if any(reference_levels(dataset, metric, np.arange(dataset.sizes["run"])) for metric in shown):
        return (
            "Dashed grey: plasticity loss of the best constant output, and of each run's initial network fitted alike "
            "(medians over runs)."
        )
    return "These results do not have the plasticity loss of the best constant and of a fresh network."
