"""Networks kept along training, and evaluations at log points: one small sweep, with runs that diverge."""

import dataclasses
import importlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import purejaxppo as pjp
from purejaxppo.errors import ConfigError
from purejaxppo.evaluate import _worst_for_diverged, along_training, evaluate, format_evaluation
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import RunState, make_learner
from purejaxppo.statistics.collapse import outcomes
from purejaxppo.sweep import engine, snapshots, store
from purejaxppo.sweep.merge import merge
from purejaxppo.sweep.plan import Sweep, make_groups, parse_sweep
from purejaxppo.sweep.policies import choose_action, each_snapshot, find_snapshots, load_policies, load_policy
from purejaxppo.sweep.program import GroupProgram
from purejaxppo.training.evaluation import EVALUATION

NUM_ENVS, NUM_STEPS, UPDATES, EPISODES, LIMIT = 4, 16, 2, 3, 20
CONTENT: dict[str, Any] = {
    "name": "kept",
    "seeds": 2,
    "config": {
        "env": "gymnax/CartPole-v1",
        "max_episode_steps": LIMIT,
        "total_steps": 4 * UPDATES * NUM_ENVS * NUM_STEPS,
        "num_envs": NUM_ENVS,
        "num_steps": NUM_STEPS,
        "minibatch_size": 32,
        "num_epochs": 2,
        "hidden_sizes": [8],
        "num_log_points": 4,
        "num_plasticity_points": 0,
        "normalize_observations": "running",
        "time_aware": True,
        "normalize_rewards": "running",
        "sticky_actions": 0.25,
        "num_snapshots": 2,
        "num_evaluation_episodes": EPISODES,
        "num_evaluation_points": 2,
    },
    "points": [{"learning_rate": 1e-2}, {"learning_rate": 1e30}],
}
SOUND, DIVERGED = [0, 1], [2, 3]
AT = [0, 2, 4]  # log points with a snapshot and an evaluation


def make_sweep(**changes: Any) -> Sweep:
    config = CONTENT["config"] | changes.pop("config", {})
    return parse_sweep(CONTENT | changes | {"config": config})


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """Runs that differ in their length alone are computed by one program."""
    original, compiled = GroupProgram.compile, {}

    def compile(self: GroupProgram, *arguments: Any) -> None:
        points = {"num_log_points": 1, "num_evaluation_points": 1, "num_snapshots": 1}
        same = dataclasses.replace(self.group.config, total_steps=UPDATES * NUM_ENVS * NUM_STEPS, **points)
        if (same, self.width) in compiled:
            for name in ("_compiled", "_init", "sharding", "needed_memory"):
                setattr(self, name, getattr(compiled[same, self.width], name))
        original(self, *arguments)
        compiled[same, self.width] = self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupProgram, "compile", compile)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweeps") / "whole"
    pjp.run_sweep(make_sweep(), out, is_quiet=True)
    return out


def arrays(out: Path) -> dict[tuple[int, int, str], np.ndarray]:
    """Run, log point, name -> array, of all snapshots of a directory."""
    found = {}
    for path in (out / "snapshots").iterdir():
        with np.load(path) as content:
            for row, run in enumerate(content["run_index"].tolist()):
                for name in content.files:
                    found[run, int(content["log_point"][row]), name] = content[name][row]
    return found


def kept(out: Path) -> dict[tuple[int, int, str], bytes]:
    """Run, log point, name -> bits, of all snapshots of a directory."""
    return {key: x.tobytes() for key, x in arrays(out).items()}


