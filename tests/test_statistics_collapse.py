"""Collapse: every definition on made-up runs whose steps are known, and which runs had nothing to lose."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from purejaxppo.errors import ConfigError
from purejaxppo.plots.curves import feature_width
from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.results.runs import policy_widths
from purejaxppo.statistics.collapse import (
    EVENTS,
    _block_medians,
    collapse_steps,
    detect_collapse,
    outcomes,
    survival_by_point,
)

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
        (changed(30, 37, 0.0, RISE), np.nan),  # recovers, for the last three log points
        (changed(35, 36, 90.0, changed(30, L, 0.0, RISE)), 3100),  # one good log point is no recovery
        (changed(38, L, 0.0, RISE), 3900),  # two of the last three
        (changed(39, L, 0.0, RISE), np.nan),  # one bad log point at the end is none
        (changed(30, L, -50.0, RISE), 3100),
        (np.zeros(L), np.nan),  # never learned
    ],
)
def test_the_return_collapses_where_half_of_what_was_gained_is_lost_for_good(returns, step):
    np.testing.assert_array_equal(step_of("return", return_mean=returns), step)


def test_what_untrained_networks_get_is_where_the_gain_begins():
    """Learned before the first log point after the start, and lost: log point 0 tells it from never having learned."""
    fallen = changed(30, L, -300.0, np.full(L, 90.0))
    one = group(return_mean=fallen)
    at_start = {name: np.concatenate([x[:, :1], x], axis=1) for name, x in one.metrics.items()}
    at_start["return_mean"][:, 0] = -300.0
    learned = dataclasses.replace(one, metrics=at_start, env_steps=np.concatenate([[0], one.env_steps]))
    np.testing.assert_array_equal(collapse_steps(to_dataset([learned], {}), "return"), [3100])
    unknown = dataset(return_mean=fallen)
    np.testing.assert_array_equal(collapse_steps(unknown, "return"), [np.nan])
    assert outcomes(unknown).count().num_unlearned == 1


def test_untrained_networks_are_those_of_the_environment_and_no_single_run_decides():
    """One run starts by luck at 60; in another environment untrained networks get 1000."""
    returns = np.tile(changed(30, L, 35.0, RISE), (5, 1))
    returns[0, 0] = 60.0
    returns[4] += 1000
    both = dataset(num_runs=5, swept={"env": ["a"] * 4 + ["b"]}, return_mean=returns)
    np.testing.assert_array_equal(collapse_steps(both, "return"), [3100] * 5)


def test_one_point_never_makes_a_collapse():
    returns = changed(9, 10, 0.0, RISE[:10])
    assert np.isnan(step_of("return", num_logs=10, return_mean=returns))


CASES = {
    "return": ("return_mean", RISE, changed(20, L, 0.0, RISE)),
    "rank": ("policy_rank", np.full(L, 10.0), changed(20, L, 1.0, np.full(L, 10.0))),
    "dead": ("policy_dead_neurons", np.zeros(L), changed(20, L, WIDTH, np.zeros(L))),
    "variance": ("policy_variance", np.full(L, 0.1), changed(20, L, 0.0, np.full(L, 0.1))),
}


@pytest.mark.parametrize("event", CASES)
@pytest.mark.parametrize("outlier", [-1e4, 0.0, 1e4])
def test_no_single_log_point_decides_a_run(event, outlier):
    """Whichever log point reads anything else, runs that live live and runs that collapsed have collapsed there."""
    metric, living, lost = CASES[event]
    for place in range(L):
        both = np.stack([changed(place, place + 1, outlier, values) for values in (living, lost)] + [living] * 3)
        lives, is_lost, *_ = collapse_steps(dataset(num_runs=5, **{metric: both}), event)
        assert np.isnan(lives), place
        assert abs(is_lost - 2100) <= 200, place


def never_learned(kind, num_runs, num_logs):
    """Returns of runs that learn nothing, [S, L]."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(num_runs, num_logs))
    if kind == "rare success":
        return -500.0 + 100 * rng.random((num_runs, num_logs)) * (rng.random((num_runs, num_logs)) < 0.1)
    if kind == "autocorrelated":
        for t in range(1, num_logs):
            noise[:, t] = 0.7 * noise[:, t - 1] + np.sqrt(1 - 0.49) * noise[:, t]
    drift = {"worse and worse": -np.linspace(0, 10, num_logs), "worse at once": -10.0 * (np.arange(num_logs) > 50)}
    return noise + drift.get(kind, 0.0)


