"""Pictures keep the colours of their legends: those that are committed, and any that is made small."""

import itertools
import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from test_plots_figures import made_up

from purejaxppo.errors import ConfigError
from purejaxppo.plots.channels import COLOURS, choose_channels
from purejaxppo.plots.figures import FIGURES, draw_figure
from purejaxppo.plots.files import LEGEND, as_small_png, legend_of, lost_colours, reduce_colours, save_figure
from purejaxppo.plots.sheets import PAPER
from purejaxppo.plots.style import lay_out
from purejaxppo.results.dataset import by_environment

RESULTS = Path(__file__).parent.parent / "experiments" / "results"
BENCHMARKS = RESULTS.parent / "benchmarks" / "results"
PICTURES = sorted([*RESULTS.rglob("*.png"), *BENCHMARKS.glob("*.png")])


def settings():
    """Six settings, each a colour, as in the studies of interventions."""
    switches = ("share_trunk", "kl_penalty", "reset_optimizer")
    dataset = made_up({"pfo_coef": [0.0, 1.0, 10.0], **{name: [False, True] for name in switches}}, num_seeds=3)
    changes = (dataset["pfo_coef"].values > 0) + sum(dataset[name].values.astype(int) for name in switches)
    return dataset.isel(run=np.flatnonzero(changes < 2))


def is_recorded(path):
    with Image.open(path) as picture:
        return LEGEND in picture.info


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_legend_colours_survive_in_every_committed_picture(path):
    assert is_recorded(path)
    assert lost_colours(path) == []


def test_there_are_pictures():
    assert len(PICTURES) > 70


def test_a_lost_colour_is_found(tmp_path):
    """What happened to stress_interventions/survival.png: six settings quantised to three colours."""
    figure = draw_figure(settings(), "survival")
    path = tmp_path / "picture.png"
    path.write_bytes(as_small_png(figure, 1200))
    assert lost_colours(path) == []
    names = [entry["label"] for entry in legend_of(figure)]
    assert len(names) == 6
    with Image.open(path) as picture:
        texts = PngInfo()
        texts.add_itxt(LEGEND, picture.info[LEGEND])
        picture.convert("RGB").quantize(8).save(path, pnginfo=texts)
    assert len(lost_colours(path)) >= 3
    picture.convert("RGB").save(path)
    with pytest.raises(ValueError, match="does not say what its legend shows"):
        lost_colours(path)


@pytest.mark.parametrize("width", [1200, 1400])
def test_twelve_settings_are_where_the_legend_says_at_any_resolution(tmp_path, width):
    """What happened to pfo_ablation_acrobot/survival.png: lines of letters of whole pixels, and ten of them."""
    switches = ("share_trunk", "kl_penalty", "reset_optimizer", "layer_norm", "weight_spectral", "feature_spectral")
    fields = {"pfo_coef": [0.0, 1.0, 3.0, 10.0], "adam_beta2": [0.9, 0.999], "policy_objective": ["clip", "spo"]}
    arms = [{}, *({name: True} for name in switches), *({n: v} for n, values in fields.items() for v in values)]
    plain = dict.fromkeys(switches, False) | {"pfo_coef": 0.0, "adam_beta2": 0.999, "policy_objective": "clip"}
    arms = [arm for arm in arms if arm == {} or plain | arm != plain]
    assert len(arms) == 12
    made = made_up({"arm": list(range(12))}, num_seeds=3)
    levels = made["arm"].values.astype(int)
    made = made.drop_vars("arm").assign_coords(
        {name: ("run", [(plain | arms[level])[name] for level in levels]) for name in plain}
    )
    for name in ("6", "survival"):
        path = tmp_path / f"{name}.png"
        path.write_bytes(as_small_png(draw_figure(made, name), width))
        assert lost_colours(path) == []


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_records_where_it_shows_which_colour(name, tmp_path):
    figure = draw_figure(settings(), name)
    path = save_figure(figure, tmp_path / "picture")[0]
    with Image.open(path) as picture:
        entries = json.loads(picture.info[LEGEND])
        assert picture.info["Description"] == figure.get_label()
    assert bool(entries) == (name not in ("factorial", "sensitivity"))  # no colours of conditions; one line
    assert lost_colours(path) == []
    wrong = [entry | {"colour": "#ff00ff"} for entry in entries]
    texts = PngInfo()
    texts.add_itxt(LEGEND, json.dumps(wrong))
    with Image.open(path) as picture:
        picture.save(path, pnginfo=texts)
    assert len(lost_colours(path)) == len(entries)