def assert_equal(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[int]:
    """A list that grows with every call of a function by this module."""
    original, calls = getattr(module, name), list[int]()

    def call(*arguments: Any) -> Any:
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(module, name, call)
    return calls


# --- What is kept


def test_networks_are_kept_at_evenly_spaced_log_points_of_runs_that_are_sound(whole: Path) -> None:
    dataset = store.load_results(whole)
    assert (dataset["status"].values != 0).tolist() == [run in DIVERGED for run in range(4)]
    expected = [[1, 0, 1, 0, 1]] * 2 + [[1, 0, 0, 0, 0]] * 2
    assert dataset["is_snapshot"].values.tolist() == expected
    found = find_snapshots(whole)
    assert [[place.log_point for place in found[run]] for run in range(4)] == [AT, AT, [0], [0]]
    assert len(list((whole / "snapshots").iterdir())) == len(AT)


def test_the_first_one_is_initial_and_the_last_one_final(whole: Path) -> None:
    (final,) = load_policies(whole, [0])
    (last,) = load_policies(whole, [0], 2)
    (first,) = load_policies(whole, [0], 0)
    (middle,) = load_policies(whole, [0], 1)
    assert_equal((last.params, last.statistics), (final.params, final.statistics))
    state = jax.jit(lambda key: init_run(make_learner(first.config), key))(jax.random.key(0))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[0], y, rtol=1e-6, atol=1e-7), first.params, state.params)
    norms = [
        float(np.linalg.norm(np.concatenate([x.ravel() for x in jax.tree.leaves(kept.params["policy"])])))
        for kept in (middle, last)
    ]
    logged = store.load_results(whole)["policy_weight_norm"].values[0, [2, 4]]
    np.testing.assert_allclose(norms, logged, rtol=1e-6)
    steps = [load_policy(whole, 0, number).env_steps for number in (0, 1, 2, None)]
    assert steps == [0, 4 * 64, 8 * 64, 8 * 64]


