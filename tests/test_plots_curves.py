"""Plotting: six panels that say what they show, hold their data, and never complain."""

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection, LineCollection
from matplotlib.colors import to_hex
from matplotlib.image import imread

from purejaxppo.plots.channels import (
    COLOURS,
    DASHES,
    bundled_fields,
    choose_channels,
    line_style,
    point_names,
)
from purejaxppo.plots.curves import OVERVIEW, overview
from purejaxppo.plots.style import format_steps, save_figure
from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.statistics.estimates import bootstrap_interval, iqm

NAMES = [panel.metric for panel in OVERVIEW]


def sweep(swept, num_logs=12, status=None, width=16, **metrics):
    """A Dataset with plausible curves, one run per value of the swept fields."""
    num_runs = len(next(iter(swept.values())))
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, num_logs)[None, :]
    noise = rng.normal(size=(num_runs, 1)) + 0.3 * rng.normal(size=(num_runs, num_logs))
    values = {
        "return_mean": -500 + 400 * t + 10 * noise,
        "policy_rank": np.round(12 - 8 * t + noise),
        "policy_preactivation_norm": np.exp(5 * t + 0.2 * noise),
        "policy_dead_neurons": np.clip(np.round(14 * t + noise), 0, width),
        "policy_variance": np.abs(0.1 * t + 0.01 * noise),
        "entropy": 1 - 0.8 * t + 0.02 * noise,
        "policy_singular_values": np.ones((num_runs, num_logs, width)),
    }
    one = GroupResult(
        metrics=values | metrics,
        env_steps=25_000 * np.arange(1, num_logs + 1),
        seeds=np.arange(num_runs),
        swept=swept,
        status=np.zeros(num_runs) if status is None else np.array(status),
        run_index=np.arange(num_runs),
    )
    return to_dataset([one], {"sweep": {"config": {"env": "gymnax/Acrobot-v1", "hidden_sizes": [64, width]}}})


def grid(num_seeds=4, **axes):
    """Swept fields of a product of axes, `num_seeds` runs a point, in the sweep's order."""
    columns = np.meshgrid(*[np.arange(len(values)) for values in axes.values()], indexing="ij")
    return {
        name: [values[i] for i in np.repeat(column.ravel(), num_seeds)]
        for (name, values), column in zip(axes.items(), columns, strict=True)
    }


EPOCHS_PFO = grid(num_epochs=[4, 32], pfo_coef=[0.0, 1.0])


def panel_axes(figure):
    """The six panels by metric, without a colour bar."""
    axes = shown_axes(figure)
    assert len(axes) == 6
    return dict(zip(NAMES, axes, strict=True))


def shown_axes(figure):
    return [ax for ax in figure.axes if ax.get_label() != "colour bar" and ax.get_visible()]


def main_lines(ax):
    return {line.get_label(): line for line in ax.lines if not str(line.get_label()).startswith("_")}


def test_six_panels_say_what_they_show():
    figure = overview(sweep(EPOCHS_PFO))
    axes = panel_axes(figure)
    assert [ax.get_title(loc="left") for ax in axes.values()] == [
        "Return",
        "Policy rank",
        "Policy pre-activation norm",
        "Dead policy neurons (of 16)",
        "Policy variance",
        "Policy entropy",
    ]
    assert [ax.get_ylabel() for ax in axes.values()] == [panel.label for panel in OVERVIEW]
    assert [ax.get_yscale() for ax in axes.values()] == ["linear", "linear", "log", "linear", "linear", "linear"]
    assert [ax.get_xlabel() for ax in axes.values()] == [""] * 3 + ["environment steps"] * 3
    assert axes["entropy"].get_xlim() == (0, 300_000)
    assert next(text.get_text() for text in figure.texts) == "Return and representation over training"
    assert "gymnax/Acrobot-v1, 300k steps, seeds 0 to 15, 16 runs" in figure.get_label()
    assert "over 4 runs" in figure.texts[1].get_text()


