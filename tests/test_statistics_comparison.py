"""Comparison: the best point and how sure it is, against straight loops and scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.statistics.comparison import comparison_table, format_comparison
from purejaxppo.statistics.contrasts import probability_of_best
from purejaxppo.statistics.estimates import iqm


def results(values: np.ndarray, status: np.ndarray | None = None, **swept: list[object]) -> xr.Dataset:
    """A Dataset of one log point: values [points, seeds], swept fields [points]; status [points, seeds]."""
    num_points, num_seeds = values.shape
    one = GroupResult(
        metrics={"return_mean": values.reshape(-1, 1)},
        env_steps=np.array([1000]),
        seeds=np.tile(np.arange(num_seeds), num_points),
        swept={name: np.repeat(column, num_seeds) for name, column in swept.items()},
        status=np.zeros(values.size) if status is None else status.ravel(),
        run_index=np.arange(values.size),
    )
    return to_dataset([one], {})


def test_the_probability_of_being_best_is_the_share_of_resamples() -> None:
    values = np.random.default_rng(0).normal([0.0, 0.3, 0.5], 1.0, (12, 3))
    rng, wins = np.random.default_rng(1), np.zeros(3)
    for _ in range(4000):
        rows = values[rng.integers(0, 12, 12)]
        wins[np.argmax([stats.trim_mean(rows[:, point], 0.25) for point in range(3)])] += 1
    found = probability_of_best(values, num_resamples=4000)
    np.testing.assert_allclose(found, wins / 4000, atol=0.03)
    assert found.sum() == pytest.approx(1)


def test_the_best_in_every_seed_is_best_for_sure_and_equals_share() -> None:
    better = np.arange(8.0)[:, None] + np.array([0.0, 1.0, 1.0])
    np.testing.assert_array_equal(probability_of_best(better), [0, 0.5, 0.5])
    np.testing.assert_array_equal(probability_of_best(-better), [1, 0, 0])


def test_seeds_without_a_value_are_left_out_and_one_seed_decides_nothing() -> None:
    values = np.array([[0.0, 1.0], [0.0, 1.0], [9.0, np.nan]])
    np.testing.assert_array_equal(probability_of_best(values), [0, 1])
    assert np.isnan(probability_of_best(values[1:])).all()


def test_the_table_holds_differences_of_equal_seeds_and_scipys_probability() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 8)) + np.array([[0.0], [0.5], [5.0]])
    table = comparison_table(results(values, pfo_coef=[0.0, 1.0, 10.0]))
    assert list(table["pfo_coef"]) == [0, 1, 10]
    assert list(table["runs"]) == [8, 8, 8]
    np.testing.assert_allclose(table["value"], [stats.trim_mean(row, 0.25) for row in values])
    assert table["best"][2] == 1
    assert table.loc[0, ["difference", "improvement"]].isna().all()
    for point in (1, 2):
        np.testing.assert_allclose(table["difference"][point], iqm(values[point] - values[0]))
        u = stats.mannwhitneyu(values[point], values[0]).statistic
        np.testing.assert_allclose(table["improvement"][point], u / 64)
    assert (table["difference_low"][1:] <= table["difference"][1:]).all()


def test_the_lowest_is_best_where_that_is_asked_for() -> None:
    values = np.random.default_rng(0).normal(size=(2, 8)) + np.array([[0.0], [5.0]])
    table = comparison_table(results(values, pfo_coef=[0.0, 1.0]), is_lowest=True)
    assert list(table["best"]) == [1, 0]
    assert table["difference"][1] > 0
    assert table["improvement"][1] == 0


def test_a_run_without_a_value_is_no_win() -> None:
    values = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, np.nan]])
    table = comparison_table(results(values, pfo_coef=[0.0, 1.0]))
    assert list(table["runs"]) == [4, 3]
    assert list(table["best"]) == [0, 1]


def test_a_point_without_values_leaves_the_chances_of_the_others() -> None:
    values = np.array([[0.0, np.nan, 1.0], [0.0, np.nan, 1.0]])
    np.testing.assert_array_equal(probability_of_best(values), [0, np.nan, 1])
    lines = format_comparison(comparison_table(results(values.T, pfo_coef=[0.0, 1.0, 2.0])), "return_mean").splitlines()
    assert lines[3].split() == ["pfo_coef=1", "0", "0", "-", "-", "-", "-"]


@pytest.mark.parametrize("is_lowest", [False, True])
def test_runs_that_diverged_are_the_worst_of_all(is_lowest: bool) -> None:
    """Seven of eight runs of the second point diverge; the one that does not is better than all of the first."""
    values = np.array([[1.0] * 8, [2.0] + [np.nan] * 7]) * (-1 if is_lowest else 1)
    table = comparison_table(results(values, np.isnan(values).astype(int), pfo_coef=[0.0, 1.0]), is_lowest=is_lowest)
    assert list(table["runs"]) == [8, 1]
    assert list(table["diverged"]) == [0, 7]
    assert table["best"][0] > 0.9
    assert table["improvement"][1] == 1 / 8
    assert abs(table["difference"][1]) == 1
    nobody = comparison_table(results(np.full((2, 4), np.nan), np.ones((2, 4)), pfo_coef=[0.0, 1.0]))
    assert list(nobody["best"]) == [0.5, 0.5]
    # Infinite unless three of eight draws are -inf: P(Binomial(8, 1/2) <= 2) = 37 / 256.
    both = probability_of_best(np.array([[np.inf, 0.0], [-np.inf, 0.0]] * 4))
    np.testing.assert_allclose(both, [37 / 256, 219 / 256], atol=0.03)


def test_environments_are_compared_each_by_itself() -> None:
    """Returns of the second are a hundred times larger: it must not be called the better point."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 8)) + np.array([[0.0], [900.0], [5.0], [500.0]])
    envs, coefs = ["a", "b", "a", "b"], [0.0, 0.0, 1.0, 1.0]
    table = comparison_table(results(values, env=envs, pfo_coef=coefs))
    assert list(zip(table["env"], table["pfo_coef"], strict=True)) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert list(table["best"]) == [0, 1, 1, 0]
    np.testing.assert_allclose(table["difference"][[1, 3]], [iqm(values[2] - values[0]), iqm(values[3] - values[1])])
    assert table.loc[[0, 2], ["difference", "improvement"]].isna().all(axis=None)
    lines = format_comparison(table, "return_mean").splitlines()
    names = ["env=a, pfo_coef=0", "pfo_coef=1", "env=b, pfo_coef=0", "pfo_coef=1"]
    assert [line.split("  ")[0] for line in lines[2:6]] == names
    alone = comparison_table(results(values[[1, 3]], pfo_coef=[0.0, 1.0]))
    pd.testing.assert_frame_equal(table.iloc[2:, 1:].reset_index(drop=True), alone)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="return_meen"):
        comparison_table(results(np.zeros((1, 2)), pfo_coef=[0.0]), "return_meen")


