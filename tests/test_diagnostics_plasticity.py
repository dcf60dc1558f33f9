"""The plasticity loss against a refit written apart with optax, its limits, its task and its cadence."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

import purejaxppo as pjp
from purejaxppo.envs.wrappers import ObservationStatistics
from purejaxppo.ppo.minibatches import shuffled_indices
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import Learner, RunState, make_learner
from purejaxppo.training import plasticity
from purejaxppo.training.plasticity import PlasticityTask, make_task
from purejaxppo.training.train import make_trainer

SMALL: dict[str, Any] = {
    "total_steps": 3 * 512,
    "num_envs": 4,
    "num_steps": 128,
    "minibatch_size": 64,
    "hidden_sizes": (32, 16),
    "num_plasticity_rollouts": 2,
}
SETTINGS = {
    "discrete": {"env": "gymnax/CartPole-v1"},
    "discrete, shared trunk": {"env": "gymnax/CartPole-v1", "share_trunk": True},
    "continuous": {"env": "gymnax/Pendulum-v1", "activation": "tanh", "normalize_observations": "running"},
    "continuous, fixed statistics, a critic of its own": {
        "env": "gymnax/Pendulum-v1",
        "normalize_observations": "fixed",
        "separate_learning_rates": True,
        "critic_hidden_sizes": (8,),
    },
    "continuous, state-independent scale": {"env": "gymnax/Pendulum-v1", "action_distribution": "normal"},
    "images": {"env": "gymnax/Breakout-MinAtar", "torso": "minatar_conv", "hidden_sizes": (16,)},
}
BESIDE = ("loss", "constant_loss", "fresh_loss", "excess_over_constant", "excess_over_fresh")
HPARAMS = pjp.HyperParams(learning_rate=1e-3, critic_learning_rate=4e-3, adam_beta2=0.9, max_grad_norm=0.1)


def prepare(seed: int = 0, **fields: Any) -> tuple[Learner, RunState, PlasticityTask]:
    """A run at its start and its task; running statistics, which know nothing yet, as after a first rollout."""
    learner = make_learner(pjp.TrainConfig(**(SMALL | fields)))
    key = jax.random.key(seed)
    state, task = jax.jit(lambda key: (init_run(learner, key), make_task(learner, HPARAMS, key)))(key)
    if learner.config.normalize_observations == "running":
        assert state.observation_statistics is not None
        moved = state.observation_statistics.update(task.obs[:100] + 1)
        state = dataclasses.replace(state, observation_statistics=moved)
    return learner, state, task


def normalised(learner: Learner, statistics: ObservationStatistics | None, obs: Any) -> Any:
    """Observations as the networks see them, by hand."""
    obs = np.asarray(obs, np.float32)
    if statistics is None:
        return obs
    mean, var = np.asarray(statistics.mean), np.asarray(statistics.var)
    if learner.config.normalize_observations == "fixed":
        return (obs - mean) / np.maximum(np.sqrt(var), 1e-6)
    return np.clip((obs - mean) / np.sqrt(var + 1e-8), -10, 10)


def order(num_samples: int, num_epochs: int) -> list[np.ndarray]:
    """The task's order, which is shuffled already, and of every further pass its own, the same at every measurement."""
    keys = jax.random.split(jax.random.key(0x706C6173), num_epochs)
    passes = [shuffled_indices(key, num_samples) for key in keys[1:]]
    return [np.arange(num_samples), *map(np.asarray, passes)]


