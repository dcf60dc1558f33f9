"""Survival curves: the estimate against a textbook, the bands against the binomial distribution and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from purejaxppo.statistics.kaplan_meier import survival


def test_kaplan_meier_by_hand():
    # Freireich et al. 1963, 6-MP arm: the textbook example; values as in Kalbfleisch & Prentice, and R's survfit.
    events = [6, 6, 6, 7, 10, 13, 16, 22, 23] + [np.nan] * 12
    ends = [np.nan] * 9 + [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    curve = survival(np.array(events, dtype=float), np.array(ends, dtype=float))
    assert (curve.num_runs, curve.num_events) == (21, 9)
    at = {step: i for i, step in enumerate(curve.steps)}
    expected = {0: 1.0, 6: 18 / 21, 7: 18 / 21 * 16 / 17, 10: 18 / 21 * 16 / 17 * 14 / 15}
    for step, probability in expected.items():
        np.testing.assert_allclose(curve.probability[at[step]], probability, rtol=1e-12)
    np.testing.assert_allclose(
        [curve.probability[at[s]] for s in (13, 16, 22, 23)], [0.690, 0.627, 0.538, 0.448], atol=5e-4
    )


def test_bands_are_products_of_betas_with_censoring():
    """The 6-MP arm again: quantiles of the products, by Monte Carlo, beside those of the beta of equal moments."""
    events = [6, 6, 6, 7, 10, 13, 16, 22, 23] + [np.nan] * 12
    ends = [np.nan] * 9 + [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
    curve = survival(np.array(events, dtype=float), np.array(ends, dtype=float))
    rng, size = np.random.default_rng(0), 400_000
    # Step, runs at risk, events: all as in the textbook.
    table = [(6, 21, 3), (7, 17, 1), (10, 15, 1), (13, 12, 1), (16, 11, 1), (22, 7, 1), (23, 6, 1)]
    product, left = np.ones(size), {6: 17, 7: 16, 10: 13, 13: 11, 16: 10, 22: 6, 23: 5}
    for step, at_risk, failed in table:
        product *= rng.beta(at_risk - failed + 1, failed, size)
        index = int(np.flatnonzero(curve.steps == step)[0])
        np.testing.assert_allclose(curve.high[index], np.quantile(product, 0.975), atol=0.01)
        at_once = product * rng.beta(left[step], 1, size)
        np.testing.assert_allclose(curve.low[index], np.quantile(at_once, 0.025), atol=0.01)


@pytest.mark.parametrize("num_runs", [1, 4, 8, 16])
def test_without_censoring_bands_are_clopper_and_pearsons(num_runs):
    curve = survival(np.arange(1.0, num_runs + 1), np.full(num_runs, 99.0))
    for failed in range(num_runs + 1):
        exact = stats.binomtest(num_runs - failed, num_runs).proportion_ci(method="exact")
        np.testing.assert_allclose((curve.low[failed], curve.high[failed]), (exact.low, exact.high), atol=1e-12)


def test_runs_that_lived_to_the_end_are_in_the_band_of_the_end():
    """Two of eight collapsed, the others were all followed to the end: the binomial band at the end itself as well."""
    curve = survival(np.array([3.0, 5.0] + [np.nan] * 6), np.full(8, 9.0))
    exact = stats.binomtest(6, 8).proportion_ci(method="exact")
    np.testing.assert_array_equal(curve.steps, [0, 3, 5, 9])
    np.testing.assert_allclose((curve.low[-1], curve.high[-1]), (exact.low, exact.high), atol=1e-12)
    np.testing.assert_allclose((curve.low[-2], curve.high[-2]), (exact.low, exact.high), atol=1e-12)


@pytest.mark.parametrize("num_runs", [4, 8, 16])
def test_bands_cover_what_is_true(num_runs):
    """At least 93 % for every share that collapses: 100 times the band at the end of followed runs, by its counts."""
    for share in (0.05, 0.1, 0.3, 0.5, 0.7, 0.9):
        covered = 0.0
        for failed in range(num_runs + 1):
            events = np.where(np.arange(num_runs) < failed, 1.0 + np.arange(num_runs), np.nan)
            curve = survival(events, np.full(num_runs, 100.0))
            covered += stats.binom.pmf(failed, num_runs, share) * (curve.low[-1] <= 1 - share <= curve.high[-1])
        assert covered >= 0.95


def test_bands_cover_what_is_true_with_censoring():
    """Exponential events, censored uniformly: the band at a step that half of the runs would outlive."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(400):
        events, ends = rng.exponential(1.0, 8), rng.uniform(0, 3, 8)
        curve = survival(np.where(events <= ends, events, np.nan), ends)
        index = int(np.flatnonzero(curve.steps <= np.log(2))[-1])
        covered.append(curve.low[index] <= 0.5 <= curve.high[index])
    assert np.mean(covered) >= 0.93


def test_curves_without_events_without_survivors_without_runs():
    nothing = survival(np.full(3, np.nan), np.array([5.0, 5.0, 7.0]))
    np.testing.assert_array_equal(nothing.steps, [0, 5, 7])
    np.testing.assert_array_equal(nothing.probability, [1, 1, 1])
    np.testing.assert_array_equal(nothing.high, [1, 1, 1])
    np.testing.assert_allclose(nothing.low, [0.025 ** (1 / 3), 0.025, 0.025])  # of none of three, and of none of one
    everything = survival(np.array([5.0, 7.0]), np.array([9.0, 9.0]))
    np.testing.assert_array_equal(everything.probability, [1, 0.5, 0])
    assert (everything.low[-1], everything.high[-1]) == (0, pytest.approx(1 - 0.025**0.5))
    unmeasured = survival(np.array([np.nan, np.nan]), np.array([np.nan, 4.0]))
    assert (unmeasured.num_runs, unmeasured.steps.tolist()) == (1, [0, 4])
    empty = survival(np.zeros(0), np.zeros(0))
    assert (empty.num_runs, empty.low.tolist(), empty.high.tolist()) == (0, [0], [1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12))
def test_survival_falls_from_one_inside_its_band(runs):
    events = np.array([step if has_event else np.nan for step, has_event in runs])
    curve = survival(events, np.array([step for step, _ in runs], dtype=float))
    assert curve.probability[0] == 1
    assert np.all(np.diff(curve.probability) <= 0)
    assert np.all(np.diff(curve.steps) > 0)
    assert np.all((curve.low <= curve.probability) & (curve.probability <= curve.high))
    assert np.all(curve.low < curve.high)


@pytest.mark.parametrize(
    ("events", "ends", "options", "message"),
    [
        ([1.0], [1.0, 2.0], {}, r"shape \(1,\) and last_steps \(2,\)"),
        ([-1.0], [1.0], {}, "below 0"),
        ([1.0], [1.0], {"level": 1.0}, "level is 1.0"),
    ],
)
def test_impossible_curves_are_told(events, ends, options, message):
    with pytest.raises(ValueError, match=message):
        survival(np.array(events), np.array(ends), **options)
