"""Any metric of any runs: `curves`, its facets and scales, sensitivity, the lines of plasticity, tidy tables."""

import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex, to_rgb
from test_plots_figures import NUM_LOGS, made_up

import purejaxppo as pjp
from purejaxppo.errors import ConfigError
from purejaxppo.plots.captions import describe_sweep
from purejaxppo.plots.channels import COLOURS, Channel, choose_channels, line_style
from purejaxppo.plots.conditions import MOST_LINES, arrange, check_options, parse_where, select
from purejaxppo.plots.curves import curves, overview
from purejaxppo.plots.figures import FIGURES, draw_figure
from purejaxppo.plots.files import legend_of
from purejaxppo.plots.panels import Panel
from purejaxppo.plots.scales import choose_scale
from purejaxppo.plots.sensitivity import sensitivity, swept_number
from purejaxppo.plots.sheets import PAPER, SCREEN, house_style, place_texts
from purejaxppo.plots.style import lay_out
from purejaxppo.results.runs import curves as values_of_runs
from purejaxppo.statistics.comparison import comparison_table
from purejaxppo.statistics.contrasts import difference
from purejaxppo.statistics.estimates import iqm
from purejaxppo.statistics.finals import final_values
from purejaxppo.statistics.summary import summary_table

NINE = {"num_epochs": [4, 16, 32], "pfo_coef": [0.0, 1.0, 10.0]}


def main_lines(ax):
    return [line for line in ax.lines if not str(line.get_label()).startswith("_")]


def values_at(line):
    """What a line of a sensitivity figure shows, without the gaps that leave 0 apart."""
    return line.get_ydata()[np.isfinite(line.get_ydata())]


def panels_of(figure):
    return [ax for ax in figure.axes if ax.get_visible() and ax.get_label() != "colour bar"]


# --- What is drawn


def test_curves_are_the_interquartile_means_of_the_runs_asked_for():
    dataset = made_up(NINE)
    figure = curves(dataset, ["policy_srank", "entropy"], by="pfo_coef", where={"num_epochs": [4, 32]})
    for ax, metric in zip(panels_of(figure), ("policy_srank", "entropy"), strict=True):
        for line, coef in zip(main_lines(ax), (0, 1, 10), strict=True):
            runs = np.isin(dataset["num_epochs"], [4, 32]) & (dataset["pfo_coef"].values == coef)
            assert runs.sum() == 10
            np.testing.assert_allclose(line.get_ydata(), iqm(dataset[metric].values[runs]))
            assert line.get_label() == f"pfo_coef={coef}"
    assert "Lines pool all values of num_epochs." in figure.get_label()


def test_a_notebook_may_ask_as_the_command_line_does():
    """Figures by number, conditions as texts, one field as a text; no metric, or no dataset, is one sentence."""
    dataset = made_up(NINE)
    assert draw_figure(dataset, 1).get_label().startswith("Figure 1")
    asked = ["pfo_coef=0", "pfo_coef=10", "num_epochs=4,16"]
    np.testing.assert_array_equal(
        select(dataset, asked)["run_index"],
        select(dataset, {"pfo_coef": [0, 10], "num_epochs": [4, 16]})["run_index"],
    )
    assert parse_where(["seed=1", "seed=1,2"]) == {"seed": ["1", "2"]}
    assert set(select(dataset, "pfo_coef=1")["pfo_coef"].values) == {1.0}
    with pytest.raises(ConfigError, match="metrics is empty"):
        curves(dataset, [])
    with pytest.raises(ConfigError, match="dataset is str, but must be a Dataset"):
        curves("runs/x", "policy_rank")


@pytest.mark.parametrize("look", [overview, summary_table, pjp.tidy, lambda dataset: final_values(dataset, "entropy")])
def test_runs_that_were_masked_do_not_pass_as_diverged(look):
    dataset = made_up({"pfo_coef": [0.0, 1.0]})
    look(dataset.where(dataset["pfo_coef"] == 1, drop=True))
    with pytest.raises(ConfigError, match="dataset has runs whose status is NaN"):
        look(dataset.where(dataset["pfo_coef"] == 1))
    for lost in (dataset.drop_vars("status"), dataset.isel(run=0), dataset.where(dataset["env_steps"] > 0, drop=True)):
        with pytest.raises(ConfigError, match="dataset has no status of each run"):
            look(lost)


def test_facets_are_panels_of_the_values_of_a_field_on_one_scale():
    dataset = made_up(NINE)
    figure = curves(dataset, "policy_rank", facet="pfo_coef")
    axes = panels_of(figure)
    assert [ax.get_title(loc="left").split("\n")[0] for ax in axes] == [f"pfo_coef = {x}" for x in (0, 1, 10)]
    assert len({ax.get_ylim() for ax in axes}) == 1
    for ax, coef in zip(axes, (0, 1, 10), strict=True):
        for line, epochs in zip(main_lines(ax), (4, 16, 32), strict=True):
            runs = (dataset["num_epochs"].values == epochs) & (dataset["pfo_coef"].values == coef)
            np.testing.assert_allclose(line.get_ydata(), iqm(dataset["policy_rank"].values[runs]))


