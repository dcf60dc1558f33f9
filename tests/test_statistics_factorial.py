"""Factorial effects against least squares, their intervals against scipy's formula, and what is no factorial."""

import numpy as np
import pytest
from scipy import stats
from test_plots_figures import made_up

from purejaxppo.errors import ConfigError
from purejaxppo.plots.figures import draw_figure
from purejaxppo.statistics.contrasts import holm
from purejaxppo.statistics.factorial import factorial_effects, two_level_fields
from purejaxppo.statistics.finals import final_values

AXES = {"activation": ["relu", "tanh"], "layer_norm": [False, True], "lr_schedule": ["constant", "linear"]}
SEEDS = 6


@pytest.fixture(scope="module")
def dataset():
    made = made_up(AXES | {"pfo_coef": [0.0]}, num_seeds=SEEDS)
    is_both = (made["activation"] == "tanh") & made["layer_norm"]
    made["return_mean"] = made["return_mean"] + 30.0 * (made["lr_schedule"] == "linear") + 80.0 * is_both
    return made


def coded(dataset):
    """Signs [runs, 3] of the fields in each run."""
    return np.stack([np.where(dataset[field].values == levels[1], 1, -1) for field, levels in AXES.items()], axis=1)


def test_effects_are_twice_the_coefficients_of_least_squares(dataset):
    table = factorial_effects(dataset, "return_mean")
    a, b, c = coded(dataset).T
    design = np.stack([np.ones_like(a), a, b, c, a * b, a * c, b * c, a * b * c], axis=1).astype(float)
    finals = final_values(dataset, "return_mean").values
    expected = 2 * np.linalg.lstsq(design, finals, rcond=None)[0][1:]
    np.testing.assert_allclose(table["value"], expected, rtol=1e-9)
    assert table["effect"].tolist()[:4] == [
        "activation=tanh", "layer_norm=True", "lr_schedule=linear", "activation=tanh x layer_norm=True",
    ]  # fmt: skip
    assert table["order"].tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert table["value"][3] > 20
    np.testing.assert_allclose(table["p_holm"], holm(table["p"].to_numpy()))


def test_a_main_effect_is_what_the_second_level_adds_seed_by_seed(dataset):
    """Its interval is Student's over the seeds: half a width is t times the deviation over the root of their number."""
    table = factorial_effects(dataset, "return_mean", ["lr_schedule"]).iloc[0]
    assert table.order == 1
    finals, seeds = final_values(dataset, "return_mean").values, dataset["seed"].values
    is_second = dataset["lr_schedule"].values == "linear"
    each = np.array([
        finals[is_second & (seeds == s)].mean() - finals[~is_second & (seeds == s)].mean() for s in range(SEEDS)
    ])  # fmt: skip
    half = stats.t.ppf(0.975, SEEDS - 1) * each.std(ddof=1) / np.sqrt(SEEDS)
    np.testing.assert_allclose([table.value, table.low, table.high], each.mean() + half * np.array([0, -1, 1]))
    np.testing.assert_allclose(table.p, np.asarray(stats.ttest_1samp(each, 0.0))[1])


def test_doublings_are_differences_of_the_binary_logarithm(dataset):
    table = factorial_effects(dataset, "policy_preactivation_norm", ["activation"], in_doublings=True)
    logs = np.log2(final_values(dataset, "policy_preactivation_norm").values)
    is_second = dataset["activation"].values == "tanh"
    np.testing.assert_allclose(table["value"], logs[is_second].mean() - logs[~is_second].mean())


@pytest.mark.parametrize("is_lowest", [False, True])
def test_a_run_that_diverged_counts_as_the_worst(dataset, is_lowest):
    """Else the more runs a setting kills, the better it looks."""
    status = dataset["status"].copy()
    run = int(np.flatnonzero(dataset["lr_schedule"] == "linear")[0])
    status[run] = 2
    found = factorial_effects(dataset.assign(status=status), "return_mean", ["lr_schedule"], is_lowest=is_lowest)
    assert set(found["num_seeds"]) == {SEEDS}
    measured = dataset["return_mean"].values[:, 1:]
    worst = np.nanmax(measured) if is_lowest else np.nanmin(measured)
    before = factorial_effects(dataset, "return_mean", ["lr_schedule"])["value"][0]
    change = (worst - final_values(dataset, "return_mean").values[run]) / (4 * SEEDS)
    np.testing.assert_allclose(found["value"][0], before + change)


