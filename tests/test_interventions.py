"""Interventions: each against its formula, its effect in the whole program, and every combination of one of them."""

import dataclasses
from typing import Any

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from test_update import make_batch, make_learner, make_state, minibatch_loss, minibatch_update, update

import purejaxppo as pjp
from purejaxppo.errors import ConfigError
from purejaxppo.fields import field_names
from purejaxppo.hyperparams import HyperParams
from purejaxppo.interventions import INTERVENTIONS, Fields
from purejaxppo.networks import ACTIVATIONS, NetworkOutput
from purejaxppo.ppo import losses
from purejaxppo.ppo.interventions import kl_control, penalties, proximity
from purejaxppo.ppo.interventions.objectives import policy_loss
from purejaxppo.ppo.start import init_memory
from purejaxppo.ppo.state import Learner, RunState
from purejaxppo.ppo.state import make_learner as make_whole_learner
from purejaxppo.results.registry import METRICS
from purejaxppo.training.train import make_trainer

EPS = 0.2
KEY = jax.random.key(0)
examples = settings(deadline=None, max_examples=25, derandomize=True)

# Of the package's table every one that has a switch (a shared trunk and PFO are everywhere below), and further values.
SWITCHES: dict[str, Fields] = {
    "_".join(name if value is True else str(value) for name, value in x.on.items()): {**x.on, **x.needs}
    for x in INTERVENTIONS
    if x.on.keys() <= set(field_names(pjp.TrainConfig)) and x.fields[0] != "share_trunk"
} | {
    "unclipped": {"policy_objective": "unclipped"},
    "pfo_features": {"pfo_features": "features"},
    "pfo_all_features": {"pfo_features": "features", "pfo_layers": "all", "pfo_distance": "cosine"},
    "pfo_clip": {"pfo_mode": "clip"},
    "pfo_clip_all": {"pfo_mode": "clip", "pfo_layers": "all", "pfo_distance": "cosine"},
    "pfo_auto": {"pfo_auto": True},
    "ppo_kl_with_stop": {"kl_penalty": True, "kl_stop": True, "policy_objective": "unclipped"},
}
EVERYTHING: dict[str, Any] = {name: value for fields in SWITCHES.values() for name, value in fields.items()}
EVERYTHING |= {"rms_norm": False, "adam_rel": False, "optimizer": "adam", "residual": False}  # which exclude others
EVERYTHING |= {"crelu": False, "shrink_and_perturb": "soft"}
# CHAIN goes with no clip of PFO.
SWITCHES["chain"] = {
    "pfo_reference": "previous", "pfo_states": "other", "pfo_features": "outputs", "pfo_auto": True, "kl_stop": True,
}  # fmt: skip
del SWITCHES["pfo_auto"]
FLOATS = (
    *("pfo_limit", "kl_coef", "kl_target", "kl_increment", "kl_decrement", "kl_stop_limit"),
    *("weight_spectral_coef", "feature_spectral_coef", "critic_feature_spectral_coef"),
    *("l2_init_coef", "parseval_coef", "parseval_scale", "weight_decay_rate", "perturbation", "weight_clip_scale"),
)


def samples(*shape: int, low: float = -3.0, high: float = 3.0) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(np.float64, shape, elements=st.floats(low, high, allow_subnormal=False))


def random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def prepare(**fields: Any) -> tuple[Learner, RunState]:
    """A tiny learner of test_update, and its state with what the interventions keep."""
    learner = make_learner(**fields)
    state = make_state(learner)
    control = kl_control.init_kl_control(learner)
    vectors = penalties.init_power_iteration(learner, state.params)
    memory = init_memory(learner, state.params)
    return learner, state.replace(kl_control=control, power_vectors=vectors, memory=memory)


# --- What the policy maximises


@examples
@given(log_ratio=samples(16, low=-1.0, high=1.0), advantage=samples(16))
def test_spo_value_and_gradient(log_ratio: np.ndarray, advantage: np.ndarray) -> None:
    """d/d log r = r A - |A| (r - 1) r / eps."""
    ratio = np.exp(log_ratio)
    with jax.enable_x64(True):

        def total(x: jax.Array) -> jax.Array:
            return losses.spo_surrogate(jnp.exp(x), jnp.asarray(advantage), EPS).sum()

        value, gradient = jax.value_and_grad(total)(jnp.asarray(log_ratio))
    expected = ratio * advantage - np.abs(advantage) * (ratio - 1) ** 2 / (2 * EPS)
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-9, atol=1e-9)
    slope = ratio * advantage - np.abs(advantage) * (ratio - 1) * ratio / EPS
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("advantage", [-2.0, 2.0])
def test_spo_is_largest_at_the_edge_of_the_clip_range(advantage: float) -> None:
    ratio = jnp.linspace(0.5, 1.5, 1001)
    values = losses.spo_surrogate(ratio, jnp.full(1001, advantage), EPS)
    np.testing.assert_allclose(ratio[jnp.argmax(values)], 1 + EPS * np.sign(advantage), atol=1e-3)


