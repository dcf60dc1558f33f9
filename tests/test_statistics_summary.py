"""Summary: what "final" means, and the table that a person reads."""

import inspect
import io

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import GroupResult, load, save, to_dataset
from purejaxppo.statistics import collapse
from purejaxppo.statistics.estimates import bootstrap_interval, iqm
from purejaxppo.statistics.finals import FINAL_FRACTION, comparable_values, final_values
from purejaxppo.statistics.summary import (
    SUMMARY_METRICS,
    format_csv,
    format_latex,
    format_markdown,
    format_table,
    summary_table,
    table_cells,
)


def results(num_runs=8, num_logs=30, swept=None, status=None, **metrics):
    """A Dataset of one group; metrics that are not given are noise."""
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=(num_runs, num_logs)) for name in SUMMARY_METRICS}
    one = GroupResult(
        metrics={**values, **metrics},
        env_steps=1000 * np.arange(1, num_logs + 1),
        seeds=np.arange(num_runs),
        swept=swept or {},
        status=np.zeros(num_runs) if status is None else np.array(status),
        run_index=np.arange(num_runs),
    )
    return to_dataset([one], {})


@pytest.mark.parametrize(("num_logs", "window"), [(1, 1), (5, 1), (20, 1), (21, 2), (60, 3), (140, 7)])
def test_final_is_the_last_twentieth_rounded_up(num_logs, window):
    values = np.arange(2 * num_logs, dtype=float).reshape(2, num_logs)
    found = final_values(results(2, num_logs, return_mean=values), "return_mean")
    assert found.dims == ("run",)
    np.testing.assert_allclose(found, values[:, -window:].mean(axis=1))
    assert found.attrs["units"] == "reward"
    np.testing.assert_array_equal(found["seed"], [0, 1])


def test_the_window_does_not_grow_by_rounding():
    values = np.arange(100.0)[None, :]  # 0.07 * 100 is 7.000000000000001
    assert final_values(results(1, 100, return_mean=values), "return_mean", 0.07)[0] == 96


def test_there_is_one_final_window():
    """Figure 6, the claims, the definition of collapse and the tables mean the same by the end of a run."""
    assert {FINAL_FRACTION, collapse.LASTING_FRACTION} == {0.05}
    assert inspect.signature(final_values).parameters["fraction"].default == FINAL_FRACTION


def test_final_ignores_what_is_missing():
    values = np.tile(np.arange(40.0), (3, 1))
    values[0, -1] = np.nan
    values[1, -2:] = np.nan
    found = final_values(results(3, 40, return_mean=values, policy_rank=values), "return_mean")
    np.testing.assert_array_equal(found, [38, np.nan, 38.5])
    np.testing.assert_array_equal(final_values(results(3, 40, policy_rank=values), "policy_rank", 1.0)[1], 18.5)


@pytest.mark.parametrize("name", ["excess_ratio", "ratio_below_mean", "ratio_above_std"])
def test_final_ratios_are_the_last_that_exist(name):
    values = np.tile(np.arange(40.0), (3, 1))
    values[0, 10:] = np.nan
    values[1, [38, 36]] = np.nan
    values[2] = np.nan
    found = final_values(results(3, 40, **{name: values}), name)
    np.testing.assert_array_equal(found, [8.5, 38, np.nan])


def test_fractions_of_samples_are_no_ratios():
    values = np.tile(np.arange(20.0), (1, 1))
    values[0, 10:] = np.nan
    assert np.isnan(final_values(results(1, 20, ratio_below_fraction=values), "ratio_below_fraction")[0])


def test_final_of_an_unfinished_run_is_the_last_twentieth_of_what_it_has():
    def part(index, num_logs):
        return GroupResult(
            metrics={"return_mean": np.arange(num_logs, dtype=float)[None, :]},
            env_steps=np.arange(1, num_logs + 1),
            seeds=np.zeros(1),
            swept={"num_epochs": [index]},
            status=np.zeros(1),
            run_index=np.array([index]),
        )

    dataset = to_dataset([part(0, 80), part(1, 40), part(2, 0)], {})
    np.testing.assert_array_equal(final_values(dataset, "return_mean"), [77.5, 38.5, np.nan])
    table = summary_table(dataset)
    np.testing.assert_array_equal(table["env_steps"], [80, 40, 0])
    assert "env_steps" in format_table(table)


def test_final_before_the_first_log_point_is_nan():
    assert np.all(np.isnan(final_values(results(2, 0), "return_mean")))