def test_lines_are_interquartile_means_within_their_bands_over_all_runs():
    dataset = sweep(grid(6, num_epochs=[4, 32], pfo_coef=[0.0, 1.0]))
    for name, ax in panel_axes(overview(dataset)).items():
        lines = main_lines(ax)
        assert list(lines) == [f"num_epochs={e}, pfo_coef={p}" for e in (4, 32) for p in (0, 1)]
        bands = [found for found in ax.collections if isinstance(found, FillBetweenPolyCollection)]
        thin = [found for found in ax.collections if isinstance(found, LineCollection)]
        assert len(bands) == len(thin) == 4
        for number, (line, band, runs) in enumerate(zip(lines.values(), bands, thin, strict=True)):
            values = dataset[name].values[6 * number : 6 * number + 6]
            np.testing.assert_allclose(line.get_ydata(), iqm(values))
            np.testing.assert_array_equal(line.get_xdata(), dataset["env_steps"])
            np.testing.assert_allclose([segment[:, 1] for segment in runs.get_segments()], values)
            low, high = bootstrap_interval(values, num_resamples=1000)
            outline = band.get_paths()[0].vertices
            for step, middle, bottom, top in zip(line.get_xdata(), line.get_ydata(), low, high, strict=True):
                edges = outline[outline[:, 0] == step, 1]
                np.testing.assert_allclose([edges.min(), edges.max()], [bottom, top])
                assert edges.min() <= middle <= edges.max()
            bottom, top = ax.get_ylim()
            assert bottom < values.min()
            assert top > values.max()


def test_bands_of_many_log_points_are_drawn_at_some_of_them():
    """1,000 log points on 600 pixels: the middle has all of them, bands and single runs enough."""
    dataset = sweep({"pfo_coef": [1.0] * 6}, num_logs=1000)
    ax = panel_axes(overview(dataset))["entropy"]
    (line,) = main_lines(ax).values()
    np.testing.assert_allclose(line.get_ydata(), iqm(dataset["entropy"].values))
    (thin,) = [found for found in ax.collections if isinstance(found, LineCollection)]
    assert len(thin.get_segments()) == 6
    for segment, values in zip(thin.get_segments(), dataset["entropy"].values, strict=True):
        assert 200 < len(segment) <= 250
        assert set(segment[:, 1]) <= set(values)
        assert segment[-1, 1] == values[-1]
    (band,) = [found for found in ax.collections if isinstance(found, FillBetweenPolyCollection)]
    outline = band.get_paths()[0].vertices
    low, high = bootstrap_interval(dataset["entropy"].values[:, -1:], num_resamples=1000)
    edges = outline[outline[:, 0] == 25_000_000, 1]
    np.testing.assert_allclose([edges.min(), edges.max()], [low[0], high[0]])


def test_few_runs_have_no_band():
    figure = overview(sweep(EPOCHS_PFO))
    for ax in panel_axes(figure).values():
        assert not [found for found in ax.collections if isinstance(found, FillBetweenPolyCollection)]
        assert len([found for found in ax.collections if isinstance(found, LineCollection)]) == 4
    assert "Fewer than 5 runs have no interval." in figure.texts[1].get_text().replace("\n", " ")


def test_dead_neurons_show_their_maximum_when_it_is_known():
    def maximum(dataset):
        ax = next(ax for ax in shown_axes(overview(dataset)) if "Dead" in ax.get_title(loc="left"))
        return ax.get_title(loc="left"), [
            y for line in ax.lines for y in line.get_ydata() if len(line.get_ydata()) == 2
        ]

    dataset = sweep(EPOCHS_PFO, width=48)
    assert maximum(dataset) == ("Dead policy neurons (of 48)", [48, 48])
    assert maximum(dataset.drop_vars("policy_singular_values")) == ("Dead policy neurons (of 48)", [48, 48])
    swept = dataset.assign_coords(hidden_sizes=("run", ["64-48", "48"] * 8))
    assert maximum(swept.drop_vars("policy_singular_values")) == ("Dead policy neurons (of 48)", [48, 48])
    del dataset.attrs["sweep"]
    assert maximum(dataset.drop_vars("policy_singular_values")) == ("Dead policy neurons", [])
    dataset["policy_singular_values"][:2, :, 30:] = np.nan
    dataset["group"][:2] = 1  # runs of one program have one width
    assert maximum(dataset) == ("Dead policy neurons", [])