def test_spo_of_a_ratio_beyond_float32_is_finite() -> None:
    def loss(log_prob: jax.Array) -> jax.Array:
        ratio = losses.probability_ratio(log_prob, jnp.zeros(3))
        return -losses.spo_surrogate(ratio, jnp.array([1.0, -1.0, 0.0]), EPS).mean()

    value, gradient = jax.value_and_grad(loss)(jnp.full(3, 100.0))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@examples
@given(log_ratio=samples(16, low=-1.0, high=1.0), advantage=samples(16))
def test_the_unclipped_objective_is_the_ratio_times_the_advantage(log_ratio: np.ndarray, advantage: np.ndarray) -> None:
    with jax.enable_x64(True):
        found = losses.unclipped_surrogate(jnp.exp(jnp.asarray(log_ratio)), jnp.asarray(advantage), EPS)
    np.testing.assert_allclose(found, np.exp(log_ratio) * advantage, rtol=1e-9)


@pytest.mark.parametrize("objective", ["clip", "spo", "unclipped"])
def test_the_loss_is_minus_the_mean_of_the_chosen_objective(objective: str) -> None:
    learner, state = prepare(policy_objective=objective)
    batch = make_batch(learner, state)
    log_prob = batch.log_prob + 0.5 * random(3, 8).astype(jnp.float32)
    found = policy_loss(learner, HyperParams(), state, log_prob, batch.policy_phi, batch)
    ratio = np.exp(np.float64(log_prob) - np.float64(batch.log_prob))
    advantage = np.float64(batch.advantage)
    advantage = (advantage - advantage.mean()) / advantage.std()
    expected = {
        "clip": np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage),
        "spo": ratio * advantage - np.abs(advantage) * (ratio - 1) ** 2 / 0.4,
        "unclipped": ratio * advantage,
    }[objective]
    np.testing.assert_allclose(found, -expected.mean(), rtol=1e-4)


# --- PFO


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize("features", ["preactivations", "features"])
def test_pfo_compares_the_layers_and_the_side_of_the_activation_that_are_asked_for(layers: str, features: str) -> None:
    z = (random(0, 5, 3), random(1, 5, 2))
    output = NetworkOutput(outputs=z[0], features=jnp.tanh(z[1]), preactivations=z)
    learner, state = prepare(activation="tanh", pfo_layers=layers, pfo_features=features)
    chosen = np.concatenate(z if layers == "all" else z[1:], axis=-1)
    expected = np.tanh(chosen) if features == "features" else chosen
    np.testing.assert_allclose(proximity.pfo_representation(learner, state, output), expected, rtol=1e-5)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_pfo_clip_takes_the_policy_gradient_from_samples_beyond_the_limit_and_nothing_else(distance: str) -> None:
    learner, state = prepare(pfo_mode="clip", pfo_distance=distance)
    batch = make_batch(learner, state)
    phi = batch.policy_phi + jnp.linspace(0.0, 3.0, 8)[:, None] * random(2, *batch.policy_phi.shape).astype(jnp.float32)
    a, b = np.float64(phi), np.float64(batch.policy_phi)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    change = ((a - b) ** 2).mean(-1) if distance == "l2" else 1 - cosine
    limit = np.sort(change)[3:5].mean()

    def value_and_gradient(mode: str) -> tuple[jax.Array, jax.Array]:
        with_mode = dataclasses.replace(learner, config=dataclasses.replace(learner.config, pfo_mode=mode))
        hparams = HyperParams(pfo_limit=float(limit))
        return jax.value_and_grad(
            lambda log_prob: policy_loss(with_mode, hparams, state, log_prob, phi, batch)
        )(batch.log_prob)  # fmt: skip

    (value, gradient), (plain_value, plain_gradient) = value_and_gradient("clip"), value_and_gradient("penalty")
    np.testing.assert_array_equal(value, plain_value)
    assert (plain_gradient != 0).all()
    np.testing.assert_array_equal(gradient, np.where(change <= limit, plain_gradient, 0))


