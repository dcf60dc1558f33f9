"""Figures 1 to 7, spectrum and survival: they hold the numbers that they claim to show, and draw whatever there is."""

import itertools

import numpy as np
import pytest
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex
from scipy import stats

from purejaxppo.errors import ConfigError
from purejaxppo.plots.boxes import FIGURE_6, box_of, box_plots
from purejaxppo.plots.channels import COLOURS, MARKERS, choose_channels, line_style, with_markers
from purejaxppo.plots.curves import curves
from purejaxppo.plots.figures import (
    FIGURE_1,
    FIGURE_2,
    FIGURE_3,
    FIGURES,
    draw_figure,
    file_name,
    individual_runs,
    num_interventions,
    typical_best_worst,
)
from purejaxppo.plots.scatter import RANKS, lowest_ratios, rank_correlations, rank_matrices, ratio_scatter
from purejaxppo.plots.spectrum import FLOOR, median_spectrum, spectrum_figure
from purejaxppo.plots.survival import draw_survival
from purejaxppo.results.dataset import GroupResult, by_environment, points, to_dataset
from purejaxppo.statistics.collapse import EVENTS, SurvivalCurve, survival_by_point
from purejaxppo.statistics.estimates import iqm
from purejaxppo.statistics.summary import final_values, finals_or_worst, summary_table

WIDTH = 16
NUM_LOGS = 50
MEASURED = np.arange(NUM_LOGS) % 5 == 4  # plasticity at 10 of 50 log points
METRICS = sorted({panel.metric for panel in (*FIGURE_1, *FIGURE_2, *FIGURE_3, *FIGURE_6)})


def made_up(axes=None, num_seeds=5, num_logs=NUM_LOGS, status=None, **metrics):
    """A Dataset of runs that collapse later or earlier; every point of the product of `axes` has `num_seeds` runs."""
    axes = {"num_epochs": [4, 16], "pfo_coef": [0.0, 1.0]} if axes is None else axes
    chosen = [{}]
    for name, values in axes.items():
        chosen = [point | {name: value} for point in chosen for value in values]
    runs = [point for point in chosen for _ in range(num_seeds)]
    shape = (len(runs), num_logs)
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, num_logs)
    begin = 0.3 + 0.7 * rng.random((len(runs), 1))
    lost = 1 / (1 + np.exp(-20 * (t - begin)))

    def noise(scale):
        return scale * rng.normal(size=shape)

    measured = (np.arange(num_logs) % 5 == 4)[None, :]
    values = {
        "return_mean": -500 + 400 * (1 - lost) + noise(10),
        "entropy": 1 - 0.9 * lost + noise(0.02),
        "policy_variance": np.abs(0.1 * (1 - lost) + noise(0.01)),
        "policy_dead_neurons": np.clip(np.round(WIDTH * lost + noise(1)), 0, WIDTH),
        "policy_preactivation_norm": np.exp(4 * lost + noise(0.1)),
        "policy_loss": -np.abs(0.01 * (1 - lost) + noise(0.01)),
        "ratio_below_mean": np.where(rng.random(shape) < 0.4, np.nan, 0.7 - 0.6 * lost + noise(0.05)),
        "excess_ratio": np.where(rng.random(shape) < 0.4, np.nan, np.exp(1 + lost + noise(0.1))),
        "policy_plasticity_loss": np.where(measured, np.exp(lost + noise(0.1)), np.nan),
        "critic_plasticity_loss": np.where(measured, np.exp(lost + noise(0.1)), np.nan),
    }
    for network in ("policy", "critic"):
        for number, name in enumerate(RANKS):
            values[f"{network}_{name}"] = np.round(np.clip((number + 8) * (1 - lost) + noise(2), 1, None))
        spectrum = np.exp(3 - np.arange(WIDTH) * (0.1 + lost[..., None]) + 0.1 * rng.normal(size=(*shape, WIDTH)))
        values[f"{network}_singular_values"] = -np.sort(-spectrum, axis=-1)
    group = GroupResult(
        metrics=values | metrics,
        env_steps=1000 * np.arange(1, num_logs + 1),
        seeds=np.tile(np.arange(num_seeds), len(chosen)),
        swept={name: [point[name] for point in runs] for name in axes},
        status=np.zeros(len(runs)) if status is None else np.array(status),
        run_index=np.arange(len(runs)),
    )
    config = {"env": "gymnax/Acrobot-v1", "hidden_sizes": [64, WIDTH]}
    return to_dataset([group], {"sweep": {"config": config, "hparams": {"clip_eps": 0.2}}})


