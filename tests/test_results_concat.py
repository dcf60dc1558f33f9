"""Results of several sweeps as one: what becomes a coordinate, what clashes, and that no number changes on the way."""

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

import purejaxppo as pjp
from purejaxppo.errors import ConfigError
from purejaxppo.results.concat import concat
from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.results.files import load, save
from purejaxppo.results.pieces import after, below, pick
from purejaxppo.sweep.plan import make_groups, parse_sweep, to_json

CONFIG = {"env": "gymnax/CartPole-v1", "total_steps": 4 * 1024, "num_log_points": 4, "hidden_sizes": [8, 8]}


def value(run: Any, log: np.ndarray) -> np.ndarray:
    """A number that tells a run and a log point apart, [S, L]; of what a run is, not of where it is listed."""
    key = hash((run.seed, run.config.num_epochs, run.config.hidden_sizes, run.hparams.pfo_coef)) % 1000
    return np.float32(key) + np.float32(log) / 16


def results(**content: Any) -> xr.Dataset:
    """What a sweep would give, made up; every group has a spectrum as wide as its layers."""
    content = {"name": "made", "seeds": 2} | content
    sweep = parse_sweep(content | {"config": CONFIG | content.get("config", {})})
    groups = []
    for group in make_groups(sweep):
        log = np.arange(1 + group.config.num_logs)
        returns = np.stack([value(run, log) for run in group.runs])
        spectrum = returns[..., None] + np.arange(group.config.hidden_sizes[-1], dtype=np.float32)
        groups.append(
            GroupResult(
                env_steps=log * group.config.steps_per_log,
                seeds=np.array([run.seed for run in group.runs]),
                swept={name: [run.point[name] for run in group.runs] for name in sweep.swept},
                status=np.zeros(len(group.runs), np.int32),
                run_index=np.array([run.index for run in group.runs]),
                metrics={"return_mean": returns, "policy_singular_values": spectrum, "learning_rate": returns + 1},
            )
        )
    attrs = {"name": sweep.name, "sweep": to_json(sweep), "version_jax": "1", "created": content["name"]}
    return to_dataset(groups, attrs)


def assert_one(found: xr.Dataset, expected: xr.Dataset) -> None:
    xr.testing.assert_identical(found.load().drop_attrs(), expected.load().drop_attrs())
    one, other = (parse_sweep(json.loads(dataset.attrs["sweep"])) for dataset in (found, expected))
    assert (one.points, one.seeds) == (other.points, other.seeds)
    assert [run.config for group in make_groups(one) for run in group.runs] == [
        run.config for group in make_groups(other) for run in group.runs
    ]


# --- Two as one


def test_more_seeds_are_more_seeds() -> None:
    axes = {"pfo_coef": [0.0, 1.0]}
    later, earlier = results(seeds=[2, 3, 4], axes=axes), results(seeds=2, axes=axes)
    for parts in ((earlier, later), (later, earlier)):
        assert_one(pjp.concat(parts), results(seeds=5, axes=axes))


def test_more_points_are_more_points_in_the_order_of_one_sweep() -> None:
    parts = [results(axes={"num_epochs": [4, 8], "pfo_coef": values}) for values in ([0.0, 1.0], [3.0])]
    assert_one(concat(parts), results(axes={"num_epochs": [4, 8], "pfo_coef": [0.0, 1.0, 3.0]}))


def test_what_only_the_base_configurations_differ_in_becomes_a_coordinate() -> None:
    """Also where it splits programs, shapes spectra, and shares its name with a metric."""
    parts = [results(hparams={"learning_rate": rate}) for rate in (0.1, 0.2)]
    assert_one(concat(parts), results(axes={"learning_rate": [0.1, 0.2]}))
    parts = [results(config={"hidden_sizes": sizes}) for sizes in ([8, 8], [8, 4])]
    assert_one(concat(parts), results(axes={"hidden_sizes": [[8, 8], [8, 4]]}))
    assert concat(parts)["hidden_sizes"].values.tolist() == ["8-8", "8-8", "8-4", "8-4"]


def test_runs_of_other_lengths_keep_their_log_points() -> None:
    parts = [results(config={"total_steps": steps * 1024, "num_log_points": steps}) for steps in (4, 2)]
    found = concat(parts)
    assert found["total_steps"].values.tolist() == [4096, 4096, 2048, 2048]
    np.testing.assert_array_equal(found["env_steps"][2], [0, 1024, 2048, np.nan, np.nan])
    np.testing.assert_array_equal(found["return_mean"][2:, :3], parts[1]["return_mean"])
    assert np.isnan(found["return_mean"][2:, 3:]).all()


def test_a_part_of_the_product_has_the_runs_that_there_are() -> None:
    found = concat([results(axes={"pfo_coef": [0.0]}), results(axes={"pfo_coef": [1.0]}, seeds=3)])
    assert found["run_index"].values.tolist() == [0, 1, 3, 4, 5]
    assert found["seed"].values.tolist() == [0, 1, 0, 1, 2]


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Any) -> None:
    parts = [results(seeds=[seed]) for seed in (0, 1)]
    found = concat([load(save(part, tmp_path / f"{number}.nc")) for number, part in enumerate(parts)])
    assert not found["return_mean"].variable._in_memory
    assert_one(found, results(seeds=2))


