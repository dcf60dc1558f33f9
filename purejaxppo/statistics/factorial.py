"""Main effects and interactions of a full factorial of two-level fields, from runs of equal seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import points
from purejaxppo.statistics.contrasts import holm
from purejaxppo.statistics.estimates import MIN_RUNS
from purejaxppo.statistics.finals import comparable_values
from purejaxppo.statistics.tables import format_value

Levels = Mapping[str, tuple[Any, Any]]


def two_level_fields(dataset: xr.Dataset) -> Levels:
    """The swept fields that have two levels, name -> (first, second), in the order of the sweep.

    Of fields whose levels go together, as a strength's with the kind that it is the strength of, one: the first that is
    no number, else the first.
    """
    return {field: levels for (field, *_), levels in _factors(dataset).items()}


def _factors(dataset: xr.Dataset) -> dict[tuple[str, ...], tuple[Any, Any]]:
    """Fields whose two levels go together, the one that names them first, and its levels."""
    swept: dict[str, list[Any]] = {}
    for point, _ in points(dataset):
        for field, value in point.items():
            swept.setdefault(field, []).append(value)
    levels = {field: tuple(dict.fromkeys(values)) for field, values in swept.items()}
    two = {field: found for field, found in levels.items() if len(found) == 2}
    together: dict[tuple[bool, ...], list[str]] = {}
    for field, (first, _) in two.items():
        together.setdefault(tuple(value == first for value in swept[field]), []).append(field)
    groups = [tuple(sorted(fields, key=lambda field: _is_number(two[field][0]))) for fields in together.values()]
    groups.sort(key=lambda fields: list(two).index(fields[0]))
    return {fields: (two[fields[0]][0], two[fields[0]][1]) for fields in groups}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def factorial_effects(
    dataset: xr.Dataset,
    metric: str,
    factors: Sequence[str] | None = None,
    in_doublings: bool = False,
    is_lowest: bool = False,
    level: float = 0.95,
) -> pd.DataFrame:
    """What each of k two-level fields does to a final value, alone and with others: 2^k - 1 rows, Holm over all.

    Columns: effect (`pfo_states=other x pfo_features=outputs, pfo_coef=100`: levels that go together are not told
    apart), order (1 for main effects), value, low, high, p, p_holm, num_seeds. Of each seed an effect is the mean of
    the cells with an even number of its fields at the first level minus that of the other cells: a main effect is what
    the second level adds, an interaction of two half of how much one field's effect changes with the other. Interval
    and p: mean over seeds, Student's t; where all seeds agree, p is that of equal signs, 2^(1 - seeds), and fewer than
    `MIN_RUNS` seeds have no interval. A run that diverged counts as the worst case, `is_lowest` saying that low is good
    (`comparable_values`); a seed without a value in every cell does not count. in_doublings: of log2 of the value.
    factors: by default all that there are (`two_level_fields`).
    Raises ConfigError for a field that has no two levels, for cells without runs or with more of a seed than others
    (plain PPO beside a factorial of strengths, say: leave it out), and for no field at all.
    """
    known = two_level_fields(dataset)
    chosen = list(known) if factors is None else list(factors)
    for field in chosen:
        if field not in known:
            raise ConfigError(f"factor is {field!r}, but must be a swept field with two levels: {', '.join(known)}.")
    if not chosen:
        raise ConfigError("The results have no swept field with two levels, so no factorial.")
    finals = comparable_values(dataset, metric, is_lowest).values
    with np.errstate(divide="ignore", invalid="ignore"):
        finals = np.log2(np.where(finals > 0, finals, np.nan)) if in_doublings else finals
    cells = _cells(dataset, finals, {field: known[field] for field in chosen})
    names = {fields[0]: _name(dataset, fields, second) for fields, (_, second) in _factors(dataset).items()}
    signs = np.array(list(itertools.product((-1, 1), repeat=len(chosen))))  # [cells, k], as the rows of `cells`
    rows = []
    for order in range(1, len(chosen) + 1):
        for members in itertools.combinations(range(len(chosen)), order):
            contrast = np.prod(signs[:, members], axis=1) / (len(signs) / 2)
            each = contrast @ cells
            told = " x ".join(names[chosen[k]] for k in members)
            rows.append({"effect": told, "order": order, **_estimate(each, level), "num_seeds": each.size})
    table = pd.DataFrame(rows)
    table.insert(6, "p_holm", holm(table["p"].to_numpy()))
    return table


def _name(dataset: xr.Dataset, fields: Sequence[str], second: Any) -> str:
    """What the second level of a factor is: it, and the values of the fields that go with it."""
    place = int(np.flatnonzero(dataset[fields[0]].values == second)[0])
    return ", ".join(f"{field}={format_value(dataset[field].values[place].item())}" for field in fields)


def _cells(dataset: xr.Dataset, finals: np.ndarray, levels: Levels) -> np.ndarray:
    """Mean final value of each cell and seed, [2^k cells, seeds]; of the seeds those with a value in every cell."""
    seeds = dataset["seed"].values
    numbers, found, counts = np.unique(seeds), [], set()
    for values in itertools.product(*levels.values()):
        is_here = np.all([dataset[field].values == value for field, value in zip(levels, values, strict=True)], axis=0)
        told = ", ".join(f"{field} = {value}" for field, value in zip(levels, values, strict=True))
        if not is_here.any():
            raise ConfigError(f"No run has {told}, so that the factorial is not a full one.")
        of_seed = [finals[is_here & (seeds == seed)] for seed in numbers]
        counts.add(max(x.size for x in of_seed))
        if len(counts) > 1:
            raise ConfigError(
                f"{max(counts)} and {min(counts)} runs of a seed are in cells of the factorial ({told} is one); leave "
                "out with where what is not of it."
            )
        found.append([float(np.mean(x)) if x.size else math.nan for x in of_seed])
    cells = np.array(found)
    return cells[:, np.isfinite(cells).all(axis=0)]


def _estimate(each: np.ndarray, level: float) -> dict[str, float]:
    """Mean of an effect over seeds, its interval and p by Student's t; NaN where there are fewer than two seeds."""
    value, nothing = float(np.mean(each)) if each.size else math.nan, dict.fromkeys(("low", "high", "p"), math.nan)
    if each.size < 2:
        return {"value": value} | nothing
    error = float(np.std(each, ddof=1)) / math.sqrt(each.size)
    half = float(stats.t.ppf((1 + level) / 2, each.size - 1)) * error if each.size >= MIN_RUNS else math.nan
    if error == 0:
        p = 2.0 ** (1 - each.size) if value else 1.0
    else:
        p = 2 * float(stats.t.sf(abs(value) / error, each.size - 1))
    return {"value": value, "low": value - half, "high": value + half, "p": p}