def test_pfo_clip_does_not_use_the_coefficient_and_leaves_the_critics_alone() -> None:
    learner, state = prepare(pfo_mode="clip")
    batch = make_batch(learner, state)
    batch = batch.replace(policy_phi=batch.policy_phi + 1, critic_phi=batch.critic_phi + 1)

    def total(**floats: float) -> float:
        return float(minibatch_loss(state.params, learner, HyperParams(**floats), state, batch, KEY)[0])

    assert total(pfo_coef=5.0) == total()
    np.testing.assert_allclose(total(critic_pfo_coef=5.0) - total(), 5.0, rtol=1e-5)


# --- The KL penalty and the early stop


def test_the_kl_penalty_adds_its_coefficient_times_the_mean_kl_and_its_gradient() -> None:
    on, state = prepare(kl_penalty=True)
    off, _ = prepare()
    batch = make_batch(on, state)
    batch = batch.replace(policy_outputs=batch.policy_outputs + 0.3 * random(9, *batch.policy_outputs.shape))
    batch = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, batch)
    state = state.replace(kl_control=state.kl_control.replace(factor=jnp.float32(2.0)))

    def kl(params: Any) -> jax.Array:
        outputs = on.networks.policy(params, batch.obs).outputs
        old, new = jax.nn.log_softmax(batch.policy_outputs), jax.nn.log_softmax(outputs)
        return (jnp.exp(old) * (old - new)).sum(-1).mean()

    def loss(learner: Learner) -> Any:
        return jax.value_and_grad(
            lambda params: minibatch_loss(params, learner, HyperParams(kl_coef=1.5), state, batch, KEY)[0]
        )(state.params)  # fmt: skip

    (value, gradient), (plain, plain_gradient) = loss(on), loss(off)
    np.testing.assert_allclose(value - plain, 3.0 * kl(state.params), rtol=1e-4)
    expected = jax.tree.map(lambda x, y: x + 3.0 * y, plain_gradient, jax.grad(kl)(state.params))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), gradient, expected)


@pytest.mark.parametrize(("last_epoch", "change"), [(0.16, 3.0), (0.14, 1.0), (0.07, 1.0), (0.06, 0.25), (0.0, 0.25)])
def test_the_coefficient_follows_the_mean_kl_of_the_last_epoch(last_epoch: float, change: float) -> None:
    """Target 0.1: up beyond 0.15, down below 0.0667."""
    learner, state = prepare(kl_penalty=True)
    hparams = HyperParams(kl_coef=0.5, kl_target=0.1, kl_increment=3.0, kl_decrement=0.25)
    kl = jnp.array([0.5 * last_epoch, 1.5 * last_epoch])
    state = state.replace(kl_control=state.kl_control.replace(factor=jnp.float32(4.0)))
    after, metrics = kl_control.finish_rollout(learner, hparams, state, kl, 4)
    np.testing.assert_allclose(metrics["kl_coef"], 2.0)
    np.testing.assert_allclose(after.factor, 4.0 * change, rtol=1e-6)


@pytest.mark.parametrize("kl", [0.0, 1e9])
def test_the_coefficient_neither_vanishes_nor_overflows(kl: float) -> None:
    learner, state = prepare(kl_penalty=True)
    for _ in range(200):
        control, _ = kl_control.finish_rollout(learner, HyperParams(), state, jnp.full(1, kl), 1)
        state = state.replace(kl_control=control)
    np.testing.assert_allclose(state.kl_control.factor, 1e10 if kl else 1e-10)


def test_the_early_stop_keeps_what_is_there_after_the_first_minibatch_beyond_the_limit() -> None:
    """By hand, minibatch by minibatch: the steps up to and with that one, then none, of any network or moment."""
    learner, state = prepare(kl_stop=True, minibatch_size=8, num_epochs=12)
    plain, _ = prepare(minibatch_size=8, num_epochs=12)
    batch = make_batch(learner, state)
    hparams = HyperParams(learning_rate=1e-2, entropy_coef=0.0, kl_stop_limit=0.02)
    params, opt_state = state.params, state.optimizer
    num_done = 0
    for _ in range(12):  # one minibatch is the whole batch: the order of its samples is all that a shuffle changes
        carried = state.replace(params=params, optimizer=opt_state, kl_control=None)
        outputs = plain.networks.policy(params, batch.obs).outputs
        kl = plain.distribution.kl(batch.policy_outputs, outputs).mean()
        after, _ = minibatch_update(plain, hparams, jnp.float32(1e-2), carried, batch, KEY)
        params, opt_state, num_done = after.params, after.optimizer, num_done + 1
        if kl > 0.02:
            break
    assert 2 <= num_done <= 10
    found, metrics = update(learner, hparams, state, batch)
    np.testing.assert_allclose(metrics["minibatches_done_fraction"], num_done / 12, rtol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), found.params, params)
    assert all(int(optimizer.count) == num_done for optimizer in found.optimizer.values())
    assert metrics["policy_step_norm"] == 0
    assert metrics["critic_step_norm"] == 0
    assert metrics["policy_step_norm_first_epoch_first"] > 0
    again, metrics = update(learner, hparams, found, make_batch(learner, found))
    assert metrics["minibatches_done_fraction"] > 0  # a new rollout begins anew
    assert all(int(optimizer.count) > num_done for optimizer in again.optimizer.values())


