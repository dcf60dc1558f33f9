"""Singular values of the features over training, as heat maps: the whole of which every rank is one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.plots.captions import describe_sweep
from purejaxppo.plots.channels import COLOUR_MAP, point_names
from purejaxppo.plots.files import COLOUR_BAR
from purejaxppo.plots.scales import declutter
from purejaxppo.plots.sheets import SCREEN, Page, Sheet, house_style
from purejaxppo.plots.style import format_steps, lay_out, say_empty
from purejaxppo.results.dataset import Point, points
from purejaxppo.results.runs import curves, last_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-6
"""Smallest share of sigma_1 told apart; float32 cannot tell much less than 64 times its 1.2e-7 from 0."""
NETWORKS = ("policy", "critic")
_COLUMNS, _PAPER_COLUMNS = 5, 3
_LINE = "#D55E00"


def spectrum_figure(dataset: xr.Dataset, sheet: Sheet = SCREEN) -> Figure:
    """Heat maps of sigma_i / sigma_1 over training, policy above critic, one column of panels per point of the axes.

    Normalised by sigma_1, as most rank measures are: the map shows how the spectrum is shaped, not how large the
    features are (figure 1 has their norm). Colour: median over runs, logarithmic, from 1e-6. Line: median PCA rank.
    """
    from matplotlib.ticker import MaxNLocator

    everything = points(dataset)
    swept = [point for point, _ in everything]
    names = {
        tuple(point.values()): name.replace(", ", "\n") for point, name in zip(swept, point_names(swept), strict=True)
    }
    page = _page(len(everything), list(names.values()), sheet)
    columns = page.columns
    subtitle = (
        f"{describe_sweep(dataset)}. Singular values of the penultimate features, each divided by the largest one of "
        "its run and log point; median over the runs of a point. Dashed: median rank (PCA, 99 %). White: no value."
    )
    cells = _cells(everything, columns)
    with house_style(sheet):
        title = "Spectrum of the features over training"
        figure, axes = lay_out(max(1, len(cells)), [], title, subtitle, page, sheet)
        image = None
        for number, (ax, cell) in enumerate(zip(axes, cells, strict=False)):
            if cell is None:
                ax.set_visible(False)
                continue
            network, (point, runs) = cell
            if network == "policy":
                ax.set_title(names[tuple(point.values())], fontsize=sheet.small)
            ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 4, 5, 10]))
            ax.xaxis.set_major_formatter(format_steps)
            ax.set_xlim(0, last_step(dataset))
            image = _draw_spectrum(ax, dataset, network, runs) or image
            if number % columns == 0:
                ax.set_ylabel(f"{network}: index i")
            if network == "critic":
                ax.tick_params(labelbottom=True)
                if number >= len(cells) - columns:
                    ax.set_xlabel("environment steps")
        if image is not None:
            _draw_colour_bar(figure, axes[0], image, sheet)
        declutter(figure)
    return figure


def _page(num_points: int, names: Sequence[str], sheet: Sheet) -> Page:
    """Points beside each other, up to five (three on a paper), in blocks of policy and critic."""
    num_blocks = max(1, -(-num_points // (_COLUMNS if sheet.is_titled else _PAPER_COLUMNS)))
    columns = max(1, -(-num_points // num_blocks))
    heading = 0.14 * max([name.count("\n") for name in names] + [0])
    return Page(
        columns=columns,
        paper_columns=columns,
        width=max(7.5, 2.0 + 2.2 * columns),
        right=1.0 if sheet.is_titled else 1.45,
        panel_height=1.75,
        gap_x=0.3,
        gap_y=0.55 + heading + 0.2 * (not sheet.is_titled),
        above_panels=0.22 + heading,
        share_y=True,
    )


def _cells(everything: list[Point], columns: int) -> list[tuple[str, Point] | None]:
    """Panels in order: blocks of `columns` points, a row of the policy's panels above a row of the critic's."""
    cells: list[tuple[str, Point] | None] = []
    for start in range(0, len(everything), columns):
        block = everything[start : start + columns]
        for network in NETWORKS:
            cells += [*((network, point) for point in block), *[None] * (columns - len(block))]
    return cells


def _draw_colour_bar(figure: Figure, first: Axes, image: Any, sheet: Sheet) -> None:
    height, width = figure.get_figheight(), figure.get_figwidth()
    long = 2.6 * sheet.scale
    box = (
        1 - (0.8 if sheet.is_titled else 0.86) / width,
        first.get_position().y1 - long / height,
        0.16 / width,
        long / height,
    )
    bar = figure.colorbar(image, cax=figure.add_axes(box, label=COLOUR_BAR), extend="min")
    bar.set_label("sigma_i / sigma_1 (log)")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def median_spectrum(dataset: xr.Dataset, network: str, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps [L] and the median over runs of sigma_i / sigma_1 [L, D], as far as the runs have come.

    NaN where no run has a value, which includes log points at which sigma_1 is 0; no rows and columns without spectra.
    """
    name = f"{network}_singular_values"
    if name not in dataset:
        return np.zeros(0), np.zeros((0, 0))
    steps, values = curves(dataset, name, runs)
    width = int(np.sum(np.any(np.isfinite(values), axis=(0, 1))))
    values = values[:, :, :width]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = values / values[:, :, :1]
    shares = np.where(np.isfinite(shares), shares, np.nan)
    return steps, _median(shares)


def _draw_spectrum(ax: Axes, dataset: xr.Dataset, network: str, runs: np.ndarray) -> Any:
    """One heat map; returns it for the colour bar, None where there is nothing to draw."""
    from matplotlib.colors import LogNorm

    steps, shares = median_spectrum(dataset, network, runs)
    ax.grid(False)
    if shares.size == 0 or np.all(np.isnan(shares)):
        say_empty(ax, is_vertical=False)
        return None
    # Every place has the colour of the log point that is nearest to it.
    edges = np.concatenate([[0.0], (steps[1:] + steps[:-1]) / 2, [max(steps[-1], 1.0)]])
    indices = np.arange(shares.shape[1] + 1) + 0.5
    image = ax.pcolormesh(
        edges,
        indices,
        np.clip(shares, FLOOR, 1.0).T,
        norm=LogNorm(FLOOR, 1.0),
        cmap=COLOUR_MAP,
        rasterized=True,
    )
    if f"{network}_rank" in dataset:
        ranks = _median(curves(dataset, f"{network}_rank", runs)[1])
        ax.plot(steps, ranks, color="white", linewidth=2.4)
        ax.plot(steps, ranks, color=_LINE, linewidth=1.3, linestyle=(0, (3, 1.2)))
    ax.set_ylim(indices[-1], indices[0])  # the largest on top
    return image


def _median(values: np.ndarray) -> np.ndarray:
    """Median over runs [S, ...], NaN left out; NaN where nothing is left."""
    medians, present = np.median(values, axis=0), ~np.isnan(values)
    has_gaps = present.any(axis=0) & ~present.all(axis=0)
    medians[has_gaps] = np.nanmedian(values[:, has_gaps], axis=0)  # four times as slow
    return medians
