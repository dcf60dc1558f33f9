"""Contrasts: rank tests against SciPy and loops over all exchanges, Holm by its procedure, and what selection costs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from purejaxppo.statistics.contrasts import PAIRING_CORRELATION, difference, holm, probability_of_best, select_best


def trimmed(values: np.ndarray) -> float:
    """The interquartile mean by SciPy: four copies of every value have whole quarters."""
    return stats.trim_mean(np.repeat(values, 4), 0.25)


def pairs(num_runs: int, correlation: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Normal x and y whose sample correlation is exactly this."""
    rng = np.random.default_rng(seed)
    luck, own = (stats.zscore(rng.normal(size=num_runs)) for _ in range(2))
    own = stats.zscore(own - luck * np.mean(luck * own))
    return luck, correlation * luck + np.sqrt(1 - correlation**2) * own


def test_the_difference_is_that_of_the_two_numbers_in_the_table() -> None:
    x, y = pairs(7, 0.2)
    found = difference(x + 5, y, np.arange(7), np.arange(7))
    np.testing.assert_allclose(found.value, trimmed(x + 5) - trimmed(y))
    assert found.low < found.value < found.high
    assert found.num_runs == 7


def test_pairs_are_used_where_they_help_and_the_correlation_is_said() -> None:
    seeds = np.arange(8)
    for correlation in (-0.6, 0.0, PAIRING_CORRELATION - 0.01, PAIRING_CORRELATION + 0.01, 0.99):
        x, y = pairs(8, correlation)
        found = difference(x, y[::-1], seeds, seeds[::-1])
        np.testing.assert_allclose(found.correlation, correlation, atol=1e-12)
        assert found.is_paired == (correlation > PAIRING_CORRELATION)
    x, y = pairs(8, 0.99)
    paired = difference(x + 0.5, y, seeds, seeds)
    apart = difference(x + 0.5, y, seeds, seeds + 100)
    assert not apart.is_paired
    assert np.isnan(apart.correlation)
    assert paired.high - paired.low < 0.3 * (apart.high - apart.low)
    assert paired.p < 0.05 < apart.p
    assert not difference(x[:7], y, seeds[:7], seeds).is_paired  # one run has no partner


def test_the_interval_agrees_with_scipy() -> None:
    """Unpaired: SciPy's bootstrap of two samples, at the level that the expanded tails have."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(1, 1, 8), rng.normal(size=12)
    found = difference(x, y, np.arange(8), np.arange(100, 112), num_resamples=20_000)
    wide = np.sqrt(8 / 7) * stats.t.ppf(0.975, 18)
    expected = stats.bootstrap(
        (x, y),
        lambda x, y, axis: stats.trim_mean(x, 0.25, axis=axis) - stats.trim_mean(y, 0.25, axis=axis),
        method="percentile",
        n_resamples=20_000,
        confidence_level=1 - 2 * stats.norm.sf(wide),
        rng=rng,
    )
    np.testing.assert_allclose([found.low, found.high], expected.confidence_interval, atol=0.06)


def test_p_is_scipys_without_ties() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(1.5, 1, 5), rng.normal(size=4)
    found = difference(x, y, np.arange(5), np.arange(10, 14))
    assert found.p == pytest.approx(stats.mannwhitneyu(x, y, method="exact").pvalue)
    assert np.isnan(found.low)  # one side has four runs
    x, y = pairs(8, 0.9, seed=3)
    found = difference(x + 0.3, y, np.arange(8), np.arange(8))
    assert found.is_paired
    assert found.p == pytest.approx(stats.wilcoxon(x + 0.3 - y, method="exact").pvalue)


def test_p_counts_all_exchanges_with_ties() -> None:
    """Runs that diverged or failed stand at one value: SciPy's exact tables know no ties, a loop does."""
    x, y = np.array([-500.0, -500, -90, -85, -80]), np.array([-500.0, -500, -500, -90])
    ranks, sums = stats.rankdata(np.concatenate([x, y])), []
    for chosen in itertools.combinations(range(9), 5):
        sums.append(abs(sum(ranks[list(chosen)]) - 25))  # 5 of 9 ranks with mean 5
    expected = np.mean(np.array(sums) >= sums[0] - 1e-12)
    assert difference(x, y, np.arange(5), np.arange(10, 14)).p == pytest.approx(expected)


def test_many_runs_are_exchanged_at_random() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(0.4, 1, 40), rng.normal(size=40)
    found = difference(x, y, np.arange(40), np.arange(100, 140))
    assert found.p == pytest.approx(stats.mannwhitneyu(x, y).pvalue, abs=0.02)
    luck = 10 * rng.normal(size=20)
    close = difference(luck + 0.5, luck + 0.1 * rng.normal(size=20), np.arange(20), np.arange(20))
    assert 1 / 5000 <= close.p < 0.001


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_where_nothing_differs_five_percent_are_found_to_differ(correlation: float) -> None:
    """The choice between pairs and none looks at the runs, so the level is that of the whole procedure."""
    rng, seeds = np.random.default_rng(5), np.arange(8)
    first, other = rng.normal(size=(2, 300, 8))
    samples = zip(first, correlation * first + np.sqrt(1 - correlation**2) * other, strict=True)
    found = [difference(x, y, seeds, seeds, num_resamples=500) for x, y in samples]
    assert np.mean([one.p <= 0.05 for one in found]) < 0.085
    assert np.mean([one.low <= 0 <= one.high for one in found]) > 0.93


