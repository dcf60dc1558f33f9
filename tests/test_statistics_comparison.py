"""Comparison: the best point and how sure it is, against straight loops and scipy."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.statistics.comparison import _references, comparison_table, format_comparison
from purejaxppo.statistics.contrasts import difference, holm, probability_of_best
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


def test_the_table_holds_differences_of_its_values_and_scipys_probability() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 8)) + np.array([[0.0], [0.5], [5.0]])
    table = comparison_table(results(values, pfo_coef=[0.0, 1.0, 10.0]))
    assert list(table["pfo_coef"]) == [0, 1, 10]
    assert list(table["runs"]) == [8, 8, 8]
    assert list(table["is_base"]) == [True, False, False]
    np.testing.assert_allclose(table["value"], [stats.trim_mean(row, 0.25) for row in values])
    assert table["best"][2] == 1
    assert list(table["is_candidate"]) == [False, False, True]
    assert table.loc[0, ["difference", "improvement", "p", "p_holm"]].isna().all()
    for point in (1, 2):
        np.testing.assert_allclose(table["difference"][point], table["value"][point] - table["value"][0])
        alone = difference(values[point], values[0], np.arange(8), np.arange(8))
        assert table["p"][point] == alone.p
        assert table["correlation"][point] == alone.correlation
        u = stats.mannwhitneyu(values[point], values[0]).statistic
        np.testing.assert_allclose(table["improvement"][point], u / 64)
    assert (table["difference_low"][1:] <= table["difference"][1:]).all()
    np.testing.assert_allclose(table["p_holm"], holm(table["p"].to_numpy()))
    assert table["improvement"][2] == 1
    assert 0.5 < table["improvement_low"][2] < 0.9  # never of width 0


def test_the_lowest_is_best_where_that_is_asked_for() -> None:
    values = np.random.default_rng(0).normal(size=(2, 8)) + np.array([[0.0], [5.0]])
    table = comparison_table(results(values, pfo_coef=[0.0, 1.0]), is_lowest=True)
    assert list(table["best"]) == [1, 0]
    assert table["difference"][1] > 0
    assert table["improvement"][1] == 0


def test_a_run_without_a_value_is_no_win() -> None:
    values = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, np.nan]])
    table = comparison_table(results(values, pfo_coef=[0.0, 1.0]))
    assert list(table["runs"]) == [4, 4]
    assert table["value_runs"][1] == "2.0 2.0 2.0"
    assert list(table["best"]) == [0, 1]


def test_a_point_without_values_leaves_the_chances_of_the_others() -> None:
    values = np.array([[0.0, np.nan, 1.0], [0.0, np.nan, 1.0]])
    np.testing.assert_array_equal(probability_of_best(values), [0, np.nan, 1])
    lines = format_comparison(comparison_table(results(values.T, pfo_coef=[0.0, 1.0, 2.0])), "return_mean").splitlines()
    assert re.split("  +", lines[3]) == ["pfo_coef=1", "0 of 2 [0 %, 84 %]", "2", "-", "-", "-", "-", "-", "-"]


@pytest.mark.parametrize("is_lowest", [False, True])
def test_runs_that_diverged_are_the_worst_of_all(is_lowest: bool) -> None:
    """Seven of eight runs of the second point diverge; the one that does not is better than all of the first."""
    sign = -1 if is_lowest else 1
    values = np.array([[1.0] * 7 + [0.0], [2.0] + [np.nan] * 7]) * sign
    table = comparison_table(results(values, np.isnan(values).astype(int), pfo_coef=[0.0, 1.0]), is_lowest=is_lowest)
    assert list(table["runs"]) == [8, 8]
    assert list(table["diverged"]) == [0, 7]
    assert list(table["collapsed"]) == [0, 7]
    assert table["best"][0] > 0.9
    # They stand where the worst that was measured does: below seven runs of the first point, beside the eighth.
    assert table["improvement"][1] == (8 + 7 * 0.5) / 64
    assert abs(table["value"][1]) == 0
    assert table["difference"][1] == -sign
    assert table["p"][1] < 0.05
    nobody = comparison_table(results(np.full((2, 4), np.nan), np.ones((2, 4)), pfo_coef=[0.0, 1.0]))
    assert np.isnan(nobody["value"]).all()
    assert "7 of 8 [47 %, 100 %]" in format_comparison(table, "return_mean")


def test_environments_are_compared_each_by_itself() -> None:
    """Returns of the second are a hundred times larger: it must not be called the better point."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 8)) + np.array([[0.0], [900.0], [5.0], [500.0]])
    envs, coefs = ["a", "b", "a", "b"], [0.0, 0.0, 1.0, 1.0]
    table = comparison_table(results(values, env=envs, pfo_coef=coefs))
    assert list(zip(table["env"], table["pfo_coef"], strict=True)) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert list(table["best"]) == [0, 1, 1, 0]
    gaps = [iqm(values[2]) - iqm(values[0]), iqm(values[3]) - iqm(values[1])]
    np.testing.assert_allclose(table["difference"][[1, 3]], gaps)
    assert table.loc[[0, 2], ["difference", "improvement"]].isna().all(axis=None)
    lines = format_comparison(table, "return_mean").splitlines()
    names = ["env=a, pfo_coef=0", "pfo_coef=1", "env=b, pfo_coef=0", "pfo_coef=1"]
    assert [line.split("  ")[0] for line in lines[2:6]] == names
    alone = comparison_table(results(values[[1, 3]], pfo_coef=[0.0, 1.0]))
    without = ["block", "p_holm"]  # of two contrasts, and of one
    pd.testing.assert_frame_equal(
        table.iloc[2:, 1:].reset_index(drop=True).drop(columns=without), alone.drop(columns=without)
    )
    np.testing.assert_allclose(table["p_holm"][[1, 3]], holm(table["p"][[1, 3]].to_numpy()))


