"""Points of a sweep against each other: differences, whether pairing helped, and what the best one was chosen from."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from purejaxppo.statistics.estimates import MIN_RUNS, expanded_tails, iqm

PAIRING_CORRELATION = 0.5
"""Pairs are used from this correlation on: below it they cost as many degrees of freedom as they save variance."""
_MOST_PERMUTATIONS = 20_000
_NUM_PERMUTATIONS = 5000
_NUM_EQUAL_SWEEPS = 200


@dataclass(frozen=True)
class Difference:
    """Interquartile mean of one side minus that of the other; NaN where there is nothing to measure."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided probability of at least this difference where the runs are exchanged at random."""
    correlation: float
    """Pearson's, over the pairs of equal seed: how much pairing can help; NaN below three pairs."""
    is_paired: bool
    """Whether the interval and p come from pairs."""
    num_runs: int
    """Runs of the smaller side."""


@dataclass(frozen=True)
class Selection:
    """Which of P points is the best, and what that choice is worth."""

    shares: np.ndarray
    """Share of the bootstrap samples of seeds in which each point is the best, [P]: `probability_of_best`."""
    level: float
    """Where all points are equal, the largest share exceeds this in 5 % of sweeps: shares are no probabilities."""
    is_candidate: np.ndarray
    """Whether a point cannot be told from the best, [P]."""