def diverged():
    """Twenty runs, of which number 3 diverges at log point 31."""
    dataset = made_up(status=[31 if run == 3 else 0 for run in range(20)])
    for name in dataset.data_vars:
        if name != "status":
            dataset[name][3, 30:] = np.nan
    return dataset


def all_nan():
    dataset = made_up()
    return dataset.map(lambda values: values if values.dtype.kind == "i" else values * np.nan, keep_attrs=True)


DATASETS = {
    "normal": made_up,
    "one point": lambda: made_up({}),
    "one run": lambda: made_up({}, num_seeds=1),
    "two runs": lambda: made_up({}, num_seeds=2),
    "diverged": diverged,
    "all NaN": all_nan,
    "no metrics": lambda: (dataset := made_up()).drop_vars([name for name in dataset.data_vars if name != "status"]),
    "no log point": lambda: made_up(num_logs=0),
    "one log point": lambda: made_up(num_logs=1),
    "no record of the sweep": lambda: made_up().drop_attrs(deep=False),
    "many points": lambda: made_up({"pfo_coef": [float(i) for i in range(12)], "num_epochs": [1, 2]}, num_seeds=2),
    "names": lambda: made_up({"env": [f"an environment of a long name, number {i}" for i in range(9)]}, num_seeds=1),
    "infinite": lambda: made_up(excess_ratio=np.full((20, NUM_LOGS), np.inf)),
    "zeros": lambda: made_up(**{name: np.zeros((20, NUM_LOGS)) for name in METRICS}),
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("case", DATASETS)
def test_every_figure_draws_whatever_there_is(case, name):
    figure = draw_figure(DATASETS[case](), name)
    figure.canvas.draw()
    panels = [ax for ax in figure.axes if ax.get_label() != "colour bar" and ax.get_visible()]
    if case in ("all NaN", "no metrics", "no log point") and name not in ("5", "7"):
        assert all("no values" in [text.get_text() for text in ax.texts] for ax in panels)
    if case == "normal" and name != "sensitivity":  # no number of three levels is swept
        assert not any("no values" in [text.get_text() for text in ax.texts] for ax in panels)
    if case in ("normal", "one run", "many points", "names", "infinite"):
        assert_text_stays_on_the_page_and_off_the_panels(figure)


def assert_text_stays_on_the_page_and_off_the_panels(figure):
    renderer = figure.canvas.get_renderer()
    panels = [ax.get_window_extent(renderer) for ax in figure.axes if ax.get_visible()]
    header = [text.get_window_extent(renderer) for text in figure.texts]
    header += [legend.get_window_extent(renderer) for legend in figure.legends]
    for box in header:
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1 + 1
        assert not any(box.overlaps(panel) for panel in panels)
    for number, box in enumerate(header):
        assert not any(box.overlaps(other) for other in header[number + 1 :])
    for ax in figure.axes:
        if ax.get_visible():
            assert ax.get_tightbbox(renderer).x1 <= figure.bbox.x1 + 1


def test_unknown_figures_are_refused_in_one_sentence():
    with pytest.raises(ConfigError, match="figure '8' is unknown"):
        draw_figure(made_up(), "8")
    assert [file_name(name) for name in FIGURES][-3:] == ["survival", "sensitivity", "factorial"]
    assert file_name("7") == "figure7"


def test_environments_come_apart_in_order_and_a_single_one_is_left_as_it_is():
    dataset = made_up({"env": ["gymnax/B", "gymnax/A"], "num_epochs": [4, 16]}, num_seeds=3)
    parts = by_environment(dataset)
    assert list(parts) == ["gymnax/B", "gymnax/A"]
    np.testing.assert_array_equal(parts["gymnax/A"]["return_mean"], dataset["return_mean"][6:])
    assert [point["num_epochs"] for point, _ in points(parts["gymnax/B"])] == [4, 16]
    for single in (made_up(), parts["gymnax/A"]):
        assert list(by_environment(single)) == [""]
        assert by_environment(single)[""] is single
    assert file_name("1", "gymnax/A-b") == "figure1_gymnax_A-b"
    assert file_name("overview", "") == "overview"


@pytest.mark.parametrize(("name", "panels"), [("1", FIGURE_1), ("2", FIGURE_2)])
def test_figures_1_and_2_show_interquartile_means(name, panels):
    dataset = made_up()
    figure = draw_figure(dataset, name)
    for ax, panel in zip(figure.axes, panels, strict=True):
        lines = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
        for line, (_, runs) in zip(lines, points(dataset), strict=True):
            shown = MEASURED if "plasticity" in panel.metric else slice(None)
            np.testing.assert_allclose(line.get_ydata(), iqm(dataset[panel.metric].values[runs])[shown])
            np.testing.assert_array_equal(line.get_xdata(), dataset["env_steps"].values[shown])


def test_plasticity_and_evaluations_join_their_measurements_and_other_metrics_keep_their_gaps():
    dataset = made_up(evaluation_return_mean=np.where(MEASURED, 1.0, np.nan) * np.ones((20, 1)))
    (line, *_) = curves(dataset, ["evaluation_return_mean"]).axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), dataset["env_steps"].values[MEASURED])
    dataset["return_mean"][:, 20:25] = np.nan
    axes = draw_figure(dataset, "1").axes
    assert np.sum(np.isnan(axes[0].lines[0].get_ydata())) == 5
    assert not np.any(np.isnan(axes[3].lines[0].get_ydata()))
    assert axes[3].lines[0].get_xdata().size == 10