def test_a_stop_lasts_to_the_end_of_the_rollout_even_if_a_later_minibatch_is_within_the_limit() -> None:
    """The step of the one beyond it is made, and counts."""
    (learner, state), hparams, found = prepare(kl_stop=True), HyperParams(kl_stop_limit=0.02), []
    for kl in (0.02, 0.03, 0.0):
        control = kl_control.watch_minibatch(learner, hparams, state, jnp.float32(kl))
        state = state.replace(kl_control=control)
        found.append((bool(control.is_stopped), int(control.steps_done)))
    assert found == [(False, 1), (True, 2), (True, 2)]
    control = kl_control.start_rollout(control)
    assert not control.is_stopped
    assert control.steps_done == 0


def test_the_first_epoch_does_not_count_for_the_coefficient() -> None:
    """At the first minibatch the policy is the old one, which lowers the coefficient; the last epoch raises it."""
    learner, state = prepare(kl_penalty=True, minibatch_size=8, num_epochs=8)
    hparams = HyperParams(learning_rate=1e-1, kl_coef=0.0, kl_target=1e-4, kl_increment=3.0, kl_decrement=0.25)
    for num_epochs, factor in ((1, 0.25), (8, 3.0)):
        found, _ = update(learner, hparams, state, make_batch(learner, state), num_epochs=num_epochs)
        np.testing.assert_allclose(found.kl_control.factor, factor)


# --- Adam


def test_a_reset_optimizer_starts_every_phase_as_a_fresh_one_does() -> None:
    learner, state = prepare(reset_optimizer=True)
    plain, _ = prepare()
    batch = make_batch(learner, state)
    used, _ = update(plain, HyperParams(), state, batch)
    kept, _ = update(plain, HyperParams(), used, batch)
    reset, _ = update(learner, HyperParams(), used, batch)
    by_hand, _ = update(plain, HyperParams(), used.replace(optimizer=state.optimizer), batch)
    for found, expected in ((reset.params, by_hand.params), (reset.optimizer, by_hand.optimizer)):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert int(reset.optimizer["policy"].count) == 20 * 2
    assert any(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x != y).any()), reset.params, kept.params)))


# --- Spectra


