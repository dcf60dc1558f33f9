"""Metrics of other trainers become a dataset that figures, tables, compare and claims accept."""

from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import purejaxppo as pjp
from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import recorded_fields, recorded_widths
from purejaxppo.results.files import load, save

STEPS = 1000 * np.arange(1, 41)
RATES = [1e-3] * 5 + [1e-2] * 5


def logged() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    returns = np.linspace(0, 400, 40) + rng.normal(size=(10, 40))
    rank = np.clip(20 - 0.2 * np.arange(40) + rng.normal(size=(10, 40)), 1, None)
    return {"return_mean": returns, "policy_rank": rank, "my_number": returns * 2}


def imported(**options: Any) -> Any:
    given = {"env_steps": STEPS, "seeds": list(range(5)) * 2, "swept": {"learning_rate": RATES}}
    given |= {"config": {"env": "gymnax/CartPole-v1", "hidden_sizes": [64, 64], "clip_eps": 0.2}} | options
    return pjp.import_metrics(logged(), **given)


def test_arrays_become_a_dataset_as_ours() -> None:
    dataset = imported()
    assert dict(dataset.sizes) == {"run": 10, "log": 40}
    assert dataset["learning_rate"].values.tolist() == RATES
    np.testing.assert_array_equal(dataset["return_mean"], logged()["return_mean"])
    assert dataset["policy_rank"].attrs["units"] == "dimensions"
    assert dataset["my_number"].attrs["definition"] == "not in the table of metrics"
    assert dataset["status"].values.tolist() == [0] * 10


def test_runs_that_diverged_stay_so_on_grids_of_their_own() -> None:
    status = [0] * 9 + [7]
    lengths = [STEPS] * 9 + [np.where(STEPS > 7000, np.nan, STEPS)]
    for dataset in (imported(status=status), imported(status=status, env_steps=np.stack(lengths))):
        order = np.argsort(dataset["run_index"].values)
        assert dataset["status"].values[order].tolist() == status
        assert dataset["seed"].values[order].tolist() == [*range(5)] * 2


def test_figures_tables_compare_and_claims_accept_it(tmp_path: Any) -> None:
    dataset = load(save(imported(), tmp_path / "results.nc"))
    table = pjp.statistics.summary.summary_table(dataset)
    assert table["learning_rate"].tolist() == [1e-3, 1e-2]
    assert table["runs"].tolist() == [5, 5]
    assert len(pjp.statistics.comparison.comparison_table(dataset, "return_mean")) == 2
    assert set(pjp.analysis.evaluate_claims(dataset)["claim"]) == {"C1", "C2", "C3", "C4", "C5", "C6"}
    assert pjp.plot.curves(dataset, ["return_mean", "my_number"], by="learning_rate").axes
    assert "gymnax/CartPole-v1, 10 runs" in pjp.report.html_report(dataset)
    plt.close("all")


def test_a_table_says_the_same_in_any_order_of_its_rows() -> None:
    dataset = imported()
    table = pjp.tidy(dataset).rename(columns={"run_index": "run"}).drop(columns="status")
    for seed in range(2):
        shuffled = table.sample(frac=1, random_state=seed)
        config = {"env": "gymnax/CartPole-v1", "hidden_sizes": [64, 64], "clip_eps": 0.2}
        assert pjp.import_metrics(shuffled, swept=["learning_rate"], config=config).identical(dataset)


def test_runs_of_other_lengths_end_where_they_end() -> None:
    steps = np.tile(STEPS.astype(float), (10, 1))
    steps[3, 30:] = np.nan
    dataset = imported(env_steps=steps)
    assert np.isnan(dataset["return_mean"].values[3, 30:]).all()
    assert np.isfinite(dataset["return_mean"].values[3, :30]).all()
    np.testing.assert_array_equal(dataset["return_mean"].values[4], logged()["return_mean"][4])
    table = pjp.tidy(dataset, ["return_mean"]).rename(columns={"run_index": "run"}).drop(columns="status")
    again = pjp.import_metrics(table, swept=["learning_rate"])
    np.testing.assert_array_equal(again["return_mean"], dataset["return_mean"])
    np.testing.assert_array_equal(again["env_steps"], dataset["env_steps"])