# --- Figure 3


def returns(*finals):
    return np.repeat(np.array(finals, dtype=float)[:, None], NUM_LOGS, axis=1)


@pytest.mark.parametrize(
    ("finals", "expected"),
    [
        ((5, 1, 4, 2, 3), {"best": 0, "typical": 4, "worst": 1}),
        ((5, 1, 4, 2), {"best": 0, "typical": 3, "worst": 1}),  # of an even number the lower of the two
        ((2, 2, 2, 2), {"best": 0, "typical": 0, "worst": 0}),  # ties by lower seed
        ((1, 3, 3, 1, 2), {"best": 1, "typical": 4, "worst": 0}),
        ((3, np.nan, 1, 2, 4), {"best": 4, "typical": 3, "worst": 1}),  # without a return: lowest
        ((np.nan, np.nan), {"best": 0, "typical": 0, "worst": 0}),
        ((7,), {"best": 0, "typical": 0, "worst": 0}),
    ],
)
def test_typical_best_and_worst_run(finals, expected):
    dataset = made_up({}, num_seeds=len(finals), return_mean=returns(*finals))
    assert typical_best_worst(dataset) == ({}, expected)


def test_ties_go_to_the_lower_seed_and_not_to_the_earlier_run():
    dataset = made_up({}, num_seeds=3, return_mean=returns(1, 1, 1)).assign_coords(seed=("run", [7, 5, 6]))
    assert set(typical_best_worst(dataset)[1].values()) == {1}


