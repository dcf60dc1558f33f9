"""Points of a sweep against each other: differences, whether pairing helped, and what the best one was chosen from."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from purejaxppo.statistics.estimates import MIN_RUNS, expanded_tails, iqm

PAIRING_CORRELATION = 0.5
"""Pairs are used from this correlation on: below it they cost as many degrees of freedom as they save variance."""
_MOST_PERMUTATIONS = 20_000
_NUM_PERMUTATIONS = 5000
_NUM_EQUAL_SWEEPS = 200
_NUM_EQUAL_RANKS = 1000


@dataclass(frozen=True)
class Difference:
    """Interquartile mean of one side minus that of the other; NaN where there is nothing to measure."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, of the ranks: Wilcoxon's signed ranks for pairs, else the rank sum of Mann & Whitney."""
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
    """Interquartile mean of x [S] minus that of y [S'], with an interval, and an exact rank test of no difference.

    Runs of equal seed are pairs. They are used where every run has its partner and the values of partners correlate by
    at least `PAIRING_CORRELATION`: the bootstrap then draws pairs, and the test changes signs of their differences.
    Otherwise each side is drawn by itself, and the test deals all runs out anew. The interval is one of expanded
    percentiles (`expanded_tails`), NaN where a side has fewer than `MIN_RUNS` runs. The test has ranks because of an
    interquartile mean of eight pairs only four matter, so that no p could be below 1/8; up to 20,000 exchanges all are
    tried, ties as they are, else 5000 at random. NaN means missing; of infinite values there is no interval.
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
    is_paired = shared.size == x.size == y.size and correlation >= PAIRING_CORRELATION
    if is_paired:
        x, y = x[ours], y[theirs]
    rng = np.random.default_rng(seed)
    low = high = np.nan
    if num_runs >= MIN_RUNS and np.all(np.isfinite(np.concatenate([x, y]))):
        our_draws = rng.integers(0, x.size, (num_resamples, x.size))
        their_draws = our_draws if is_paired else rng.integers(0, y.size, (num_resamples, y.size))
        replicates = iqm(x[our_draws], axis=1) - iqm(y[their_draws], axis=1)
        degrees = x.size - 1 if is_paired else x.size + y.size - 2
        low, high = np.quantile(replicates, expanded_tails(level, num_runs, degrees))
    with np.errstate(invalid="ignore"):  # inf - inf is NaN
        value = float(iqm(x) - iqm(y))
    p = _signed_rank_test(x - y, rng) if is_paired else _rank_sum_test(x, y, rng)
    return Difference(value, float(low), float(high), p, correlation, bool(is_paired), num_runs)


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
    the `level` of the largest share, and the candidates: points whose mean rank, among all values, lies further below
    that of the point with the highest interquartile mean than the mean ranks of equal points spread in 5 % of
    permutations are left out, and the rest is tried again, until no more leave (after the model confidence set of
    Hansen, Lunde & Nason 2011). NaN as in `probability_of_best`; a point without values is no candidate.
    """
    shares = probability_of_best(x, num_resamples, seed)
    values, has_any = _complete(x)
    rng = np.random.default_rng(seed)
    if values.shape[0] < 2 or values.shape[1] < 2:
        return Selection(shares, np.nan, has_any)
    largest = [
        np.max(_shares(rng.permuted(values, axis=1), num_resamples // 10, rng)) for _ in range(_NUM_EQUAL_SWEEPS)
    ]
    left, leader = np.arange(values.shape[1]), int(np.argmax(np.where(np.isnan(iqm(values)), -np.inf, iqm(values))))
    while left.size > 1:
        ranks = stats.rankdata(values[:, left]).reshape(values.shape[0], left.size)
        shuffled = rng.permuted(np.tile(ranks, (_NUM_EQUAL_RANKS, 1, 1)), axis=2).mean(axis=1)
        limit = np.quantile(np.ptp(shuffled, axis=1), 0.95, method="higher")
        means = ranks.mean(axis=0)
        is_near = means[left == leader] - means <= limit + 1e-9 * ranks.size
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


def _signed_rank_test(differences: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p of Wilcoxon's signed ranks, from the sums under all changes of signs."""
    ranks = stats.rankdata(np.abs(differences)) * np.sign(differences)
    if 2**ranks.size <= _MOST_PERMUTATIONS:
        signs = np.array(list(itertools.product([1, -1], repeat=ranks.size)))
    else:
        signs = rng.choice([1, -1], (_NUM_PERMUTATIONS, ranks.size))
        signs[0] = 1
    return _share_beyond(signs @ ranks)


def _rank_sum_test(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> float:
    """Two-sided p of the rank sum of Mann & Whitney, from the sums of all ways to deal out the runs."""
    ranks = stats.rankdata(np.concatenate([x, y]))
    ranks -= ranks.mean()
    if math.comb(ranks.size, x.size) <= _MOST_PERMUTATIONS:
        chosen = np.array(list(itertools.combinations(range(ranks.size), x.size)))
        return _share_beyond(ranks[chosen].sum(axis=1))
    dealt = rng.permuted(np.tile(ranks, (_NUM_PERMUTATIONS, 1)), axis=1)
    dealt[0] = ranks
    return _share_beyond(dealt[:, : x.size].sum(axis=1))


def _share_beyond(sums: np.ndarray) -> float:
    """Share of the sums that are at least as far from 0 as the first, which was observed; rounding breaks no ties."""
    return float(np.mean(np.abs(sums) >= abs(sums[0]) - 1e-9 * max(1.0, np.max(np.abs(sums)))))
