"""Collapse: every definition on made-up runs whose steps are known, and survival curves worked out by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purejaxppo.errors import ConfigError
from purejaxppo.plots.curves import feature_width
from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.statistics.collapse import collapse_steps, detect_collapse, policy_widths, survival, survival_by_point

L = 40
WIDTH = 20


def group(first=0, num_runs=1, num_logs=L, width=WIDTH, steps_per_log=100, swept=None, status=None, **metrics):
    """A group of healthy runs: return rises from 0 to 100, rank stays at 10; `metrics` [S, L] or [L] replace these."""
    healthy = {
        "return_mean": np.minimum(100.0, 10.0 * np.arange(num_logs)),
        "policy_rank": np.full(num_logs, 10.0),
        "policy_dead_neurons": np.full(num_logs, 2.0),
        "policy_variance": np.full(num_logs, 0.1),
    }
    values = {
        name: np.array(np.broadcast_to(x, (num_runs, num_logs)), dtype=float) for name, x in (healthy | metrics).items()
    }
    values["policy_singular_values"] = np.ones((num_runs, num_logs, width))
    for run, broken in enumerate(np.zeros(num_runs, int) if status is None else status):
        if broken:
            for x in values.values():
                x[run, broken - 1 :] = np.nan
    return GroupResult(
        metrics=values,
        env_steps=steps_per_log * np.arange(1, num_logs + 1),
        seeds=np.arange(num_runs),
        swept=swept or {},
        status=np.zeros(num_runs) if status is None else np.array(status),
        run_index=first + np.arange(num_runs),
    )


def dataset(**options):
    return to_dataset([group(**options)], {})


def step_of(event, **options):
    return collapse_steps(dataset(**options), event)[0]


def changed(start, stop, value, base):
    values = np.array(base, dtype=float)
    values[start:stop] = value
    return values


RISE = np.minimum(100.0, 10.0 * np.arange(L))


def test_healthy_runs_never_collapse():
    found = detect_collapse(dataset(num_runs=3))
    for event in ("return", "rank", "dead", "variance"):
        assert np.all(np.isnan(found[f"{event}_collapse_step"]))
    assert found["first_warning"].values.tolist() == ["none"] * 3
    assert np.all(np.isnan(found["warning_lead_steps"]))
    np.testing.assert_array_equal(found["last_step"], [4000] * 3)
    np.testing.assert_array_equal(found["seed"], [0, 1, 2])
    assert all(found[name].attrs["definition"] for name in found)


@pytest.mark.parametrize(
    ("returns", "step"),
    [
        (changed(30, L, 49.0, RISE), 3100),  # below 50, half of the way from 0 to 100
        (changed(30, L, 51.0, RISE), np.nan),
        (changed(30, 38, 0.0, RISE), np.nan),  # recovers
        (changed(38, L, 0.0, RISE), 3900),  # 2 of 40 points, 5 %
        (changed(39, L, 0.0, RISE), np.nan),  # one bad point at the end is none
        (changed(30, L, -300.0, changed(0, 30, 90.0, RISE)), 3100),  # learned before the first log point
        (changed(30, L, -50.0, RISE - 200), np.nan),  # higher still
        (np.zeros(L), np.nan),  # never learned
    ],
)
def test_the_return_collapses_where_half_of_what_was_gained_is_lost_for_good(returns, step):
    np.testing.assert_array_equal(step_of("return", return_mean=returns), step)


def test_one_point_never_makes_a_collapse():
    returns = changed(9, 10, 0.0, RISE[:10])
    assert np.isnan(step_of("return", num_logs=10, return_mean=returns))


def test_noise_has_nothing_to_lose():
    noise = np.random.default_rng(0).normal(size=(300, 100))
    steps = collapse_steps(dataset(num_runs=300, num_logs=100, return_mean=noise), "return")
    assert np.mean(np.isnan(steps)) > 0.99


def test_log_points_without_a_return_count_neither_way():
    returns = changed(30, L, 0.0, RISE)
    returns[[0, 5, 30, 31, 39]] = np.nan
    assert step_of("return", return_mean=returns) == 3300  # the first low return that there is
    assert np.isnan(step_of("return", return_mean=np.full(L, np.nan)))


@pytest.mark.parametrize(
    ("ranks", "step"),
    [
        (changed(20, L, 2.0, np.full(L, 10)), 2100),  # a quarter of 10 is 2.5
        (changed(20, L, 3.0, np.full(L, 10)), np.nan),
        (changed(20, 22, 2.0, np.full(L, 10)), 2100),  # a warning may be taken back
        (changed(20, 21, 2.0, np.full(L, 10)), np.nan),  # but must last
        (changed(20, L, 1.0, np.full(L, 2)), 2100),  # 1 is collapse whatever it was
        (changed(0, 10, 1.0, np.full(L, 10)), np.nan),  # it starts at 1, and grows
        (np.ones(L), np.nan),  # nothing fell
    ],
)
def test_the_rank_collapses_below_a_quarter_of_its_maximum_or_to_one(ranks, step):
    np.testing.assert_array_equal(step_of("rank", policy_rank=ranks), step)


@pytest.mark.parametrize(("dead", "step"), [(19, 2100), (18, np.nan)])
def test_units_are_dead_at_95_percent_of_the_width(dead, step):
    values = changed(20, L, dead, np.zeros(L))
    np.testing.assert_array_equal(step_of("dead", policy_dead_neurons=values), step)


def test_the_width_is_that_of_the_runs_own_group():
    values = changed(20, L, 9.0, np.zeros(L))
    both = to_dataset([group(width=9, policy_dead_neurons=values), group(first=1, policy_dead_neurons=values)], {})
    np.testing.assert_array_equal(policy_widths(both), [9, WIDTH])
    np.testing.assert_array_equal(collapse_steps(both, "dead"), [2100, np.nan])
    # A run that diverged at once has no spectrum of its own.
    np.testing.assert_array_equal(policy_widths(dataset(num_runs=2, status=[1, 0])), [WIDTH, WIDTH])


def test_a_rollout_of_fewer_samples_than_units_does_not_narrow_the_layer():
    """Rollouts of 20 samples have 20 singular values whatever the width: 19 dead units of 40 are not 95 %."""
    dead = changed(20, L, 19.0, np.zeros(L))
    recorded = to_dataset([group(policy_dead_neurons=dead)], {"sweep": {"config": {"hidden_sizes": [8, 40]}}})
    np.testing.assert_array_equal(policy_widths(recorded), [40])
    np.testing.assert_array_equal(collapse_steps(recorded, "dead"), [np.nan])
    assert feature_width(recorded) == 40
    groups = [group(swept={"hidden_sizes": [(8, 40)]}), group(first=1, swept={"hidden_sizes": [(20,)]})]
    np.testing.assert_array_equal(policy_widths(to_dataset(groups, {})), [40, 20])


@pytest.mark.parametrize(("variance", "step"), [(9e-4, 2100), (1e-3, np.nan), (0.0, 2100)])
def test_the_variance_collapses_below_a_hundredth(variance, step):
    values = changed(20, L, variance, np.full(L, 0.1))
    np.testing.assert_array_equal(step_of("variance", policy_variance=values), step)
    assert np.isnan(step_of("variance", policy_variance=np.zeros(L)))


def test_who_warned_first_and_by_how_much():
    falls = changed(30, L, 0.0, RISE)
    ranks = np.stack([changed(start, L, 1.0, np.full(L, 10)) for start in (20, 20, 30, 35)])
    dead = np.stack([changed(start, L, WIDTH, np.zeros(L)) for start in (10, 20, 30, 35)])
    found = detect_collapse(dataset(num_runs=4, return_mean=falls, policy_rank=ranks, policy_dead_neurons=dead))
    assert found["first_warning"].values.tolist() == ["dead", "rank+dead", "none", "none"]
    np.testing.assert_array_equal(found["warning_lead_steps"], [2000, 1000, np.nan, np.nan])
    # Without a collapse of the return there was nothing to warn of.
    calm = detect_collapse(dataset(policy_rank=ranks[0]))
    assert (calm["rank_collapse_step"].item(), calm["first_warning"].item()) == (2100, "none")


def test_a_run_that_diverged_has_lost_its_return_and_is_censored_for_the_rest():
    found = detect_collapse(dataset(num_runs=3, status=[15, 1, 0]))
    np.testing.assert_array_equal(found["return_collapse_step"], [1500, 100, np.nan])
    np.testing.assert_array_equal(found["rank_collapse_step"], [np.nan] * 3)
    np.testing.assert_array_equal(found["last_step"], [1400, np.nan, 4000])
    before = detect_collapse(dataset(status=[30], return_mean=changed(20, L, 0.0, RISE)))
    assert before["return_collapse_step"].item() == 2100


def test_groups_with_steps_of_their_own():
    falls = changed(20, L, 0.0, RISE)
    short = group(num_logs=20, steps_per_log=1000, return_mean=changed(10, 20, 0.0, RISE[:20]))
    both = to_dataset([group(return_mean=falls), dataclasses.replace(short, run_index=np.array([1]))], {})
    assert both["env_steps"].dims == ("run", "log")
    found = detect_collapse(both)
    np.testing.assert_array_equal(found["return_collapse_step"], [2100, 11000])
    np.testing.assert_array_equal(found["last_step"], [4000, 20000])


def test_what_cannot_be_told_is_told():
    with pytest.raises(ConfigError, match=r"^policy_rank is not in these results, .* diagnostics off\?$"):
        detect_collapse(dataset().drop_vars("policy_rank"))
    with pytest.raises(ConfigError, match="policy_singular_values is not in these results"):
        collapse_steps(dataset().drop_vars("policy_singular_values"), "dead")
    with pytest.raises(ConfigError, match=r"^event 'retrn' is unknown; did you mean return\?$"):
        survival_by_point(dataset(), "retrn")


def test_no_runs_and_no_log_points():
    assert detect_collapse(dataset(num_runs=2, num_logs=0))["first_warning"].values.tolist() == ["none", "none"]
    assert detect_collapse(dataset(num_runs=2).isel(run=slice(0, 0))).sizes["run"] == 0


# --- Survival


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
    # survfit(..., conf.type = "log-log"): 0.620 to 0.952 at 6; 0.188 to 0.680 at 23.
    np.testing.assert_allclose([curve.low[at[6]], curve.high[at[6]]], [0.620, 0.952], atol=5e-4)
    np.testing.assert_allclose([curve.low[at[23]], curve.high[at[23]]], [0.188, 0.680], atol=5e-4)
    np.testing.assert_array_equal([curve.low[0], curve.high[0]], [1, 1])


def test_greenwoods_interval_by_hand():
    # Of 4 runs one fails at 5: S = 3/4, Greenwood's sum = 1/(4 * 3); on the log-log scale S^exp(+-z se).
    curve = survival(np.array([5, np.nan, np.nan, np.nan]), np.array([9.0] * 4))
    np.testing.assert_array_equal(curve.steps, [0, 5, 9])
    error = np.sqrt(1 / 12) / np.log(0.75)
    np.testing.assert_allclose(curve.low[1:], 0.75 ** np.exp(-1.959964 * error), rtol=1e-6)
    np.testing.assert_allclose(curve.high[1:], 0.75 ** np.exp(1.959964 * error), rtol=1e-6)


def test_curves_without_events_without_survivors_without_runs():
    nothing = survival(np.full(3, np.nan), np.array([5.0, 5.0, 7.0]))
    np.testing.assert_array_equal(nothing.steps, [0, 5, 7])
    for values in (nothing.probability, nothing.low, nothing.high):
        np.testing.assert_array_equal(values, [1, 1, 1])
    everything = survival(np.array([5.0, 7.0]), np.array([9.0, 9.0]))
    np.testing.assert_array_equal(everything.probability, [1, 0.5, 0])
    assert np.isnan(everything.low[-1])
    assert np.isnan(everything.high[-1])
    unmeasured = survival(np.array([np.nan, np.nan]), np.array([np.nan, 4.0]))
    assert (unmeasured.num_runs, unmeasured.steps.tolist()) == (1, [0, 4])
    assert survival(np.zeros(0), np.zeros(0)).num_runs == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12))
def test_survival_falls_from_one_inside_its_interval(runs):
    events = np.array([step if has_event else np.nan for step, has_event in runs])
    curve = survival(events, np.array([step for step, _ in runs], dtype=float))
    assert curve.probability[0] == 1
    assert np.all(np.diff(curve.probability) <= 0)
    assert np.all(np.diff(curve.steps) > 0)
    known = ~np.isnan(curve.low)
    assert np.all(curve.low[known] <= curve.probability[known])
    assert np.all(curve.high[known] >= curve.probability[known])
    assert np.all(known == (curve.probability > 0))


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


def test_a_curve_per_point_of_the_axes():
    falls = np.stack([changed(start, L, 0.0, RISE) for start in (20, 30, L, L)])
    both = dataset(num_runs=4, swept={"num_epochs": [4, 4, 32, 32]}, return_mean=falls)
    (few, low), (many, high) = survival_by_point(both)
    assert (few, many) == ({"num_epochs": 4}, {"num_epochs": 32})
    np.testing.assert_array_equal(low.steps, [0, 2100, 3100])
    np.testing.assert_array_equal(low.probability, [1, 0.5, 0])
    np.testing.assert_array_equal(high.probability, [1, 1])
    np.testing.assert_array_equal(survival_by_point(both, "rank")[0][1].probability, [1, 1])