def test_individual_runs_are_of_the_plain_point_with_most_epochs():
    dataset = made_up({"pfo_coef": [1.0, 0.0], "num_epochs": [4, 16, 8]})
    point, chosen = typical_best_worst(dataset)
    assert point == {"pfo_coef": 0.0, "num_epochs": 16}
    assert num_interventions(dataset, point) == 0
    assert num_interventions(dataset, point | {"pfo_coef": 1.0, "share_trunk": True}) == 2
    figure = individual_runs(dataset)
    finals = final_values(dataset, "return_mean").values[20:25]
    assert chosen == {
        "best": 20 + np.argmax(finals),
        "typical": 20 + np.flatnonzero(finals == np.median(finals))[0],
        "worst": 20 + np.argmin(finals),
    }
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"{name}: seed {run - 20}" for name, run in chosen.items()
    ]
    assert "num_epochs=16" in figure.texts[1].get_text()
    for ax, panel in zip(figure.axes, FIGURE_3, strict=True):
        sign = -1 if panel.metric == "policy_loss" else 1
        line = next(line for line in ax.lines if line.get_label() == f"run=best: seed {chosen['best'] - 20}")
        values = dataset[panel.metric].values[chosen["best"]]
        shown = MEASURED if "plasticity" in panel.metric else slice(None)
        np.testing.assert_array_equal(line.get_ydata(), sign * values[shown])
    assert [1 - 0.2] in [list(set(line.get_ydata())) for line in figure.axes[3].lines]  # the end of the clip range


# --- Figures 4 and 7


def test_the_scatter_has_its_points_and_scipys_correlations():
    dataset = made_up()
    figure = ratio_scatter(dataset)
    ratios, dead = dataset["ratio_below_mean"].values, dataset["policy_dead_neurons"].values
    x, y = [], []
    parts = np.array_split(np.arange(NUM_LOGS), 40)
    for run in range(20):
        for part in parts:
            if not np.all(np.isnan(ratios[run, part])):
                x.append(np.mean(dead[run, part]))
                y.append(np.nanmin(ratios[run, part]))
    tau, rho = stats.kendalltau(x, y)[0], stats.spearmanr(x, y)[0]
    title = figure.axes[0].get_title(loc="left").replace("\N{MINUS SIGN}", "-")
    t, r = "\N{GREEK SMALL LETTER TAU}", "\N{GREEK SMALL LETTER RHO}"
    assert title == f"Dead policy neurons\n{t} = {tau:.2f}, {r} = {rho:.2f}, n = {len(x)}"
    assert [1 - 0.2] in [list(set(line.get_ydata())) for line in figure.axes[0].lines]  # the end of the clip range
    drawn = np.concatenate(
        [part.get_offsets() for part in figure.axes[0].collections if isinstance(part, PathCollection)]
    )
    np.testing.assert_allclose(sorted(drawn.tolist()), sorted(zip(x, y, strict=True)))


def test_markers_are_for_the_combinations_that_there_are():
    """Ten points of one field against the next: of 2 x 9 combinations, ten exist, and each must be told apart."""
    axes = {"pfo_coef": [0.0, 1.0], "share_trunk": [False, True], "adam_beta2": [0.99 + 0.001 * i for i in range(9)]}
    dataset = made_up(axes, num_seeds=1)
    is_there = ~dataset["share_trunk"].values | (dataset["adam_beta2"].values == 0.99)
    swept = [point for point, _ in points(dataset.isel(run=np.flatnonzero(is_there)))]
    channels = with_markers(choose_channels(swept), swept)
    assert len(channels[1].levels) == 10
    assert len({str(line_style(channels, point)) for point in swept}) == 20


def test_dots_have_a_marker_where_lines_have_a_dash():
    """A single list of more settings than there are colours: two of them were the same dot."""
    swept = [{"pfo_coef": coef} for coef in (0.0, *np.geomspace(0.01, 100, 13))]
    channels = with_markers(choose_channels(swept), swept)
    looks = [(style["color"], style["marker"]) for style in (line_style(channels, point) for point in swept)]
    assert len(set(looks)) == 14
    assert looks[0] == (COLOURS[0], MARKERS[0])
    axes = {"pfo_coef": [point["pfo_coef"] for point in swept]}
    figure = ratio_scatter(made_up(axes, num_seeds=1, num_logs=2))
    handles = figure.legends[0].legend_handles
    assert [(handle.get_color(), handle.get_marker()) for handle in handles] == looks
    assert not any(handle.is_dashed() for handle in handles)
    drawn = [part for ax in figure.axes for part in ax.collections if isinstance(part, PathCollection)]
    assert len({str(part.get_paths()[0].vertices.tolist()) for part in drawn}) > 1