def test_two_axes_are_colour_and_dash_with_a_legend_each():
    figure = overview(sweep(EPOCHS_PFO))
    *channels, counts = figure.legends
    assert [legend.get_title().get_text() for legend in channels] == ["pfo_coef", "num_epochs"]
    assert [[text.get_text() for text in legend.get_texts()] for legend in channels] == [["0", "1"], ["4", "32"]]
    assert counts.get_title().get_text().startswith("pfo_coef, num_epochs: collapsed runs")
    assert [text.get_text().split(": ")[0] for text in counts.get_texts()] == ["0, 4", "1, 4", "0, 32", "1, 32"]
    lines = main_lines(panel_axes(figure)["entropy"])
    styles = {label: (to_hex(line.get_color()).upper(), line.is_dashed()) for label, line in lines.items()}
    assert styles == {
        "num_epochs=4, pfo_coef=0": (COLOURS[0], False),
        "num_epochs=4, pfo_coef=1": (COLOURS[1], False),
        "num_epochs=32, pfo_coef=0": (COLOURS[0], True),
        "num_epochs=32, pfo_coef=1": (COLOURS[1], True),
    }


@pytest.mark.parametrize(
    ("axes", "kinds"),
    [
        ({"pfo_coef": [1.0]}, []),
        ({"pfo_coef": [0.0, 1.0]}, ["colour"]),
        ({"pfo_coef": [0.1 * i for i in range(12)]}, ["colour"]),
        ({"env": [f"env {i}" for i in range(12)]}, ["colour"]),
        ({"env": [f"env {i}" for i in range(50)]}, ["colour"]),
        ({"env": ["a"], "num_epochs": [4, 8], "pfo_coef": [0.0, 1.0]}, ["colour", "dash"]),
        ({"num_epochs": [4, 8], "pfo_coef": [0.0, 1.0], "share_trunk": [False, True]}, ["colour", "dash", "marker"]),
        ({"num_epochs": [4, 8], "pfo_coef": [0.1 * i for i in range(9)]}, ["colour_bar", "dash"]),
        ({"num_epochs": list(range(9)), "pfo_coef": [0.1 * i for i in range(9)]}, ["colour_bar", "dash"]),
    ],
)
def test_every_point_has_a_style_of_its_own(axes, kinds):
    columns = grid(1, **axes)
    points = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    channels = choose_channels(points)
    assert [channel.kind for channel in channels] == kinds
    styles = {repr(sorted(line_style(channels, point).items())) for point in points}
    assert len(styles) == len(points)


def test_colours_go_to_the_axis_that_has_too_many_levels_for_dashes():
    columns = grid(1, num_epochs=[4, 8], pfo_coef=[0.0, 0.01, 0.1, 1.0, 10.0, 100.0])
    points = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert [channel.fields for channel in choose_channels(points)] == [("pfo_coef",), ("num_epochs",)]
    assert len(DASHES) > 4


SETTINGS = [
    {"pfo_coef": 0.0, "share_trunk": False, "kl_penalty": False},
    {"pfo_coef": 1.0, "share_trunk": False, "kl_penalty": False},
    {"pfo_coef": 0.0, "share_trunk": True, "kl_penalty": False},
    {"pfo_coef": 1.0, "share_trunk": False, "kl_penalty": True},
]
CHANGES = ["defaults", "pfo_coef=1", "share_trunk=True", "pfo_coef=1, kl_penalty=True"]


def test_a_list_of_settings_is_one_colour_each_named_by_what_it_changes():
    (channel,) = choose_channels(SETTINGS)
    assert (channel.kind, channel.title, channel.labels) == ("colour", "setting", CHANGES)
    assert [line_style([channel], point)["color"] for point in SETTINGS] == list(COLOURS[:4])
    assert point_names(SETTINGS) == CHANGES


def test_a_list_of_settings_at_every_place_of_the_axes_keeps_the_axes():
    points = [{"num_epochs": epochs} | setting for epochs in (4, 16) for setting in SETTINGS]
    assert bundled_fields(points) == ("pfo_coef", "share_trunk", "kl_penalty")
    assert [channel.title for channel in choose_channels(points)] == ["setting", "num_epochs"]
    assert len({tuple(line_style(choose_channels(points), point).values()) for point in points}) == 8
    assert point_names(points)[5] == "num_epochs=16, pfo_coef=1"