@pytest.mark.parametrize("name", ["7", "spectrum", "levels"])
def test_colour_bars_keep_their_colours(name, tmp_path):
    """Median cut over the picture left figure 7's bar nine of its 256 colours: -0.25 looked like -0.4."""
    if name == "levels":
        figure, _ = lay_out(1, choose_channels([{"num_epochs": number} for number in range(33)]), "", "")
    else:
        figure = draw_figure(made_up({"pfo_coef": [0.0, 1.0]}, num_seeds=1, num_logs=10), name)
    path = tmp_path / "picture.png"
    path.write_bytes(as_small_png(figure, 1200))
    assert lost_colours(path) == []
    entries = [entry for entry in legend_of(figure) if "colour bar" in entry["label"]]
    assert len(entries) == (33 if name == "levels" else 64)
    with Image.open(path) as picture:
        bar = np.asarray(picture.convert("RGB"))
        texts = PngInfo()
        texts.add_itxt(LEGEND, picture.info[LEGEND])
        picture.convert("RGB").quantize(32).save(tmp_path / "few.png", pnginfo=texts)
    left, _, right, bottom = entries[0]["box"]
    top = entries[-1]["box"][1]
    height, width, _ = bar.shape
    middle = bar[round(top * height) : round(bottom * height), round((left + right) / 2 * width)]
    assert len(np.unique(middle, axis=0)) >= 0.95 * len(entries)
    assert len(lost_colours(tmp_path / "few.png")) > 5


