"""How many runs of each point have collapsed, as a legend: an interquartile mean of eight hides two dead runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.plots.channels import Channel, condition_names, line_style
from purejaxppo.plots.conditions import Facet
from purejaxppo.results.dataset import Point
from purejaxppo.statistics.collapse import outcomes

HEADING = "collapsed runs [exact 95 % interval]"


def collapse_texts(dataset: xr.Dataset, everything: Sequence[Point]) -> list[str] | None:
    """`collapsed 2 of 8 [3 %, 65 %]` for every point: its runs that lost their return or diverged.

    None where the results cannot tell.
    """
    if "return_mean" not in dataset or not np.any(np.isfinite(dataset["return_mean"].values)):
        return None
    found = outcomes(dataset)
    return [found.count(runs).label for _, runs in everything]


def collapse_sentence() -> str:
    """What the counts mean, for a caption."""
    return "Collapsed: the return is lost for good, or the run diverged [exact 95 % interval of the share]."


def collapse_channel(
    dataset: xr.Dataset, everything: Sequence[Point], channels: Sequence[Channel], facets: Sequence[Facet]
) -> Channel | None:
    """The counts as a legend with the line of each point; None where the results cannot tell."""
    texts = collapse_texts(dataset, everything)
    if not texts:
        return None
    names = condition_names([point for point, _ in everything], channels, is_noted=True)
    if len(facets) > 1:
        levels = [_level(point, facets) for point, _ in everything]
        names = [", ".join(filter(None, both)) for both in zip(levels, names, strict=True)]
    counts = [text.removeprefix("collapsed ") for text in texts]
    return Channel(
        fields=(),
        levels=tuple((number,) for number in range(len(texts))),
        styles=tuple(line_style(channels, point) for point, _ in everything),
        names=tuple(f"{name}: {count}" for name, count in zip(names, counts, strict=True)),
        kind="line",
        heading=f"{', '.join(channel.title for channel in channels)}: {HEADING}" if channels else HEADING,
    )


def _level(point: Mapping[str, Any], facets: Sequence[Facet]) -> str:
    """What the facet of a point has in common; a facet's points may have fewer fields."""
    found = (facet.level for facet in facets for other, _ in facet.points if other.items() <= point.items())
    return next(found, "")