def test_what_cannot_be_compared_is_nan() -> None:
    nothing = difference(np.zeros(0), np.ones(3), np.zeros(0), np.arange(3))
    assert (nothing.num_runs, nothing.is_paired) == (0, False)
    assert np.isnan([nothing.value, nothing.low, nothing.p]).all()
    infinite = difference(np.array([np.inf] * 4 + [1.0]), np.arange(5.0), np.arange(5), np.arange(5))
    assert infinite.value == np.inf
    assert np.isnan([infinite.low, infinite.high]).all()
    assert infinite.p == pytest.approx(stats.mannwhitneyu([9, 9, 9, 9, 1], range(5)).pvalue, abs=0.03)
    with pytest.raises(ValueError, match="a seed comes twice"):
        difference(np.zeros(2), np.zeros(2), np.array([1, 1]), np.array([1, 2]))
    same = difference(np.ones(5), np.ones(5), np.arange(5), np.arange(5))
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


# --- Holm


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, np.nan])), [0.03, 0.06, 0.06, np.nan])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])
    assert holm(np.zeros(0)).size == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_as_the_step_down_procedure_does(p: list[float]) -> None:
    """Smallest first, each against 0.05 over the number of those left, until one stays."""
    rejected = set()
    for place, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] > 0.05 / (len(p) - place):
            break
        rejected.add(int(index))
    assert set(np.flatnonzero(holm(np.array(p)) <= 0.05 * (1 + 1e-12)).tolist()) == rejected


# --- The best


def test_the_share_of_the_best_is_that_of_resamples() -> None:
    values = np.random.default_rng(0).normal([0.0, 0.3, 0.5], 1.0, (12, 3))
    rng, wins = np.random.default_rng(1), np.zeros(3)
    for _ in range(4000):
        rows = values[rng.integers(0, 12, 12)]
        wins[np.argmax([stats.trim_mean(rows[:, point], 0.25) for point in range(3)])] += 1
    found = probability_of_best(values, num_resamples=4000)
    np.testing.assert_allclose(found, wins / 4000, atol=0.03)
    assert found.sum() == pytest.approx(1)


def test_the_best_in_every_seed_has_all_shares_and_equals_share() -> None:
    better = np.arange(8.0)[:, None] + np.array([0.0, 1.0, 1.0])
    np.testing.assert_array_equal(probability_of_best(better), [0, 0.5, 0.5])
    np.testing.assert_array_equal(probability_of_best(-better), [1, 0, 0])


def test_seeds_without_a_value_are_left_out_and_one_seed_decides_nothing() -> None:
    values = np.array([[0.0, 1.0], [0.0, 1.0], [9.0, np.nan]])
    np.testing.assert_array_equal(probability_of_best(values), [0, 1])
    assert np.isnan(probability_of_best(values[1:])).all()
    found = select_best(values[1:])
    assert np.isnan(found.level)
    assert found.is_candidate.all()


def test_the_level_of_the_share_is_what_equal_points_reach() -> None:
    """Six equal points, eight seeds: the leader's share exceeds it in about 5 % of sweeps, and is 0.5 in most."""
    rng = np.random.default_rng(0)
    found = [select_best(rng.normal(size=(8, 6)), num_resamples=500) for _ in range(60)]
    largest = np.array([one.shares.max() for one in found])
    assert np.median(largest) > 0.4
    assert 0.7 < np.mean([one.level for one in found]) < 0.95
    assert np.mean([one.shares.max() > one.level for one in found]) < 0.17  # of 60: 3 expected, 10 are too many
    assert np.mean([one.is_candidate.all() for one in found]) > 0.85


def test_points_that_are_surely_worse_are_no_candidates() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 5)) + np.array([-400.0, -6.0, 0.0, 0.1, np.nan])
    found = select_best(values)
    assert found.is_candidate.tolist() == [False, False, True, True, False]
    assert np.isnan(found.shares[4])
    luck = 100 * rng.normal(size=(8, 1))
    assert select_best(luck + rng.normal([0.0, 5.0], 1.0, (8, 2))).is_candidate.tolist() == [False, True]


def test_equal_points_are_all_candidates() -> None:
    assert select_best(np.tile(np.arange(6.0)[:, None], (1, 3))).is_candidate.all()
    alone = select_best(np.arange(6.0)[:, None])
    assert alone.is_candidate.tolist() == [True]
    assert np.isnan(alone.level)


def test_the_best_is_a_candidate_in_nineteen_of_twenty_sweeps() -> None:
    rng, kept = np.random.default_rng(1), []
    for _ in range(100):
        found = select_best(rng.normal([0.0, 0.5, 1.0, 1.2], 1.0, (6, 4)), num_resamples=100)
        kept.append(found.is_candidate[3])
    assert np.mean(kept) >= 0.95