def test_wrong_questions_are_told():
    with pytest.raises(ConfigError, match=r"^Metric 'retrun_mean' has no single value .* did you mean return_mean\?$"):
        final_values(results(), "retrun_mean")
    with pytest.raises(ConfigError, match=r"^Metric 'status' .* `purejaxppo metrics` lists all\.$"):
        final_values(results(), "status")
    for fraction in (0.0, 1.1):
        with pytest.raises(ConfigError, match=f"fraction is {fraction}"):
            final_values(results(), "return_mean", fraction)


def test_a_run_that_diverged_counts_as_the_worst_that_its_environment_measured():
    values = np.tile(np.arange(40.0), (4, 1)) + np.array([[0.0], [100], [1000], [5000]])
    values[0, 20:] = np.nan
    values[2, 10] = np.inf
    swept = {"env": ["a", "a", "b", "b"]}
    dataset = results(4, 40, swept=swept, status=[21, 0, 0, 7], return_mean=values, policy_rank=values)
    found = comparable_values(dataset, "return_mean")
    np.testing.assert_array_equal(found, [0, 138.5, 1038.5, 1000])
    np.testing.assert_array_equal(comparable_values(dataset, "return_mean", is_lowest_best=True)[[0, 3]], [139, 5039])
    assert np.isnan(final_values(dataset, "return_mean")[0])
    table = summary_table(dataset)
    np.testing.assert_array_equal(table["return_mean_runs"], ["0.0 138.5", "1000.0 1038.5"])


def test_of_a_metric_of_ones_own_nobody_knows_the_worst_and_runs_that_diverged_are_left_out():
    values = np.repeat(np.arange(1.0, 9.0)[:, None], 30, axis=1)
    values[0, :] = 0.0  # the lowest, and as it diverged not to be counted
    dataset = results(status=[5] + [0] * 7, return_mean=values, mine=values)
    dataset["mine"].attrs["family"] = "own"
    table = summary_table(dataset)
    np.testing.assert_allclose(table["mine"], iqm(np.arange(2.0, 9.0)))
    np.testing.assert_allclose(table["return_mean"], iqm(np.array([0.0, *np.arange(2.0, 9.0)])))


def test_the_table_has_a_row_per_point():
    swept = {"num_epochs": [4] * 10 + [32] * 10, "pfo_coef": [0.0] * 5 + [1.0] * 5 + [0.0] * 5 + [1.0] * 5}
    dataset = results(20, swept=swept, status=[0] * 10 + [3, 9] + [0] * 8)
    table = summary_table(dataset)
    assert table[["num_epochs", "pfo_coef"]].values.tolist() == [[4, 0], [4, 1], [32, 0], [32, 1]]
    assert table["runs"].tolist() == [5, 5, 5, 5]
    assert table["diverged"].tolist() == [0, 0, 2, 0]
    assert table["collapsed"].tolist() == [0, 0, 2, 0]
    assert table["never_learned"].tolist() == [5, 5, 3, 5]  # noise
    ends = stats.binomtest(2, 5).proportion_ci(method="exact")
    np.testing.assert_allclose(table.loc[2, ["collapsed_low", "collapsed_high"]].astype(float), [ends.low, ends.high])
    finals = comparable_values(dataset, "policy_rank").values[10:15]
    low, high = bootstrap_interval(finals, iqm)
    found = table.loc[2, ["policy_rank", "policy_rank_low", "policy_rank_high"]].tolist()
    np.testing.assert_allclose(found, [iqm(finals), low, high])
    assert table["policy_rank_runs"].isna().all()


def test_every_table_says_how_many_runs_collapsed():
    """An interquartile mean of 8 hides two dead runs of eight; so does one of the rest of the row."""
    returns = np.tile(np.minimum(8.0, np.arange(40.0)), (8, 1))
    returns[:2, 20:] = 0.0
    dataset = results(8, 40, return_mean=returns)
    table = summary_table(dataset)
    assert table["return_mean"][0] == 8
    for text in (format_table(table), format_markdown(table), format_latex(table)):
        assert "2 of 8 [3" in text
        assert "Collapsed: the return is lost for good" in " ".join(text.split())
    assert table_cells(table)[0][0] == ["collapsed", "2 of 8 [3 %, 65 %]"]
    without = summary_table(dataset.drop_vars("return_mean"))
    assert table_cells(without)[0] == [["runs", "8"]]
    assert summary_table(dataset)["collapsed"].tolist() == [2]


