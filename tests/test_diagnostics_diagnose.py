"""A whole diagnosis, jitted and vmapped as in a trainer: names, oracles, limits, degenerate runs, gradients."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles as slow
import pytest
from test_diagnostics_spectral import public_matrices

from purejaxppo import blas
from purejaxppo.config import TrainConfig
from purejaxppo.diagnostics.diagnose import Representation, Snapshot, diagnose
from purejaxppo.diagnostics.neurons import dead_neurons
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.networks import layer_weights
from purejaxppo.ppo.rollout import collect, prepare_batch
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import make_learner
from purejaxppo.results.registry import METRICS
from purejaxppo.training.diagnosis import diagnose_update, diagnosed_together

RUNS, SAMPLES, ACTIONS, CLIP_EPS = 3, 64, 4, 0.2
DIAGNOSED = {
    name: metric
    for name, metric in METRICS.items()
    if metric.family not in ("minibatch", "performance", "plasticity", "evaluation", "run")
    and not name.startswith("statistics_")
    and not name.endswith(("_gradient_inactive_neurons", "_weight_change", "_units_reset"))  # of weights and gradients
}
OF_UPDATE = {f"{net}_{name}" for net in ("policy", "critic") for name in ("gradient_inactive_neurons", "weight_change")}


def network(rng: np.random.Generator, activation: Callable = jax.nn.relu, width: int = 16) -> Representation:
    hidden, last = rng.normal(size=(RUNS, SAMPLES, 8)), rng.normal(size=(RUNS, SAMPLES, width))
    last[..., :2] -= 9  # with relu, two dead units
    return Representation(
        features=activation(jnp.asarray(last, jnp.float32)),
        preactivations=(jnp.asarray(hidden, jnp.float32), jnp.asarray(last, jnp.float32)),
    )


def moved(rng: np.random.Generator, output: Representation, step: float = 0.1) -> Representation:
    return jax.tree.map(lambda x: x + jnp.asarray(step * rng.normal(size=x.shape), jnp.float32), output)


def healthy_inputs(seed: int = 0, **networks: Representation) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(RUNS, SAMPLES, *shape)), jnp.float32)

    policy, critic = (networks.get(name, network(rng)) for name in ("policy", "critic"))
    return {
        "policy_before": policy,
        "policy_after": networks.get("policy_after", moved(rng, policy)),
        "critic_before": critic,
        "critic_after": networks.get("critic_after", moved(rng, critic)),
        "log_ratio": 0.4 * normal(),
        "kl": jnp.abs(normal()),
        "entropy_before": normal(),
        "entropy_after": normal(),
        "policy_moments_before": jax.nn.softmax(normal(ACTIONS)),
        "policy_moments_after": jax.nn.softmax(normal(ACTIONS)),
        "value_before": normal(),
        "value_after": normal(),
        "value_target": 5 + normal(),
        "policy_weights": weights(rng, (4, 8), (8, 16), (16, ACTIONS)),
        "critic_weights": weights(rng, (4, 8), (8, 16), (16, 1)),
    }


def weights(rng: np.random.Generator, *shapes: tuple[int, int]) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(rng.normal(size=(RUNS, *shape)), jnp.float32) for shape in shapes)


def diagnose_one(inputs: dict[str, Any], activation: str = "relu", share_trunk: bool = False) -> dict[str, jax.Array]:
    """The diagnosis of one run; weights are those after the update, before it they are others, which nobody reads."""
    names = ("policy",) if share_trunk else ("policy", "critic")

    def snapshot(time: str) -> Snapshot:
        weights = {net: inputs[f"{net}_weights"] for net in ("policy", "critic")}
        return Snapshot(
            networks={net: inputs[f"{net}_{time}"] for net in names},
            entropy=inputs[f"entropy_{time}"],
            value=inputs[f"value_{time}"],
            moments=inputs[f"policy_moments_{time}"],
            weights=weights if time == "after" else jax.tree.map(jnp.zeros_like, weights),
        )

    return diagnose(
        snapshot("before"),
        snapshot("after"),
        **{name: inputs[name] for name in ("log_ratio", "kl", "value_target")},
        clip_eps=CLIP_EPS,
        dead_neurons=partial(dead_neurons, activation=activation),
    )


@partial(jax.jit, static_argnames=("activation", "share_trunk"))
def metrics_of_runs(inputs: dict[str, Any], activation: str, share_trunk: bool) -> Metrics:
    """As in a trainer: vmapped over runs, jitted, and compiled once for all tests of the same shapes."""
    return jax.vmap(lambda single: Metrics.of(diagnose_one(single, activation, share_trunk)))(inputs)


def diagnose_runs(inputs: dict[str, Any], activation: str = "relu", share_trunk: bool = False) -> dict[str, np.ndarray]:
    return dict(jax.tree.map(np.asarray, metrics_of_runs(inputs, activation, share_trunk)))


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    return healthy_inputs()


@pytest.fixture(scope="module")
def metrics(inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    return diagnose_runs(inputs)


def test_every_metric_of_the_registry_is_there_and_finite(metrics: dict[str, np.ndarray]) -> None:
    assert metrics.keys() == DIAGNOSED.keys()
    for name, value in metrics.items():
        assert value.shape == (RUNS, 16)[: len(DIAGNOSED[name].dims) - 1], name
        assert value.dtype == np.float32, name
        has_zeros = name in ("policy_condition_number_before", "critic_condition_number_before")  # two dead units
        assert (value == np.inf if has_zeros else np.isfinite(value)).all(), name


def expected_metrics(inputs: dict[str, Any], run: int, activation: str = "relu") -> dict[str, Any]:
    """The whole diagnosis of one run, from the slow versions."""
    own = jax.tree.map(lambda x: np.asarray(x[run]), inputs)
    expected = slow.ratio_statistics(own["log_ratio"], CLIP_EPS)
    log_ratio = np.float64(own["log_ratio"])
    expected |= {"kl": own["kl"].mean(), "kl_k1": -log_ratio.mean()}
    expected["kl_k3"] = (np.exp(log_ratio) - 1 - log_ratio).mean()
    for time, suffix in (("before", "_before"), ("after", "")):
        expected[f"policy_variance{suffix}"] = slow.policy_variance(own[f"policy_moments_{time}"])
        expected[f"entropy{suffix}"] = own[f"entropy_{time}"].mean()
        expected[f"value_mean{suffix}"] = own[f"value_{time}"].mean()
        expected[f"value_std{suffix}"] = own[f"value_{time}"].std(ddof=1)
        explained = slow.explained_variance(own["value_target"], own[f"value_{time}"])
        expected[f"value_explained_variance{suffix}"] = explained
        for net in ("policy", "critic"):
            expected |= expected_of_network(net, own[f"{net}_{time}"], suffix, activation)
    for net in ("policy", "critic"):
        expected[f"{net}_probe_r2"] = slow.probe_r2(own[f"{net}_after"].features, own["value_target"])
        *hidden, expected[f"{net}_head_spectral_norm"] = (np.linalg.norm(x, 2) for x in own[f"{net}_weights"])
        expected[f"{net}_weight_spectral_norm_max"] = max(hidden)
        before, after = (subjects(own[f"{net}_{time}"]) for time in ("before", "after"))
        for subject in before:
            values = slow.drift(before[subject], after[subject])
            expected |= dict(zip((f"{net}_{subject}_drift", f"{net}_{subject}_cosine"), values, strict=True))
    ranks = [name for name in expected if name.endswith("rank")]
    return expected | {f"{name}_change": expected[name] - expected[f"{name}_before"] for name in ranks}


def subjects(output: Representation) -> dict[str, np.ndarray]:
    layers = output.preactivations
    return {
        "feature": output.features,
        "preactivation": layers[-1],
        "all_preactivations": np.concatenate(layers, axis=1),
    }


def expected_of_network(net: str, output: Representation, suffix: str, activation: str) -> dict[str, Any]:
    expected: dict[str, Any] = {f"{net}_dead_neurons{suffix}": slow.dead_neurons(output.features, activation)}
    expected[f"{net}_dormant_neurons{suffix}"] = slow.dormant_neurons(output.features)
    expected[f"{net}_always_active_neurons{suffix}"] = slow.always_active_neurons(output.preactivations[-1])
    expected[f"{net}_collinearity{suffix}"] = slow.collinearity(output.features)
    for subject, matrix in subjects(output).items():
        expected[f"{net}_{subject}_norm{suffix}"] = slow.mean_norm(matrix)
        if subject == "all_preactivations":
            continue
        expected[f"{net}_{subject}_mean{suffix}"] = matrix.mean()
        expected[f"{net}_{subject}_std{suffix}"] = slow.mean_deviation_over_dimensions(matrix)
        prefix = f"{net}_preactivation_" if subject == "preactivation" else f"{net}_"
        sigma = slow.spectrum(matrix)
        expected |= {
            f"{prefix}rank{suffix}": slow.approximate_rank(matrix),
            f"{prefix}effective_rank{suffix}": slow.effective_rank(matrix),
            f"{prefix}srank{suffix}": slow.srank(matrix),
            f"{prefix}feature_rank{suffix}": slow.feature_rank(matrix),
            f"{prefix}numerical_rank{suffix}": slow.numerical_rank(matrix),
            f"{prefix}participation_ratio{suffix}": slow.participation_ratio(matrix),
            f"{prefix}condition_number{suffix}": slow.condition_number(matrix),
        }
        places = {"sigma_1": 0, "sigma_2": 1, "sigma_min": -1}
        expected |= {f"{prefix}{name}{suffix}": sigma[i] / np.sqrt(len(matrix)) for name, i in places.items()}
        if suffix == "":
            expected[f"{prefix}singular_values"] = sigma
    return expected


def test_every_metric_agrees_with_its_slow_version(inputs: dict[str, Any], metrics: dict[str, np.ndarray]) -> None:
    for run in range(RUNS):
        expected = expected_metrics(inputs, run)
        assert expected.keys() == metrics.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name][run], value, rtol=1e-4, atol=2e-5, err_msg=name)


def test_ranks_of_the_reference_implementation_through_a_whole_diagnosis(oracles: Path) -> None:
    file, features = public_matrices(oracles, "512x64")
    output = Representation(features=jnp.asarray(features), preactivations=(jnp.asarray(features[::-1]),))
    rows = jnp.ones((6, 512))
    moments = jnp.ones((6, 512, 2))
    rng = np.random.default_rng(0)
    inputs = {name: rows if x.ndim == 2 else moments for name, x in healthy_inputs().items() if hasattr(x, "ndim")}
    inputs["value_target"] = jnp.asarray(rng.normal(size=(6, 512)), jnp.float32)
    inputs |= {f"{net}_weights": (jnp.ones((6, 4, 64)), jnp.ones((6, 64, 2))) for net in ("policy", "critic")}
    metrics = diagnose_runs(
        inputs | {f"{net}_{time}": output for net in ("policy", "critic") for time in ("before", "after")}
    )
    for name in ("policy_rank", "policy_rank_before", "critic_rank", "critic_rank_before"):
        np.testing.assert_array_equal(metrics[name], file["expected/approximate_rank_pca"], err_msg=name)
    np.testing.assert_array_equal(metrics["critic_preactivation_rank"], file["expected/approximate_rank_pca"][::-1])
    np.testing.assert_array_equal(metrics["policy_srank"], file["expected/srank_kumar"])
    np.testing.assert_array_equal(metrics["policy_feature_rank"], file["expected/feature_rank_lyle"])
    np.testing.assert_array_equal(metrics["policy_dead_neurons"], file["expected/dead_relu"])
    np.testing.assert_allclose(metrics["policy_feature_norm"], file["expected/norm"], rtol=1e-5)
    np.testing.assert_allclose(metrics["policy_effective_rank"], file["expected/effective_rank_vetterli"], rtol=1e-3)
    for index, name in enumerate(file["names"]):
        expected = slow.probe_r2(features[index], np.asarray(inputs["value_target"][index]))
        if name != "ill_conditioned":  # no gap in its spectrum; its own test is in test_diagnostics_probe.py
            np.testing.assert_allclose(metrics["policy_probe_r2"][index], expected, rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(metrics["policy_weight_spectral_norm_max"], np.sqrt(4 * 64), rtol=1e-5)


def test_an_update_that_changes_nothing() -> None:
    inputs = healthy_inputs()
    for name in inputs:
        if name.endswith("_after"):
            inputs[name] = inputs[name.replace("_after", "_before")]
    zeros = jnp.zeros((RUNS, SAMPLES))
    metrics = diagnose_runs(inputs | {"log_ratio": zeros, "kl": zeros})
    for name, value in metrics.items():
        if name.endswith(("_change", "_drift", "_fraction", "ratio_std")) or name.startswith("kl"):
            np.testing.assert_allclose(value, 0, atol=1e-5, err_msg=name)
        elif name.endswith("_cosine") or name in ("ratio_mean", "ratio_min", "ratio_max"):
            np.testing.assert_allclose(value, 1, rtol=1e-6, err_msg=name)
        elif name.startswith("ratio_") or name == "excess_ratio":
            assert np.isnan(value).all(), name
        elif f"{name}_before" in metrics:
            np.testing.assert_allclose(value, metrics[f"{name}_before"], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "leaky_relu"])
def test_other_activations(activation: str) -> None:
    function = {"tanh": jnp.tanh, "gelu": jax.nn.gelu, "leaky_relu": jax.nn.leaky_relu}[activation]
    output = network(np.random.default_rng(0), function)
    metrics = diagnose_runs(healthy_inputs(policy=output, policy_after=output), activation)
    expected = [slow.dead_neurons(np.asarray(x), activation) for x in output.features]
    np.testing.assert_array_equal(metrics["policy_dead_neurons"], expected)
    with pytest.raises(ConfigError, match="activation is 'swish'"):
        diagnose_runs(healthy_inputs(), "swish")


def test_a_shared_trunk_is_reported_under_both_names() -> None:
    inputs = healthy_inputs()
    shared = inputs | {"critic_before": inputs["policy_before"], "critic_after": inputs["policy_after"]}
    shared["critic_weights"] = (*inputs["policy_weights"][:-1], inputs["critic_weights"][-1])
    once, twice = diagnose_runs(shared, share_trunk=True), diagnose_runs(shared)
    assert once.keys() == twice.keys() == DIAGNOSED.keys()
    for name in once:
        np.testing.assert_allclose(once[name], twice[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("share_trunk", [False, True])
def test_weights_of_every_layer_are_measured(share_trunk: bool) -> None:
    """Convolutions [patch, channels], dense layers, and each network's own head last."""
    config = TrainConfig(
        env="gymnax/Breakout-MinAtar", torso="minatar_conv", hidden_sizes=(12, 9), share_trunk=share_trunk
    )
    learner = make_learner(config)
    params = jax.eval_shape(learner.networks.init, jax.random.key(0))
    for network, width in (("policy", 3), ("critic", 1)):
        shapes = [x.shape for x in layer_weights(params, network)]
        assert shapes == [(36, 16), (1024, 12), (12, 9), (9, width)]