def test_few_colours_keep_the_ones_asked_for():
    """A hundred pixels of a colour among 90,000 of noise: median cut alone would not keep it."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    kept = [tuple(round(255 * part) for part in to_rgb(colour)) for colour in COLOURS]
    for number, colour in enumerate(kept):
        pixels[10 * number : 10 * number + 10, :10] = colour
    small = reduce_colours(Image.fromarray(pixels), COLOURS)
    assert small.mode == "P"
    shown = np.asarray(small.convert("RGB"))
    for number, colour in enumerate(kept):
        assert np.all(shown[10 * number : 10 * number + 10, :10] == colour)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) <= 256
    assert np.abs(shown.astype(int) - pixels).max(axis=-1).mean() < 32


def test_a_figure_for_a_paper_is_pdf_svg_and_a_caption(tmp_path):
    figure = draw_figure(made_up(), "1", PAPER)
    paths = save_figure(figure, tmp_path / "figure1.png")
    assert [path.name for path in paths] == ["figure1.pdf", "figure1.svg", "figure1.txt"]
    assert paths[0].read_bytes().startswith(b"%PDF")
    assert b"<svg" in paths[1].read_bytes()[:500]
    caption = paths[2].read_text()
    assert caption.startswith("Figure 1: return, rank, norm and plasticity over training. ")
    for words in ("gymnax/Acrobot-v1", "50k steps", "seeds 0 to 4", "20 runs", "Bands"):
        assert words in caption
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in save_figure(figure, tmp_path / "figure1")] == before


def assert_names_apart(figure):
    """No title or label of a panel lies on another one."""
    renderer = figure.canvas.get_renderer()
    panels = [ax for ax in figure.axes if ax.get_visible()]
    names = [text for ax in panels for text in ax.findobj(Text) if text.get_text() == ax.get_title(loc="left") != ""]
    names += [ax.xaxis.label for ax in panels if ax.get_xlabel()]
    for one, other in itertools.combinations([text.get_window_extent(renderer) for text in names], 2):
        assert not one.overlaps(other)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_for_a_paper_can_be_read_at_print_size(name):
    figure = draw_figure(made_up(), name, PAPER)
    assert figure.get_figwidth() == 5.5
    assert not figure.texts
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    texts = [text for text in figure.findobj(lambda x: hasattr(x, "get_fontsize")) if text.get_visible()]
    assert min(text.get_fontsize() for text in texts if text.get_text().strip()) >= 7
    assert figure.get_tightbbox(renderer).x1 <= 5.5 + 0.02
    assert figure.get_tightbbox(renderer).x0 >= -0.02
    assert figure.get_figheight() <= 9
    assert_names_apart(figure)


def family(num_arms=9):
    """Plain PPO and the corners of a family, of long names, as in proximal_family_acrobot."""
    kinds = {
        "pfo_reference": ["rollout", "previous"],
        "pfo_states": ["same", "other"],
        "pfo_features": ["a", "outputs"],
    }
    corners = [dict(zip(kinds, values, strict=True)) for values in itertools.product(*kinds.values())]
    arms = [{"pfo_coef": 0.0} | corners[0]]
    arms += [{"pfo_coef": float(1 + i // 8)} | corners[i % 8] for i in range(num_arms - 1)]
    made = made_up({"arm": list(range(num_arms))}, num_seeds=2, num_logs=5)
    levels = made["arm"].values.astype(int)
    return made.drop_vars("arm").assign_coords({n: ("run", [arms[level][n] for level in levels]) for n in arms[0]})


@pytest.mark.parametrize("name", ["overview", "4", "6", "survival", "factorial"])
def test_nine_settings_of_long_names_fit_a_paper(name):
    """Five of nine counts ended two inches beside the sheet, which was eleven inches high."""
    figure = draw_figure(family(), name, PAPER)
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    box = figure.get_tightbbox(renderer)
    assert figure.get_figwidth() == 5.5
    assert figure.get_figheight() <= 9
    assert (box.x0 >= -0.02, box.x1 <= 5.52, box.y0 >= -0.02) == (True, True, True), box
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert min(ax.get_position().height for ax in panels) * figure.get_figheight() >= 0.65
    labels = [ax.yaxis.label.get_window_extent(renderer) for ax in panels if ax.get_ylabel()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(labels, 2))
    assert_names_apart(figure)


def test_what_does_not_fit_a_paper_is_refused_in_one_sentence():
    """Figure 6 of head_to_head_acrobot was 67 inches high."""
    message = r"^Figure 6 would be [\d.]+ inches high, but a paper has room for 9; draw fewer settings \(--where FIELD"
    with pytest.raises(ConfigError, match=message):
        draw_figure(family(31), "6", PAPER)


def test_effects_of_several_environments_are_published_apart_as_they_are_drawn(tmp_path):
    publish = runpy.run_path(str(RESULTS.parent / "publish.py"))
    dataset = made_up({"env": ["a/A", "b/B"], "pfo_coef": [0.0, 1.0], "share_trunk": [False, True]}, num_seeds=3)
    publish["write_factorials"](dataset, tmp_path)
    names = ["factorial_a_A.csv", "factorial_b_B.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name, part in zip(names, by_environment(dataset).values(), strict=True):
        table = pd.read_csv(tmp_path / name)
        expected = publish["factorial_table"](part)
        np.testing.assert_allclose(table["value"], expected["value"])
        assert "env" not in set(table["effect"])
    publish["write_factorials"](next(iter(by_environment(dataset).values())), tmp_path)
    assert (tmp_path / "factorial.csv").read_text() == (tmp_path / names[0]).read_text()


def test_what_is_published_is_enough_to_draw_again():
    """Sweeps were deleted, and their pictures could not be redrawn: `drawn.nc` has all but the spectra."""
    publish = runpy.run_path(str(RESULTS.parent / "publish.py"))
    dataset = made_up({"pfo_coef": [0.0, 1.0, 10.0]}, num_seeds=2)
    dataset["policy_plasticity_constant_loss"] = dataset["policy_plasticity_loss"] * 0 + 1.5
    small = publish["kept"](dataset)
    assert small["entropy"].dtype == np.float32
    assert small["status"].dtype == dataset["status"].dtype
    assert not {"D", "minibatch"} & set(small.dims)
    for name in set(FIGURES) - {"spectrum"}:
        figures = draw_figure(dataset, name), draw_figure(small, name)
        texts = [[text.get_text() for ax in figure.axes for text in ax.texts] for figure in figures]
        assert texts[0] == texts[1]
        for before, after in zip(figures[0].axes, figures[1].axes, strict=True):
            for one, other in zip(before.lines, after.lines, strict=True):
                np.testing.assert_allclose(one.get_xydata(), other.get_xydata(), rtol=1e-4, atol=1e-4)
