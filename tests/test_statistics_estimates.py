"""Statistics: the interquartile mean and the bootstrap against scipy, and against loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from purejaxppo.analysis import (
    bootstrap_interval,
    exact_interval,
    iqm,
    kendall_tau,
    mean_over_settings,
    paired_difference,
    probability_of_improvement,
    spearman_rho,
    statistics,
)
from purejaxppo.statistics.estimates import estimate_columns, expanded_tails

FINITE = st.floats(-1e6, 1e6)


def mean(values, axis):
    return np.mean(values, axis=axis)


@pytest.mark.parametrize("num_runs", [4, 8, 12, 20])
def test_iqm_is_the_trimmed_mean_when_quarters_are_whole(num_runs):
    x = np.random.default_rng(num_runs).normal(size=(num_runs, 5))
    np.testing.assert_allclose(iqm(x), stats.trim_mean(x, 0.25, axis=0), rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 13), elements=FINITE))
def test_iqm_counts_edges_by_a_fraction(x):
    # Four copies of every value have whole quarters, and the same middle half.
    np.testing.assert_allclose(iqm(x), stats.trim_mean(np.repeat(x, 4), 0.25), rtol=1e-9, atol=1e-6)


def test_iqm_by_hand():
    assert iqm(np.array([7.0])) == 7
    assert iqm(np.array([1.0, 3.0])) == 2
    # Three values, sorted 0 1 9: the middle half is [0.75, 2.25), so weights 0.25, 1, 0.25 over 1.5.
    np.testing.assert_allclose(iqm(np.array([9.0, 0.0, 1.0])), (0.25 * 0 + 1 + 0.25 * 9) / 1.5)


def test_iqm_leaves_out_what_is_missing():
    x = np.random.default_rng(0).normal(size=(6, 3))
    x[[0, 4], 0] = np.nan
    x[:, 1] = np.nan
    found = iqm(x)
    np.testing.assert_allclose(found[0], iqm(x[[1, 2, 3, 5], 0]))
    assert np.isnan(found[1])
    np.testing.assert_allclose(found[2], iqm(x[:, 2]))


def test_iqm_takes_any_axis_and_no_runs():
    x = np.random.default_rng(1).normal(size=(2, 5, 3))
    np.testing.assert_allclose(iqm(x, axis=1), np.stack([iqm(x[0]), iqm(x[1])]))
    np.testing.assert_allclose(iqm(x, axis=-1), iqm(np.moveaxis(x, 2, 0)))
    assert np.all(np.isnan(iqm(np.zeros((0, 3)))))


def test_iqm_is_robust_to_infinite_outliers():
    assert iqm(np.array([np.inf, 1.0, 2.0, -np.inf])) == 1.5
    assert iqm(np.array([np.inf, np.inf, np.inf, 1.0])) == np.inf


def expanded(level, num_runs, degrees=None):
    """Level of the plain percentile interval that is as wide: Hesterberg 2015, section 5.2, by its formula."""
    wide = np.sqrt(num_runs / (num_runs - 1)) * stats.t.ppf((1 + level) / 2, degrees or num_runs - 1)
    return 1 - 2 * stats.norm.sf(wide)


def test_expanded_tails_are_hesterbergs():
    """By tables: sqrt(5 / 4) t(4) = 1.118 x 2.776 = 3.104, beyond which lie 0.00095 of a normal; and so on."""
    for num_runs, t, tail in ((5, 2.776, 0.00095), (10, 2.262, 0.00856), (20, 2.093, 0.01588)):
        low, high = expanded_tails(0.95, num_runs)
        assert stats.norm.isf(low) == pytest.approx(np.sqrt(num_runs / (num_runs - 1)) * t, abs=1e-3)
        assert low == pytest.approx(tail, abs=2e-5)
        assert high == pytest.approx(1 - low)
    np.testing.assert_allclose(expanded_tails(0.95, 10**7), (0.025, 0.975), atol=1e-6)
    assert expanded_tails(0.95, 1) == pytest.approx((0.025, 0.975))
    assert expanded_tails(0.95, 8, 14)[0] > expanded_tails(0.95, 8)[0]


def test_interval_equals_scipys_expanded_percentile_bootstrap():
    x = np.sort(np.random.default_rng(2).normal(size=11))  # sorted, as then the draws are the same ones
    options = {"method": "percentile", "n_resamples": 3000, "confidence_level": expanded(0.95, 11)}
    expected = stats.bootstrap((x,), np.mean, rng=np.random.default_rng(5), **options)
    low, high = bootstrap_interval(x, mean, num_resamples=3000, seed=5)
    np.testing.assert_allclose([low, high], expected.confidence_interval, rtol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_of_the_iqm_agrees_with_scipy(level):
    x = np.random.default_rng(3).lognormal(size=(12, 3))
    low, high = bootstrap_interval(x, iqm, num_resamples=20_000, level=level)
    assert low.shape == high.shape == (3,)
    for column in range(3):
        expected = stats.bootstrap(
            (x[:, column],),
            lambda values, axis: stats.trim_mean(values, 0.25, axis=axis),
            method="percentile",
            n_resamples=20_000,
            confidence_level=expanded(level, 12),
            rng=np.random.default_rng(7),
        )
        np.testing.assert_allclose([low[column], high[column]], expected.confidence_interval, rtol=0.04)


def test_fewer_than_five_runs_have_no_interval():
    x = np.random.default_rng(0).normal(size=(6, 2))
    x[4:, 0] = np.nan
    low, high = bootstrap_interval(x)
    assert np.isnan([low[0], high[0]]).all()
    assert low[1] < high[1]
    assert estimate_columns("a", x[:, 0])["a_runs"] == " ".join(map(repr, np.sort(x[:4, 0]).tolist()))
    assert np.isnan(estimate_columns("a", x[:, 1])["a_runs"])
    assert np.isnan(estimate_columns("a", np.full(3, np.nan))["a_runs"])


@pytest.mark.parametrize(
    ("num_events", "num_runs", "expected"),
    # Clopper & Pearson 1934 by their definition, as in R's binom.test: 0 of 8, 3 of 8, 8 of 8.
    [(0, 8, (0.0, 0.3694)), (3, 8, (0.0852, 0.7551)), (8, 8, (0.6306, 1.0)), (0, 0, (0.0, 1.0))],
)
def test_the_exact_interval_is_clopper_and_pearsons(num_events, num_runs, expected):
    np.testing.assert_allclose(exact_interval(num_events, num_runs), expected, atol=5e-5)
    if num_runs:
        ends = stats.binomtest(num_events, num_runs).proportion_ci(confidence_level=0.9, method="exact")
        np.testing.assert_allclose(exact_interval(num_events, num_runs, level=0.9), ends, rtol=1e-9)


def test_impossible_counts_are_told():
    with pytest.raises(ValueError, match="num_events is 3, but must be from 0 to num_runs, 2"):
        exact_interval(3, 2)


def test_the_fast_path_of_the_iqm_is_the_iqm():
    x = np.random.default_rng(4).normal(size=(7, 2, 3))
    fast = bootstrap_interval(x, iqm)
    plain = bootstrap_interval(x, lambda values, axis: iqm(values, axis))
    np.testing.assert_allclose(fast, plain, rtol=1e-12)


def test_blocks_do_not_change_the_interval(monkeypatch):
    x = np.random.default_rng(5).normal(size=(6, 40))
    whole = bootstrap_interval(x, iqm, num_resamples=200)
    seen = []

    def watched(values, axis):
        seen.append(values.size)
        return iqm(values, axis)

    monkeypatch.setattr(statistics, "_BLOCK_VALUES", 200 * 6 * 7)
    np.testing.assert_allclose(bootstrap_interval(x, watched, num_resamples=200), whole, rtol=1e-12)
    assert max(seen) == 200 * 6 * 7
    assert sum(seen) == 200 * 6 * 40


def test_missing_runs_are_left_out_where_they_miss():
    x = np.random.default_rng(6).normal(size=(8, 4))
    x[2:4, 1] = np.nan
    x[1:, 2] = np.nan
    x[:, 3] = np.nan
    low, high = bootstrap_interval(x, mean)
    np.testing.assert_allclose((low[0], high[0]), bootstrap_interval(x[:, 0], mean))
    np.testing.assert_allclose((low[1], high[1]), bootstrap_interval(x[[0, 1, 4, 5, 6, 7], 1], mean))
    assert np.all(np.isnan(low[2:]))
    assert np.all(np.isnan(high[2:]))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), (1, 3), (4, 0), (2, 0, 3)])
def test_too_few_runs_have_no_interval(shape):
    low, high = bootstrap_interval(np.zeros(shape), iqm)
    assert low.shape == high.shape == shape[1:]
    assert np.all(np.isnan(low))
    assert np.all(np.isnan(high))


def test_infinite_values_are_values():
    x = np.array([1.0, 2.0, np.inf, 3.0, 4.0, 5.0])
    low, high = bootstrap_interval(x, iqm)
    assert 1 <= low < iqm(x) < 5
    assert high == np.inf
    np.testing.assert_array_equal(bootstrap_interval(x, lambda values, axis: iqm(values, axis)), (low, high))


def test_strata_keep_their_size():
    # Each stratum is constant: whatever is drawn, the mean is that of the sample, if and only if the sizes are kept.
    strata = np.array(["a", "b", "b", "a", "b"])
    x = np.where(strata == "a", 0.0, 10.0)
    np.testing.assert_allclose(bootstrap_interval(x, mean, strata=strata), (6.0, 6.0))
    low, high = bootstrap_interval(x, mean)
    assert low < 6 < high


def test_stratified_interval_equals_a_loop():
    x = np.random.default_rng(8).normal(size=9) + np.repeat([0.0, 5.0, 20.0], 3)
    strata = np.repeat([2, 0, 1], 3)
    rng = np.random.default_rng(0)
    drawn = [rng.choice(x[strata == label], (40_000, 3)) for label in (0, 1, 2)]
    means = np.mean(np.concatenate(drawn, axis=1), axis=1)
    level = expanded(0.95, 9 - 3 + 1)  # two of nine degrees of freedom go into the strata's own means
    expected = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    np.testing.assert_allclose(bootstrap_interval(x, mean, 40_000, strata=strata), expected, atol=0.02)


def test_one_seed_gives_one_interval():
    x = np.random.default_rng(9).normal(size=(10,))
    assert bootstrap_interval(x, seed=1) == bootstrap_interval(x, seed=1)
    assert bootstrap_interval(x, seed=1) != bootstrap_interval(x, seed=2)


@pytest.mark.parametrize("num_runs", [5, 8, 16])
def test_interval_covers_the_truth_about_as_often_as_it_says(num_runs):
    """95 % by name; plain percentiles would give 88 to 93."""
    x = np.random.default_rng(10).normal(size=(num_runs, 2000))
    low, high = bootstrap_interval(x, iqm, num_resamples=500)
    assert 0.92 < np.mean((low < 0) & (high > 0)) < 0.985


@pytest.mark.parametrize(
    "wrong",
    [{"level": 0.0}, {"level": 1.0}, {"num_resamples": 0}, {"strata": np.zeros(3)}, {"strata": np.zeros((4, 1))}],
)
def test_impossible_requests_are_told(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        bootstrap_interval(np.zeros(4), iqm, **wrong)


# --- Comparisons


RUNS = hnp.arrays(np.float64, st.integers(2, 9), elements=st.integers(-4, 4))


def test_probability_of_improvement_by_hand():
    # Nine pairs: 1 beats nothing and ties once, 2 beats one and ties none, 5 beats all three.
    assert probability_of_improvement(np.array([1, 2, 5]), np.array([1, 3, 4])).value == (0.5 + 1 + 3) / 9


@settings(max_examples=100, deadline=None)
@given(RUNS, RUNS)
def test_probability_of_improvement_is_mann_whitneys_u_over_the_pairs(x, y):
    found = probability_of_improvement(x, y)
    np.testing.assert_allclose(found.value, stats.mannwhitneyu(x, y).statistic / (x.size * y.size))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.15  # it has a width whatever happened
    assert found.num_runs == min(x.size, y.size)


@settings(max_examples=50, deadline=None)
@given(RUNS, RUNS)
def test_probability_of_improvement_is_antisymmetric_and_about_order_only(x, y):
    found = probability_of_improvement(x, y)
    np.testing.assert_allclose(found.value + probability_of_improvement(y, x).value, 1)
    assert found == probability_of_improvement(np.exp(x), np.exp(y))
    assert found == probability_of_improvement(3 * x**3 + 1, 3 * y**3 + 1)
    downwards = probability_of_improvement(-x, -y)
    np.testing.assert_allclose([downwards.low, downwards.high], [1 - found.high, 1 - found.low], atol=1e-9)


def test_its_interval_is_newcombes():
    """The ends solve his equation: squared distance = z^2 times the variance under two exponentials, at the end."""
    x, y = np.array([3.0, 5, 6, 7, 9, 11]), np.array([1.0, 2, 4, 8])
    found = probability_of_improvement(x, y)
    others = (6 + 4) / 2 - 1
    for end in (found.low, found.high):
        # Hanley & McNeil 1982: Q1 = P / (2 - P), Q2 = 2 P^2 / (1 + P), both sides of (m + n) / 2.
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        variance = (end * (1 - end) + others * (q1 - end**2) + others * (q2 - end**2)) / (6 * 4)
        np.testing.assert_allclose((found.value - end) ** 2, 1.959964**2 * variance, rtol=1e-5)
    # Where all runs of x win, (1 - P) = z^2 P (1 + N (...)) / (m n), by bisection in a loop.
    always = probability_of_improvement(np.arange(8.0) + 8, np.arange(8.0))
    low, high = 0.0, 1.0 - 1e-12
    for _ in range(60):
        end = (low + high) / 2
        spread = 1 + 7 * ((1 - end) / (2 - end) + end / (1 + end))
        low, high = (end, high) if 1 - end > 1.959964**2 * end * spread / 64 else (low, end)
    np.testing.assert_allclose((always.value, always.low, always.high), (1, low, 1), atol=1e-6)


@pytest.mark.parametrize("num_runs", [4, 8, 16])
@pytest.mark.parametrize("truth", [0.5, 0.9])
def test_its_interval_covers_the_truth(num_runs, truth):
    rng, shift = np.random.default_rng(0), stats.norm.ppf(truth) * np.sqrt(2)
    samples = rng.normal(size=(500, 2, num_runs))
    found = [probability_of_improvement(x + shift, y) for x, y in samples]
    assert np.mean([estimate.low <= truth <= estimate.high for estimate in found]) > 0.925


def test_strata_are_compared_within():
    # Within each stratum x loses; across them most of its runs would win.
    x, y = np.array([1.0, 2.0, 11.0, 12.0]), np.array([3.0, 4.0, 13.0, 14.0])
    labels = np.array(["a", "a", "b", "b"])
    assert probability_of_improvement(x, y).value == 4 / 16
    found = probability_of_improvement(x, y, strata=(labels, labels))
    assert (found.value, found.low) == (0, 0)
    # Two independent strata: their distances to the end are added in squares.
    single = probability_of_improvement(x[:2], y[:2])
    np.testing.assert_allclose(found.high, np.sqrt(2 * single.high**2) / 2)
    # Every stratum counts the same, whatever its size: 1 of 2 strata won, not 1 of 4 runs.
    uneven = probability_of_improvement(
        np.array([5, 0, 0, 0]), np.ones(4), (np.array([0, 1, 1, 1]), np.array([0, 1, 1, 1]))
    )
    assert uneven.value == 0.5
    half = probability_of_improvement(np.array([1, 3, 9, 9]), np.array([2, 2, 0, 0]), (labels, labels))
    assert half.value == 0.75  # one stratum is a toss-up, the other always won
    assert np.isnan(uneven.low)  # a stratum of one run has no spread to draw from
    assert np.isnan(probability_of_improvement(x, y, (labels, np.full(4, "c"))).value)


def test_missing_runs_do_not_compare():
    x, y = np.array([1.0, np.nan, 3.0]), np.array([2.0, 2.5, np.nan, 0.0])
    assert probability_of_improvement(x, y) == probability_of_improvement(x[[0, 2]], y[[0, 1, 3]])
    assert np.isnan(probability_of_improvement(x, np.full(2, np.nan)).value)
    assert probability_of_improvement(x, np.zeros(0)).num_runs == 0


def test_paired_differences_are_matched_by_seed():
    x, x_seeds = np.array([10.0, 21.0, 32.0, 43.0, 54.0, 7.0]), np.array([0, 1, 2, 3, 4, 9])
    y, y_seeds = np.array([50.0, 40.0, 30.0, 20.0, 10.0, np.nan, 1.0]), np.array([4, 3, 2, 1, 0, 9, 8])
    found = paired_difference(x, y, x_seeds, y_seeds)
    differences = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.value, found.num_runs) == (iqm(differences), 5)
    assert (found.low, found.high) == bootstrap_interval(differences)
    back = paired_difference(y, x, y_seeds, x_seeds)
    np.testing.assert_allclose((back.value, back.low, back.high), (-found.value, -found.high, -found.low), atol=0.3)
    assert paired_difference(x, y, x_seeds, y_seeds, statistic=mean).value == 2
    assert paired_difference(x, y, x_seeds, y_seeds + 100).num_runs == 0


def test_pairing_takes_out_what_seeds_share():
    rng = np.random.default_rng(12)
    luck, seeds = 100 * rng.normal(size=12), np.arange(12)
    x, y = luck + 1 + 0.1 * rng.normal(size=12), luck + 0.1 * rng.normal(size=12)
    found = paired_difference(x, y, seeds, seeds)
    assert 0.8 < found.low < 1 < found.high < 1.2
    options = {"method": "percentile", "n_resamples": 20_000, "confidence_level": expanded(0.95, 12)}
    expected = stats.bootstrap((x - y,), mean, rng=rng, **options)
    of_mean = paired_difference(x, y, seeds, seeds, statistic=mean, num_resamples=20_000)
    np.testing.assert_allclose([of_mean.low, of_mean.high], expected.confidence_interval, atol=0.005)


def test_a_setting_alone_is_the_ordinary_interval():
    x = np.sort(np.random.default_rng(13).normal(size=9))  # sorted, as then the draws are the same ones
    found = mean_over_settings(x[:, None])
    np.testing.assert_allclose((found.value, found.low, found.high), (iqm(x), *bootstrap_interval(x)), rtol=1e-12)


def test_settings_count_the_same_and_seeds_are_drawn_whole():
    rng = np.random.default_rng(14)
    x = rng.normal(size=(8, 1))
    # Eight copies of the same runs are no more evidence than one.
    once, often = mean_over_settings(x), mean_over_settings(np.tile(x, (1, 8)))
    np.testing.assert_allclose([once.value, once.low, once.high], [often.value, often.low, often.high])
    assert (once.num_runs, often.num_runs) == (8, 64)
    two = np.concatenate([x, x + 10], axis=1)
    two[:4, 1] = np.nan
    np.testing.assert_allclose(mean_over_settings(two).value, (iqm(x[:, 0]) + iqm(x[4:, 0] + 10)) / 2)
    assert np.isnan(mean_over_settings(np.array([[1.0, 2.0], [np.nan, np.nan]])).low)
    assert mean_over_settings(np.full((3, 2), np.nan)).num_runs == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=12))
def test_rank_correlations_are_about_order_only(pairs):
    x, y = np.array(pairs, dtype=float).T
    for correlation in (kendall_tau, spearman_rho):
        found = correlation(x, y)
        if np.ptp(x) == 0 or np.ptp(y) == 0:
            assert np.isnan(found)
            continue
        np.testing.assert_allclose(found, correlation(y, x), atol=1e-12)
        np.testing.assert_allclose(found, -correlation(-x, y), atol=1e-12)
        np.testing.assert_allclose(found, correlation(np.exp(x), y**3), atol=1e-12)
        np.testing.assert_allclose(correlation(x, x), 1)


def test_rank_correlations_by_hand():
    # Six pairs of pairs: (1,2) tied in x; of the other five, four agree: tau-b = (4 - 1) / sqrt(5 * 6).
    x, y = np.array([1, 1, 2, 3.0, np.nan]), np.array([1, 2, 4, 3.0, 9.0])
    np.testing.assert_allclose(kendall_tau(x, y), 3 / np.sqrt(30))
    # Ranks 1.5 1.5 3 4 against 1 2 4 3: their Pearson correlation.
    np.testing.assert_allclose(spearman_rho(x, y), np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 4, 3])[0, 1])
    assert np.isnan(kendall_tau(np.ones(1), np.ones(1)))
    assert kendall_tau(np.array([1, 2, np.inf]), np.array([1, 2, 3])) == 1


def test_impossible_comparisons_are_told():
    with pytest.raises(ValueError, match=r"must be \[S\]"):
        probability_of_improvement(np.zeros((2, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="one label for each run"):
        probability_of_improvement(np.zeros(2), np.zeros(2), (np.zeros(2), np.zeros(3)))
    with pytest.raises(ValueError, match="a seed comes twice"):
        paired_difference(np.zeros(2), np.zeros(2), np.array([1, 1]), np.array([1, 2]))
    for function in (
        lambda: mean_over_settings(np.eye(5), level=1.0),
        lambda: probability_of_improvement(np.eye(3)[0], np.eye(3)[0], level=0.0),
    ):
        with pytest.raises(ValueError, match="level"):
            function()