def test_what_is_no_full_factorial_is_refused(dataset):
    with pytest.raises(ConfigError, match=r"^factor is 'pfo_coef', but must be a swept field with two levels: activ"):
        factorial_effects(dataset, "return_mean", ["pfo_coef"])
    is_missing = (dataset["activation"] == "tanh") & dataset["layer_norm"] & (dataset["lr_schedule"] == "linear")
    with pytest.raises(ConfigError, match=r"^No run has activation = tanh, layer_norm = True, lr_schedule = linear, "):
        factorial_effects(dataset.isel(run=np.flatnonzero(~is_missing)), "return_mean")
    with pytest.raises(ConfigError, match="no swept field with two levels"):
        factorial_effects(made_up({"pfo_coef": [0.0, 1.0, 10.0]}), "return_mean")


def strengths(plain):
    """Two kinds, each at a strength of its own, by two levels; and plain PPO, where asked for, in the first cell."""
    made = made_up({"kind": [0, 1, 2], "layer_norm": [False, True]}, num_seeds=4)
    kind = made["kind"].values.astype(int)
    made = made.drop_vars("kind").assign_coords(
        pfo_features=("run", np.where(kind == 1, "outputs", "preactivations")),
        pfo_coef=("run", np.array([1.0, 100.0, 0.0])[kind]),
    )
    is_kept = (kind < 2) | (plain & ~made["layer_norm"].values)
    return made.isel(run=np.flatnonzero(is_kept))


def test_a_strength_that_goes_with_a_kind_is_no_factor_and_plain_runs_beside_them_are_refused():
    assert list(two_level_fields(strengths(plain=False))) == ["layer_norm", "pfo_features"]
    assert factorial_effects(strengths(plain=False), "return_mean")["effect"].tolist() == [
        "layer_norm=True", "pfo_features=outputs, pfo_coef=100",
        "layer_norm=True x pfo_features=outputs, pfo_coef=100",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"^2 and 1 runs of a seed are in cells of the factorial "):
        factorial_effects(strengths(plain=True), "return_mean")


@pytest.mark.parametrize("num_seeds", [3, 6])
def test_seeds_that_agree_are_as_many_equal_signs_and_few_have_no_interval(num_seeds):
    made = made_up({"activation": ["relu", "tanh"]}, num_seeds=num_seeds)
    made["return_mean"] = 0 * made["return_mean"] + 5.0 * (made["activation"] == "tanh")
    found = factorial_effects(made, "return_mean")[["value", "low", "high", "p"]].iloc[0].tolist()
    ends = [np.nan, np.nan] if num_seeds < 5 else [5, 5]
    np.testing.assert_array_equal(found, [5, *ends, 2.0 ** (1 - num_seeds)])


def test_the_figure_colours_what_is_told_from_zero(dataset):
    figure = draw_figure(dataset, "factorial")
    table = factorial_effects(dataset, "return_mean")
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    is_told = (table["p_holm"] < 0.05).tolist()
    assert [dot.get_color() == "#0072b2" for dot in dots] == is_told
    assert [dot.get_markerfacecolor() != "white" for dot in dots] == is_told
    assert set(is_told) == {True, False}
    assert "blue and filled: told from 0" in figure.get_label()
    for ax, metric in zip(figure.axes[1:], ("policy_rank", "policy_preactivation_norm"), strict=True):
        dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dots, factorial_effects(dataset, metric, in_doublings=True)["value"])
    assert not draw_figure(made_up({"pfo_coef": [0.0, 1.0, 10.0]}), "factorial").axes[0].lines