def difference(
    x: np.ndarray,
    y: np.ndarray,
    x_seeds: np.ndarray,
    y_seeds: np.ndarray,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Interquartile mean of x [S] minus that of y [S'], with an interval, and a permutation test of no difference.

    Runs of equal seed are pairs. They are used where every run has its partner and the values of partners correlate by
    at least `PAIRING_CORRELATION`: the bootstrap then draws pairs, and the permutations exchange partners. Otherwise
    each side is drawn by itself, and all runs are exchanged. The interval is one of expanded percentiles
    (`expanded_tails`), NaN where a side has fewer than `MIN_RUNS` runs. Up to 20,000 exchanges all are tried, else 5000
    at random. NaN means missing; of infinite values there is neither interval nor test.
    Raises ValueError for a seed that comes twice on one side.
    """
    for seeds in (x_seeds, y_seeds):
        if np.unique(seeds).size != np.size(seeds):
            raise ValueError("a seed comes twice on one side, so that its pair cannot be told.")
    x, x_seeds = _present(x, x_seeds)
    y, y_seeds = _present(y, y_seeds)
    num_runs = min(x.size, y.size)
    if num_runs == 0:
        return Difference(np.nan, np.nan, np.nan, np.nan, np.nan, False, 0)
    shared, ours, theirs = np.intersect1d(x_seeds, y_seeds, return_indices=True)
    correlation = _correlation(x[ours], y[theirs])
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        with np.errstate(invalid="ignore"):  # inf - inf is NaN
            return Difference(float(iqm(x) - iqm(y)), np.nan, np.nan, np.nan, np.nan, False, num_runs)
    is_paired = shared.size == x.size == y.size and correlation >= PAIRING_CORRELATION
    if is_paired:
        x, y = x[ours], y[theirs]
    rng = np.random.default_rng(seed)
    low = high = np.nan
    if num_runs >= MIN_RUNS:
        our_draws = rng.integers(0, x.size, (num_resamples, x.size))
        their_draws = our_draws if is_paired else rng.integers(0, y.size, (num_resamples, y.size))
        replicates = iqm(x[our_draws], axis=1) - iqm(y[their_draws], axis=1)
        degrees = x.size - 1 if is_paired else x.size + y.size - 2
        low, high = np.quantile(replicates, expanded_tails(level, num_runs, degrees))
    value = float(iqm(x) - iqm(y))
    exchanged = _exchange_partners(x, y, rng) if is_paired else _exchange_runs(x, y, rng)
    return Difference(value, float(low), float(high), _share_beyond(value, exchanged), correlation, is_paired, num_runs)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values [M] adjusted for their number (Holm 1979); NaN is no test and stays.

    The i-th smallest, from 0, times M - i, at least as large as the one before, at most 1.
    """
    p = np.asarray(p, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = order.size - np.arange(order.size)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def probability_of_best(x: np.ndarray, num_resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Bootstrap share of each column of x [S seeds, P points], [P]: they sum to 1.

    Share of the bootstrap samples of seeds in which a point has the highest interquartile mean; points that tie share
    the sample. It is not the probability that the point is the best: of equal points some one leads, often by far
    (`Selection.level`). NaN means missing: a point without any value has no share (NaN) and no say; of the seeds only
    those are drawn that all other points have a value for, and with fewer than two of them all shares are NaN.
    """
    values, has_any = _complete(x)
    shares = np.full(has_any.size, np.nan)
    if values.shape[0] >= 2 and values.shape[1]:
        shares[has_any] = _shares(values, num_resamples, np.random.default_rng(seed))
    return shares


def select_best(x: np.ndarray, num_resamples: int = 2000, seed: int = 0) -> Selection:
    """The best column of x [S seeds, P points], and which others it cannot be told from.

    Under equality of all points their values at one seed could as well be exchanged. Permutations within seeds so give
    the `level` of the largest share, and the candidates: points whose interquartile mean lies further below the highest
    than the spread of equal points does in 5 % of permutations are left out, and the rest is tried again, until no more
    leave. The best point is among the candidates in at least 95 % of sweeps (a model confidence set, Hansen, Lunde &
    Nason 2011, with this test). NaN as in `probability_of_best`; a point without values is no candidate.
    """
    shares = probability_of_best(x, num_resamples, seed)
    values, has_any = _complete(x)
    rng = np.random.default_rng(seed)
    if values.shape[0] < 2 or values.shape[1] < 2:
        return Selection(shares, np.nan, has_any)
    largest = [
        np.max(_shares(rng.permuted(values, axis=1), num_resamples // 10, rng)) for _ in range(_NUM_EQUAL_SWEEPS)
    ]
    left = np.arange(values.shape[1])
    middles = iqm(values)
    while left.size > 1:
        shuffled = rng.permuted(np.tile(values[:, left], (500, 1, 1)), axis=2)
        spreads = np.ptp(iqm(shuffled, axis=1), axis=1)
        gaps = middles[left].max() - middles[left]
        is_near = gaps <= np.quantile(spreads, 0.95, method="higher") + 1e-9 * np.abs(middles[left]).max()
        if is_near.all():
            break
        left = left[is_near]
    is_candidate = np.zeros(has_any.size, dtype=bool)
    is_candidate[np.flatnonzero(has_any)[left]] = True
    return Selection(shares, float(np.quantile(largest, 0.95)), is_candidate)


def _present(values: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, dtype=np.float64)
    is_there = ~np.isnan(values)
    return values[is_there], np.asarray(seeds)[is_there]


def _complete(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The seeds and points of x [S, P] that have all their values, and which points have any, [P]."""
    values = np.asarray(x, dtype=np.float64)
    has_any = ~np.all(np.isnan(values), axis=0)
    values = values[:, has_any]
    return values[~np.any(np.isnan(values), axis=1)], has_any


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if x.size < 3 or not np.all(np.isfinite([x, y])) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])


def _shares(values: np.ndarray, num_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Share of the resamples of seeds in which each column of values [S, P] has the highest interquartile mean, [P]."""
    replicates = iqm(values[rng.integers(0, values.shape[0], (num_resamples, values.shape[0]))], axis=1)
    replicates = np.where(np.isnan(replicates), -np.inf, replicates)  # between both infinities: not the best
    is_best = replicates == np.max(replicates, axis=1, keepdims=True)
    return np.mean(is_best / np.sum(is_best, axis=1, keepdims=True), axis=0)


def _exchange_partners(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Differences of interquartile means with partners exchanged in some pairs, the observed one first; [R]."""
    if 2**x.size <= _MOST_PERMUTATIONS:
        is_swapped = np.array(list(itertools.product([False, True], repeat=x.size)))
    else:
        is_swapped = rng.random((_NUM_PERMUTATIONS, x.size)) < 0.5
        is_swapped[0] = False
    return iqm(np.where(is_swapped, y, x), axis=1) - iqm(np.where(is_swapped, x, y), axis=1)


def _exchange_runs(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Differences of interquartile means with all runs dealt out anew, the observed one first; [R]."""
    both = np.concatenate([x, y])
    if math.comb(both.size, x.size) <= _MOST_PERMUTATIONS:
        is_ours = np.zeros((math.comb(both.size, x.size), both.size), dtype=bool)
        chosen = np.array(list(itertools.combinations(range(both.size), x.size)))
        np.put_along_axis(is_ours, chosen, True, axis=1)
        dealt = both[np.argsort(~is_ours, axis=1, kind="stable")]
    else:
        dealt = rng.permuted(np.tile(both, (_NUM_PERMUTATIONS, 1)), axis=1)
        dealt[0] = both
    return iqm(dealt[:, : x.size], axis=1) - iqm(dealt[:, x.size :], axis=1)


def _share_beyond(value: float, exchanged: np.ndarray) -> float:
    """Share of the differences that are at least as far from 0; rounding must not break ties."""
    return float(np.mean(np.abs(exchanged) >= abs(value) - 1e-9 * np.max(np.abs(exchanged))))