def test_one_run_needs_no_axis_for_it_and_spectra_keep_theirs() -> None:
    spectra = np.ones((1, 3, 8), np.float32)
    dataset = pjp.import_metrics({"return_mean": [1, 2, 3], "policy_singular_values": spectra}, env_steps=[1, 2, 3])
    assert dict(dataset.sizes) == {"run": 1, "log": 3, "D": 8}
    assert dataset["seed"].values.tolist() == [0]


def test_theirs_and_ours_are_put_side_by_side() -> None:
    both = pjp.concat([imported(), imported(name="other")], names=["theirs", "ours"])
    assert both["directory"].values.tolist() == 2 * (["theirs"] * 5 + ["ours"] * 5)
    assert both["learning_rate"].values.tolist() == [1e-3] * 10 + [1e-2] * 10
    other = pjp.import_metrics({"return_mean": logged()["return_mean"]}, env_steps=STEPS, config={"learning_rate": 1.0})
    more = pjp.concat([imported(), other])
    assert more["learning_rate"].values.tolist() == [*RATES, *[1.0] * 10]
    np.testing.assert_array_equal(more["return_mean"][10:], other["return_mean"])
    assert np.isnan(more["policy_rank"][10:]).all()


TABLE = pd.DataFrame({"run": [0, 0], "env_steps": [1, 2], "return_mean": [1.0, 2.0], "text": ["a", "b"]})