def straight_refit(learner: Learner, state: RunState, task: PlasticityTask, head: str) -> list[float]:
    """One head fitted step by step, outside of any compiled program, by optax's own Adam and clipping."""
    params, config = state.params, learner.config
    is_own = head == "critic" and config.separate_learning_rates
    rate = HPARAMS.critic_learning_rate if is_own else HPARAMS.learning_rate
    optimizer = optax.chain(
        optax.clip_by_global_norm(HPARAMS.max_grad_norm),
        optax.adam(rate, b1=HPARAMS.adam_beta1, b2=HPARAMS.adam_beta2, eps=HPARAMS.adam_eps),
    )
    network = dict(learner.networks.networks)["shared" if "shared" in params else head]
    weights = params["shared" if "shared" in params else head]
    memory, losses = optimizer.init(weights), []

    def loss(weights: Any, obs: Any, target: Any) -> Any:
        output = network.apply({"params": weights}, jnp.asarray(obs))[head].outputs  # pyright: ignore
        if head == "critic":
            return ((output[:, 0] - target) ** 2).mean()
        if isinstance(learner.env.action_space, pjp.envs.Discrete):
            log_p, log_q = jax.nn.log_softmax(target), jax.nn.log_softmax(output)
            return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()
        (loc_p, scale_p), (loc_q, scale_q) = scales(learner, target), scales(learner, output)
        each = jnp.log(scale_q / scale_p) + (scale_p**2 + (loc_p - loc_q) ** 2) / (2 * scale_q**2) - 0.5
        return each.sum(-1).mean()

    obs = normalised(learner, state.observation_statistics, task.obs)
    target = np.asarray(task.value if head == "critic" else task.policy_outputs)
    step = jax.jit(jax.value_and_grad(loss))
    for indices in order(len(obs), config.num_plasticity_epochs):
        for minibatch in indices.reshape(-1, config.minibatch_size):
            value, grads = step(weights, obs[minibatch], target[minibatch])
            losses.append(float(value))
            updates, memory = optimizer.update(grads, memory)
            weights = optax.apply_updates(weights, updates)
    return losses


def scales(learner: Learner, outputs: Any) -> tuple[Any, Any]:
    loc, raw = jnp.split(outputs, 2, axis=-1)
    if learner.config.action_distribution == "normal":
        return loc, jnp.exp(raw)
    return loc, jax.nn.softplus(raw + np.log(np.expm1(0.99))) + 0.01


@pytest.mark.parametrize(
    ("fields", "num_epochs"),
    [*((fields, 1) for fields in SETTINGS.values()), (SETTINGS["discrete"], 3), (SETTINGS["continuous"], 3)],
    ids=[*SETTINGS.keys(), "discrete, 3 epochs", "continuous, 3 epochs"],
)
def test_equals_a_straight_refit_with_optax(fields: dict[str, Any], num_epochs: int) -> None:
    learner, state, task = prepare(**fields, num_plasticity_epochs=num_epochs)
    fit = jax.jit(
        jax.vmap(
            lambda params: plasticity.plasticity_losses(
                learner, HPARAMS, dataclasses.replace(state, params=params), task
            )
        )
    )
    found = np.asarray(fit(jax.tree.map(lambda x: jnp.stack([x, x]), state.params)))
    assert found.shape == (2, num_epochs * 2 * 512 // 64, 2)
    for column, head in enumerate(plasticity.HEADS):
        expected = straight_refit(learner, state, task, head)
        np.testing.assert_allclose(found[0, :, column], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[1, :, column], expected, rtol=1e-4, atol=1e-6)
        assert expected[-1] < expected[0]


def test_passes_go_over_all_samples_in_orders_of_their_own_and_the_same_at_every_measurement() -> None:
    learner = make_learner(pjp.TrainConfig(**SMALL, num_plasticity_epochs=3))
    passes = plasticity._minibatches(learner).reshape(3, -1)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.arange(1024)[None].repeat(3, axis=0))
    np.testing.assert_array_equal(passes, np.stack(order(1024, 3)))
    assert len({x.tobytes() for x in np.asarray(passes)}) == 3


