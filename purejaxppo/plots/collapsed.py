"""How many runs of each point have collapsed, as a legend: an interquartile mean of eight hides two dead runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.plots.channels import Channel, condition_names, line_style
from purejaxppo.plots.conditions import Facet
from purejaxppo.results.dataset import Point
from purejaxppo.statistics.collapse import Outcomes, outcomes

HEADING = "collapsed runs [exact 95 % interval]"
_RETURNS = {"return_mean", "evaluation_return_mean"}


def collapse_texts(dataset: xr.Dataset, everything: Sequence[Point]) -> list[str] | None:
    """`collapsed 2 of 8 [3 %, 65 %]` for every point: its runs that lost their return or diverged.

    None where the results cannot tell.
    """
    found = _outcomes(dataset)
    return [found.count(runs).label for _, runs in everything] if found else None


def _outcomes(dataset: xr.Dataset) -> Outcomes | None:
    """What became of the runs in training; also of results that have it written down in place of their returns."""
    if "return_mean" in dataset and np.any(np.isfinite(dataset["return_mean"].values)):
        return outcomes(dataset)
    if {"is_collapsed", "has_learned"} <= set(dataset.data_vars):
        return Outcomes(
            is_collapsed=dataset["is_collapsed"].values,
            has_learned=dataset["has_learned"].values,
            is_diverged=dataset["status"].values != 0,
        )
    return None


def shows_return(metrics: Iterable[str]) -> bool:
    """Whether a return is among the metrics, so that collapsed runs are to be counted."""
    return bool(_RETURNS & set(metrics))


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