@pytest.mark.parametrize("width", [5, 90])
def test_networks_of_other_widths(width: int) -> None:
    """Narrow networks, and such with more units than samples; policy and critic of one shape, and not."""
    rng = np.random.default_rng(5)
    inputs = healthy_inputs(policy=network(rng, width=width), critic=network(rng, width=width))
    measured = diagnose_runs(inputs)
    assert measured.keys() == DIAGNOSED.keys()
    for name in ("policy_singular_values", "critic_singular_values"):
        assert measured[name].shape == (RUNS, min(width, SAMPLES))
    expected = expected_metrics(inputs, 0)
    for name, value in expected.items():
        np.testing.assert_allclose(measured[name][0], value, rtol=1e-4, atol=5e-5, err_msg=name)
    mixed = healthy_inputs(policy=network(rng, width=width), critic=network(rng, width=16))
    measured, expected = diagnose_runs(mixed), expected_metrics(mixed, 0)
    for name, value in expected.items():
        np.testing.assert_allclose(measured[name][0], value, rtol=1e-4, atol=5e-5, err_msg=name)


def test_a_diverged_run_says_nan_and_spoils_nobody_else(inputs: dict[str, Any], metrics: dict[str, np.ndarray]) -> None:
    broken = jax.tree.map(lambda x: x.at[1].set(jnp.nan), inputs)
    measured = diagnose_runs(broken)
    for name, value in measured.items():
        np.testing.assert_allclose(value[::2], metrics[name][::2], rtol=1e-5, atol=1e-6, err_msg=name)
        if not any(part in name for part in ("dead", "dormant", "always_active", "fraction")):
            assert np.isnan(value[1]).all(), name