@pytest.mark.parametrize("kind", ["noise", "rare success", "autocorrelated", "worse and worse", "worse at once"])
def test_a_run_that_never_learned_has_nothing_to_lose(kind):
    """The rule of version 0.2 called 72 % collapsed of those that rarely succeed, and all of those that get worse."""
    found = outcomes(dataset(num_runs=300, num_logs=100, return_mean=never_learned(kind, 300, 100)))
    assert np.mean(found.is_collapsed) < 0.02
    assert np.mean(found.has_learned) < 0.02


def test_slow_wandering_is_no_learning():
    """Half of these rise by more than five of their own jumps; but their level goes up and down all along."""
    rng, returns = np.random.default_rng(1), np.zeros((200, 300))
    for t in range(1, 300):
        returns[:, t] = 0.95 * returns[:, t - 1] + rng.normal(size=200)
    assert np.mean(outcomes(dataset(num_runs=200, num_logs=300, return_mean=returns)).has_learned) < 0.1


@pytest.mark.parametrize("kind", ["noise", "autocorrelated", "worse and worse"])
def test_nor_has_it_where_more_log_points_were_written(kind):
    found = outcomes(dataset(num_runs=60, num_logs=1000, return_mean=never_learned(kind, 60, 1000)))
    assert np.mean(found.has_learned) < 0.04


def test_what_is_a_collapse_does_not_depend_on_how_often_a_log_point_was_written():
    """A gain of two to five times the noise of one of 1,000 log points is six to sixteen times that of one of 100."""
    time = np.linspace(0, 1, 1000)
    for gain in (2, 3, 4, 5):
        rng = np.random.default_rng(gain)
        returns = np.clip(time / 0.2, 0, 1) * np.clip((0.7 - time) / 0.1, 0, 1) * gain + rng.normal(size=(40, 1000))
        often = outcomes(dataset(num_runs=40, num_logs=1000, return_mean=returns))
        rarely = outcomes(dataset(num_runs=40, num_logs=100, return_mean=returns.reshape(40, 100, 10).mean(axis=-1)))
        assert min(often.has_learned.mean(), often.is_collapsed.mean(), rarely.is_collapsed.mean()) > 0.9, gain


@pytest.mark.parametrize("num_logs", [20, 100, 1000])
def test_a_run_that_gained_eight_times_its_noise_and_lost_it_has_collapsed(num_logs):
    """As sure as the others are of having none: learned in a fifth of the run, lost in a tenth of it."""
    rng, time = np.random.default_rng(0), np.linspace(0, 1, num_logs)
    returns = np.clip(time / 0.2, 0, 1) * np.clip((0.7 - time) / 0.1, 0, 1) * 8 + rng.normal(size=(100, num_logs))
    steps = collapse_steps(dataset(num_runs=100, num_logs=num_logs, return_mean=returns), "return")
    assert np.mean(np.isfinite(steps)) > 0.97
    assert np.nanmedian(steps) == pytest.approx(0.65 * 100 * num_logs, abs=0.04 * 100 * num_logs + 100)


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
        (changed(20, 22, 2.0, np.full(L, 10)), 2100),  # two of three; a warning may be taken back
        (changed(20, 21, 2.0, np.full(L, 10)), np.nan),  # but must last
        (changed(20, L, 1.0, np.full(L, 2)), 2100),  # 1 is collapse whatever it was
        (changed(0, 10, 1.0, np.full(L, 10)), np.nan),  # it starts at 1, and grows
        (np.ones(L), 100),  # fell before anybody looked
        (changed(25, 26, 2.0, np.ones(L)), 100),
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


