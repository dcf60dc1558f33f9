"""Interquartile means, comparisons, rank correlations and bootstrap intervals over runs.

Few runs, heavy tails, bimodal outcomes: the interquartile mean with a bootstrap interval is the summary that Agarwal et
al. 2021 ("Deep Reinforcement Learning at the Edge of the Statistical Precipice") recommend for them. Plain percentiles
are too narrow for so few runs, so they are expanded (`expanded_tails`): intervals of 5 to 16 runs then hold the truth
in 91 to 98 % of samples instead of 85 to 95 % (`experiments/benchmarks/statistics.py`). Fewer than `MIN_RUNS` runs have
no interval: say their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

Statistic = Callable[..., np.ndarray]

# Resampled values that one block of positions may hold: 16 MiB of doubles, and a few times that for temporaries.
_BLOCK_VALUES = 2**21


MIN_RUNS = 5
"""Fewest runs with an interval: the range of four holds the median in 87 % of samples, and a bootstrap sees no more."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where there is nothing to measure, or too little for an interval."""

    value: float
    low: float
    high: float
    num_runs: int
    """Runs that it comes from: of the smaller side of a comparison, or pairs."""


def estimate_columns(name: str, values: np.ndarray) -> dict[str, float | str]:
    """Interquartile mean of the values of some runs [S], as columns: `name`, and its interval, `_low` and `_high`.

    `_runs`: of fewer than `MIN_RUNS` runs, which have no interval, the values in ascending order, with blanks between;
    NaN of more.
    """
    there = np.sort(values[~np.isnan(values)])
    low, high = bootstrap_interval(there)
    singles = " ".join(map(repr, there.tolist())) if 0 < there.size < MIN_RUNS else np.nan
    return {name: float(iqm(there)), f"{name}_low": float(low), f"{name}_high": float(high), f"{name}_runs": singles}


def exact_interval(num_events: int, num_runs: int, level: float = 0.95) -> tuple[float, float]:
    """Binomial interval of Clopper & Pearson 1934 of a share, from `num_events` of `num_runs`: (low, high).

    It covers the true share in at least `level` of all samples, whatever the share; (0, 1) without any run.
    Raises ValueError for a level outside (0, 1) and counts that are none.
    """
    low, high = tails(level)
    if not 0 <= num_events <= num_runs:
        raise ValueError(f"num_events is {num_events}, but must be from 0 to num_runs, {num_runs}.")
    missed = num_runs - num_events
    return (
        float(stats.beta.ppf(low, num_events, missed + 1)) if num_events else 0.0,
        float(stats.beta.ppf(high, num_events + 1, missed)) if missed else 1.0,
    )