def test_an_axes_of_ones_own_gets_the_lines_and_a_legend():
    figure, ax = plt.subplots()
    try:
        assert curves(made_up(), "policy_rank", by="pfo_coef", ax=ax) is figure
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["pfo_coef=0", "pfo_coef=1"]
        assert len(main_lines(ax)) == 2
        for metrics, facet in ((["policy_rank", "entropy"], None), ("policy_rank", "pfo_coef")):
            with pytest.raises(ConfigError, match="ax holds one metric without facets"):
                curves(made_up(), metrics, facet=facet, ax=ax)
    finally:
        plt.close(figure)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "policy_rnk"}, "'policy_rnk' has no single value .* did you mean policy_rank"),
        ({"metrics": "policy_singular_values"}, "'policy_singular_values' has no single value"),
        ({"metrics": "entropy", "by": "pfo"}, "by field 'pfo' is unknown; did you mean pfo_coef"),
        ({"metrics": "entropy", "facet": "x"}, "facet field 'x' is unknown"),
        ({"metrics": "entropy", "where": {"pfo_coef": 3}}, "where: pfo_coef is 3, but must be one of 0, 1"),
        ({"metrics": "entropy", "where": {"epochs": 3}}, "where field 'epochs' is unknown"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(options, message):
    with pytest.raises(ConfigError, match=message):
        curves(made_up(), **options)


def test_conditions_from_the_command_line():
    dataset = made_up({"pfo_coef": [0.0, 0.1, 1.0], "share_trunk": [False, True]}, num_seeds=2)
    chosen = select(dataset, parse_where(["pfo_coef=0.1,1", "share_trunk=true", "seed=1"]))
    assert chosen["pfo_coef"].values.tolist() == [0.1, 1.0]
    assert chosen["share_trunk"].values.all()
    assert chosen["seed"].values.tolist() == [1, 1]
    assert select(dataset, None) is dataset
    for text in ("pfo_coef", "=1", "pfo_coef="):
        with pytest.raises(ConfigError, match="FIELD=VALUE"):
            parse_where([text])
    for *wrong, message in (
        ("1", ["kl"], [], None, "figure is 1, which shows metrics of its own"),
        (None, [], ["pfo_coef"], None, "by and facet go with metric"),
        ("sensitivity", ["kl"], [], "env", "by and facet go with metric"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_options(*wrong)


# --- Runs that log at different steps


def two_grids():
    """Two runs that log at 10, 20, 30 and at 15, 30, 45, 60; plasticity at every other log point."""
    nan = np.nan
    return pjp.import_metrics(
        {
            "return_mean": [[1.0, 2.0, nan, nan], [5.0, 6.0, 7.0, 8.0]],
            "policy_plasticity_loss": [[1.0, nan, 3.0, nan], [nan, 6.0, nan, 8.0]],
            "policy_singular_values": np.arange(16.0).reshape(2, 4, 2),
        },
        env_steps=[[10.0, 20.0, 30.0, nan], [15.0, 30.0, 45.0, 60.0]],
        swept={"total_steps": [30, 60]},
    )


@pytest.mark.parametrize(
    ("metric", "steps", "values"),
    [
        (
            "return_mean",  # the third one of the first run is a gap
            [10, 15, 20, 30, 45, 60],
            [[1, 1, 2, np.nan, np.nan, np.nan], [np.nan, 5, 5, 6, 7, 8]],
        ),
        ("policy_plasticity_loss", [10, 30, 60], [[1, 3, np.nan], [np.nan, 6, 8]]),
        (
            "policy_singular_values",
            [10, 15, 20, 30, 45, 60],
            [
                [[0, 1], [0, 1], [2, 3], [4, 5], [np.nan] * 2, [np.nan] * 2],
                [[np.nan] * 2, [8, 9], [8, 9], [10, 11], [12, 13], [14, 15]],
            ],
        ),
    ],
)
def test_runs_that_log_at_different_steps_hold_their_last_value(metric, steps, values):
    found = values_of_runs(two_grids(), metric, np.array([0, 1]))
    np.testing.assert_array_equal(found[0], steps)
    np.testing.assert_array_equal(found[1], values)


def test_a_line_of_runs_with_different_steps_mixes_no_steps():
    figure = curves(two_grids(), "return_mean", by="seed")
    for line, run in zip(main_lines(figure.axes[0]), (0, 1), strict=True):  # a run by itself is as it was measured
        grid, measured = two_grids()["env_steps"].values[run], two_grids()["return_mean"].values[run]
        np.testing.assert_array_equal(line.get_xdata(), grid[np.isfinite(grid)])
        np.testing.assert_array_equal(line.get_ydata(), measured[np.isfinite(grid)])
    (line,) = main_lines(curves(two_grids(), "return_mean", by=[]).axes[0])
    np.testing.assert_array_equal(line.get_ydata(), [1, 3, 3.5, 6, 7, 8])


def test_loggers_that_share_no_step_are_drawn_at_some_of_them():
    """A thousand runs of a hundred log points each would else take gigabytes."""
    steps = np.arange(1, 201).reshape(5, 40).T.reshape(40, 5)  # forty runs, five points each
    dataset = pjp.import_metrics({"a": np.ones((40, 5))}, env_steps=np.sort(steps, axis=1).astype(float))
    found, values = values_of_runs(dataset, "a", np.arange(40))
    assert (found.size, values.shape, found[0], found[-1]) == (50, (40, 50), 1, 200)


def test_finished_results_beside_those_of_another_trainer_are_finished():
    """Whose log points are not those that the sweep's record plans."""
    ours = made_up({}, num_seeds=2, num_logs=10)
    record = {"config": {"env": "gymnax/Acrobot-v1", "total_steps": 10_000, "num_envs": 1, "num_steps": 1000}}
    record["config"] |= {"num_log_points": 10, "minibatch_size": 1000}
    ours.attrs["sweep"] = json.dumps(record)
    theirs = pjp.import_metrics({"return_mean": np.ones((2, 5))}, env_steps=2000 * np.arange(1, 6))
    assert "of 10 log points" in describe_sweep(ours.isel(log=slice(0, 4)))
    for both in ([ours, theirs], [theirs, ours]):
        assert "log points" not in describe_sweep(pjp.concat(both, names=["one", "other"]))


def test_runs_that_have_come_less_far_share_the_grid_of_the_others():
    dataset = made_up({}, num_seeds=3, num_logs=4)
    grid = np.tile(dataset["env_steps"].values.astype(float), (3, 1))
    grid[1, 2:] = np.nan
    partial = dataset.assign_coords(env_steps=(("run", "log"), grid))
    steps, values = values_of_runs(partial, "return_mean", np.arange(3))
    np.testing.assert_array_equal(steps, dataset["env_steps"].values)
    np.testing.assert_array_equal(values, dataset["return_mean"].values)


@pytest.mark.parametrize("axes", [NINE, {"pfo_coef": [0.0, *np.geomspace(0.01, 100, 8)]}], ids=["axes", "levels"])
def test_in_an_axes_of_ones_own_every_line_looks_different(axes):
    """Nine lines had three styles: colours and dashes were those of several panels."""
    figure, ax = plt.subplots()
    try:
        curves(made_up(axes, num_seeds=2, num_logs=2), "policy_rank", ax=ax)
        thin = [part for part in ax.collections if isinstance(part, LineCollection)]
        looks = [
            (line.get_color(), str(runs.get_linestyle()), line.get_marker())
            for line, runs in zip(main_lines(ax), thin, strict=True)
        ]
        assert len(looks) == len(set(looks)) == 9
    finally:
        plt.close(figure)


def test_captions_say_which_runs_were_selected_and_of_how_many():
    dataset = made_up(NINE | {"env": ["a/A-v0", "b/B"]}, num_seeds=2)
    chosen = select(dataset, {"pfo_coef": [0, 1.0], "num_epochs": "4"})
    assert describe_sweep(chosen).endswith("8 of 36 runs, only pfo_coef = 0 or 1, num_epochs = 4")
    assert describe_sweep(chosen.isel(run=chosen["env"].values == "b/B")).endswith(
        "b/B, 50k steps, seeds 0, 1, 4 of 18 runs, only pfo_coef = 0 or 1, num_epochs = 4"
    )
    again = select(chosen, {"seed": 1})
    assert describe_sweep(again).endswith("4 of 36 runs, only pfo_coef = 0 or 1, num_epochs = 4, only seed = 1")
    everything = select(dataset, {"seed": [0, 1]})
    assert describe_sweep(everything) == describe_sweep(dataset)
    long = {"pfo_coef": [0, 1, 10], "num_epochs": [4, 16, 32], "env": "a/A-v0", "seed": 1}
    assert describe_sweep(select(dataset, long)).endswith(
        "9 of 18 runs, selected by pfo_coef, num_epochs, env and 1 more field"
    )
    figure = curves(made_up(), "entropy", where={"pfo_coef": 1})
    assert "10 of 20 runs, only pfo_coef = 1." in figure.get_label()
    assert "selected" not in dataset.attrs


# --- Facets and encoding


@pytest.mark.parametrize(
    ("axes", "num_facets"),
    [
        ({"pfo_coef": [0.0, 1.0]}, 1),
        ({"pfo_coef": [0.0, 0.1, 1.0], "num_epochs": [4, 16]}, 1),
        (NINE, 3),
        ({"num_epochs": [4, 16], "pfo_coef": [0.0, 0.01, 0.1, 1.0, 10.0, 100.0]}, 2),
        ({"pfo_coef": [0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]}, 2),
        ({"learning_rate": [1e-4 * (i + 1) for i in range(14)]}, 3),
        ({"num_epochs": list(range(9)), "pfo_coef": [0.1 * i for i in range(9)]}, 18),
        ({"env": ["a", "b"], "num_epochs": [4, 8], "pfo_coef": [0.0, 1.0], "share_trunk": [False, True]}, 4),
    ],
)
def test_no_panel_has_more_than_six_lines_and_every_point_has_one(axes, num_facets):
    fields = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    everything = [(point, np.array([number])) for number, point in enumerate(fields)]
    facets, channels = arrange(everything)
    assert len(facets) == num_facets
    assert {run for facet in facets for run in facet.runs.tolist()} == set(range(len(fields)))
    for facet in facets:
        assert 1 <= len(facet.points) <= MOST_LINES
        assert len({str(sorted(line_style(channels, point).items())) for point, _ in facet.points}) == len(facet.points)
    assert len({facet.name for facet in facets}) == len(facets)


def test_every_part_of_many_settings_begins_with_plain_ppo():
    everything = [({"pfo_coef": coef}, np.array([i])) for i, coef in enumerate([0.0, *np.geomspace(0.01, 100, 9)])]
    facets, channels = arrange(everything)
    assert [facet.points[0][0]["pfo_coef"] for facet in facets] == [0.0, 0.0]
    assert [facet.name for facet in facets] == ["part 1 of 2", "part 2 of 2"]
    assert line_style(channels, facets[1].points[0][0])["color"] == COLOURS[0]


def test_the_legend_says_which_level_is_in_which_part():
    coefs = [0.0, *np.geomspace(0.01, 100, 9).round(3)]
    for epochs in ([4], [4, 16]):
        swept = [{"pfo_coef": coef, "num_epochs": number} for number in epochs for coef in coefs]
        facets, channels = arrange([(point, np.array([i])) for i, point in enumerate(swept)])
        parts = [{point["pfo_coef"] for point, _ in facet.points} for facet in facets[:2]]
        assert channels[0].title == "pfo_coef (part)"
        assert channels[0].labels[0] == "0 (all)"
        for coef, label in zip(coefs[1:], channels[0].labels[1:], strict=True):
            (number,) = [number for number, part in enumerate(parts, start=1) if coef in part]
            assert label.endswith(f" ({number})")
    assert arrange([({"pfo_coef": x}, np.array([i])) for i, x in enumerate((0.0, 1.0))])[1][0].labels == ["0", "1"]
    # A colour bar has no entries: the panels have the range.
    facets, channels = arrange([({"learning_rate": 1e-4 * i}, np.array([i])) for i in range(1, 34)])
    assert channels[0].kind == "colour_bar"
    assert facets[0].name == "part 1 of 6: 0.0001 to 0.0006"


def test_a_legend_of_many_rows_stays_off_the_panels_at_other_resolutions():
    """Thirty-one settings at 100 pixels an inch: the last one lay on the first panel's title."""
    names = tuple(f"{'a long name ' * 8}{number}" for number in range(31))
    channel = Channel(fields=(), levels=tuple((n,) for n in names), styles=({},) * 31, names=names, kind="line")
    with house_style(SCREEN):
        figure, (ax,) = lay_out(1, [channel], "title", "caption")
        for dpi in (86, 100, 120, 200):
            figure.dpi = dpi
            place_texts(figure)
            legend = figure.legends[0].get_window_extent(figure.canvas.get_renderer())
            assert (legend.y0 - ax.get_window_extent().y1) / dpi > 0.3  # inches, of which the title takes 0.2


@pytest.mark.parametrize(("num_settings", "epochs"), [(70, [4]), (40, [4, 16])])
def test_of_many_settings_plain_ppo_is_blue_and_lines_of_a_part_are_far_apart(num_settings, epochs):
    """Beyond 32 all of them were shades of one map, neighbours of which cannot be told apart."""
    names = ("share_trunk", "kl_penalty", "reset_optimizer")
    plain = {"pfo_coef": 0.0, **dict.fromkeys(names, False)}
    settings = [plain, *(plain | {name: True} for name in names)]
    settings += [plain | {"pfo_coef": float(coef)} for coef in range(1, num_settings - 3)]
    swept = [{"num_epochs": number} | setting for number in epochs for setting in settings]
    facets, channels = arrange([(point, np.array([i])) for i, point in enumerate(swept)])
    looks = [line_style(channels, point | {"num_epochs": 4}) for point in settings]
    assert len({str(sorted(look.items())) for look in looks}) == num_settings
    assert (looks[0]["color"], looks[4]["color"]) == (COLOURS[0], COLOURS[1])
    for facet in facets:
        colours = np.array([to_rgb(line_style(channels, point)["color"]) for point, _ in facet.points])
        distances = [np.abs(one - other).max() for one, other in itertools.combinations(colours, 2)]
        assert min(distances) > 0.05


def test_a_condition_looks_the_same_in_every_study():
    plain = {"pfo_coef": 0.0, "share_trunk": False, "kl_penalty": False}
    studies = [
        [{"num_epochs": e, "pfo_coef": p} for e in (4, 32) for p in (0.0, 1.0)],
        [{"num_epochs": e, "pfo_coef": p} for e in (4, 16, 32) for p in (0.0, 1.0, 10.0)],
        [{"pfo_coef": p} for p in (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)],
        [{"pfo_coef": p} for p in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0, 100.0)],
        [plain, plain | {"share_trunk": True}, plain | {"kl_penalty": True}, plain | {"pfo_coef": 1.0}],
    ]
    for swept in studies:
        channels = choose_channels(swept)
        for point in swept:
            others = {name: value for name, value in point.items() if name not in ("pfo_coef", "num_epochs")}
            colour = line_style(channels, point)["color"]
            is_plain, is_pfo = (point["pfo_coef"] == coef and not any(others.values()) for coef in (0, 1))
            assert (colour == COLOURS[0]) == is_plain, point
            assert (colour == COLOURS[1]) == is_pfo, point


def test_thin_lines_have_the_dash_of_their_condition():
    figure = overview(made_up())
    ax = figure.axes[0]
    thin = [part for part in ax.collections if isinstance(part, LineCollection)]
    for line, runs in zip(main_lines(ax), thin, strict=True):
        ((_, dash),) = runs.get_linestyle()
        assert (dash is not None) == line.is_dashed()
    assert [line.is_dashed() for line in main_lines(ax)] == [False, False, True, True]


def test_boxes_and_curves_share_their_colours():
    dataset = made_up()
    boxes = {to_hex(patch.get_edgecolor()).upper() for patch in draw_figure(dataset, "6").axes[0].patches}
    lines = {to_hex(line.get_color()).upper() for line in main_lines(overview(dataset).axes[0])}
    assert boxes == lines == set(COLOURS[:2])


# --- What a figure says


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "5"])
@pytest.mark.parametrize("sheet", [SCREEN, PAPER], ids=lambda sheet: sheet.name)
def test_every_figure_says_sweep_environment_rate_steps_and_seeds(name, sheet):
    dataset = made_up()
    dataset.attrs["name"] = "my sweep"
    dataset = dataset.assign_coords(learning_rate=("run", [0.01] * 20))
    figure = draw_figure(dataset, name, sheet)
    said = "my sweep: gymnax/Acrobot-v1, learning rate 0.01, 50k steps, seeds 0 to 4, 20 runs"
    assert said in figure.get_label()
    if sheet is SCREEN:
        assert said in figure.texts[1].get_text().replace("\n", " ")