# --- What they come from


def test_what_agrees_is_kept_and_each_is_told_whole() -> None:
    found = concat([results(name="a"), results(name="b", seeds=[7])], names=["x", "y"])
    assert found.attrs["version_jax"] == "1"
    assert found.attrs["name"] == "a + b"
    assert "created" not in found.attrs
    merged = json.loads(found.attrs["merged"])
    assert [(own["directory"], own["created"]) for own in merged] == [("x", "a"), ("y", "b")]
    assert json.loads(merged[1]["sweep"])["seeds"] == [7]


def test_what_users_bring_comes_along() -> None:
    """Modules that are imported, strengths of interventions and metrics of one's own, described as they were."""
    parts = [results(), results()]
    for strength, part in zip((0.1, 0.2), parts, strict=True):
        told = json.loads(part.attrs["sweep"])
        told |= {"import": ["lab.setup"], "hparams": told["hparams"] | {"my_strength": strength}}
        part.attrs["sweep"] = json.dumps(told)
        described = {"long_name": "churn", "units": "nat", "definition": "mine", "family": "own"}
        part["churn"] = part["return_mean"].drop_attrs().assign_attrs(**described)
    found = concat(parts)
    assert found["my_strength"].values.tolist() == [0.1, 0.1, 0.2, 0.2]
    assert found["group"].values.tolist() == [0] * 4  # swept inside one program
    assert found["churn"].attrs == described
    told = json.loads(found.attrs["sweep"])
    assert told["import"] == ["lab.setup"]
    assert told["points"] == [{"my_strength": 0.1}, {"my_strength": 0.2}]
    assert told["hparams"]["my_strength"] == 0.1


# --- What is the same


def test_where_nothing_else_differs_the_name_is_an_axis() -> None:
    parts = [results(axes={"pfo_coef": [0.0, 1.0]}), results(axes={"pfo_coef": [0.0, 3.0]})]
    found = concat(parts, names=["old", "new"])
    assert pjp.results.swept_fields(found) == ["pfo_coef", "directory"]
    assert found["directory"].values.tolist() == ["old"] * 4 + ["new"] * 4
    assert "directory" not in concat([parts[0], results(axes={"pfo_coef": [3.0]})], names=["old", "new"]).coords
    assert pjp.plots.figures.draw_figure(found, "overview").axes
    assert len(pjp.statistics.summary.summary_table(found)) == 4


def test_one_run_twice_is_taken_once_and_with_other_numbers_it_clashes() -> None:
    parts = [results(axes={"pfo_coef": [0.0, 1.0]}), results(axes={"pfo_coef": [1.0, 3.0]})]
    assert_one(concat(parts), results(axes={"pfo_coef": [0.0, 1.0, 3.0]}))
    parts[1]["return_mean"].values[1, 2] += 1
    with pytest.raises(ConfigError, match=r"number 1 and number 2 both have the run pfo_coef=1\.0, seed 1, with other"):
        concat(parts)


def test_results_that_do_not_say_a_field_are_asked_for_it() -> None:
    foreign = results()
    foreign.attrs["sweep"] = json.dumps({"config": {"env": "gymnax/CartPole-v1"}})
    with pytest.raises(ConfigError, match="results theirs do not say their pfo_coef, in which the others differ"):
        concat([results(axes={"pfo_coef": [0.0, 1.0]}), foreign], names=["ours", "theirs"])


# --- Pieces


def test_pieces_next_to_each_other_are_read_in_any_stretch() -> None:
    dataset = results(seeds=6, config={"total_steps": 30 * 1024, "num_log_points": 30})
    expected = dataset["policy_singular_values"].values[[4, 0, 5]]
    (late,) = pick(dataset.isel(log=slice(11, None)), np.array([4, 0, 5]), np.arange(3))
    (early,) = pick(dataset.isel(log=slice(11)), np.array([4, 0, 5]), np.arange(3))
    (first,) = pick(dataset, np.array([4]), np.arange(1))
    (others,) = pick(dataset, np.array([0, 5]), np.arange(1, 3))
    for piece in (after(early, late), below([first, others])):
        assert piece.shape == (3, 31)
        metric = piece.metrics["policy_singular_values"]
        assert metric.shape == expected.shape
        for stretch in (slice(None), slice(3, 8), slice(10, 12), slice(2, 29, 3), slice(20, 99), slice(5, 5)):
            np.testing.assert_array_equal(metric[:, stretch], expected[:, stretch])
            np.testing.assert_array_equal(metric[1:, stretch, :2], expected[1:, stretch, :2])


def test_a_metric_that_a_piece_lacks_is_missing_there() -> None:
    dataset = results(seeds=2)
    one, other = (
        pick(part, np.array([row]), np.array([row]))[0]
        for row, part in enumerate([dataset, dataset.drop_vars("return_mean")])
    )
    values = below([one, other]).metrics["return_mean"][:, :]
    np.testing.assert_array_equal(values[0], dataset["return_mean"][0])
    assert np.isnan(values[1]).all()