def test_the_text_names_points_by_what_differs_from_the_first() -> None:
    values = np.arange(12.0).reshape(3, 4) * 1000
    table = comparison_table(
        results(values, pfo_coef=[0.0, 1.0, 1.0], pfo_layers=["last", "last", "all"]), "return_mean"
    )
    lines = format_comparison(table, "return_mean").splitlines()
    assert [line.split("  ")[0] for line in lines[2:5]] == [
        "pfo_coef=0, pfo_layers=last",
        "pfo_coef=1",
        "pfo_coef=1, pfo_layers=all",
    ]
    assert "9500 [8" in lines[4]
    assert isinstance(table, pd.DataFrame)
    alone = comparison_table(results(values[:1]))
    assert format_comparison(alone, "return_mean").splitlines()[2].startswith("all runs")


def test_points_at_different_steps_are_said_to_be() -> None:
    """As in a sweep that still runs: its groups come one after the other."""
    groups = [
        GroupResult(
            metrics={"return_mean": np.ones((4, log_points))},
            env_steps=1000 * np.arange(1, log_points + 1),
            seeds=np.arange(4),
            swept={"num_epochs": [number] * 4},
            status=np.zeros(4),
            run_index=np.arange(4) + 4 * number,
        )
        for number, log_points in enumerate((10, 3))
    ]
    table = comparison_table(to_dataset(groups, {}))
    assert table["env_steps"].tolist() == [10_000, 3000]
    assert "different steps, 3,000 to 10,000" in format_comparison(table, "return_mean")
    even = comparison_table(to_dataset(groups[:1], {}))
    assert "different steps" not in format_comparison(even, "return_mean")