def test_a_run_that_diverged_has_collapsed_in_everything():
    found = detect_collapse(dataset(num_runs=3, status=[15, 1, 0]))
    for event in EVENTS:
        np.testing.assert_array_equal(found[f"{event}_collapse_step"], [1500, 100, np.nan])
    np.testing.assert_array_equal(found["last_step"], [1400, np.nan, 4000])
    assert found["first_warning"].values.tolist() == ["none"] * 3  # all at once is no warning
    before = detect_collapse(dataset(status=[30], return_mean=changed(20, L, 0.0, RISE)))
    assert before["return_collapse_step"].item() == 2100
    assert before["rank_collapse_step"].item() == 3000


def test_the_count_has_the_exact_interval_and_tells_who_never_learned():
    returns = np.stack([changed(20, L, 0.0, RISE), RISE, np.zeros(L), RISE])
    both = dataset(num_runs=4, status=[0, 9, 0, 0], return_mean=returns)
    found = outcomes(both)
    assert found.is_collapsed.tolist() == [True, True, False, False]
    assert found.has_learned.tolist() == [True, True, False, True]
    count = found.count()
    interval = stats.binomtest(2, 4).proportion_ci(method="exact")
    np.testing.assert_allclose((count.low, count.high), (interval.low, interval.high), rtol=1e-12)
    assert (count.num_diverged, count.num_unlearned) == (1, 1)
    assert count.label == "collapsed 2 of 4 [7 %, 93 %], 1 never learned"
    # A run that diverged before it learned anything has collapsed, and is not counted twice.
    assert outcomes(dataset(num_runs=2, status=[2, 0])).count().label == "collapsed 1 of 2 [1 %, 99 %]"
    assert found.count(np.array([3])).label == "collapsed 0 of 1 [0 %, 98 %]"
    assert found.count(np.zeros(0, dtype=int)).cell == "0 of 0"
    with pytest.raises(ConfigError, match="return_mean is not in these results"):
        outcomes(both.drop_vars("return_mean"))


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
    with pytest.raises(ConfigError, match="neither hidden_sizes nor policy_singular_values is in these"):
        collapse_steps(dataset().drop_vars("policy_singular_values"), "dead")
    with pytest.raises(ConfigError, match=r"^event 'retrn' is unknown; did you mean return\?$"):
        survival_by_point(dataset(), "retrn")


def test_no_runs_and_no_log_points():
    assert detect_collapse(dataset(num_runs=2, num_logs=0))["first_warning"].values.tolist() == ["none", "none"]
    assert detect_collapse(dataset(num_runs=2).isel(run=slice(0, 0))).sizes["run"] == 0


def test_a_curve_per_point_of_the_axes():
    falls = np.stack([changed(start, L, 0.0, RISE) for start in (20, 30, L, L)])
    both = dataset(num_runs=4, swept={"num_epochs": [4, 4, 32, 32]}, return_mean=falls)
    (few, low), (many, high) = survival_by_point(both)
    assert (few, many) == ({"num_epochs": 4}, {"num_epochs": 32})
    np.testing.assert_array_equal(low.steps, [0, 2100, 3100])
    np.testing.assert_array_equal(low.probability, [1, 0.5, 0])
    np.testing.assert_array_equal(high.probability, [1, 1])
    np.testing.assert_array_equal(survival_by_point(both, "rank")[0][1].probability, [1, 1])


@pytest.mark.parametrize(("size", "count"), [(5, 1), (5, 2), (17, 5), (98, 19), (1000, 19)])
def test_medians_of_neighbouring_parts_are_those_of_numpys_parts(size: int, count: int) -> None:
    values = np.random.default_rng(size).normal(size=size)
    expected = [np.median(part) for part in np.array_split(values, count)]
    np.testing.assert_array_equal(_block_medians(values, count), expected)