def iqm(x: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean along `axis`: the mean of the middle half of the sorted values. NaN where all are missing.

    The i-th smallest of n values occupies [i, i + 1); its weight is the part of that interval which lies in
    [n/4, 3n/4], divided by n/2. Edge values thus count by a fraction, so that the statistic does not jump with n; for n
    divisible by 4 it equals `scipy.stats.trim_mean(x, 0.25)`. NaN means missing, n counts the others; infinities are
    values like any other.
    """
    ordered = np.sort(np.moveaxis(np.asarray(x, dtype=np.float64), axis, 0), axis=0)  # NaN sorts last
    if ordered.shape[0] == 0:
        return np.full(ordered.shape[1:], np.nan)
    counts = np.sum(~np.isnan(ordered), axis=0)
    ranks = np.arange(ordered.shape[0]).reshape((-1,) + (1,) * (ordered.ndim - 1))
    weights = _middle_half_weights(ranks, np.broadcast_to(counts, ordered.shape))
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, as it should be
        total = np.sum(np.where(weights > 0, ordered, 0.0) * weights, axis=0)
    return np.where(counts > 0, total, np.nan)


def bootstrap_interval(
    x: np.ndarray,
    statistic: Statistic = iqm,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    strata: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Expanded percentile bootstrap interval of `statistic` over the runs of x [S, ...]: (low [...], high [...]).

    Runs are drawn with replacement; with `strata` [S] (labels) each stratum is drawn from separately and keeps its
    size. The ends are the quantiles of `expanded_tails` for as many runs, less one for each stratum but the first.
    Every trailing position has its own interval, from the runs that are not NaN there; with fewer than `MIN_RUNS` of
    them it is NaN. `statistic(values [R, S, M], axis=1) -> [R, M]` sees no NaN. Positions are done in blocks, so that
    memory does not grow with their number.
    Raises ValueError for a level outside (0, 1), for less than one resample and for strata of another length.
    """
    values = np.asarray(x, dtype=np.float64)
    num_runs = values.shape[0]
    tails(level)
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}, but must be at least 1.")
    labels = np.zeros(num_runs, dtype=int) if strata is None else np.unique(np.asarray(strata), return_inverse=True)[1]
    if labels.shape != (num_runs,):
        raise ValueError(f"strata has shape {labels.shape}, but must have one label for each of the {num_runs} runs.")

    if values.size == 0:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    flat = values.reshape(num_runs, -1)
    interval = np.full((2, flat.shape[1]), np.nan)
    # Positions where the same runs are missing share one set of draws; most of the time that is all positions.
    patterns, members = np.unique(~np.isnan(flat), axis=1, return_inverse=True)
    for pattern in range(patterns.shape[1]):
        present = patterns[:, pattern]
        num_present = int(np.sum(present))
        if num_present < MIN_RUNS:
            continue
        ends = np.array(expanded_tails(level, num_present - np.unique(labels[present]).size + 1))
        columns = np.flatnonzero(members.ravel() == pattern)
        draws = _draw_runs(labels[present], num_resamples, np.random.default_rng(seed))
        # Without strata the order of the runs carries no meaning, so each position may be sorted first. The sorted
        # resample is then the sorted draw, the same for all positions.
        shown = flat[present] if strata is not None else np.sort(flat[present], axis=0)
        is_linear = statistic is iqm and strata is None and bool(np.all(np.isfinite(shown[:, columns])))
        weights = _resample_weights(draws) if is_linear else None
        for block in _blocks(columns, num_resamples if is_linear else draws.size):
            with np.errstate(invalid="ignore"):
                replicates = statistic(shown[:, block][draws], axis=1) if weights is None else weights @ shown[:, block]
                interval[:, block] = _quantiles(replicates, ends)
    low, high = interval.reshape((2, *values.shape[1:]))
    return low, high


def probability_of_improvement(
    x: np.ndarray,
    y: np.ndarray,
    strata: tuple[np.ndarray, np.ndarray] | None = None,
    level: float = 0.95,
) -> Estimate:
    """P(X > Y) of a run from x [S] and one from y [S'], over all pairs, ties half (Agarwal et al. 2021, section 4.3).

    Equal to the Mann-Whitney U statistic divided by S S'. The interval is method 5 of Newcombe 2006 (Statistics in
    Medicine 25, 559): all probabilities P with |P' - P| <= z sd(P), where sd(P) is that of U / (S S') between two
    exponential distributions, both sides of (S + S') / 2 runs (Hanley & McNeil 1982). It has a width even where every
    run of x is above every one of y. With `strata` (labels of x, labels of y; say environments) only runs of one
    stratum are compared, the mean is over strata that both sides have, and their distances to their ends are added in
    squares. It is NaN where a side has fewer than two runs. NaN means missing.
    Raises ValueError for arrays that are not one-dimensional and labels of another length.
    """
    labels = (np.zeros(np.shape(x)), np.zeros(np.shape(y))) if strata is None else strata
    x, x_labels = _present_runs(x, labels[0])
    y, y_labels = _present_runs(y, labels[1])
    z = float(stats.norm.ppf(tails(level)[1]))
    found = []
    for stratum in np.intersect1d(x_labels, y_labels):
        ours, theirs = x[x_labels == stratum], y[y_labels == stratum]
        share = float(np.mean((ours[:, None] > theirs) + 0.5 * (ours[:, None] == theirs)))
        found.append((share, *_newcombe(share, ours.size, theirs.size, z)))
    if not found:
        return Estimate(np.nan, np.nan, np.nan, 0)
    shares, lows, highs = np.array(found).T
    value = float(shares.mean())
    below, above = (float(np.sqrt(np.sum((shares - ends) ** 2)) / shares.size) for ends in (lows, highs))
    return Estimate(value, value - below, value + above, min(x.size, y.size))