def test_seeds_rates_and_steps_in_words():
    dataset = made_up({"learning_rate": [1e-3, 1e-2]}, num_seeds=8).isel(run=[0, 2, 4, 9, 11, 15])
    assert describe_sweep(dataset) == "gymnax/Acrobot-v1, learning rate 0.001 to 0.01, 50k steps, 6 seeds, 6 runs"
    running = made_up({}, num_seeds=2)
    running.attrs["sweep"] = running.attrs["sweep"].replace('"env"', '"total_steps": 1000000, "env"')
    assert describe_sweep(running) == "gymnax/Acrobot-v1, 50k of 1M steps, seeds 0, 1, 2 runs"


def partly_lost(coefs):
    """Four runs a coefficient; three of the four plain ones lose all of their return."""
    dataset = made_up({"pfo_coef": coefs}, num_seeds=4)
    dataset["return_mean"][:] = np.linspace(0, 100, NUM_LOGS)
    dataset["return_mean"][:3, NUM_LOGS // 2 :] = 0.0
    return dataset


@pytest.mark.parametrize("name", ["overview", "1", "3", "6", "survival", "sensitivity", "factorial"])
def test_figures_with_a_return_count_collapsed_runs(name):
    coefs = [0.0, 1.0] if name == "factorial" else [0.0, 1.0, 10.0]
    figure = draw_figure(partly_lost(coefs), name)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    texts += [text.get_text() for text in figure.axes[0].get_yticklabels()]
    counted = " ".join(texts)
    if name == "3":  # single runs, each of them seen
        assert "of 4" not in counted
        return
    assert "3 of 4 [19 %, 99 %]" in counted
    assert counted.count("0 of 4 [0 %, 60 %]") == len(coefs) - 1
    assert "Collapsed: the return is lost for good" in figure.get_label()


@pytest.mark.parametrize("metric", ["return_mean", "evaluation_return_mean"])
def test_a_return_counts_collapsed_runs_in_an_axes_of_ones_own_and_when_it_is_evaluated(metric):
    dataset = partly_lost([0.0, 1.0])
    dataset["evaluation_return_mean"] = dataset["return_mean"]
    counts = "3 of 4 [19 %, 99 %]", "0 of 4 [0 %, 60 %]"
    entries = [text.get_text() for text in curves(dataset, metric).legends[0].get_texts()]
    assert entries == [f"{coef}: {count}" for coef, count in zip((0, 1), counts, strict=True)]
    figure, ax = plt.subplots()
    try:
        ax.plot([0, 1], [0, 1], label="pfo_coef=0")  # the user's own line of the same name
        curves(dataset, metric, ax=ax)
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
    finally:
        plt.close(figure)
    assert texts == [
        "pfo_coef=0",
        *(f"pfo_coef={coef}: collapsed {count}" for coef, count in zip((0, 1), counts, strict=True)),
    ]


def test_snapshots_that_were_played_know_what_became_of_their_runs():
    """They have no return of training; what it said is written beside them."""
    dataset = partly_lost([0.0, 1.0])
    dataset["evaluation_return_mean"] = dataset["return_mean"]
    lost = ("run", [True] * 3 + [False] * 5)
    known = dataset.drop_vars("return_mean").assign(is_collapsed=lost, has_learned=("run", [True] * 7 + [False]))
    entries = [text.get_text() for text in curves(known, "evaluation_return_mean").legends[0].get_texts()]
    assert entries == ["0: 3 of 4 [19 %, 99 %]", "1: 0 of 4 [0 %, 60 %], 1 never learned"]
    unknown = curves(dataset.drop_vars("return_mean"), "evaluation_return_mean")
    assert [text.get_text() for text in unknown.legends[0].get_texts()] == ["0", "1"]


def with_references():
    dataset = made_up()
    losses = dataset["policy_plasticity_loss"]
    dataset["policy_plasticity_constant_loss"] = losses * 0 + 1.7
    dataset["policy_plasticity_fresh_loss"] = losses * 0 + 1.3
    dataset["policy_plasticity_constant_loss"][:3] = 50.0  # a median is not moved by three runs of 20
    return dataset


def test_plasticity_is_read_against_the_best_constant_and_a_fresh_network():
    figure = draw_figure(with_references(), "1")
    ax = next(ax for ax in figure.axes if "Policy plasticity" in ax.get_title(loc="left"))
    levels = {line.get_label(): line for line in ax.lines if line.get_label() in ("_best constant", "_fresh network")}
    assert {name: line.get_ydata()[0] for name, line in levels.items()} == {
        "_best constant": 1.7,
        "_fresh network": 1.3,
    }
    assert all(line.is_dashed() for line in levels.values())
    assert {text.get_text() for text in ax.texts} == {"best constant", "fresh network"}
    critic = next(ax for ax in figure.axes if "Critic plasticity" in ax.get_title(loc="left"))
    assert not critic.texts
    assert "Dashed grey" in figure.get_label()
    ax = draw_figure(with_references(), "6").axes[5]
    assert {line.get_label(): line.get_xdata()[0] for line in ax.lines if line.get_label() in levels} == {
        "_best constant": 1.7,
        "_fresh network": 1.3,
    }
    assert ax.get_xlim()[0] < 1.3
    assert ax.get_xlim()[1] > 1.7
    swept = with_references().assign_coords(pfo_coef=("run", np.repeat([0.0, 1.0, 10.0, 100.0], 5)))
    above, below = panels_of(figure := sensitivity(swept, "policy_plasticity_loss"))
    assert {line.get_label(): line.get_ydata()[0] for line in above.lines if line.get_label() in levels} == {
        "_best constant": 1.7,
        "_fresh network": 1.3,
    }
    assert not any(line.get_label() in levels for line in below.lines)
    assert "Dashed grey" in figure.get_label()
    assert "Dashed grey" in draw_figure(with_references(), "6").get_label()
    old = draw_figure(made_up(), "1")
    assert not any(str(line.get_label()) in levels for ax in old.axes for line in ax.lines)
    assert "These results do not have the plasticity loss of the best constant" in old.get_label()
    assert "plasticity" not in overview(made_up()).get_label()


# --- Scales and ticks

FREE = Panel(metric="x", title="x", label="", is_free=True)
FIXED = Panel(metric="x", title="x", label="")


@pytest.mark.parametrize(
    ("panel", "values", "expected"),
    [
        (FREE, np.linspace(1, 50, 100), "linear"),
        (FREE, np.geomspace(1e-3, 1, 100), "log"),
        (FREE, np.append(np.geomspace(1e-3, 1, 100), 0.0), "symlog"),
        (FREE, np.append(np.geomspace(1e-3, 1e3, 100), -np.geomspace(1e-3, 1, 50)), "symlog"),
        (FIXED, np.append(np.geomspace(1e-3, 1e3, 100), -np.geomspace(1e-3, 1, 50)), "symlog"),
        (FIXED, np.geomspace(1e-3, 1, 100), "linear"),
        (FREE, np.random.default_rng(0).normal(size=10_000), "linear"),  # noise around 0 is no quantity of many decades
        (FREE, np.zeros(5), "linear"),
        (FREE, -np.geomspace(1, 1e4, 50), "linear"),
    ],
)
def test_the_scale_follows_from_the_values(panel, values, expected):
    assert choose_scale(panel, values) == expected


def spread(dataset, kind):
    """A metric in the place of the rank that spans decades, and sign."""
    rng = np.random.default_rng(0)
    shape = dataset["policy_rank"].shape
    sizes = 10 ** rng.uniform(-3, 4, shape)
    values = {"signed": sizes * rng.choice([-1, 1], shape), "positive": sizes, "small": 1e-9 * sizes}[kind]
    dataset["policy_srank"][:] = values
    return dataset


@pytest.mark.parametrize("sheet", [SCREEN, PAPER], ids=lambda sheet: sheet.name)
@pytest.mark.parametrize("kind", ["signed", "positive", "small"])
def test_ticks_of_quantities_of_many_decades_do_not_collide(kind, sheet):
    figure = curves(spread(made_up(), kind), ["policy_srank", "return_mean"], sheet=sheet)
    assert panels_of(figure)[0].get_yscale() == ("symlog" if kind == "signed" else "log")
    assert panels_of(figure)[0].get_ylabel() == f"dimensions ({panels_of(figure)[0].get_yscale()})"
    assert_ticks_apart(figure)


@pytest.mark.parametrize("sheet", [SCREEN, PAPER], ids=lambda sheet: sheet.name)
@pytest.mark.parametrize("name", FIGURES)
def test_tick_labels_do_not_collide(name, sheet):
    for dataset in (made_up(NINE, num_seeds=3), made_up({"pfo_coef": [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]}, 2)):
        dataset = dataset.assign_coords(env_steps=("log", 123_000_000 * np.arange(1, NUM_LOGS + 1)))
        dataset["return_mean"] = 1e5 * dataset["return_mean"]
        assert_ticks_apart(draw_figure(dataset, name, sheet))


def test_ticks_stay_apart_at_the_resolution_of_published_pictures():
    """Six decades in a narrow panel: at 100 pixels an inch two labels read 0.0010.01."""
    dataset = made_up({name: [False, True] for name in ("share_trunk", "kl_penalty")}, num_seeds=4, num_logs=5)
    dataset["policy_plasticity_loss"][:, -1] = np.geomspace(4e-4, 2e3, 16)
    figure = draw_figure(dataset, "6")
    for dpi in (86, 100, 200):
        figure.dpi = dpi
        assert_ticks_apart(figure)


def assert_ticks_apart(figure):
    """No label of an axis touches another one of it, nor one of the panel beside it."""
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    rows = []
    for ax in panels_of(figure):
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            labels = [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]
            boxes = [label.get_window_extent(renderer) for label in labels if not label.get_rotation()]
            for one, other in itertools.combinations(boxes, 2):
                assert not one.overlaps(other), [label.get_text() for label in labels]
            if axis is ax.xaxis:
                assert labels or not axis.get_tick_params()["labelbottom"] or "no values" in str(ax.texts)
                rows.append(boxes)
    for one, other in itertools.combinations(rows, 2):
        assert not any(a.overlaps(b) for a in one for b in other)


# --- Sensitivity


def test_sensitivity_shows_final_values_and_the_differences_of_the_comparison():
    """It always paired runs of equal seed: the figure said -13.8 where the table beside it said +2.4."""
    dataset = made_up({"pfo_coef": [0.0, 0.1, 1.0, 10.0], "num_epochs": [4, 16]})
    figure = sensitivity(dataset, "return_mean")
    above, below = panels_of(figure)
    finals = final_values(dataset, "return_mean").values
    for epochs in (4, 16):
        at = [
            np.flatnonzero((dataset["pfo_coef"].values == coef) & (dataset["num_epochs"].values == epochs))
            for coef in (0.0, 0.1, 1.0, 10.0)
        ]
        lines = [line for line in above.lines if line.get_label() == f"num_epochs={epochs}"]
        np.testing.assert_allclose(values_at(lines[0]), [iqm(finals[runs]) for runs in at])
        lines = [line for line in below.lines if line.get_label() == f"num_epochs={epochs}"]
        table = comparison_table(dataset, against={"pfo_coef": 0}, within=["num_epochs"])
        table = table[table["num_epochs"] == epochs].sort_values("pfo_coef")
        assert not table["is_paired"].all()
        assert not np.allclose(table["difference"][1:], [iqm(finals[runs] - finals[at[0]]) for runs in at[1:]])
        np.testing.assert_allclose(values_at(lines[0]), [0.0, *table["difference"][1:]])
        assert np.flatnonzero(np.isnan(lines[0].get_xdata())).tolist() == [1]  # no line from 0 to the others
        dots = [line.get_ydata().tolist() for line in below.lines if line.get_marker() == "."]
        for runs in at:  # single runs, from what the reference gives
            assert (finals[runs] - iqm(finals[at[0]])).tolist() in dots
    assert [text.get_text() for text in below.get_xticklabels()] == ["0", "0.1", "1", "10"]
    assert "with pfo_coef=0" in figure.get_label()
    assert (below.get_xlabel(), below.get_ylabel()) == ("pfo_coef (log; 0 apart)", "difference from pfo_coef=0")
    other = sensitivity(dataset, "return_mean", reference=1.0)
    assert "with pfo_coef=1" in other.get_label()


def test_sensitivity_of_what_is_drawn_on_a_log_axis_is_a_ratio():
    dataset = made_up({"pfo_coef": [0.0, 1.0, 10.0]})
    figure = sensitivity(dataset, "policy_preactivation_norm")
    finals = final_values(dataset, "policy_preactivation_norm").values.reshape(3, 5)
    (line,) = [line for line in panels_of(figure)[1].lines if line.get_label() == "all runs"]
    np.testing.assert_allclose(values_at(line), [np.exp(iqm(np.log(each)) - iqm(np.log(finals[0]))) for each in finals])
    (band,) = panels_of(figure)[1].collections
    pairs = [difference(np.log(each), np.log(finals[0]), np.arange(5), np.arange(5)) for each in finals[1:]]
    shown = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    np.testing.assert_allclose(shown, np.exp([min(pair.low for pair in pairs), max(pair.high for pair in pairs)]))


def mostly_diverged():
    """Eight runs a level; at the last one six diverge without a return, and the two others reach 100."""
    dataset = made_up({"pfo_coef": [0.0, 1.0, 10.0]}, num_seeds=8, status=[0] * 16 + [3] * 6 + [0, 0])
    dataset["return_mean"][:], dataset["policy_preactivation_norm"][:] = 50.0, 2.0
    dataset["return_mean"][16:22], dataset["policy_preactivation_norm"][16:22] = 0.0, 64.0
    dataset["return_mean"][22:], dataset["policy_preactivation_norm"][22:] = 100.0, 1.0
    dataset["return_mean"][16:22, 2:] = dataset["policy_preactivation_norm"][16:22, 2:] = np.nan
    return dataset


def test_a_diverged_run_counts_as_the_worst_case_in_sensitivity_as_in_the_summary():
    dataset = mostly_diverged()
    figure = sensitivity(dataset, ["return_mean", "policy_preactivation_norm"])
    table = summary_table(dataset)
    assert table["return_mean"].tolist() == [50, 50, 0]
    axes = panels_of(figure)
    for above, below, name in zip(axes[:2], axes[2:], ("return_mean", "policy_preactivation_norm"), strict=True):
        ((upper,), (lower,)) = ([x for x in ax.lines if x.get_label() == "all runs"] for ax in (above, below))
        expected = table[name].to_numpy()
        np.testing.assert_allclose(values_at(upper), expected)
        against = expected - expected[0] if name == "return_mean" else expected / expected[0]
        np.testing.assert_allclose(values_at(lower), against)
    said = "A run that diverged counts as the worst value of any run (6 of 24 diverged)."
    assert said in figure.get_label()
    dataset["critic_plasticity_loss"] = 0 * dataset["return_mean"] + dataset["pfo_coef"] + 1
    dataset["critic_plasticity_loss"][16:22] *= 50  # which is bad; that this is, no table says
    figure = sensitivity(dataset, ["critic_plasticity_loss"])
    (upper,) = [x for x in panels_of(figure)[0].lines if x.get_label() == "all runs"]
    np.testing.assert_allclose(values_at(upper), [1, 2, 11])
    assert "A run that diverged is left out (6 of 24 diverged)." in figure.get_label()
    both = sensitivity(dataset, ["return_mean", "critic_plasticity_loss"]).get_label()
    assert "counts as the worst value of any run of return, and is left out elsewhere (6" in both
    assert "diverged" not in sensitivity(made_up({"pfo_coef": [0.0, 1.0, 10.0]}), "entropy").get_label()


@pytest.mark.parametrize(
    ("axes", "label"),
    [
        ({"pfo_coef": [0.0, 0.1, 1.0]}, "pfo_coef (log; 0 apart)"),
        ({"learning_rate": [1e-4, 1e-3, 1e-2]}, "learning_rate (log)"),
        ({"pfo_coef": [0.0, 1.0, 2.0]}, "pfo_coef"),
    ],
)
def test_the_axis_of_levels_says_its_scale_and_has_no_line_to_a_zero_that_is_infinitely_far(axes, label):
    figure = sensitivity(made_up(axes, num_seeds=5, num_logs=3), "entropy")
    above, below = panels_of(figure)
    assert below.get_xlabel() == label
    for ax in (above, below):
        (line,) = [line for line in ax.lines if line.get_label() == "all runs"]
        assert np.isnan(line.get_xdata()).tolist() == ([False, True, False, False] if "apart" in label else [False] * 3)
    field = next(iter(axes))
    assert below.get_ylabel() == f"difference from {field}={axes[field][0]:g}"


def test_the_legend_of_counts_shows_each_line_once():
    """Three levels of one line were three entries that looked the same."""
    figure = sensitivity(made_up({"num_epochs": [4, 16], "pfo_coef": [0.0, 1.0, 10.0]}, num_seeds=2), "return_mean")
    entries = figure.legends[-1]
    assert [text.get_text().split(":")[0] for text in entries.get_texts()] == [
        *("4, 0", "4, 1", "4, 10", "16, 0", "16, 1", "16, 10")
    ]
    assert [handle.get_linestyle() for handle in entries.legend_handles] == ["-", "None", "None"] * 2
    assert len(legend_of(figure)) == 2 + 2
    figure = sensitivity(made_up({"pfo_coef": [0.0, 1.0, 10.0]}, num_seeds=2, num_logs=5), "return_mean")
    (only,) = figure.legends  # one line: only its first level would show it
    assert [handle.get_linestyle() for handle in only.legend_handles] == ["None"] * 3


def test_the_level_of_reference_keeps_its_label_where_others_give_way():
    levels = [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
    figure = sensitivity(made_up({"pfo_coef": levels}, num_seeds=1), sheet=PAPER)
    figure.draw_without_rendering()
    shown = [text.get_text() for text in panels_of(figure)[-1].get_xticklabels()]
    assert shown[0] == "0"
    assert 2 < len(shown) < 10


def test_sensitivity_needs_a_number_and_levels_that_there_are():
    assert swept_number(made_up({"pfo_coef": [0.0, 1.0]})) is None
    assert swept_number(made_up({"num_epochs": [1, 2, 4, 8], "pfo_coef": [0.0, 1.0, 10.0]}, 1)) == "pfo_coef"
    assert swept_number(made_up({"env": ["a", "b", "c"]}, 1)) is None
    assert swept_number(made_up({"share_trunk": [False, True], "num_epochs": [1, 2, 4]}, 1)) == "num_epochs"
    with pytest.raises(ConfigError, match="against is share_trunk, but must be a swept number"):
        sensitivity(made_up({"share_trunk": [False, True]}), against="share_trunk")
    with pytest.raises(ConfigError, match=r"reference is 3, but must be one of 0, 1, 10"):
        sensitivity(made_up({"pfo_coef": [0.0, 1.0, 10.0]}), reference=3.0)
    assert "No number is swept" in sensitivity(made_up({})).get_label()


# --- Tables


def test_tidy_has_a_row_per_run_and_log_point():
    dataset = made_up(num_seeds=2, num_logs=3)
    table = pjp.tidy(dataset, ["return_mean", "policy_rank"])
    assert list(table.columns) == [
        "run_index", "seed", "num_epochs", "pfo_coef", "status", "env_steps", "return_mean", "policy_rank",
    ]  # fmt: skip
    assert len(table) == 8 * 3
    np.testing.assert_array_equal(table["return_mean"], dataset["return_mean"].values.ravel())
    np.testing.assert_array_equal(table["pfo_coef"], np.repeat(dataset["pfo_coef"].values, 3))
    np.testing.assert_array_equal(table["env_steps"], np.tile(dataset["env_steps"].values, 8))
    assert list(pjp.tidy(dataset, "entropy").columns[-1:]) == ["entropy"]
    everything = pjp.tidy(dataset)
    assert len(everything) == 24
    assert "policy_singular_values" not in everything.columns
    assert {str(name) for name in dataset.data_vars} - set(everything.columns) == {
        "policy_singular_values",
        "critic_singular_values",
    }


@pytest.mark.parametrize(
    ("metric", "message"),
    [("rank", "metric is 'rank', but must be one of"), ("policy_singular_values", "which has dimensions run, log, D")],
)
def test_tidy_refuses_what_is_no_column(metric, message):
    with pytest.raises(ConfigError, match=message):
        pjp.tidy(made_up({}, 1, 2), metric)


def test_tidy_leaves_out_log_points_that_were_not_reached():
    dataset = made_up({}, num_seeds=2, num_logs=3)
    steps = np.array([[1000.0, 2000.0, 3000.0], [1000.0, np.nan, np.nan]])
    dataset = dataset.assign_coords(env_steps=(("run", "log"), steps))
    assert pjp.tidy(dataset, "entropy")["env_steps"].tolist() == [1000, 2000, 3000, 1000]


def test_the_public_names_are_there():
    assert pjp.plot.curves is curves
    assert pjp.plot.sensitivity is sensitivity
    assert pjp.plot.figure is draw_figure