@pytest.mark.parametrize(
    ("run", "number", "sentence"),
    [
        (0, 3, "snapshot is 3, but run 0 in .* has snapshots 0 to 2"),
        (0, -1, "snapshot is -1, but run 0 in .* has snapshots 0 to 2"),
        (3, 1, "snapshot is 1, but run 3 in .* has snapshots 0 to 0"),
        (4, 0, "run is 4, but the sweep in .* has runs 0 to 3"),
    ],
)
def test_what_was_not_kept_is_refused(whole: Path, run: int, number: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{sentence}"):
        load_policy(whole, run, number)


# --- Diagnostics computed anew


def test_diagnostics_of_snapshots_are_those_that_were_logged(whole: Path) -> None:
    """Also of log point 0, before which two rollouts are played; all but the metrics of minibatches and of episodes."""
    dataset, table = store.load_results(whole), pjp.rediagnose(whole)
    assert table[["run", "snapshot", "log_point", "env_steps"]].to_numpy().tolist() == [
        *([run, number, at, at * 128] for run in SOUND for number, at in enumerate(AT)),
        *([run, 0, 0, 0] for run in DIVERGED),
    ]
    names = [name for name in table.columns[6:] if "condition_number" not in name]  # one over the rounding of 0
    assert {"policy_rank", "critic_dead_neurons", "kl", "excess_ratio", "statistics_kl", "entropy_before"} < {*names}
    assert len(names) > 150
    for row in table.to_dict("records"):
        logged = dataset[names].isel(run=row["run"], log=row["log_point"])
        for name in names:
            is_count = "neurons" in name or ("rank" in name and "effective" not in name)
            tolerance = {"rtol": 0, "atol": 0} if is_count else {"rtol": 2e-4, "atol": 2e-6}
            np.testing.assert_allclose(row[name], logged[name], **tolerance, err_msg=f"{name} {row['log_point']}")


def test_a_diagnostic_that_is_not_there_is_named_as_one(whole: Path) -> None:
    with pytest.raises(ConfigError, match=r"^diagnostics .*no_such_lab"):
        pjp.rediagnose(whole, diagnostics=["no_such_lab:mine"])


def test_some_runs_and_snapshots_are_chosen(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = count_calls(monkeypatch, snapshots, "init_run")
    table = pjp.rediagnose(whole, runs=[1], snapshots=[2, 1])
    assert table[["run", "snapshot"]].to_numpy().tolist() == [[1, 1], [1, 2]]
    with pytest.raises(ConfigError, match=r"^snapshots is \[7\], but .* has no such snapshot of these runs"):
        pjp.rediagnose(whole, snapshots=[7])
    assert sum(traced) <= 1  # shapes are those of a configuration, not of a run and snapshot


# --- Evaluations


def played_one_by_one(state: RunState, config: pjp.TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of the episodes of a run's policy, each environment by itself."""
    learner = make_learner(config)
    key = jax.random.fold_in(jax.random.fold_in(state.key, EVALUATION), state.update)
    key_reset, key_steps = jax.random.split(key)
    reset, step = jax.jit(learner.env.reset), jax.jit(learner.env.step)
    obs, states = map(list, zip(*[reset(k) for k in jax.random.split(key_reset, EPISODES)], strict=True))
    returns, lengths, going_on = np.zeros(EPISODES), np.zeros(EPISODES), set(range(EPISODES))
    for time in range(LIMIT):
        key_action, key_env = jax.random.split(jax.random.fold_in(key_steps, time))
        actions = choose_action(learner, state.params, state.observation_statistics, jnp.stack(obs), key_action)
        keys_env = jax.random.split(key_env, EPISODES)
        for i in list(going_on):
            result = step(keys_env[i], states[i], actions[i])
            obs[i], states[i] = result.obs, result.state
            returns[i] += float(result.reward)
            lengths[i] += 1
            if result.terminated or result.truncated:
                going_on.remove(i)
    assert not going_on
    return returns, lengths


def test_evaluations_are_those_of_environments_played_one_by_one(whole: Path) -> None:
    """By the policies that were kept at the same log points."""
    names = ("return_mean", "return_std", "length_mean", "length_max")
    dataset = store.load_results(whole)
    values = {name: dataset[f"evaluation_{name}"].values for name in names}
    assert np.isfinite(values["return_mean"][SOUND]).tolist() == [[True, False, True, False, True]] * 2
    assert np.isfinite(values["return_mean"][DIVERGED]).tolist() == [[True, False, False, False, False]] * 2
    spread = []
    for number, at in enumerate(AT):
        (policies,) = load_policies(whole, [1], number)
        fresh = init_run(make_learner(policies.config), jax.random.key(1))
        params, statistics = jax.tree.map(lambda x: jnp.asarray(x[0]), (policies.params, policies.statistics))
        update = jnp.int32(at * UPDATES)
        state = dataclasses.replace(fresh, params=params, observation_statistics=statistics, update=update)
        returns, lengths = played_one_by_one(state, policies.config)
        spreads = {"return_mean": returns.mean(), "return_std": returns.std(ddof=1)}
        expected = spreads | {"length_mean": lengths.mean(), "length_max": lengths.max()}
        for name, value in expected.items():
            np.testing.assert_allclose(values[name][1, at], value, rtol=1e-5, err_msg=name)
        spread += [*returns]
    assert len({*spread}) > 3  # not all cut by the limit


def test_snapshots_are_evaluated_and_the_last_one_is_the_final_policy(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_calls(monkeypatch, importlib.import_module("purejaxppo.evaluate"), "make_learner")
    table = evaluate(whole, episodes=4, snapshots=True)
    assert sum(made) == 1  # of one configuration
    assert table[["run", "snapshot", "env_steps", "diverged"]].to_numpy().tolist() == [
        [run, number, at * 128, run in DIVERGED and number > 0]
        for run in [*SOUND, *DIVERGED]
        for number, at in enumerate(AT)
    ]
    assert table["return_mean"].isna().tolist() == table["diverged"].tolist()
    worst = table[~table["diverged"]].groupby("snapshot")["return_mean"].min()
    assert _worst_for_diverged(table)[-1] == worst[2]  # not as if it were absent
    final = evaluate(whole, episodes=4, runs=SOUND)
    last = table[(table["snapshot"] == 2) & ~table["diverged"]]
    assert last["return_mean"].tolist() == final["return_mean"].tolist()
    assert table.attrs["missing"] == []
    lines = [line.split() for line in format_evaluation(table).splitlines()]
    untold = store.load_results(whole)
    untold["return_mean"] = untold["return_mean"] * np.nan  # no episode has ended in training
    with monkeypatch.context() as patch:
        patch.setattr("purejaxppo.evaluate.load_results", lambda out: untold)
        assert "is_collapsed" not in along_training(whole, table)
    drawn = along_training(whole, table)
    assert (drawn["status"].values != 0).tolist() == [run in DIVERGED for run in drawn["run_index"].values]
    found = outcomes(store.load_results(whole))
    assert drawn["is_collapsed"].values.tolist() == found.is_collapsed[[*SOUND, *DIVERGED]].tolist()
    assert drawn["has_learned"].values.tolist() == found.has_learned[[*SOUND, *DIVERGED]].tolist()
    for name in ("return_mean", "length_mean"):
        np.testing.assert_array_equal(drawn[f"evaluation_{name}"].values.ravel(), table[name])
    assert drawn["env_steps"].values.tolist() == [at * 128 for at in AT]
    assert lines[2] == [
        "learning_rate",
        "snapshot",
        "env_steps",
        "runs",
        "collapsed",
        "diverged",
        "return",
        "length",
        "cut",
    ]
    assert [line[1:4] for line in lines[4:8]] == [
        ["0", "0", "2"],
        ["1", "256", "2"],
        ["2", "512", "2"],
        ["0", "0", "2"],
    ]


def test_a_file_is_not_opened_for_every_snapshot(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once to see what is in it, and once for the networks."""
    original, opened = np.load, Counter[str]()

    def load(file: Any, *arguments: Any, **options: Any) -> Any:
        opened[Path(file.name).name] += 1
        return original(file, *arguments, **options)

    monkeypatch.setattr(np, "load", load)
    for number, places, found in each_snapshot(whole):
        assert [run.index for policies in found for run in policies.runs] == [*places]
        assert {place.log_point for place in places.values()} == {AT[number]}
    assert opened == dict.fromkeys((path.name for path in (whole / "snapshots").iterdir()), 2)


# --- Runs beside each other


def test_a_run_with_normalised_rewards_snapshots_and_evaluations_is_the_run_alone(tmp_path: Path) -> None:
    """Beside runs of another gamma, which is in the statistics of rewards, and of another learning rate."""
    points = [{"learning_rate": 1e-2, "gamma": 0.5}, {"learning_rate": 3e-3, "gamma": 0.99}]
    together = pjp.run_sweep(make_sweep(points=points), tmp_path / "together", is_quiet=True)
    quick = {"diagnostics": False, "num_plasticity_points": pjp.TrainConfig().num_plasticity_points}
    one = make_sweep(points=points[1:], seeds=[1], config=quick)  # learns alike, and compiles sooner
    alone = pjp.run_sweep(one, tmp_path / "alone", is_quiet=True)
    own, early = together.isel(run=3, log=slice(3)), alone.isel(run=0, log=slice(3))  # before roundings grow
    names = ["return_mean", "policy_loss", "value_loss", "evaluation_return_mean", "evaluation_return_std"]
    for name in names:
        np.testing.assert_allclose(own[name], early[name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert np.isfinite(early["evaluation_return_mean"].values).tolist() == [True, False, True]
    found = {key[1:]: x for key, x in arrays(tmp_path / "together").items() if key[0] == 3}
    expected = {key[1:]: x for key, x in arrays(tmp_path / "alone").items()}
    kept_names = {name for at, name in expected if at == 2 and name not in ("run_index", "status", "log_point")}
    assert {"origin.reward_statistics.moments.var", "params/policy/hidden_0/kernel", "observation_var"} < kept_names
    for name in kept_names:
        np.testing.assert_allclose(found[2, name], expected[2, name], rtol=1e-3, atol=1e-4, err_msg=name)
    others = {key[1:]: x for key, x in arrays(tmp_path / "together").items() if key[0] == 1}
    var = [x[2, "origin.reward_statistics.moments.var"] for x in (found, others)]
    assert var[0] > 2 * var[1]  # gamma 0.99 against 0.5


# --- Kills, extensions, merges


def test_a_kill_loses_no_snapshot_and_no_bit(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, count = GroupProgram.segment, [0]

    def segment(self: GroupProgram, *arguments: Any, **options: Any) -> Any:
        count[0] += 1
        if count[0] == 5:  # the fourth log point; checkpoints are there from the first
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(GroupProgram, "segment", segment)
        patch.setattr(engine._CheckpointClock, "is_due", lambda self: True)
        with pytest.raises(KeyboardInterrupt):
            pjp.run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    assert load_policy(tmp_path / "out", 0, 1).env_steps == 256  # while it runs
    pjp.run_sweep(make_sweep(), tmp_path / "out", is_quiet=True)
    assert kept(tmp_path / "out") == kept(whole)
    assert pjp.load_results(tmp_path / "out").drop_attrs().identical(pjp.load_results(whole).drop_attrs())


def test_more_steps_keep_what_is_there_and_go_on_as_a_longer_sweep(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    pjp.extend_sweep(copy, total_steps=8 * 128, is_quiet=True)
    longer = {"total_steps": 8 * 128, "num_log_points": 8, "num_snapshots": 4, "num_evaluation_points": 4}
    pjp.run_sweep(make_sweep(config=longer), tmp_path / "longer", is_quiet=True)
    assert [place.log_point for place in find_snapshots(copy)[0]] == [0, 2, 4, 6, 8]
    found, expected = (
        {key: x for key, x in kept(out).items() if key[0] in SOUND} for out in (copy, tmp_path / "longer")
    )
    assert found == expected
    one, other = pjp.load_results(copy), pjp.load_results(tmp_path / "longer")
    np.testing.assert_array_equal(one["is_snapshot"], other["is_snapshot"])
    np.testing.assert_array_equal(one["evaluation_return_mean"], other["evaluation_return_mean"])


def test_merged_sweeps_have_the_snapshots_of_both(whole: Path, tmp_path: Path) -> None:
    pjp.run_sweep(make_sweep(seeds=[5, 6]), tmp_path / "other", is_quiet=True)
    merge([whole, tmp_path / "other"], tmp_path / "merged")
    found = find_snapshots(tmp_path / "merged")
    assert [len(found[run]) for run in range(8)] == [3] * 4 + [1] * 4
    old = load_policy(tmp_path / "other", 1, 1)
    new = load_policy(tmp_path / "merged", 3, 1)
    assert new.run.seed == old.run.seed == 6
    assert_equal(new._params, old._params)


# --- What it costs, and mistakes


def test_the_weight_on_disk_is_told(whole: Path) -> None:
    """Parameters of policy and critic and statistics, before and after, and environments and observations."""
    (group,) = make_groups(make_sweep())
    told = snapshots.bytes_of_runs(make_learner(group.config), 4)
    arrays = sum(len(x) for (*_, name), x in kept(whole).items() if name not in ("run_index", "status", "log_point"))
    assert told == arrays
    assert snapshots.bytes_of_runs(make_learner(dataclasses.replace(group.config, num_snapshots=0)), 4) == 0


def test_snapshots_off_leave_no_trace(tmp_path: Path, whole: Path) -> None:
    config = {"num_snapshots": 0, "num_evaluation_episodes": 0, "num_evaluation_points": 40}
    dataset = pjp.run_sweep(make_sweep(config=config), tmp_path / "out", is_quiet=True)
    assert not (tmp_path / "out" / "snapshots").exists()
    other = pjp.load_results(whole)
    names = {"is_snapshot", *(f"evaluation_{x}" for x in ("return_mean", "return_std", "length_mean", "length_max"))}
    assert {*other.data_vars} - {*dataset.data_vars} == names
    for name in dataset.data_vars:  # the same bits with them
        np.testing.assert_array_equal(dataset[name], other[name], err_msg=str(name))
    with pytest.raises(ConfigError, match=r"^directory .* holds no snapshots: they are kept with num_snapshots"):
        load_policy(tmp_path / "out", 0, 1)


def test_the_command_line_evaluates_and_diagnoses_snapshots(whole: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "purejaxppo", *arguments]
        quiet = os.environ | {
            "TF_CPP_MIN_LOG_LEVEL": "3"
        }  # some jaxlibs complain of every program they load on some processors
        return subprocess.run(command, env=quiet, capture_output=True, text=True, check=False, timeout=500)

    process = call("evaluate", str(whole), "--snapshots", "--episodes", "2")
    assert (process.returncode, process.stderr) == (0, "")
    assert (whole / "evaluation_snapshots.csv").is_file()
    assert (whole / "evaluation_snapshots.png").is_file()
    process = call("rediagnose", str(whole), "--runs", "1", "--out", str(whole / "again.csv"))
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.endswith(f"Table: {whole / 'again.csv'}\n")
    table = pd.read_csv(whole / "again.csv")
    assert table.columns[:6].tolist() == ["run", "learning_rate", "seed", "snapshot", "log_point", "env_steps"]
    assert table["log_point"].tolist() == AT
