"""Statistics: the interquartile mean and the bootstrap against scipy, and against loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from purejaxppo.analysis import bootstrap_interval, iqm, statistics

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


def test_interval_equals_scipys_percentile_bootstrap():
    x = np.sort(np.random.default_rng(2).normal(size=11))  # sorted, as then the draws are the same ones
    expected = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=3000, rng=np.random.default_rng(5))
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
            confidence_level=level,
            rng=np.random.default_rng(7),
        )
        np.testing.assert_allclose([low[column], high[column]], expected.confidence_interval, rtol=0.04)


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
    means = []
    for _ in range(4_000):
        drawn = [rng.choice(x[strata == label], 3) for label in (0, 1, 2)]
        means.append(np.mean(np.concatenate(drawn)))
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(bootstrap_interval(x, mean, 4_000, strata=strata), expected, atol=0.04)


def test_one_seed_gives_one_interval():
    x = np.random.default_rng(9).normal(size=(10,))
    assert bootstrap_interval(x, seed=1) == bootstrap_interval(x, seed=1)
    assert bootstrap_interval(x, seed=1) != bootstrap_interval(x, seed=2)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    x = np.random.default_rng(10).normal(size=(20, 500))
    low, high = bootstrap_interval(x, iqm, num_resamples=500)
    # 95 % by name; percentile intervals of 20 runs are known to be somewhat too narrow.
    assert 0.88 < np.mean((low < 0) & (high > 0)) < 0.97


@pytest.mark.parametrize(
    "wrong",
    [{"level": 0.0}, {"level": 1.0}, {"num_resamples": 0}, {"strata": np.zeros(3)}, {"strata": np.zeros((4, 1))}],
)
def test_impossible_requests_are_told(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        bootstrap_interval(np.zeros(4), iqm, **wrong)