def test_few_runs_are_said_one_by_one():
    values = np.array([-214.0, -499.25, -115.0, -385.0])[:, None]
    table = summary_table(results(4, 1, return_mean=values))
    assert np.isnan(table["return_mean_low"][0])
    assert "-299.5 (-499.2, -385.0, -214.0, -115.0)" in format_table(table)
    read = pd.read_csv(io.StringIO(format_csv(table)))
    assert table_cells(read) == table_cells(table)
    five = summary_table(results(5, 1, return_mean=np.append(values, [[-100.0]], axis=0)))
    assert five["return_mean_low"][0] < five["return_mean"][0]
    assert "(" not in table_cells(five)[1][0][1]


def test_the_table_without_axes_metrics_or_runs(tmp_path):
    table = summary_table(results().drop_vars(["excess_ratio"]))
    assert len(table) == 1
    assert np.isnan(table["excess_ratio"][0])
    assert ["excess ratio", "-"] in table_cells(table)[1]
    nothing = summary_table(results().isel(run=slice(0, 0)))
    assert len(nothing) == 0
    assert all(len(column) == 1 for column in table_cells(nothing)[1])
    dataset = results(swept={"activation": ["relu", "tanh"] * 4})
    pd.testing.assert_frame_equal(summary_table(load(save(dataset, tmp_path / "r.nc"))), summary_table(dataset))


def shaped(means, spread):
    """A table whose cells are known: two points, values far apart."""
    finals = np.concatenate([mean + spread * np.linspace(-1, 1, 5) for mean in means])[:, None]
    swept = {"num_epochs": [4] * 5 + [32] * 5, "pfo_coef": [0.0] * 10}
    others = {name: np.full((10, 1), 10.0) for name in SUMMARY_METRICS if name != "return_mean"}
    return summary_table(results(10, 1, swept=swept, return_mean=finals, **others))


def test_the_text_is_aligned_and_fits():
    table = shaped((-88.2, -417.3), 2.0)
    text = format_table(table)
    assert max(len(line) for line in text.split("\n\nInterquartile")[0].splitlines()) <= 100
    assert max(len(line) for line in text.splitlines()) <= 120
    low, high = table.loc[0, ["return_mean_low", "return_mean_high"]]
    assert f" -88.2 [ {low:.1f},  {high:.1f}]" in text
    assert "-417.3 [-419" in text
    lines = text.splitlines()
    assert lines[0].split()[:6] == ["num_epochs", "pfo_coef", "collapsed", "never", "learned", "return"]
    brackets = [line.rindex("[") for line in lines[2:4]]
    assert brackets[0] == brackets[1]
    assert lines[2].split()[:5] == ["4", "0", "0", "of", "5"]
    # Every block repeats the row labels, and every metric appears once.
    assert text.count("num_epochs") == 3
    assert all(text.count(header) == 1 for header in ("policy rank", "policy norm", "dead neurons", "excess ratio"))
    wide = format_table(table, width=300)
    assert wide.count("num_epochs") == 1
    assert "excess ratio" in wide.splitlines()[0]


@pytest.mark.parametrize(
    ("mean", "text"),
    [(123456.0, "1.2e+05"), (1234.0, "1234"), (20.5, "20.5"), (1.25, "1.25"), (0.125, "0.125"), (2e-5, "2.0e-05")],
)
def test_numbers_have_about_three_digits(mean, text):
    assert f"{text} [{text}, {text}]" in format_table(shaped((mean, mean), 0.0))


def test_markdown_and_latex_hold_the_same_cells():
    swept = {"env": ["a|b_c"] * 8}
    table = summary_table(results(8, 1, swept=swept, return_mean=np.full((8, 1), -88.2)))
    lines = format_markdown(table).splitlines()
    assert lines[0].startswith("| env | collapsed | never learned | return |")
    assert lines[1] == "|" + " ---: |" * 8
    assert lines[2].startswith("| a\\|b_c | 0 of 8 [0 %, 37 %] | 8 | -88.2 [-88.2, -88.2] |")
    lines = format_latex(table).splitlines()
    assert lines[0] == "\\begin{tabular}{llllllll}"
    assert lines[4].startswith(r"a|b\_c & 0 of 8 [0 \%, 37 \%] & 8 & $-$88.2 [$-$88.2, $-$88.2] & ")
    assert lines[4].endswith(r" \\")
    assert [line for line in lines if line.startswith("\\")][-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert all(line.startswith("%") for line in lines[8:])


def test_csv_holds_the_numbers():
    table = shaped((-88.2, -417.3), 2.0)
    found = pd.read_csv(io.StringIO(format_csv(table)))
    pd.testing.assert_frame_equal(found, table, check_dtype=False)
    missing = summary_table(results(1))
    assert pd.read_csv(io.StringIO(format_csv(missing)))["return_mean_low"].isna().all()