def _newcombe(share: float, num_x: int, num_y: int, z: float) -> tuple[float, float]:
    """Ends of the interval of `probability_of_improvement` in one stratum."""
    if min(num_x, num_y) < 2:
        return np.nan, np.nan
    others = (num_x + num_y) / 2 - 1

    def excess(probability: float) -> float:
        """How far the share is from a probability, in standard deviations beyond z."""
        spread = 1 + others * ((1 - probability) / (2 - probability) + probability / (1 + probability))
        variance = probability * (1 - probability) * spread / (num_x * num_y)
        return (share - probability) ** 2 - z**2 * variance

    # At 0 and at 1, where the variance is 0, the excess is 0 too: no end is looked for there.
    low = optimize.brentq(excess, 0.0, min(share, 1 - 1e-9)) if share > 0 else 0.0
    high = optimize.brentq(excess, max(share, 1e-9), 1.0) if share < 1 else 1.0
    return low, high  # pyright: ignore[reportReturnType]


def paired_difference(
    x: np.ndarray,
    y: np.ndarray,
    x_seeds: np.ndarray,
    y_seeds: np.ndarray,
    statistic: Statistic = iqm,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Statistic of the differences x - y between runs of the same seed, with its bootstrap interval.

    x, x_seeds: [S]; y, y_seeds: [S']. The same seed means the same initial weights and environment keys, which the
    difference takes out. Seeds that only one side has, and pairs with a NaN, are left out.
    Raises ValueError for a seed that comes twice on one side.
    """
    for seeds in (x_seeds, y_seeds):
        if np.unique(seeds).size != np.size(seeds):
            raise ValueError("a seed comes twice on one side, so that its pair cannot be told.")
    _, ours, theirs = np.intersect1d(x_seeds, y_seeds, return_indices=True)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN
        differences = np.asarray(x, dtype=np.float64)[ours] - np.asarray(y, dtype=np.float64)[theirs]
    differences = differences[~np.isnan(differences)]
    if differences.size == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    low, high = bootstrap_interval(differences, statistic, num_resamples, level, seed)
    return Estimate(float(statistic(differences, axis=0)), float(low), float(high), differences.size)


def mean_over_settings(x: np.ndarray, num_resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean over settings of the interquartile mean over seeds of x [S seeds, P settings].

    Every setting counts the same; NaN means missing. Runs of one seed start from the same weights in every setting, so
    they are no independent evidence: the bootstrap draws seeds, each with its runs in all settings, and its percentiles
    are expanded as for so many seeds. With fewer than `MIN_RUNS` seeds the interval is NaN.
    """
    values = np.asarray(x, dtype=np.float64)
    values = values[~np.all(np.isnan(values), axis=1)]
    if values.size == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    low = high = np.nan
    ends = np.array(expanded_tails(level, values.shape[0]))
    if values.shape[0] >= MIN_RUNS:
        draws = _draw_runs(np.zeros(values.shape[0]), num_resamples, np.random.default_rng(seed))
        low, high = _quantiles(_mean_present(iqm(values[draws], axis=1))[:, None], ends)[:, 0]
    return Estimate(float(_mean_present(iqm(values))), float(low), float(high), int(np.sum(~np.isnan(values))))


def kendall_tau(x: np.ndarray, y: np.ndarray) -> float:
    """Kendall's tau-b of the pairs (x_i, y_i) [S] without a NaN; NaN where a side is constant or missing."""
    pairs = _varying_pairs(x, y)
    return float(stats.kendalltau(*pairs).statistic) if pairs else np.nan  # pyright: ignore[reportAttributeAccessIssue]


def spearman_rho(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of the pairs (x_i, y_i) [S] without a NaN; NaN as for `kendall_tau`."""
    pairs = _varying_pairs(x, y)
    return float(stats.spearmanr(*pairs).statistic) if pairs else np.nan  # pyright: ignore[reportAttributeAccessIssue]


def _present_runs(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The runs of x [S] that are not NaN, and their labels; raises ValueError for other shapes."""
    x, labels = np.asarray(x, dtype=np.float64), np.asarray(labels)
    if x.ndim != 1 or labels.shape != x.shape:
        raise ValueError(f"x and y must be [S] with one label for each run, not {x.shape} with labels {labels.shape}.")
    return x[~np.isnan(x)], labels[~np.isnan(x)]


def _varying_pairs(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The pairs without a NaN; None where fewer than two are left or a side is constant, so that ranks say nothing."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    present = ~(np.isnan(x) | np.isnan(y))
    x, y = x[present], y[present]
    return None if x.size < 2 or np.all(x == x[0]) or np.all(y == y[0]) else (x, y)


def _mean_present(x: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; every row has something."""
    present = ~np.isnan(x)
    return np.sum(np.where(present, x, 0.0), axis=-1) / np.maximum(np.sum(present, axis=-1), 1)


def tails(level: float) -> tuple[float, float]:
    """Probabilities of the two ends of an interval; raises ValueError for a level outside (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, but must lie between 0 and 1.")
    return (1 - level) / 2, (1 + level) / 2


def expanded_tails(level: float, num_runs: int, degrees: int | None = None) -> tuple[float, float]:
    """Probabilities of the ends of an expanded percentile interval (Hesterberg 2015, The American Statistician 69).

    Phi(-+ sqrt(n / (n - 1)) t), t the quantile of Student's distribution with `degrees` of freedom (n - 1 where not
    told): bootstrap samples of n runs vary by a factor (n - 1) / n too little, and their spread is itself uncertain.
    One run has the plain tails. Raises ValueError for a level outside (0, 1).
    """
    low, high = tails(level)
    if num_runs < 2:
        return low, high
    wide = np.sqrt(num_runs / (num_runs - 1)) * stats.t.ppf(high, num_runs - 1 if degrees is None else degrees)
    return float(stats.norm.sf(wide)), float(stats.norm.cdf(wide))


def _quantiles(replicates: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """Linear quantiles of the replicates [R, M] at the tails [2]: [2, M]; between two infinities, infinity."""
    linear = np.quantile(replicates, tails, axis=0)
    if not np.any(np.isnan(linear)):
        return linear
    return np.where(np.isnan(linear), np.quantile(replicates, tails, axis=0, method="nearest"), linear)


def _middle_half_weights(ranks: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weight of each rank (from 0) among `counts` values in the mean of the middle half; rows sum to 1."""
    overlap = np.minimum(ranks + 1, 0.75 * counts) - np.maximum(ranks, 0.25 * counts)
    return np.clip(overlap, 0.0, None) / np.maximum(0.5 * counts, 0.5)


def _draw_runs(labels: np.ndarray, num_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Run numbers [R, S], drawn with replacement within each stratum; every stratum keeps its positions."""
    draws = np.empty((num_resamples, labels.size), dtype=np.intp)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        draws[:, members] = members[rng.integers(0, members.size, (num_resamples, members.size))]
    return draws


def _resample_weights(draws: np.ndarray) -> np.ndarray:
    """Weight of each of the sorted runs in the IQM of each resample [R, S]: of all ranks at which it holds the run."""
    num_resamples, num_runs = draws.shape
    rank_weights = _middle_half_weights(np.arange(num_runs), np.asarray(num_runs))
    cells = np.sort(draws, axis=1) + num_runs * np.arange(num_resamples)[:, None]
    weights = np.bincount(cells.ravel(), np.tile(rank_weights, num_resamples), minlength=draws.size)
    return weights.reshape(draws.shape)


def _blocks(columns: np.ndarray, values_per_column: int) -> list[np.ndarray]:
    """`columns` in blocks whose resamples fit in memory."""
    per_block = max(1, _BLOCK_VALUES // max(1, values_per_column))
    return [columns[start : start + per_block] for start in range(0, columns.size, per_block)]
