"""Log point 0, the initial network: it is drawn, listed and exported, and changes nothing that is said of training.

Results of older versions do not have it, so everything is held against the same results without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.collections import QuadMesh
from test_plots_figures import DATASETS, diverged, made_up

from purejaxppo.claims.verdicts import evaluate_claims
from purejaxppo.plots.curves import overview
from purejaxppo.plots.figures import FIGURES, draw_figure
from purejaxppo.plots.panels import OVERVIEW
from purejaxppo.plots.spectrum import FLOOR, spectrum_figure
from purejaxppo.report import html_report
from purejaxppo.results.dataset import load, save
from purejaxppo.results.export import long_table
from purejaxppo.results.registry import METRICS
from purejaxppo.results.runs import curves, diverged_steps, is_after_start, last_step
from purejaxppo.statistics.collapse import detect_collapse
from purejaxppo.statistics.comparison import comparison_table
from purejaxppo.statistics.correlations import lowest_ratios, rank_correlations
from purejaxppo.statistics.summary import final_values, summary_table

# Values that would show in every number if they were counted: a rank from which all later ones are a collapse, say.
LOUD = {"return_mean": 1e6, "policy_rank": 1e6, "policy_dead_neurons": 0.0, "policy_variance": 1e6, "entropy": 1e6}


def with_start(dataset: xr.Dataset, **values: float) -> xr.Dataset:
    """The results with a row at 0 steps: `values`, else those of LOUD, NaN for what is of minibatches, and else 3."""
    steps = dataset["env_steps"]
    zeros = np.where(np.isfinite(steps.values[..., :1]), 0, np.nan)
    padded = dataset.pad(log=(1, 0), constant_values=np.nan, keep_attrs=True)
    grid = np.concatenate([zeros, steps.values], axis=-1)
    padded = padded.assign_coords(env_steps=(steps.dims, grid if steps.ndim > 1 else grid.astype(int), steps.attrs))
    for name, variable in padded.data_vars.items():
        metric = METRICS[str(name)]
        is_measured = metric.family != "minibatch" and not str(name).startswith(("ratio_below", "excess"))
        if "log" in variable.dims and is_measured:
            variable[:, 0] = (LOUD | values).get(str(name), 3.0)
    return padded


def begun(**options: Any) -> xr.Dataset:
    """A sweep that has come to log point 0 and no further."""
    return with_start(made_up(num_logs=1, **options)).isel(log=[0])


def own_steps() -> xr.Dataset:
    """Runs of two grids: those with 16 epochs have half of the steps, and came half as far."""
    dataset = made_up()
    is_half = (dataset["num_epochs"] == 16).values
    steps = np.where(is_half[:, None], 0.5, 1.0) * dataset["env_steps"].values
    steps[is_half, 25:] = np.nan
    for name in dataset.data_vars:
        if name != "status":
            dataset[name][is_half, 25:] = np.nan
    dataset["group"][is_half] = 1
    return dataset.assign_coords(env_steps=(("run", "log"), steps))


CASES = {name: DATASETS[name] for name in ("normal", "one run", "diverged", "infinite", "zeros", "one log point")} | {
    "steps of their own": own_steps,
    "diverged at once": lambda: made_up(status=[1 if run == 3 else 0 for run in range(20)]),
}


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest) -> tuple[xr.Dataset, xr.Dataset]:
    """Results without and with log point 0."""
    dataset = CASES[request.param]()
    return dataset, with_start(dataset)


def test_tables_are_the_same(pair: tuple[xr.Dataset, xr.Dataset]) -> None:
    for table in (summary_table, comparison_table, evaluate_claims):
        pd.testing.assert_frame_equal(*map(table, pair), check_exact=True)


def test_collapses_are_the_same(pair: tuple[xr.Dataset, xr.Dataset]) -> None:
    without, with_row = map(detect_collapse, pair)
    xr.testing.assert_identical(without, with_row)


@pytest.mark.parametrize("fraction", [0.05, 0.07, 0.1, 0.5, 1.0])
def test_final_values_are_the_same(pair: tuple[xr.Dataset, xr.Dataset], fraction: float) -> None:
    for name in (name for name, x in pair[0].data_vars.items() if x.dims == ("run", "log")):
        np.testing.assert_array_equal(*(final_values(dataset, str(name), fraction) for dataset in pair))


def test_the_window_of_a_hundred_log_points_is_the_last_five() -> None:
    values = np.tile(np.arange(100.0), (20, 1))
    dataset = with_start(made_up(num_logs=100, return_mean=values, policy_plasticity_loss=values))
    for name in ("return_mean", "policy_plasticity_loss"):
        assert np.unique(final_values(dataset, name)).tolist() == [97.0]


def test_correlations_are_the_same(pair: tuple[xr.Dataset, xr.Dataset]) -> None:
    np.testing.assert_array_equal(*map(rank_correlations, pair))
    np.testing.assert_array_equal(*(lowest_ratios(dataset, "policy_rank") for dataset in pair))


def test_the_step_of_divergence_is_the_same_and_status_its_place() -> None:
    dataset = diverged()
    for results in (dataset, with_start(dataset)):
        assert diverged_steps(results)[3] == 31_000
        assert np.isnan(np.delete(diverged_steps(results), 3)).all()
        assert '<td class="n">31,000</td>' in html_report(results[["return_mean", "status"]])
    assert with_start(dataset)["env_steps"].values[dataset["status"].values[3]] == 31_000


def test_curves_begin_at_the_initial_network() -> None:
    dataset = with_start(made_up({}), entropy=0.7)
    figure = overview(dataset)
    for ax, panel in zip(figure.axes, OVERVIEW, strict=False):
        steps, values = ax.lines[0].get_data()
        assert (steps[0], values[0]) == (0, (LOUD | {"entropy": 0.7}).get(panel.metric, 3.0))
        assert ax.get_xlim()[0] == 0
    steps, values = curves(dataset, "policy_plasticity_loss", np.arange(5))
    assert steps[:2].tolist() == [0, 5000]
    assert np.all(values[:, 0] == 3.0)


def test_a_start_at_zero_leaves_a_log_axis_to_the_others() -> None:
    figure = overview(with_start(made_up({}), policy_preactivation_norm=0.0))
    figure.canvas.draw()
    ax = next(ax for ax in figure.axes if ax.get_yscale() == "log")
    assert ax.get_ylim()[0] > 0.1


@pytest.mark.parametrize("num_logs", [1, 2, 51])
def test_the_spectrum_has_room_for_the_initial_network(num_logs: int) -> None:
    dataset = with_start(made_up({})).isel(log=slice(num_logs))
    dataset["policy_singular_values"][:, 0] = 2.0 ** -np.arange(16.0)
    ax = spectrum_figure(dataset).axes[0]
    mesh = next(part for part in ax.collections if isinstance(part, QuadMesh))
    edges = mesh.get_coordinates()[0, :, 0]
    assert edges[0] == 0
    assert np.all(np.diff(edges) > 0)
    assert edges[-1] == last_step(dataset)
    values: Any = mesh.get_array()
    np.testing.assert_allclose(values[:, 0], np.clip(2.0 ** -np.arange(16.0), FLOOR, 1))


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_with_it_and_with_nothing_else(name: str) -> None:
    for dataset in (
        with_start(diverged()),
        with_start(own_steps()),
        with_start(made_up({}, num_seeds=1, num_logs=1)),
        begun(),
    ):
        draw_figure(dataset, name).canvas.draw()


def test_before_anything_is_learned() -> None:
    """A sweep that has just begun: the end of its runs is where they are."""
    dataset = begun(axes={})
    assert not is_after_start(dataset).any()
    row = summary_table(dataset).iloc[0]
    assert (row["env_steps"], row["policy_rank"]) == (0, 1e6)
    assert np.isnan(row["excess_ratio"])
    lost = detect_collapse(dataset)
    assert np.isnan(lost["return_collapse_step"]).all()
    assert np.isnan(lost["last_step"]).all()
    assert lowest_ratios(dataset, "policy_rank")[0].shape == (5, 0)
    assert set(evaluate_claims(dataset)["verdict"]) == {"NOT TESTED"}
    assert "All runs have reached environment step 0." in html_report(dataset[["return_mean", "status"]])


def test_it_is_exported_and_kept(tmp_path) -> None:
    dataset = load(save(with_start(made_up()), tmp_path / "results.nc"))
    table = long_table(dataset)
    start = table[table["env_steps"] == 0]
    assert len(start) == 20
    assert (start["policy_rank"] == 1e6).all()
    assert start["policy_loss"].isna().all()
    assert "log point 0" in made_up()["env_steps"].attrs["definition"]
    assert "initial network" in made_up()["status"].attrs["meaning"]