def test_the_scatter_of_more_than_six_points_has_facets():
    """Nine colours and markers lay in one panel, and could not be told apart."""
    dataset = made_up({"num_epochs": [4, 16, 32], "pfo_coef": [0.0, 1.0, 10.0]}, num_seeds=2)
    figure = ratio_scatter(dataset)
    assert len(figure.axes) == 9
    for number, epochs in enumerate((4, 16, 32)):
        runs = dataset["num_epochs"].values == epochs
        lowest, means = lowest_ratios(dataset.isel(run=runs), "policy_rank")
        ax = figure.axes[3 * number + 1]
        title = ax.get_title(loc="left").replace("\N{MINUS SIGN}", "-")
        rho = stats.spearmanr(means[~np.isnan(lowest)], lowest[~np.isnan(lowest)])[0]
        assert title.startswith(f"num_epochs = {epochs}\nPolicy rank\n")
        assert title.endswith(f"= {rho:.2f}, n = {np.sum(~np.isnan(lowest))}")
        drawn = np.concatenate([part.get_offsets() for part in ax.collections])
        assert len(drawn) == np.sum(~np.isnan(lowest))


def test_lowest_ratios_by_hand():
    ratios = [[0.5, np.nan, 0.7, 0.6, np.nan, np.nan], [0.1, 0.2, 0.3, np.inf, 0.5, 0.4]]
    norms = [[1.0, 3.0, 5.0, np.nan, 1.0, 1.0], [1.0, 1.0, 2.0, 4.0, np.nan, np.nan]]
    dataset = made_up({}, 2, 6, ratio_below_mean=np.array(ratios), policy_preactivation_norm=np.array(norms))
    lowest, means = lowest_ratios(dataset, "policy_preactivation_norm", num_stretches=3)
    np.testing.assert_array_equal(lowest, [[0.5, 0.6, np.nan], [0.1, 0.3, np.nan]])
    np.testing.assert_array_equal(means, [[2, 5, np.nan], [1, 3, np.nan]])


def test_rank_matrices_are_scipys_averaged_and_worst():
    dataset = made_up()
    dataset["policy_rank"][0, 7] = np.nan
    dataset["policy_srank"][1] = 5.0
    expected = np.full((20, 5, 5), np.nan)
    for run in range(20):
        values = np.stack([dataset[f"policy_{name}"].values[run] for name in RANKS])
        values = values[:, ~np.any(np.isnan(values), axis=0)]
        for i, j in np.ndindex(5, 5):
            if np.ptp(values[i]) and np.ptp(values[j]):
                expected[run, i, j] = stats.spearmanr(values[i], values[j])[0]
    np.testing.assert_allclose(rank_correlations(dataset, "policy"), expected, atol=1e-12)
    axes = rank_matrices(dataset).axes
    of_critic = rank_correlations(dataset, "critic")
    np.testing.assert_allclose(axes[2].images[0].get_array(), np.nanmean(of_critic, axis=0))
    np.testing.assert_allclose(axes[3].images[0].get_array(), np.nanmin(of_critic, axis=0))
    np.testing.assert_allclose(axes[0].images[0].get_array(), np.nanmean(expected, axis=0))
    np.testing.assert_allclose(axes[1].images[0].get_array(), np.nanmin(expected, axis=0))
    assert axes[1].texts[1].get_text().replace("\N{MINUS SIGN}", "-") == f"{np.nanmin(expected[:, 0, 1]):.2f}"
    # Of the policy, one run has a constant srank: the cells of that measure are of the 19 others.
    noted = np.array([["(19)" in text.get_text() for text in ax.texts] for ax in axes[:4]]).reshape(4, 5, 5)
    is_srank = np.array(list(RANKS)) == "srank"
    expected_notes = is_srank[:, None] | is_srank
    np.testing.assert_array_equal(noted, [expected_notes] * 2 + [~expected_notes & False] * 2)