def test_a_dead_network_has_numbers_for_everything() -> None:
    inputs = healthy_inputs()
    for name in ("policy_before", "policy_after"):
        inputs[name] = inputs[name].replace(features=jnp.zeros_like(inputs[name].features))
    metrics = diagnose_runs(inputs)
    infinite = {"policy_condition_number", "policy_condition_number_before", "critic_condition_number_before"}
    assert all(np.isfinite(value).all() for name, value in metrics.items() if name not in infinite)
    assert all(np.isinf(metrics[name]).all() for name in infinite)
    np.testing.assert_array_equal(metrics["policy_dormant_neurons"], 16)
    for name in ("policy_collinearity", "policy_probe_r2"):
        np.testing.assert_array_equal(metrics[name], 0, err_msg=name)
    np.testing.assert_array_equal(metrics["policy_participation_ratio"], 1)
    np.testing.assert_array_equal(metrics["policy_dead_neurons"], 16)
    np.testing.assert_array_equal(metrics["policy_rank"], 1)
    np.testing.assert_array_equal(metrics["policy_feature_cosine"], 0)


def test_a_diagnosis_leaves_a_program_in_few_arrays(inputs: dict[str, Any]) -> None:
    """XLA compiles a kernel for each output: as many arrays as metrics took longer to compile than all the rest."""
    metrics = metrics_of_runs(inputs, "relu", False)
    assert len(jax.tree.leaves(metrics)) == 1 + 4  # all scalars, and four spectra
    assert len(set(metrics.names)) == len(metrics.names) == metrics.scalars.shape[-1]