def test_one_field_may_be_a_text_and_two_values_of_one_are_refused() -> None:
    table = results(np.arange(12.0).reshape(4, 3), pfo_coef=[0.0, 1.0, 0.0, 1.0], num_epochs=[4, 4, 8, 8])
    told = comparison_table(table, against="pfo_coef=0", within="num_epochs")
    pd.testing.assert_frame_equal(told, comparison_table(table, against={"pfo_coef": 0}, within=["num_epochs"]))
    with pytest.raises(ConfigError, match="against is 'pfo_coef=0,pfo_coef=1', but must have one value for each field"):
        comparison_table(table, against="pfo_coef=0,pfo_coef=1")


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
    assert "9500 (8000, 9000, 10000, 11000)" in lines[4]
    assert isinstance(table, pd.DataFrame)
    alone = comparison_table(results(values[:1]))
    assert format_comparison(alone, "return_mean").splitlines()[2].startswith("all runs")


def test_a_first_point_of_many_fields_is_named_by_the_first_few() -> None:
    fields = {f"weight_{name}": [0.0, 1.0] for name in "abcdefg"}
    table = comparison_table(results(np.arange(8.0).reshape(2, 4), **fields), "return_mean")
    lines = format_comparison(table, "return_mean").splitlines()
    assert lines[2].startswith("weight_a=0, weight_b=0, ... (7 fields)  ")
    assert lines[3].startswith(", ".join(f"{field}=1" for field in fields))


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


GRID = {"num_epochs": [4, 4, 16, 16], "pfo_coef": [0.0, 1.0, 0.0, 1.0]}


def grid() -> tuple[np.ndarray, xr.Dataset]:
    values = np.random.default_rng(0).normal(size=(4, 8)) + np.array([[0.0], [3.0], [10.0], [8.0]])
    return values, results(values, **GRID)


@pytest.mark.parametrize("against", ["pfo_coef=0", {"pfo_coef": 0.0}, " pfo_coef = 0.0 "])
def test_a_contrast_within_a_field_is_made_at_each_of_its_values(against: object) -> None:
    """PFO at each number of epochs: not 16 epochs with it against 4 without."""
    values, dataset = grid()
    table = comparison_table(dataset, against=against, within=["num_epochs"])  # pyright: ignore[reportArgumentType]
    assert list(table["block"]) == [0, 0, 1, 1]
    assert list(table["is_base"]) == [True, False, True, False]
    gaps = [iqm(values[1]) - iqm(values[0]), iqm(values[3]) - iqm(values[2])]
    np.testing.assert_allclose(table["difference"][[1, 3]], gaps)
    np.testing.assert_allclose(table["p_holm"][[1, 3]], holm(table["p"][[1, 3]].to_numpy()))
    assert (table["p_holm"][[1, 3]] > table["p"][[1, 3]]).any()
    assert list(table["best"].round()) == [0, 1, 1, 0]
    text = format_comparison(table, "return_mean")
    names = ["num_epochs=4, pfo_coef=0", "pfo_coef=1", "num_epochs=16, pfo_coef=0", "pfo_coef=1"]
    assert [line.split("  ")[0] for line in text.splitlines()[2:6]] == names
    assert "Selected as the best of 2: pfo_coef=1 beside num_epochs=4, pfo_coef=0." in " ".join(text.split())


def test_the_point_to_compare_against_need_not_be_the_first() -> None:
    values, dataset = grid()
    table = comparison_table(dataset, against="num_epochs=16,pfo_coef=0")
    assert table["num_epochs"].tolist() == [16, 4, 4, 16]
    np.testing.assert_allclose(table["difference"][3], iqm(values[3]) - iqm(values[2]))
    np.testing.assert_allclose(table["difference"][1], iqm(values[0]) - iqm(values[2]))
    rows = format_comparison(table, "return_mean").splitlines()[2:]
    assert [row.split("  ")[0] for row in rows[:3]] == [
        "num_epochs=16, pfo_coef=0",
        "num_epochs=4",
        "num_epochs=4, pfo_coef=1",
    ]