# --- Figure 6


def boxes_of(ax):
    """Ends of the boxes, medians and means of a panel, from the top down."""
    boxes = [patch.get_path().get_extents() for patch in ax.patches]
    medians = [line.get_xdata()[0] for line in ax.lines if line.get_linewidth() == 2.2]
    means = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "D"]
    return [(box.x0, box.x1) for box in boxes], medians, means


def test_boxes_are_quartiles_of_the_final_values():
    dataset = made_up({"pfo_coef": [0.0, 1.0], "share_trunk": [False, True]})
    figure = box_plots(dataset)
    assert [text.get_text().split(":")[0] for text in figure.axes[0].get_yticklabels()] == [
        f"pfo_coef {coef}, share_trunk {shared}" for coef in (0, 1) for shared in (False, True)
    ]
    for ax, panel in zip(figure.axes, FIGURE_6, strict=True):
        finals = final_values(dataset, panel.metric).values.reshape(4, 5)
        ends, medians, means = boxes_of(ax)
        np.testing.assert_allclose(ends, np.quantile(finals, [0.25, 0.75], axis=1).T)
        np.testing.assert_allclose(medians, np.median(finals, axis=1))
        np.testing.assert_allclose(means, np.mean(finals, axis=1))


def test_panels_have_at_least_half_of_the_width_beside_long_names():
    """Names of 110 letters took it: panels were 190 of 1426 pixels wide."""
    names = ("pfo_reference", "pfo_states", "pfo_features")
    dataset = made_up({name: ["a long value", "b"] for name in names}, num_seeds=2, num_logs=5)
    figure = box_plots(dataset)
    boxes = [ax.get_position() for ax in figure.axes]
    assert boxes[2].x1 - boxes[0].x0 > 0.5
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    labels = figure.axes[0].get_yticklabels()
    assert all("\ncollapsed " in label.get_text() for label in labels)
    extents = [label.get_window_extent(renderer) for label in labels]
    assert all(above.y0 > below.y1 for above, below in itertools.pairwise(extents))
    heights = np.diff(figure.axes[0].get_yticks())
    np.testing.assert_allclose(
        heights,
        [1 + 0.325 * (a.get_text().count("\n") + b.get_text().count("\n")) for a, b in itertools.pairwise(labels)],
    )
    np.testing.assert_allclose(
        [patch.get_path().get_extents().y0 + 0.31 for patch in figure.axes[0].patches], figure.axes[0].get_yticks()
    )


def test_epoch_counts_are_pooled_where_something_else_is_swept():
    dataset = made_up()
    ax = box_plots(dataset).axes[0]
    assert [text.get_text().split(":")[0] for text in ax.get_yticklabels()] == ["pfo_coef 0", "pfo_coef 1"]
    finals = final_values(dataset, "return_mean").values
    np.testing.assert_allclose(
        boxes_of(ax)[1],
        [np.median(finals[[*range(5), *range(10, 15)]]), np.median(finals[[*range(5, 10), *range(15, 20)]])],
    )
    assert len(boxes_of(box_plots(dataset, pooled=()).axes[0])[0]) == 4
    assert len(boxes_of(box_plots(made_up({"num_epochs": [4, 8, 16]})).axes[0])[0]) == 3


def test_a_box_by_hand():
    box = box_of(np.array([1, 2, 3, 4, 5, 6, 7, 8, 30, np.nan]))
    assert (box.low, box.median, box.high) == (3, 5, 7)
    assert (box.low_whisker, box.high_whisker, box.outliers.tolist()) == (1, 8, [30])
    assert (box.mean, box.num_infinite) == (66 / 9, 0)
    box = box_of(np.array([1, 2, np.inf]))
    assert (box.low, box.median, box.high, box.mean, box.num_infinite) == (1.5, 2, np.inf, np.inf, 1)
    assert box_of(np.array([np.nan])) is None