def test_a_first_setting_that_is_not_the_default_is_named_in_full():
    points = [{**SETTINGS[0], "pfo_coef": 3.0}, *SETTINGS[1:]]
    assert choose_channels(points)[0].labels[0] == "pfo_coef=3, share_trunk=False, kl_penalty=False"


def test_axes_and_two_fields_are_no_list_of_settings():
    crossed = [{"a": a, "b": b, "c": c} for a in (1.0, 2.0) for b in (1.0, 2.0) for c in (True, False)]
    assert bundled_fields(crossed) == ()
    assert bundled_fields([{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}]) == ()
    assert bundled_fields([]) == ()


@pytest.mark.parametrize(
    "swept",
    [
        EPOCHS_PFO,
        grid(2, env=[f"an environment of a long name, number {i}" for i in range(14)]),
        grid(1, pfo_coef=[float(i) for i in range(14)]),
        grid(1, env=[f"an environment of a long name {i}" for i in range(4)], activation=["relu", "tanh"]),
        grid(1, hidden_sizes=["64-64", "128"], num_epochs=[4, 8, 16, 32], share_trunk=[False, True]),
    ],
)
def test_nothing_is_cut_off_or_covered(swept):
    figure = overview(sweep(swept))
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    sheet = figure.bbox
    panels = [ax.get_tightbbox(renderer) for ax in shown_axes(figure)]
    others = [legend.get_window_extent(renderer) for legend in figure.legends]
    others += [ax.get_tightbbox(renderer) for ax in figure.axes if ax.get_label() == "colour bar"]
    others += [text.get_window_extent(renderer) for text in figure.texts]
    for box in panels + others:
        assert box.x0 >= sheet.x0
        assert box.x1 <= sheet.x1
        assert box.y0 >= sheet.y0
        assert box.y1 <= sheet.y1
    for number, box in enumerate(others):
        assert not any(box.overlaps(other) for other in panels + others[number + 1 :])


def test_a_single_run_is_one_line():
    figure = overview(sweep({"pfo_coef": [1.0]}))
    (counts,) = figure.legends
    assert [text.get_text() for text in counts.get_texts()] == ["all runs: 0 of 1 [0 %, 98 %]"]
    assert "seed 0, 1 run." in figure.texts[1].get_text()
    for ax in panel_axes(figure).values():
        assert not ax.collections
        assert len(main_lines(ax)) == 1


def test_gaps_stay_gaps_and_lone_values_are_seen():
    values = np.tile(np.linspace(-500, -100, 12), (2, 1))
    values[:, 3:9] = np.nan
    values[:, 6] = -300
    ax = panel_axes(overview(sweep({"pfo_coef": [1.0, 1.0]}, return_mean=values)))["return_mean"]
    line = main_lines(ax)["pfo_coef=1"]
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), np.isnan(values[0]))
    dots = [other for other in ax.lines if other.get_marker() == "."]
    assert [dot.get_ydata().tolist() for dot in dots] == [[-300]]


def test_an_infinite_run_counts_as_the_largest():
    values = np.tile([[1.0], [2.0], [4.0], [np.inf]], (1, 12))
    figure = overview(sweep({"pfo_coef": [1.0] * 4}, policy_preactivation_norm=values))
    figure.canvas.draw()
    ax = panel_axes(figure)["policy_preactivation_norm"]
    np.testing.assert_array_equal(main_lines(ax)["pfo_coef=1"].get_ydata(), np.full(12, 3.0))
    assert ax.get_ylim()[1] < 10


def test_diverged_runs_end_in_a_cross():
    values = np.tile(np.linspace(1, 12, 12), (4, 1))
    values[2, 5:] = np.nan
    figure = overview(sweep({"pfo_coef": [1.0] * 4}, status=[0, 0, 6, 0], policy_rank=values))
    crosses = [line for line in panel_axes(figure)["policy_rank"].lines if line.get_marker() == "x"]
    assert [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in crosses] == [([125_000], [5])]
    said = "a run that diverged (1 of 4); from there on its line is of the other runs."
    assert said in figure.texts[1].get_text().replace("\n", " ")


