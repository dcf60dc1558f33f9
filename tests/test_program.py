"""Runs that differ inside one program, on both routes: chunks of one number of epochs (CPU), and all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from test_sweep import stop_after

import purejaxppo as pjp
from purejaxppo import blas, networks
from purejaxppo.diagnostics.probe import probe_r2
from purejaxppo.diagnostics.routes import singular_values_and_r2
from purejaxppo.diagnostics.spectral import singular_values, spectral_measures
from purejaxppo.errors import Stopped
from purejaxppo.evaluate import evaluate
from purejaxppo.metrics import Metrics
from purejaxppo.ppo import state as state_module
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import make_learner
from purejaxppo.sweep import engine, store
from purejaxppo.sweep import program as program_module
from purejaxppo.sweep.engine import run_sweep
from purejaxppo.sweep.plan import make_groups, parse_sweep
from purejaxppo.sweep.policies import load_policies, load_policy
from purejaxppo.sweep.program import GroupProgram
from purejaxppo.training import train as train_module

AXES = {
    "activation": ["tanh", "relu"],
    "lr_schedule": ["constant", "linear"],
    "num_epochs": [3, 1],
    "policy_objective": ["clip", "spo"],
}
CONTENT = {
    "name": "selected",
    "seeds": [5],
    "config": {
        "env": "gymnax/CartPole-v1",
        "total_steps": 6 * 64,
        "num_envs": 4,
        "num_steps": 16,
        "minibatch_size": 32,
        "hidden_sizes": [8],
        "num_log_points": 3,
        "num_plasticity_rollouts": 1,
    },
    "hparams": {"learning_rate": 1e-2},
    "axes": AXES,
}
# Places in the sweep: (tanh, constant, clip) and (relu, linear, spo), both with 3 epochs and with 1.
ALONE = (0, 2, 13, 15)
EARLY = 2  # log points at which roundings of different programs have not grown yet
compiled: dict[bool, list[GroupProgram]] = {}


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """Equal programs are compiled once; on a CPU's route the number of epochs is an argument."""
    original = GroupProgram.compile

    def program_of(self: GroupProgram) -> Any:
        config = self.group.config if self.is_mixed else replace(self.group.config, num_epochs=1)
        alternatives = {name: x for name, x in self.group.alternatives.items() if name != "num_epochs"}
        return config, alternatives, self._learner.absent, self._learner.max_epochs, self.width

    def compile(self: GroupProgram, runs: Any) -> None:
        others = compiled.setdefault(not self.is_mixed, [])
        for other in others:
            if program_of(other) == program_of(self):
                self._compiled, self.sharding = other._compiled, other.sharding
                self.needed_memory = other.needed_memory
                return
        original(self, runs)
        others.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupProgram, "compile", compile)
        yield
    compiled.clear()


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of sixteen configurations."""
    out = tmp_path_factory.mktemp("selected") / "out"
    run_sweep(parse_sweep(CONTENT), out, is_quiet=True)
    return out


def assert_close(found: xr.Dataset, expected: xr.Dataset, rtol: float) -> None:
    """All metrics of two datasets at their early log points; what is counted or nearly 0 may round."""
    assert set(found.data_vars) == set(expected.data_vars)
    for name in expected.data_vars:
        values, others = (
            x[name].isel(log=slice(EARLY)) if "log" in x[name].dims else x[name] for x in (found, expected)
        )
        if "condition_number" in str(name):
            continue  # of a singular matrix it is one over the rounding of 0
        np.testing.assert_allclose(values, others, rtol=rtol, atol=rtol, err_msg=str(name))


def test_each_run_of_one_program_is_the_run_alone(selected: Path, tmp_path: Path) -> None:
    """Activations, schedules, epochs and objectives in one program, against sweeps of a single run."""
    dataset = store.load_results(selected)
    (group,) = make_groups(store.read_sweep(selected))
    assert set(group.alternatives) == set(AXES)
    assert [program.width for program in compiled[True]] == [8]
    runs = {run.index: run for run in group.runs}
    for index in ALONE:
        config = CONTENT["config"] | runs[index].point
        content = {key: x for key, x in CONTENT.items() if key != "axes"} | {"config": config}
        alone = run_sweep(parse_sweep(content), tmp_path / str(index), is_quiet=True)
        own = dataset.isel(run=[index])
        for name in AXES:
            assert own[name].item() == config[name]
        assert_close(own.drop_vars(list(AXES)), alone, 1e-4)


def test_runs_that_are_selected_differ(selected: Path) -> None:
    """No two of the sixteen trained alike, and what is measured before training depends on the activation alone."""
    dataset = store.load_results(selected)
    norms = dataset["policy_weight_norm"].isel(log=-1).values
    assert len(set(norms.tolist())) == 16
    initial = dataset["policy_feature_norm"].isel(log=0).values.reshape(2, 8)
    np.testing.assert_allclose(initial, initial[:, :1].repeat(8, axis=1), rtol=1e-5)
    assert abs(initial[0, 0] / initial[1, 0] - 1) > 0.01
    rates = dataset["learning_rate"].isel(log=-1).values.reshape(2, 2, 4)
    np.testing.assert_allclose(rates[:, 0], 1e-2, rtol=1e-5)
    np.testing.assert_allclose(rates[:, 1], 1e-2 / 6, rtol=1e-5)  # the last of six updates


def test_policies_are_loaded_with_the_configuration_of_their_run(selected: Path) -> None:
    (group,) = make_groups(store.read_sweep(selected))
    loaded = load_policies(selected)
    assert sorted(run.index for policies in loaded for run in policies.runs) == list(range(16))
    obs = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    for run in group.runs:
        (policies,) = load_policies(selected, [run.index])
        assert policies.config == policies.runs[0].config == run.config
        layers = jax.tree.map(lambda x: np.asarray(x[0]), policies.params["policy"])
        hidden = obs @ layers["hidden_0"]["kernel"] + layers["hidden_0"]["bias"]
        hidden = np.tanh(hidden) if run.point["activation"] == "tanh" else np.maximum(hidden, 0)
        logits = hidden @ layers["policy_head"]["kernel"] + layers["policy_head"]["bias"]
        is_clear = np.abs(logits[:, 0] - logits[:, 1]) > 1e-4
        policy = load_policy(selected, run.index)
        assert policy.config == run.config
        np.testing.assert_array_equal(np.asarray(policy(obs))[is_clear], logits.argmax(axis=1)[is_clear])


def test_runs_of_different_configurations_are_evaluated(selected: Path) -> None:
    table = evaluate(selected, episodes=2, max_steps=20, runs=ALONE)
    assert table["run"].tolist() == list(ALONE)
    points = [parse_sweep(CONTENT).points[place] for place in ALONE]
    assert table[list(AXES)].to_dict("records") == [dict(point) for point in points]
    assert (table["return_mean"] > 0).all()


# --- The route of accelerators, on a CPU


def test_the_route_for_accelerators_gives_the_same_results(
    selected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runs side by side, those of one epoch masked in the second and third, tasks and measurements vmapped,
    diagnoses in blocks of a few runs."""
    monkeypatch.setattr(train_module, "diagnosed_together", lambda learner: 3)
    for module in (program_module, engine, blas):
        monkeypatch.setattr(module, "is_cpu", lambda: False)
    found = run_sweep(parse_sweep(CONTENT), tmp_path / "out", is_quiet=True)
    assert [x.num_runs for x in store.read_layout(tmp_path / "out") or []] == [16]
    assert [x.num_runs for x in store.read_layout(selected) or []] == [8, 8]
    (program,) = compiled[False]
    assert program._learner.max_epochs == 3
    assert program.width == 16
    assert_close(found, store.load_results(selected), 1e-4)
    np.testing.assert_array_equal(found["status"], 0)
    assert sorted(run.index for policies in load_policies(tmp_path / "out") for run in policies.runs) == list(range(16))