def test_outliers_are_dots():
    returns = np.repeat(np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 30])[:, None], NUM_LOGS, axis=1)
    ax = box_plots(made_up({"share_trunk": [False]}, num_seeds=9, return_mean=returns)).axes[0]
    assert [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == "o"] == [[30]]


def test_infinite_excess_ratios_are_counted_and_not_hidden():
    ratios = np.full((20, NUM_LOGS), 3.0)
    ratios[:4, -1] = np.inf
    figure = box_plots(made_up(excess_ratio=ratios))
    assert [text.get_text() for text in figure.axes[1].texts] == ["\N{INFINITY} 4"]
    assert "number of infinite values" in figure.texts[1].get_text().replace("\n", " ")
    assert "infinite" not in box_plots(made_up()).texts[1].get_text()


def test_a_run_that_diverged_is_the_worst_case_of_its_box_as_in_the_summary():
    """It was absent, so that a setting of which half diverges looked like one of which none does."""
    dataset = diverged()
    figure = box_plots(dataset, pooled=())
    table = summary_table(dataset)
    for ax, panel in zip(figure.axes, FIGURE_6, strict=True):
        finals = finals_or_worst(dataset, panel.metric)
        assert np.isnan(finals[3]) == (panel.metric == "policy_plasticity_loss")
        np.testing.assert_allclose(boxes_of(ax)[1][0], np.nanmedian(finals[:5]))
        if panel.metric in table:
            np.testing.assert_allclose(iqm(finals[:5]), table[panel.metric][0])
    assert boxes_of(figure.axes[0])[2][0] < np.nanmean(final_values(dataset, "return_mean").values[:5]) - 5
    said = figure.get_label()
    assert "A run that diverged counts as the worst value of any run of return, excess ratio, dead neurons, " in said
    assert "policy norm, policy rank, and is left out elsewhere (1 of 20 diverged)." in said
    assert "diverged" not in box_plots(made_up()).get_label().replace("or the run diverged", "")


def test_final_plasticity_is_of_the_last_measurements():
    dataset = diverged()
    values = dataset["policy_plasticity_loss"].values.copy()
    finals = final_values(dataset, "policy_plasticity_loss", 0.2).values
    expected = values[:, MEASURED][:, -2:].mean(axis=1)  # 20 % of 10 measurements
    np.testing.assert_allclose(finals, expected)
    assert np.isnan(finals[3])
    dataset["policy_plasticity_loss"][:, -1] = np.nan  # the last log points have none, and are not the last measurement
    finals = final_values(dataset, "policy_plasticity_loss", 0.02).values
    np.testing.assert_array_equal(finals, values[:, 44])


# --- Spectrum and survival


def test_the_spectrum_is_the_median_share_of_the_largest():
    dataset = made_up()
    figure = spectrum_figure(dataset)
    spectra = dataset["policy_singular_values"].values
    for number, (point, runs) in enumerate(points(dataset)):
        ax = figure.axes[number]
        assert ax.get_title(loc="left") == f"num_epochs={point['num_epochs']}\npfo_coef={point['pfo_coef']:g}"
        expected = np.median(spectra[runs] / spectra[runs][:, :, :1], axis=0)
        np.testing.assert_allclose(median_spectrum(dataset, "policy", runs)[1], expected)
        mesh = next(part for part in ax.collections if isinstance(part, QuadMesh))
        np.testing.assert_allclose(mesh.get_array(), np.clip(expected, FLOOR, 1).T)
        np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(dataset["policy_rank"].values[runs], axis=0))
        below = next(part for part in figure.axes[4 + number].collections if isinstance(part, QuadMesh))
        of_critic = dataset["critic_singular_values"].values[runs]
        expected = np.median(of_critic / of_critic[:, :, :1], axis=0)
        np.testing.assert_allclose(below.get_array(), np.clip(expected, FLOOR, 1).T)
    assert {"critic: index i", "policy: index i"} == {ax.get_ylabel() for ax in figure.axes[::4][:2]}