@examples
@given(features=samples(7, 4))
def test_spectral_concentration_is_that_of_the_singular_values(features: np.ndarray) -> None:
    """Gradient 4 F (F^T F / |F|^4 - c I / |F|^2), for c the concentration."""
    assume(np.abs(features).max() > 1e-3)
    sigma = np.linalg.svd(features, compute_uv=False)
    expected = (sigma**4).sum() / (sigma**2).sum() ** 2
    for matrix in (features, features.T):  # more samples than dimensions, and fewer
        with jax.enable_x64(True):
            value, gradient = jax.value_and_grad(penalties.spectral_concentration)(jnp.asarray(matrix))
        np.testing.assert_allclose(value, expected, rtol=1e-9)
        squares = (sigma**2).sum()
        slope = 4 * (matrix @ matrix.T @ matrix / squares**2 - expected * matrix / squares)
        np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-9 / np.sqrt(squares))


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e15])
def test_spectral_concentration_at_its_ends_and_at_every_scale(scale: float) -> None:
    def concentration(matrix: np.ndarray) -> tuple[jax.Array, jax.Array]:
        return jax.value_and_grad(penalties.spectral_concentration)(jnp.asarray(scale * matrix, jnp.float32))

    np.testing.assert_allclose(concentration(np.eye(8, 4))[0], 1 / 4, rtol=1e-5)
    np.testing.assert_allclose(concentration(np.outer(np.arange(8), [1, -2, 3]))[0], 1.0, rtol=1e-5)
    value, gradient = concentration(np.zeros((8, 4)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0.0)


def test_weight_spectral_value_and_gradient_against_the_svd() -> None:
    """sum over all kernels of (sigma_1 - 1)^2, whose gradient is 2 (sigma_1 - 1) u v^T; biases have none."""
    _, state = prepare(weight_spectral=True)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(np.float64(x)), state.params)
        vectors = jax.tree.map(lambda x: jnp.asarray(np.float64(x)), state.power_vectors)
        for _ in range(400):
            vectors = penalties.iterate_power(params, vectors)
        value, gradient = jax.value_and_grad(penalties.weight_spectral)(params, vectors)
    expected, names = 0.0, 0
    for network, layers in params.items():
        for layer, weights in layers.items():
            u, sigma, vh = np.linalg.svd(np.asarray(weights["kernel"]), full_matrices=False)
            expected, names = expected + (sigma[0] - 1) ** 2, names + 1
            slope = 2 * (sigma[0] - 1) * np.outer(u[:, 0], vh[0])
            np.testing.assert_allclose(gradient[network][layer]["kernel"], slope, rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(gradient[network][layer]["bias"], 0.0)
    assert names == len(vectors) == 6
    np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_the_reported_weight_spectral_loss_is_that_of_the_step_after_its_power_iteration() -> None:
    """Of the first minibatch ever, whose vectors were random ones before it."""
    learner, state = prepare(weight_spectral=True, minibatch_size=8, num_epochs=2)
    _, metrics = update(learner, FAST, state, make_batch(learner, state))
    vectors = penalties.iterate_power(state.params, state.power_vectors)
    expected = penalties.weight_spectral(state.params, vectors)
    assert abs(expected / penalties.weight_spectral(state.params, state.power_vectors) - 1) > 0.05
    np.testing.assert_allclose(metrics["weight_spectral_loss_first_epoch_first"], expected, rtol=1e-5)


def test_a_matrix_of_zeros_keeps_its_vector_and_has_a_finite_gradient() -> None:
    params, vectors = {"policy": {"head": {"kernel": jnp.zeros((3, 2))}}}, {"policy_head_kernel": jnp.array([0.6, 0.8])}
    jax.tree.map(np.testing.assert_array_equal, penalties.iterate_power(params, vectors), vectors)
    value, gradient = jax.value_and_grad(penalties.weight_spectral)(params, vectors)
    np.testing.assert_allclose(value, 1.0)
    np.testing.assert_array_equal(gradient["policy"]["head"]["kernel"], 0.0)


def test_the_spectral_penalties_enter_the_loss_with_their_coefficients() -> None:
    learner, state = prepare(weight_spectral=True, feature_spectral=True)
    plain, _ = prepare()
    batch = make_batch(learner, state)
    hparams = HyperParams(weight_spectral_coef=0.3, feature_spectral_coef=0.7, critic_feature_spectral_coef=0.2)
    total, (terms, _) = minibatch_loss(state.params, learner, hparams, state, batch, KEY)
    without, _ = minibatch_loss(state.params, plain, hparams, state, batch, KEY)
    policy, critic = learner.networks.both(state.params, batch.obs)
    for name, features in (("feature", policy.features), ("critic_feature", critic.features)):
        expected = penalties.spectral_concentration(features)
        np.testing.assert_allclose(terms[f"{name}_spectral_loss"], expected, rtol=1e-5)
    added = 0.3 * terms["weight_spectral_loss"] + 0.7 * terms["feature_spectral_loss"]
    added += 0.2 * terms["critic_feature_spectral_loss"]
    np.testing.assert_allclose(total - without, added, rtol=1e-3)


# --- LayerNorm


@pytest.mark.parametrize("torso", ["mlp", "minatar_conv"])
@pytest.mark.parametrize("initialization", ["uniform", "orthogonal"])
def test_preactivations_are_normalized_over_the_units_of_a_layer(torso: str, initialization: str) -> None:
    """At the start gain 1, bias 0, so mean 0 and variance 1; all other weights are those without normalisation."""
    fields = {
        "env": "gymnax/Breakout-MinAtar",
        "torso": torso,
        "hidden_sizes": (8, 6),
        "initialization": initialization,
    }
    params = []
    for layer_norm in (True, False):
        learner = make_whole_learner(pjp.TrainConfig(layer_norm=layer_norm, **fields))
        params.append(learner.networks.init(KEY))
    norms = {name for name in params[0]["policy"] if name.endswith("_norm")}
    assert len(norms) == (3 if torso == "minatar_conv" else 2)
    for network in ("policy", "critic"):
        for name, layer in params[1][network].items():
            if initialization == "uniform":
                jax.tree.map(np.testing.assert_array_equal, params[0][network][name], layer)
    learner = make_whole_learner(pjp.TrainConfig(layer_norm=True, **fields))
    obs = jax.random.uniform(KEY, (5, *learner.env.observation_shape))
    for output in learner.networks.both(params[0], obs):
        for z in output.preactivations:
            np.testing.assert_allclose(z.mean(axis=-1), 0.0, atol=1e-5)
            np.testing.assert_allclose(z.var(axis=-1), 1.0, rtol=2e-3)
        np.testing.assert_allclose(output.features, ACTIVATIONS["relu"](output.preactivations[-1]))


# --- The whole program

TINY = pjp.TrainConfig(
    env="gymnax/CartPole-v1", total_steps=512, num_envs=4, num_steps=32, minibatch_size=32, num_epochs=4,
    hidden_sizes=(16, 16), num_log_points=4, diagnostics=False,
)  # fmt: skip
FAST = HyperParams(learning_rate=1e-2)
STILL = [HyperParams(learning_rate=1e-2, entropy_coef=0.0, adam_beta1=0.0)]
"""Adam without momentum stands still where there is no gradient."""


def train(points: list[HyperParams], **fields: Any) -> Any:
    """Some points side by side, all with the same seed: four updates, each one a log point; without point 0."""
    stacked = jax.tree.map(lambda *values: jnp.asarray(values, jnp.float32), *points)
    program = jax.jit(jax.vmap(pjp.make_train(dataclasses.replace(TINY, **fields)), (0, None)))
    result = program(stacked, jax.random.key(0))
    assert not result.state.status.any()
    assert set(result.metrics) <= METRICS.keys()
    return result.replace(metrics=jax.tree.map(lambda x: x[:, 1:], result.metrics))


def sweep(name: str, *values: float, **others: float) -> list[HyperParams]:
    return [dataclasses.replace(FAST, **{name: value}, **others) for value in values]


@pytest.fixture(scope="module")
def plain() -> Any:
    """Plain PPO: as it is, with NaN for every float of an intervention, and without momentum and entropy bonus."""
    strengths = {name for x in INTERVENTIONS for name in x.fields} & set(field_names(HyperParams))
    strengths |= {"value_clip_eps", "critic_learning_rate"}  # of options that are off
    strengths -= {"pfo_coef", "critic_pfo_coef", "adam_beta1", "adam_beta2"}  # read in every program
    assert strengths >= set(FLOATS)
    nothing = dataclasses.replace(FAST, **dict.fromkeys(strengths, float("nan")))
    return train([FAST, nothing, *STILL])


def test_switched_off_interventions_are_not_in_the_program(plain: Any) -> None:
    """Their floats are read nowhere: NaN in all of them changes no bit. Nothing of theirs is kept or reported."""
    for leaf in (*jax.tree.leaves(plain.state.params), plain.metrics.scalars):
        np.testing.assert_array_equal(leaf[0], leaf[1])
    assert plain.state.kl_control is None
    assert plain.state.power_vectors is None
    assert plain.state.memory == {}
    extra = ("kl_coef", "minibatches_done_fraction", "kl_loss", "weight_spectral_loss", "feature_spectral_loss")
    extra += ("l2_init_loss", "parseval_loss")
    assert not set(extra) & set(plain.metrics)


def test_switched_on_they_are_reported_under_the_registrys_names() -> None:
    """All at once: they compose."""
    config = dataclasses.replace(
        TINY, **EVERYTHING, diagnostics=True, plasticity_curve=True, num_evaluation_episodes=1, max_episode_steps=9
    )
    run = pjp.make_train(dataclasses.replace(config, normalize_observations="running"))
    found = set(jax.eval_shape(run, FAST, KEY).metrics)
    assert found == {name for name, metric in METRICS.items() if metric.family != "run"}


def test_every_float_of_an_intervention_matters_once_it_is_on() -> None:
    """Two runs to compare with: in one the KL is above its target in every rollout, in the other below."""
    fields = {**EVERYTHING, "policy_objective": "clip"}
    above = dataclasses.replace(
        FAST, pfo_limit=0.01, kl_stop_limit=0.01, kl_target=1e-6, weight_spectral_coef=0.1, feature_spectral_coef=0.1,
        weight_clip_scale=0.9,
    )  # fmt: skip
    below = dataclasses.replace(above, kl_target=100.0)
    bases = dict.fromkeys(FLOATS, above) | {"kl_decrement": below}
    changes = {name: 1.3 * getattr(base, name) + 0.01 for name, base in bases.items()} | {"kl_target": 100.0}
    points = [dataclasses.replace(base, **{name: changes[name]}) for name, base in bases.items()]
    state = train([above, below, *points], **fields).state
    runs = [np.asarray(x).reshape(len(FLOATS) + 2, -1) for x in jax.tree.leaves((state.params, state.kl_control))]
    weights = np.concatenate(runs, axis=1)
    same = [
        name for number, name in enumerate(FLOATS, 2)
        if (weights[number] == weights[int(name == "kl_decrement")]).all()
    ]  # fmt: skip
    assert same == []


def test_the_early_stop_leaves_the_kl_near_its_limit() -> None:
    """The stop comes after the step that leads beyond the limit; small steps do not lead far.

    A KL penalty with coefficient 0 reports the KL of the last minibatch.
    """
    points = sweep("kl_stop_limit", 1e-3, 4e-3, 1e9, learning_rate=2e-3, kl_coef=0.0)
    metrics = train(points, kl_stop=True, kl_penalty=True, num_epochs=16).metrics
    kl, fraction = metrics["kl_loss"].mean(axis=1), metrics["minibatches_done_fraction"]
    np.testing.assert_array_equal(fraction[2], 1.0)
    assert (fraction[:2].mean(axis=1) < 0.9).all()
    assert fraction[0, 0] <= fraction[1, 0]  # in the first rollout, from the same weights
    assert kl[0] < 2e-3
    assert kl[1] < 8e-3 < kl[2]


def test_an_early_stop_that_never_comes_changes_nothing(plain: Any) -> None:
    stop = train(sweep("kl_stop_limit", 1e9), kl_stop=True).metrics["policy_loss"][0, :2]
    np.testing.assert_allclose(stop, plain.metrics["policy_loss"][0, :2], rtol=1e-3, atol=1e-5)


def test_the_kl_penalty_holds_the_policy_and_its_coefficient_adapts() -> None:
    held = train(sweep("kl_coef", 0.0, 100.0, kl_increment=1.0, kl_decrement=1.0), kl_penalty=True).metrics
    assert (held["kl_loss"][1] < 0.5 * held["kl_loss"][0]).all()
    np.testing.assert_array_equal(held["kl_coef"][1], 100.0)
    result = train(sweep("kl_target", 1e-9, 1e9), kl_penalty=True)
    np.testing.assert_allclose(result.metrics["kl_coef"], [[1, 2, 4, 8], [1, 0.5, 0.25, 0.125]])
    np.testing.assert_allclose(result.state.kl_control.factor, [16, 1 / 16])  # for the next rollout


def test_spo_holds_the_policy_that_the_bare_objective_lets_go() -> None:
    """A KL penalty with coefficient 0 reports the KL of the last minibatch."""
    points = sweep("kl_coef", 0.0)
    spo, bare = (
        train(points, policy_objective=name, kl_penalty=True, num_epochs=8).metrics["kl_loss"].mean()
        for name in ("spo", "unclipped")
    )
    assert spo < 0.5 * bare


@pytest.mark.parametrize("layers", ["last", "all"])
def test_pfo_on_features_holds_the_features(layers: str) -> None:
    metrics = train(sweep("pfo_coef", 0.0, 10.0, 1000.0), pfo_features="features", pfo_layers=layers).metrics
    assert (np.diff(metrics["pfo_loss"].mean(axis=1)) < 0).all()


def test_pfo_clip_holds_the_preactivations_and_with_no_limit_does_nothing(plain: Any) -> None:
    points = [dataclasses.replace(STILL[0], pfo_limit=limit) for limit in (1e-6, 1e9)]
    clipped = train(points, pfo_mode="clip").metrics
    change = clipped["pfo_loss"][:, 0]  # in the first rollout, from the same weights
    assert change[0] < 0.2 * change[1]
    expected = plain.metrics["policy_loss"][2, :2]
    np.testing.assert_allclose(clipped["policy_loss"][1, :2], expected, rtol=1e-3, atol=1e-5)


def spectral_norms(params: Any, run: int) -> np.ndarray:
    kernels = penalties.weight_matrices(jax.tree.map(lambda x: x[run], params)).values()
    return np.array([np.linalg.svd(np.asarray(kernel), compute_uv=False)[0] for kernel in kernels])


@pytest.mark.parametrize("share_trunk", [False, True])
def test_weight_spectral_moves_the_spectral_norms_to_one(share_trunk: bool) -> None:
    """The true ones, by SVD; and the vectors kept in the state give them."""
    fields = {"weight_spectral": True, "share_trunk": share_trunk, "num_epochs": 16}
    result = train(sweep("weight_spectral_coef", 0.0, 10.0), **fields)
    free, held = (spectral_norms(result.state.params, run) for run in (0, 1))
    assert ((held - 1) ** 2).sum() < 0.1 * ((free - 1) ** 2).sum()
    values = jax.vmap(penalties.weight_spectral)(result.state.params, result.state.power_vectors)
    np.testing.assert_allclose(values[0], ((free - 1) ** 2).sum(), rtol=0.02)


def test_feature_spectral_spreads_the_spectrum_of_the_network_it_is_asked_for() -> None:
    points = sweep("feature_spectral_coef", 0.0, 1.0)
    points += sweep("critic_feature_spectral_coef", 10.0, feature_spectral_coef=0.0)
    metrics = train(points, feature_spectral=True).metrics
    policy, critic = (metrics[f"{name}feature_spectral_loss"][:, -1] for name in ("", "critic_"))
    assert policy[1] < 0.8 * min(policy[0], policy[2])
    assert critic[2] < 0.8 * min(critic[0], critic[1])


def test_a_reset_optimizer_has_zero_moments_at_the_start_of_every_phase(plain: Any) -> None:
    """Its count after the run is that of one phase, 4 epochs x 4 minibatches."""
    assert train([FAST], reset_optimizer=True).state.optimizer["policy"].count.tolist() == [16]
    assert plain.state.optimizer["policy"].count[0] == 64


def test_layer_norm_bounds_the_preactivations() -> None:
    """Their norm starts at sqrt(16) = 4 and stays near it, for observations of any size."""
    state = jax.tree.map(lambda x: x[0], train([FAST], layer_norm=True).state)
    networks = make_whole_learner(dataclasses.replace(TINY, layer_norm=True)).networks
    output = networks.policy(state.params, 1e3 * state.obs)
    np.testing.assert_allclose(np.linalg.norm(output.preactivations[-1], axis=-1), 4.0, rtol=0.3)


# --- All combinations of one intervention

ACTIONS = {
    ("discrete", "mlp"): "gymnax/CartPole-v1",
    ("discrete", "minatar_conv"): "gymnax/Breakout-MinAtar",
    ("continuous", "mlp"): "gymnax/Pendulum-v1",
    ("continuous", "minatar_conv"): "gymnax/Pendulum-v1",
}
COMBINATIONS = [
    pytest.param({"env": env, "torso": torso, "share_trunk": is_shared, **fields},
                 id="-".join([name, actions, torso, "shared" if is_shared else "separate"]))
    for name, fields in SWITCHES.items()
    for (actions, torso), env in ACTIONS.items()
    for is_shared in (False, True)
]  # fmt: skip
# Half of them: of every intervention, each two of actions, torso and trunk; the other half with the next intervention.
PAIRS = [
    combination
    for number, combination in enumerate(COMBINATIONS)
    if (number // 8 + number // 4 + number // 2 + number) % 2 == 0
]
SMALLEST = pjp.TrainConfig(
    total_steps=24, num_envs=2, num_steps=4, minibatch_size=4, num_epochs=2, hidden_sizes=(4, 4), num_log_points=1
)


def build(fields: dict[str, Any]) -> Any:
    """The run as a function, or None where it must be, and is, refused in one sentence: a convolution needs images."""
    config = dataclasses.replace(SMALLEST, **fields)
    if config.env == "gymnax/Pendulum-v1" and config.torso == "minatar_conv":
        with pytest.raises(ConfigError, match=r"^torso is 'minatar_conv', but [^.]*; allowed is 'mlp' [^.]*\.$"):
            pjp.make_train(config)
        return None
    return pjp.make_train(config)


def test_pairs_have_every_two_choices_with_every_intervention() -> None:
    chosen = [str(combination.id).rsplit("-", 3) for combination in PAIRS]
    for name in SWITCHES:
        mine = [choices for of, *choices in chosen if of == name]
        assert len(mine) == 4
        assert all(len({(one[i], one[j]) for one in mine}) == 4 for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("fields", PAIRS)
def test_every_pair_of_choices_can_be_traced_or_is_refused(fields: dict[str, Any]) -> None:
    run = build(fields | {"diagnostics": False})
    if run is not None:
        result = jax.eval_shape(run, HyperParams(pfo_coef=1.0, critic_pfo_coef=1.0), KEY)
        assert result.metrics.scalars.shape == (2, len(result.metrics.names))


@pytest.mark.slow
@pytest.mark.parametrize("fields", COMBINATIONS)
def test_every_combination_trains_or_is_refused(fields: dict[str, Any]) -> None:
    fields = fields | {"num_plasticity_points": 0}
    run = build(fields)
    if run is None:
        return
    hparams = HyperParams(pfo_coef=1.0, critic_pfo_coef=1.0)
    config = dataclasses.replace(SMALLEST, **fields)
    assert config.num_updates == 3
    result = jax.jit(run)(hparams, KEY)
    assert result.state.status == 0
    start = jax.jit(make_trainer(config).init)(hparams, KEY).params
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), result.state.params, start)
    assert all(jax.tree.leaves(moved))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