def test_what_an_accelerator_began_goes_on_on_a_cpu(
    selected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunks mix numbers of epochs, which a CPU's own never do: they stay masked."""
    with monkeypatch.context() as patch:
        for module in (program_module, engine):
            patch.setattr(module, "is_cpu", lambda: False)
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            run_sweep(parse_sweep(CONTENT), tmp_path / "out", is_quiet=True)
    found = run_sweep(parse_sweep(CONTENT), tmp_path / "out", is_quiet=True)
    assert [x.num_runs for x in store.read_layout(tmp_path / "out") or []] == [16]
    assert_close(found, store.load_results(selected), 1e-4)


@pytest.mark.parametrize(("backend", "apart"), [("gpu", [3, 1]), ("cpu", [1])])
def test_a_gpu_makes_metrics_one_by_one_before_it_joins_them(
    backend: str, apart: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its compiler fails on a kernel that joins them with the reductions that they come from (jax 0.10.2)."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    found = jax.make_jaxpr(lambda x: Metrics.of({"a": x.sum(), "b": x.max(), "c": x.min()}))(jnp.ones(4))
    barriers = [equation for equation in found.eqns if equation.primitive.name == "optimization_barrier"]
    assert [len(equation.outvars) for equation in barriers] == apart


def all_branches(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function gives on a CPU, and what its branches for a TPU and all other platforms give there."""
    found = [jax.jit(lambda *x: function(*x))(*arguments)]
    for platform in ("default", "tpu"):
        chosen: list[Any] = []

        def other(*arguments: Any, platform: str = platform, chosen: list[Any] = chosen, **branches: Any) -> Any:
            chosen.append(branches.get(platform, branches["default"]))
            return chosen[-1](*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(jax.lax, "platform_dependent", other)
            patch.setattr(blas, "is_cpu", lambda: False)
            found.append(jax.jit(lambda *x: function(*x))(*arguments))
        assert chosen
    return found


def normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


PLATFORM_DEPENDENT = {
    "one_at_a_time": (jax.vmap(blas.one_at_a_time(lambda x, y: (x @ x.T).sum() + y)), normal(3, 5, 4), normal(3)),
    "singular values": (singular_values, normal(3, 20, 6)),
    "singular values of wide matrices": (singular_values, normal(2, 2, 6, 20)),
    "spectral measures": (spectral_measures, normal(3, 20, 6)),
    "probe": (jax.vmap(probe_r2), normal(3, 20, 6), normal(3, 20)),
    "singular values and R^2": (jax.vmap(singular_values_and_r2), normal(3, 20, 6), normal(3, 20)),
    "orthonormal": (jax.vmap(networks._orthonormal), normal(3, 8, 5)),
    "orthogonal initialization": (
        jax.vmap(make_learner(pjp.TrainConfig(initialization="orthogonal", hidden_sizes=(8, 6))).networks.init),
        jax.random.split(jax.random.key(1), 3),
    ),
}


@pytest.mark.parametrize("name", PLATFORM_DEPENDENT)
def test_all_branches_of_what_depends_on_the_platform(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here, *elsewhere = all_branches(monkeypatch, *PLATFORM_DEPENDENT[name])
    for there in elsewhere:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), here, there)


def test_a_rollout_a_minibatch_at_a_time_is_the_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_learner(pjp.TrainConfig(**(CONTENT["config"] | {"hidden_sizes": (8,)})))
    state, obs = init_run(learner, jax.random.key(0)), normal(64, 4)
    mapped: list[bool] = []
    original = jax.lax.map
    monkeypatch.setattr(jax.lax, "map", lambda *x, **options: mapped.append(True) or original(*x, **options))
    found = {}
    for is_cpu, large in ((True, 0), (True, 2**21), (False, 0)):
        monkeypatch.setattr(state_module, "_LARGE", large)
        monkeypatch.setattr(blas, "is_cpu", lambda is_cpu=is_cpu: is_cpu)
        found[is_cpu, large] = learner.both_of_rollout(state, obs)
        assert bool(mapped) == (large == 0)
        mapped.clear()
    (first, *others) = found.values()
    for other in others:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), first, other)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), first, learner.both(state, jnp.asarray(obs))
    )