@pytest.mark.parametrize(
    ("metrics", "options", "message"),
    [
        ({}, {"env_steps": [1]}, "metrics is empty"),
        ({"a": np.ones((2, 3))}, {}, "env_steps is missing"),
        ({"a": np.ones((2, 3)), "b": np.ones((3, 2))}, {"env_steps": [1, 2, 3]}, r"'b' has shape \[3, 2\], but must"),
        ({"a": np.ones((2, 3))}, {"env_steps": [1, 2]}, r"env_steps has shape \[2\], but must have \[3\] or \[2, 3\]"),
        ({"a": np.ones((2, 3))}, {"env_steps": [1, 3, 2]}, "env_steps must grow"),
        ({"a": np.ones((2, 3))}, {"env_steps": [1, 2, 3], "seeds": [1]}, "seeds has 1 values, .* each of the 2 runs"),
        ({"a": np.ones((2, 3))}, {"env_steps": [1, 2, 3], "swept": {"x": [1]}}, "x has 1 values"),
        ({"a": np.ones((2, 3))}, {"env_steps": [1, 2, 3], "swept": ["x"]}, "swept must be a mapping"),
        ({"a": np.ones(())}, {"env_steps": [1]}, r"'a' has shape \[\]"),
        ({"a": np.array([["x"]])}, {"env_steps": [1]}, "'a' .* must be numbers"),
        ({"charts/return": np.ones((2, 3))}, {"env_steps": [1, 2, 3]}, "may not contain '/'"),
        (TABLE, {}, "column text of metrics holds no numbers"),
        (TABLE, {"swept": ["text"]}, "column text of metrics changes within a run"),
        (TABLE, {"swept": ["rate"]}, "metrics has no column rate"),
        (TABLE, {"env_steps": [1, 2]}, "metrics is a table"),
        (TABLE.iloc[:0], {}, "metrics is empty"),
        (TABLE.assign(run=[0, np.nan]), {"swept": ["text"]}, "column run of metrics is missing in 1 rows"),
        (TABLE.assign(env_steps=["1k", "2k"]), {}, "env_steps must be numbers"),
        (TABLE.assign(seed=0.5), {"swept": []}, "column text of metrics holds no numbers"),
        (TABLE.drop(columns="text").assign(seed=0.5), {}, r"seeds has 0.5, but must have whole numbers from 0 to 42"),
        (TABLE.drop(columns="text").assign(rate=np.nan), {"swept": ["rate"]}, "rate is missing in some runs"),
        (TABLE.drop(columns="text").assign(status=3), {}, "status has 3, but must have whole numbers from 0 to 2"),
        (TABLE.drop(columns="text"), {"status": [0]}, "status must be columns of it"),
        (
            {"a": np.ones((2, 3))},
            {"env_steps": [1, 2, 3], "status": [0, np.nan]},
            "status has nan, but must have whole",
        ),
        ({"a": np.ones((2, 3))}, {"env_steps": [1, 2, 3], "status": [0, -1]}, "status has -1, but must have whole"),
        ({"a": np.ones((2, 3))}, {"env_steps": [1, 2, 3], "seeds": ["a", "b"]}, "seeds must be numbers"),
        ({"a": np.ones((2, 3))}, {"env_steps": [1, 2, 3], "seeds": [4, 4]}, "seeds has 4 in 2 runs of one setting"),
        ({"a": np.ones((2, 3))}, {"env_steps": [3, np.nan, 1]}, "env_steps must grow"),
        (
            {"a": np.ones((2, 3)), "seed": np.ones((2, 3))},
            {"env_steps": [1, 2, 3]},
            "a metric may not be called 'seed'",
        ),
        ({"a": [[1, 2, 3], [1, 2]]}, {"env_steps": [1, 2, 3]}, "metric 'a' must have as many values for each run"),
        ({"a": np.ones((2, 3))}, {"env_steps": [1, 2, 3], "swept": {"x": [1.0, np.nan]}}, "x is missing in some runs"),
        (
            {"a": np.ones((2, 3))},
            {"env_steps": [1, 2, 3], "config": {"hidden_sizes": 64}},
            "hidden_sizes is 64, but must",
        ),
        (
            {"a": np.ones((2, 3))},
            {"env_steps": [1, 2, 3], "config": {"learning_rate": "x"}},
            "learning_rate is 'x', but",
        ),
    ],
)
def test_what_does_not_fit_is_named(metrics: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pjp.import_metrics(metrics, **options)


def test_what_we_export_comes_back_and_numbers_may_be_jaxs() -> None:
    dataset = imported(status=[0] * 9 + [7])
    table = pjp.results.export.long_table(dataset).rename(columns={"run_index": "run"})
    table["return_mean"] = [jnp.float32(x) for x in table["return_mean"]]
    again = pjp.import_metrics(table.sample(frac=1.0, random_state=0), swept=["learning_rate"])
    for name in ("status", "seed", "learning_rate"):
        np.testing.assert_array_equal(again[name], dataset[name])
    np.testing.assert_allclose(again["return_mean"], dataset["return_mean"], rtol=1e-6)


def test_what_another_trainer_says_may_be_numpys_or_none() -> None:
    config = {"clip_eps": np.float32(0.25), "num_envs": np.int64(8), "hidden_sizes": jnp.array([64, 32])}
    dataset = imported(config=config | {"learning_rate": None})
    assert recorded_fields(dataset) == {"clip_eps": 0.25, "num_envs": 8, "hidden_sizes": [64, 32]}
    assert recorded_widths(dataset).tolist() == [32] * 10


def test_dead_units_without_their_number_are_a_part_that_is_not_tested() -> None:
    metrics = logged() | {"policy_dead_neurons": np.ones((10, 40))}
    dataset = pjp.import_metrics(metrics, env_steps=STEPS, config={"env": "gymnax/CartPole-v1"})
    table = pjp.analysis.evaluate_claims(dataset).set_index("part")
    assert table.loc["and its units die", "verdict"] == "NOT TESTED"
    assert str(table.loc["and its units die", "note"]).startswith("neither hidden_sizes nor spectra")
    assert table.loc["the rank collapses", "verdict"] != "NOT TESTED"


def test_none_is_a_setting() -> None:
    options: dict[str, Any] = {"env_steps": [1, 2, 3], "swept": {"max_episode_steps": [None, 500]}}
    dataset = pjp.import_metrics({"a": np.ones((2, 3))}, **options)
    assert dataset["max_episode_steps"].values.tolist() == ["none", "500"]


def test_a_setting_that_is_no_name_of_ours_is_told() -> None:
    with pytest.warns(UserWarning, match="config has clip_range, which is no name of a field"):
        pjp.import_metrics({"a": np.ones((2, 3))}, env_steps=[1, 2, 3], config={"clip_range": 0.1})