def test_a_network_that_is_the_target_has_nothing_to_learn() -> None:
    learner, state, task = prepare()
    target = dataclasses.replace(state, params=learner.networks.init(jax.random.key(5)))
    policy, critic = learner.both(target, task.obs)
    own = dataclasses.replace(task, policy_outputs=policy.outputs, value=critic.outputs[..., 0])
    still = dataclasses.replace(HPARAMS, learning_rate=0.0)
    losses = plasticity.plasticity_losses(learner, still, target, own)
    np.testing.assert_allclose(losses, 0, atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_of_the_best_constant(name: str) -> None:
    """No other output is better, by an optimiser that starts at a random one and knows nothing of the formula."""
    learner, _, task = prepare(**SETTINGS[name])
    last = task.rows(plasticity._minibatches(learner)[-1])
    np.testing.assert_allclose(task.constant_loss[1], np.var(np.float64(last.value)), rtol=1e-4)

    def loss(outputs: Any) -> Any:
        return learner.distribution.kl(last.policy_outputs, jnp.tile(outputs, (len(last.value), 1))).mean()

    start = np.random.default_rng(0).normal(size=last.policy_outputs.shape[1])
    found = scipy.optimize.minimize(jax.jit(loss), start, jac=jax.jit(jax.grad(loss)), method="L-BFGS-B")
    assert float(task.constant_loss[0]) == pytest.approx(found.fun, rel=1e-2, abs=2e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_metrics_beside_the_loss(name: str) -> None:
    """Fresh networks are the run's own at its start, so at log point 0 nothing is lost."""
    learner, state, task = prepare(**SETTINGS[name])
    trainer = make_trainer(learner.config)
    metrics = jax.jit(trainer.plasticity)(HPARAMS, state, task)
    for i, head in enumerate(plasticity.HEADS):
        loss = float(metrics[f"{head}_plasticity_loss"])
        for of, value in (("constant", task.constant_loss[i]), ("fresh", task.fresh_loss[i])):
            assert float(metrics[f"{head}_plasticity_{of}_loss"]) == float(value)
            assert float(metrics[f"{head}_plasticity_excess_over_{of}"]) == pytest.approx(loss - float(value), abs=1e-6)
        if learner.config.normalize_observations != "running":
            assert loss == pytest.approx(float(task.fresh_loss[i]), rel=1e-3)
    assert all(name in pjp.diagnostics.METRICS for name in metrics)


def test_dead_networks_end_at_the_best_constant() -> None:
    """All units dead: one output for every state, which the bias of the head can still move."""
    learner, state, task = prepare(num_plasticity_rollouts=8)
    dead = {name: dict(network) for name, network in state.params.items()}
    for network in dead.values():
        network["hidden_1"] = network["hidden_1"] | {"bias": network["hidden_1"]["bias"] - 1e3}
    hparams = dataclasses.replace(HPARAMS, learning_rate=2e-2, max_grad_norm=10.0)
    many = dataclasses.replace(learner, config=dataclasses.replace(learner.config, num_plasticity_epochs=20))
    losses = plasticity.plasticity_losses(many, hparams, dataclasses.replace(state, params=dead), task)[-1]
    np.testing.assert_allclose(losses, task.constant_loss, rtol=0.5)


def test_a_network_with_half_of_its_units_dead_fits_worse() -> None:
    """Bias far below zero on half of the units of every hidden layer: they are 0 and have no gradient."""
    learner, _, _ = prepare(env="gymnax/Acrobot-v1", hidden_sizes=(16, 16), num_plasticity_rollouts=8)

    def losses(key: Any) -> Any:
        state, task = init_run(learner, key), make_task(learner, HPARAMS, key)
        dead = {name: dict(network) for name, network in state.params.items()}
        for network in dead.values():
            for layer in ("hidden_0", "hidden_1"):
                bias = network[layer]["bias"]
                network[layer] = network[layer] | {"bias": bias.at[: bias.size // 2].set(-1e3)}
        states = (state, dataclasses.replace(state, params=dead))
        return [plasticity.plasticity_losses(learner, HPARAMS, x, task) for x in states]

    fresh, dead = jax.jit(jax.vmap(losses))(jax.random.split(jax.random.key(1), 16))
    worse = np.asarray(dead)[:, -1] / np.asarray(fresh)[:, -1]
    assert (np.median(worse, axis=0) > 1.3).all(), np.median(worse, axis=0)


def assert_same(task: PlasticityTask, other: Any) -> None:
    """Up to the rounding of different programs."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), task, other)


def test_the_task_is_the_initial_policys_and_never_changes() -> None:
    learner, state, task = prepare()
    assert task.obs.shape == (1024, 4)
    fresh = make_learner(dataclasses.replace(learner.config, num_epochs=9, num_plasticity_points=1))
    other = jax.jit(lambda key: make_task(fresh, HPARAMS, key))(jax.random.key(0))
    assert_same(task, other)  # paired: the same in every configuration
    _, _, another = prepare(seed=1)
    assert not np.array_equal(task.obs, another.obs)
    assert not np.array_equal(task.value, another.value)
    assert "task" not in " ".join(field.name for field in dataclasses.fields(state))  # made from the key, never carried
    assert not np.allclose(learner.networks.both(state.params, task.obs)[1].outputs[..., 0], task.value)


def test_the_task_is_normalised_as_the_initial_networks_are() -> None:
    """Its observations are the environment's own; its targets saw them by the statistics that the networks begin with.

    Running ones know nothing at the start: then by the statistics of these very observations.
    """
    key = jax.random.key(0)
    key_target = jax.random.split(jax.random.split(key, 4)[3], 3)[2]
    every = {}
    for kind in ("off", "fixed", "running"):
        learner, state, task = prepare(env="gymnax/Pendulum-v1", normalize_observations=kind)
        every[kind] = np.asarray(task.obs)
        statistics = state.observation_statistics
        if kind == "running":
            statistics = ObservationStatistics.init((3,)).update(task.obs)
        obs = jnp.asarray(normalised(learner, statistics, task.obs))
        policy, critic = learner.networks.both(learner.networks.init(key_target), obs)
        np.testing.assert_allclose(task.policy_outputs, policy.outputs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(task.value, critic.outputs[..., 0], rtol=1e-4, atol=1e-5)
        if kind == "running":
            np.testing.assert_allclose(np.mean(obs, axis=0), 0, atol=1e-3)
            np.testing.assert_allclose(np.std(obs, axis=0), 1, atol=1e-2)
    # Without statistics nothing but the policy's input differs, and "running" begins as "off" does.
    np.testing.assert_allclose(every["running"], every["off"], rtol=1e-4, atol=1e-4)
    assert not np.allclose(every["fixed"], every["off"])


def test_a_measurement_sees_the_task_by_the_networks_present_statistics() -> None:
    """With running ones that move it answers otherwise; the task stays what it was."""
    learner, state, task = prepare(**SETTINGS["continuous"])
    measure = jax.jit(lambda state: plasticity.plasticity_losses(learner, HPARAMS, state, task))
    assert state.observation_statistics is not None
    moved = dataclasses.replace(
        state, observation_statistics=dataclasses.replace(state.observation_statistics, mean=jnp.array([0.5, 0.5, 2.0]))
    )
    first, later = measure(state)[0], measure(moved)[0]
    assert (np.abs(np.asarray(first / later - 1)) > 1e-2).all()
    for found, own in ((first, state), (later, moved)):
        for column, head in enumerate(plasticity.HEADS):
            np.testing.assert_allclose(found[column], straight_refit(learner, own, task, head)[0], rtol=1e-4, atol=1e-6)


def test_a_frozen_run_has_no_plasticity_loss() -> None:
    learner, state, task = prepare(plasticity_curve=True)
    broken = dataclasses.replace(state, status=jnp.int32(2))
    measure = jax.jit(lambda state: plasticity.measure(learner, HPARAMS, state, task))
    healthy, frozen = measure(state), measure(broken)
    assert set(frozen) == {f"{head}_plasticity_{what}" for head in plasticity.HEADS for what in (*BESIDE, "curve")}
    for name in healthy:
        assert np.isfinite(healthy[name]).all(), name
        assert np.isnan(frozen[name]).all(), name


@pytest.fixture(scope="module")
def kept() -> tuple[pjp.TrainConfig, Any]:
    """A configuration whose curves are kept, and the metrics of its run."""
    config = pjp.TrainConfig(**SMALL, num_plasticity_points=2, plasticity_curve=True)
    return config, jax.jit(pjp.make_train(config))(HPARAMS, jax.random.key(0)).metrics


def test_measuring_changes_no_training(kept: tuple[pjp.TrainConfig, Any]) -> None:
    config, on = kept
    without = dataclasses.replace(config, num_plasticity_points=0)
    off = jax.jit(pjp.make_train(without))(HPARAMS, jax.random.key(0)).metrics
    measured = {f"{head}_plasticity_{what}" for head in plasticity.HEADS for what in (*BESIDE, "curve")}
    assert set(on) - set(off) == measured
    for name in off:
        np.testing.assert_array_equal(on[name], off[name], err_msg=name)


def test_curves_are_kept_on_request_and_the_initial_networks_are_always_measured(
    kept: tuple[pjp.TrainConfig, Any],
) -> None:
    config, metrics = kept
    due = [log for log in range(1 + 3) if config.is_plasticity_point(log)]
    for head in plasticity.HEADS:
        curve = np.asarray(metrics[f"{head}_plasticity_curve"])
        assert curve.shape == (1 + 3, 16)
        assert np.isnan(np.delete(curve, due, axis=0)).all()
        assert np.isfinite(curve[due]).all()
        np.testing.assert_array_equal(curve[:, -1], metrics[f"{head}_plasticity_loss"])
    learner, state, task = prepare()
    initial = plasticity.measure(learner, HPARAMS, state, task)
    assert set(initial) == {f"{head}_plasticity_{what}" for head in plasticity.HEADS for what in BESIDE}
    np.testing.assert_allclose(metrics["policy_plasticity_loss"][0], initial["policy_plasticity_loss"], rtol=1e-4)


@given(
    num_updates=st.integers(1, 500),
    num_log_points=st.integers(1, 300),
    num_plasticity_points=st.integers(0, 300),
)
def test_measurements_are_evenly_spaced(num_updates: int, num_log_points: int, num_plasticity_points: int) -> None:
    config = pjp.TrainConfig(
        total_steps=1024 * num_updates, num_log_points=num_log_points, num_plasticity_points=num_plasticity_points
    )
    due = [log for log in range(1 + config.num_logs) if config.is_plasticity_point(log)]
    assert len(due) == (1 + min(num_plasticity_points, config.num_logs) if num_plasticity_points else 0)
    if due:
        gaps = np.diff(due)
        assert (due[0], due[-1]) == (0, config.num_logs)
        assert gaps.max() - gaps.min() <= 1
    assert not any(dataclasses.replace(config, diagnostics=False).is_plasticity_point(log) for log in due)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_plasticity_points": -1}, "num_plasticity_points is -1, but must be at least 0"),
        ({"num_plasticity_rollouts": 0}, "num_plasticity_rollouts is 0, but must be at least 1"),
        ({"num_plasticity_epochs": 0}, "num_plasticity_epochs is 0, but must be at least 1"),
        ({"num_plasticity_epochs": 2**30}, "num_plasticity_epochs x minibatches of an epoch is"),
        ({"num_plasticity_rollouts": 2**30}, "num_plasticity_rollouts x num_envs x num_steps is"),
    ],
)
def test_bad_input(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(pjp.ConfigError, match=message):
        pjp.make_train(pjp.TrainConfig(**fields))


def test_boolean_observations_are_stored_as_bits_and_come_back() -> None:
    learner, _, task = prepare(**SETTINGS["images"])
    assert task.stored.dtype == np.uint8
    assert task.stored.shape == (1024, 10 * 10 * 4 // 8)
    obs = np.asarray(task.obs)
    assert obs.dtype == bool
    assert obs.shape == (1024, *learner.env.observation_shape)
    assert (obs[..., 0].sum(axis=(1, 2)) == 1).all()  # one paddle in the first channel, whatever happens
    np.testing.assert_array_equal(task.rows(jnp.asarray([5, 3])).obs, obs[[5, 3]])