def test_no_gradient_flows_through_a_diagnosis() -> None:
    """All singular values coincide here: the derivative of an SVD would be NaN."""
    inputs = healthy_inputs()
    single = jax.tree.map(lambda x: x[0], inputs)

    def loss(features: jax.Array) -> jax.Array:
        output = Representation(features=features, preactivations=(features,))
        every = {f"{net}_{time}": output for net in ("policy", "critic") for time in ("before", "after")}
        metrics = Metrics.of(diagnose_one(single | every))
        return features.sum() + metrics.scalars.sum() + metrics.spectra["policy_singular_values"].sum()

    gradient = jax.jit(jax.grad(loss))(jnp.eye(SAMPLES, 16))
    np.testing.assert_array_equal(gradient, 1)


def test_a_library_call_takes_one_matrix_on_a_cpu_and_all_on_a_gpu(
    inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several LAPACK calls on batches in one program can deadlock XLA's CPU runtime; jaxlib loops over QRs and SVDs."""
    on_cpu = {"lapack_sgeqrf_ffi", "lapack_sorgqr_ffi", "lapack_sgesdd_ffi", "lapack_dpotrf_ffi"}
    for platform, kinds, num_matrices in (
        ("cpu", on_cpu, 1),
        ("cuda", {"cusolver_syevd_ffi", "cusolver_potrf_ffi"}, 2 * 2 * RUNS),
    ):
        monkeypatch.setattr(blas, "is_cpu", lambda platform=platform: platform == "cpu")
        text = (
            jax.jit(jax.vmap(lambda x: diagnose_one(x))).trace(inputs).lower(lowering_platforms=(platform,)).as_text()
        )
        calls = re.findall(r"custom_call @((?:lapack|cu)\w+)\(.* : \(tensor<([0-9x]+)xf", text)
        assert {name for name, _ in calls if "trsm" not in name} == kinds
        for _, shape in calls:
            assert np.prod([int(size) for size in shape.split("x")[:-2]]) == num_matrices, calls


def test_representations_side_by_side_have_the_metrics_of_one_after_the_other(
    inputs: dict[str, Any], metrics: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "is_cpu", lambda: False)
    found = jax.jit(jax.vmap(lambda x: diagnose_one(x)))(inputs)
    for name, value in found.items():
        np.testing.assert_allclose(value, metrics[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_moving_statistics_do_to_the_policy_is_told_apart_from_what_the_update_does() -> None:
    """KL and drift from the updated networks to the same with the next statistics, by hand; all else stays."""
    config = TrainConfig(
        num_envs=4, num_steps=16, minibatch_size=32, hidden_sizes=(8,), normalize_observations="running"
    )
    learner, hparams = make_learner(config), HyperParams()
    before = init_run(learner, jax.random.key(0))
    _, rollout = collect(learner, before, jax.random.key(1))
    batch = prepare_batch(learner, hparams, before, rollout)
    after = replace(before, params=jax.tree.map(lambda x: 1.1 * x, before.params), update=before.update + 1)
    assert before.observation_statistics is not None
    next_statistics = learner.updated_statistics(before.observation_statistics, batch.obs)
    diagnosed = jax.jit(lambda after: diagnose_update(learner, hparams, before, after, batch))
    moved, unmoved = diagnosed(replace(after, observation_statistics=next_statistics)), diagnosed(after)
    obs = np.asarray(batch.obs)
    outputs = [
        jax.tree.map(np.float64, learner.networks.policy(after.params, jnp.asarray(x, jnp.float32)))
        for x in (
            np.clip(obs / np.sqrt(1 + 1e-8), -10, 10),
            np.clip(
                (obs - np.asarray(next_statistics.mean)) / np.sqrt(np.asarray(next_statistics.var) + 1e-8), -10, 10
            ),
        )
    ]
    log_p, log_q = (x.outputs - np.log(np.exp(x.outputs).sum(axis=1, keepdims=True)) for x in outputs)
    expected = {
        "statistics_kl": (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean(),
        "statistics_drift": np.square(outputs[1].preactivations[-1] - outputs[0].preactivations[-1]).mean(),
    }
    for name, value in expected.items():
        assert value > 1e-4
        np.testing.assert_allclose(moved[name], value, rtol=1e-3, err_msg=name)
        np.testing.assert_allclose(unmoved[name], 0, atol=1e-6, err_msg=name)
    assert set(moved) == set(unmoved) == {*DIAGNOSED, *OF_UPDATE, *expected}
    for name in (*DIAGNOSED, *OF_UPDATE):
        np.testing.assert_array_equal(moved[name], unmoved[name], err_msg=name)
    for kind in ("off", "fixed"):
        other = make_learner(replace(config, normalize_observations=kind))
        state = init_run(other, jax.random.key(0))
        names = jax.eval_shape(
            lambda after, learner=other: diagnose_update(learner, hparams, after, after, batch), state
        )
        assert set(names) == {*DIAGNOSED, *OF_UPDATE}


@pytest.mark.parametrize(("units", "runs"), [(128, 32), (512, 20)])
def test_an_accelerator_diagnoses_a_gibibyte_at_a_time_and_at_least_twenty_runs(units: int, runs: int) -> None:
    """8,192 samples of two networks with one hidden layer: features and pre-activations, before and after."""
    config = TrainConfig(num_envs=64, num_steps=128, minibatch_size=2048, hidden_sizes=(units,))
    assert diagnosed_together(make_learner(config)) == runs
    assert 4 * runs >= 64  # matrices of one kind in a library call, with which it counts as parallel