def test_a_block_without_that_point_has_no_contrasts() -> None:
    values = np.random.default_rng(0).normal(size=(3, 8))
    dataset = results(values, num_epochs=[4, 4, 16], pfo_coef=[0.0, 1.0, 1.0])
    table = comparison_table(dataset, against="pfo_coef=0", within=["num_epochs"])
    assert table["difference"].isna().tolist() == [True, False, True]
    assert format_comparison(table, "return_mean").splitlines()[4].startswith("num_epochs=16, pfo_coef=1")


@pytest.mark.parametrize(
    ("against", "within", "message"),
    [
        ("pfo_coef", (), "^against is 'pfo_coef', but must be field=value"),
        ("pfo_coeff=0", (), "^swept field 'pfo_coeff' is unknown; did you mean pfo_coef"),
        ("pfo_coef=0", ("num_epoch",), "^swept field 'num_epoch' is unknown; did you mean num_epochs"),
        ("pfo_coef=7", (), "no point of these results is set so; they have pfo_coef: 0, 1"),
        ("pfo_coef=0", (), "fits 2 points, which differ in num_epochs; it must fit one: name num_epochs=... too, or"),
        ("pfo_coef=0", ("pfo_coef",), "^field 'pfo_coef' is in against and in within"),
    ],
)
def test_what_names_no_point_is_told(against: str, within: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        comparison_table(grid()[1], against=against, within=within)


def test_switches_and_words_are_matched_as_people_write_them() -> None:
    values = np.random.default_rng(0).normal(size=(2, 8))
    dataset = results(values, share_trunk=[True, False], activation=["relu", "tanh"])
    for against in ("share_trunk=false", "activation=tanh", {"share_trunk": False}):
        assert comparison_table(dataset, against=against)["activation"].tolist() == ["tanh", "relu"]
    with pytest.raises(ConfigError, match="no point of these results"):
        comparison_table(dataset, against="share_trunk=1")


def test_a_winner_is_reported_as_selected_with_what_it_was_selected_from() -> None:
    values = np.random.default_rng(0).normal(size=(4, 8)) + np.array([[-300.0], [0.0], [0.2], [0.1]])
    text = " ".join(format_comparison(comparison_table(results(values, pfo_coef=[0.0, 1.0, 2.0, 3.0])), "x").split())
    assert re.search(r"Selected as the best of 4: pfo_coef=\d\. Its value is biased, as it was selected for it\.", text)
    assert re.search(r"Its share is 0\.\d\d; of equal points the leader has more than 0\.\d\d in 5 % of sweeps\.", text)
    assert re.search(r"Not distinguishable from it: pfo_coef=\d(; pfo_coef=\d)*\.", text)
    assert "no probability" in text


def test_the_table_is_also_written_in_markdown_and_latex() -> None:
    table = comparison_table(grid()[1])
    assert format_comparison(table, "return_mean", kind="markdown").startswith("| point | collapsed | never learned |")
    lines = format_comparison(table, "return_mean", kind="latex").splitlines()
    assert lines[4].startswith(r"num\_epochs=4, pfo\_coef=0 & 0 of 8 [0 \%, 37 \%] &")
    assert all(line.startswith(("%", "\\", "pfo", "num", "point")) for line in lines if line)


def test_a_plasticity_loss_stands_beside_the_best_constants_and_a_fresh_networks() -> None:
    """Medians over runs of their final values; results without them say so."""
    values = np.arange(8.0).reshape(2, 4)
    dataset = results(values, pfo_coef=[0.0, 1.0])
    loss = dataset["return_mean"].rename("policy_plasticity_loss")
    bare = dataset.assign(policy_plasticity_loss=loss)
    text = format_comparison(comparison_table(bare, "policy_plasticity_loss"), "policy_plasticity_loss")
    assert "do not have the loss of the best constant output and of a fresh network" in " ".join(text.split())
    full = bare.assign(policy_plasticity_constant_loss=loss / 10, policy_plasticity_fresh_loss=loss / 100 + 5)
    table = comparison_table(full, "policy_plasticity_loss")
    np.testing.assert_allclose(table["best_constant"], [0.15, 0.55])
    np.testing.assert_allclose(table["fresh"], [5.015, 5.055])
    header, *lines = format_comparison(table, "policy_plasticity_loss", kind="markdown").splitlines()
    assert " | policy_plasticity_loss | best constant | fresh | " in header
    assert " | 0.150 | 5.01 | " in lines[1]
    assert "A loss above the best constant's" in " ".join(lines)
    assert _references(full, "return_mean") == {}