@pytest.mark.parametrize("constant", [5.0, 0.0, np.nan, np.inf, 1e-30, 1e30])
def test_constant_and_missing_series_are_drawn_without_a_warning(constant):
    shape = (16, 12)
    dataset = sweep(EPOCHS_PFO, **{name: np.full(shape, constant) for name in NAMES})
    figure = overview(dataset)
    figure.canvas.draw()
    for name, ax in panel_axes(figure).items():
        if np.isfinite(constant):
            bottom, top = ax.get_ylim()
            assert bottom < constant < top or constant == 0 <= bottom
            assert any(bottom <= tick <= top for tick in ax.get_yticks()), name
        else:
            assert [text.get_text() for text in ax.texts] == ["no values"]
    norm = panel_axes(figure)["policy_preactivation_norm"]
    assert norm.get_yscale() == ("log" if np.isfinite(constant) and constant > 0 else "linear")


def test_zeros_among_others_leave_the_log_axis_to_the_others():
    values = np.tile(np.linspace(2, 200, 12), (16, 1))
    values[:, 6:] = 0
    figure = overview(sweep(EPOCHS_PFO, policy_preactivation_norm=values))
    figure.canvas.draw()
    ax = panel_axes(figure)["policy_preactivation_norm"]
    assert ax.get_yscale() == "log"
    assert 0.5 < ax.get_ylim()[0] < 2


@pytest.mark.parametrize("num_logs", [0, 1])
def test_the_first_log_points_of_a_sweep_can_be_drawn(num_logs):
    dataset = sweep(EPOCHS_PFO, num_logs=num_logs).drop_vars("entropy")
    figure = overview(dataset)
    figure.canvas.draw()
    assert [text.get_text() for text in panel_axes(figure)["entropy"].texts] == ["no values"]


def test_runs_that_are_behind_end_earlier():
    def part(index, num_logs):
        return GroupResult(
            metrics={name: np.ones((2, num_logs)) for name in NAMES},
            env_steps=1000 * np.arange(1, num_logs + 1),
            seeds=np.arange(2),
            swept={"num_epochs": [index] * 2},
            status=np.zeros(2),
            run_index=2 * index + np.arange(2),
        )

    ax = panel_axes(overview(to_dataset([part(0, 9), part(1, 4)], {})))["entropy"]
    lines = main_lines(ax)
    assert lines["num_epochs=0"].get_xdata().tolist() == [1000.0 * i for i in range(1, 10)]
    assert lines["num_epochs=1"].get_xdata().tolist() == [1000.0 * i for i in range(1, 5)]
    assert ax.get_xlim() == (0, 9000)


def test_files_are_whole_and_alike(tmp_path, monkeypatch):
    figure = overview(sweep(EPOCHS_PFO))
    png, pdf = save_figure(figure, tmp_path / "new" / "overview.v1.png")
    assert (png.name, pdf.name) == ("overview.v1.png", "overview.v1.pdf")
    height, width = imread(png).shape[:2]
    assert width == 2200
    assert 0.5 < height / width < 0.7
    assert pdf.read_bytes().startswith(b"%PDF")
    before = {path: path.read_bytes() for path in (png, pdf)}
    save_figure(figure, tmp_path / "new" / "overview.v1")
    assert {path: path.read_bytes() for path in (png, pdf)} == before

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, png)
    assert sorted(path.name for path in png.parent.iterdir()) == ["overview.v1.pdf", "overview.v1.png"]


def test_a_notebook_shows_a_picture(tmp_path):
    """IPython asks for `_repr_png_`; without it the reader of a notebook sees `<Figure size ...>`."""
    figure = overview(sweep(EPOCHS_PFO))
    (tmp_path / "shown.png").write_bytes(figure._repr_png_())
    height, width = imread(tmp_path / "shown.png").shape[:2]
    assert np.allclose([width, height], figure.get_size_inches() * figure.dpi, atol=1)


def test_global_settings_stay_and_do_not_matter(tmp_path):
    dataset = sweep(EPOCHS_PFO)
    plain = save_figure(overview(dataset), tmp_path / "plain")[0].read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "savefig.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        styled = save_figure(overview(dataset), tmp_path / "styled")[0].read_bytes()
        assert dict(matplotlib.rcParams) == before
    assert styled == plain


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (500, "500"), (1000, "1k"), (100_000, "100k"), (1_500_000, "1.5M"), (2e9, "2B"), (-2000, "\u22122k")],
)
def test_steps_are_written_as_people_say_them(value, text):
    assert format_steps(value) == text