def test_blocks_of_the_spectrum_stand_apart_and_the_last_row_has_the_label_of_steps():
    """Titles of the second block touched the ticks above, and only the last column of the first one had a label."""
    figure = spectrum_figure(made_up({"pfo_coef": [float(number) for number in range(7)]}, num_seeds=1, num_logs=3))
    assert [bool(ax.get_xlabel()) for ax in figure.axes[:16]] == [False] * 12 + [True] * 3 + [False]
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    titles = [ax._left_title.get_window_extent(renderer) for ax in figure.axes[8:11]]
    for above, title in zip(figure.axes[4:7], titles, strict=True):
        ticks = [label.get_window_extent(renderer) for label in above.get_xticklabels() if label.get_text()]
        assert len(ticks) > 2
        assert min(tick.y0 for tick in ticks) > title.y1 + 4


def test_survival_lines_end_where_the_last_run_was_seen():
    """Nothing is known of a shorter run's survival after its end; a curve at 0 stays there."""
    steps = np.array([0.0, 10.0])
    ones, nothing = np.ones(2), np.full(2, np.nan)
    seen = SurvivalCurve(steps, ones, ones, ones, 4, 0)
    gone = SurvivalCurve(steps, np.array([1.0, 0.0]), nothing, nothing, 4, 4)
    figure = draw_survival({"return": [({"env": "a"}, seen), ({"env": "b"}, gone)]}, 20.0, "8 runs")
    assert [line.get_xdata()[-1] for line in figure.axes[0].lines] == [10, 20]


def test_survival_lines_are_the_curves_and_go_on_to_the_end():
    dataset = made_up()
    axes = draw_figure(dataset, "survival").axes
    for ax, event in zip(axes, EVENTS, strict=True):
        curves = survival_by_point(dataset, event)
        for line, (_, curve) in zip(ax.lines, curves, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [*curve.steps, 50_000])
            np.testing.assert_array_equal(line.get_ydata(), [*curve.probability, curve.probability[-1]])
            assert line.get_drawstyle() == "steps-post"
        assert [text.get_text() for text in ax.texts] == [
            f"{p['pfo_coef']:g}, {p['num_epochs']}: {curve.num_events} / {curve.num_runs}" for p, curve in curves
        ]
    assert len({tuple(text.get_text() for text in ax.texts) for ax in axes}) > 1


def test_counts_beside_survival_curves_name_each_point_differently():
    """Values that were cut off made three of six points the same text."""
    fields = {"pfo_coef": 0.0, "share_trunk": False, "reset_optimizer": False, "adam_beta2": 0.999, "kl_penalty": False}
    changes = {}, {"pfo_coef": 1.0}, {"share_trunk": True}, {"reset_optimizer": True}, {"adam_beta2": 0.9}
    curve = SurvivalCurve(np.array([0.0, 10.0]), np.array([1, 0.5]), np.array([1, 0.1]), np.array([1, 0.9]), 4, 2)
    figure = draw_survival({"return": [(fields | change, curve) for change in changes]}, 20.0, "20 runs")
    names = ["defaults", "pfo_coef=1", "share_trunk=True", "reset_optimizer=True", "adam_beta2=0.9"]
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == [f"{name}: 2 / 4" for name in names]
    assert max(text.get_window_extent().x1 for text in texts) < figure.bbox.x1


def test_survival_curves_can_be_drawn_by_themselves():
    curve = SurvivalCurve(np.array([0.0, 10.0]), np.array([1, 0.5]), np.array([1, 0.1]), np.array([1, 0.9]), 4, 2)
    figure = draw_survival({"return": [({"pfo_coef": 0.0}, curve), ({"pfo_coef": 1.0}, curve)]}, 20.0, "8 runs")
    colours = {to_hex(line.get_color()) for line in figure.axes[0].lines}
    assert len(colours) == 2
    assert [text.get_text() for text in figure.axes[0].texts] == ["0: 2 / 4", "1: 2 / 4"]
