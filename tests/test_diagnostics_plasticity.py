"""The plasticity loss against a refit written apart with optax, its limits, its task and its cadence."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from purejaxppo.ppo.train import init_run, make_trainer

import purejaxppo as pjp
from purejaxppo.diagnostics import plasticity
from purejaxppo.ppo.state import Learner, PlasticityTask, RunState, make_learner

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
    "continuous": {"env": "gymnax/Pendulum-v1", "activation": "tanh", "normalize_observations": True},
    "continuous, state-independent scale": {"env": "gymnax/Pendulum-v1", "action_distribution": "normal"},
    "images": {"env": "gymnax/Breakout-MinAtar", "torso": "minatar_conv", "hidden_sizes": (16,)},
}
HPARAMS = pjp.HyperParams(learning_rate=1e-3, adam_beta2=0.9, max_grad_norm=0.1)


def prepare(seed: int = 0, **fields: Any) -> tuple[Learner, RunState, PlasticityTask]:
    learner = make_learner(pjp.TrainConfig(**(SMALL | fields)))
    state = jax.jit(lambda key: init_run(learner, key))(jax.random.key(seed))
    assert state.plasticity_task is not None
    return learner, state, state.plasticity_task


def straight_refit(learner: Learner, params: Any, task: PlasticityTask, head: str) -> list[float]:
    """One head fitted step by step, outside of any compiled program, by optax's own Adam and clipping."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(HPARAMS.max_grad_norm),
        optax.adam(HPARAMS.learning_rate, b1=HPARAMS.adam_beta1, b2=HPARAMS.adam_beta2, eps=HPARAMS.adam_eps),
    )
    network = dict(learner.networks.networks)["shared" if "shared" in params else head]
    weights = params["shared" if "shared" in params else head]
    memory, losses = optimizer.init(weights), []

    def loss(weights: Any, obs: Any, target: Any) -> Any:
        output = network.apply({"params": weights}, jnp.asarray(obs, jnp.float32))[head].outputs  # pyright: ignore
        if head == "critic":
            return ((output[:, 0] - target) ** 2).mean()
        if isinstance(learner.env.action_space, pjp.envs.Discrete):
            log_p, log_q = jax.nn.log_softmax(target), jax.nn.log_softmax(output)
            return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()
        (loc_p, scale_p), (loc_q, scale_q) = scales(learner, target), scales(learner, output)
        each = jnp.log(scale_q / scale_p) + (scale_p**2 + (loc_p - loc_q) ** 2) / (2 * scale_q**2) - 0.5
        return each.sum(-1).mean()

    for minibatch in range(len(task.value)):
        target = task.value if head == "critic" else task.policy_outputs
        value, grads = jax.value_and_grad(loss)(weights, task.obs[minibatch], target[minibatch])
        losses.append(float(value))
        updates, memory = optimizer.update(grads, memory)
        weights = optax.apply_updates(weights, updates)
    return losses


def scales(learner: Learner, outputs: Any) -> tuple[Any, Any]:
    loc, raw = jnp.split(outputs, 2, axis=-1)
    if learner.config.action_distribution == "normal":
        return loc, jnp.exp(raw)
    return loc, jax.nn.softplus(raw + np.log(np.expm1(0.99))) + 0.01


@pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS.keys())
def test_equals_a_straight_refit_with_optax(fields: dict[str, Any]) -> None:
    learner, state, task = prepare(**fields)
    fit = jax.jit(
        jax.vmap(
            lambda params: plasticity.plasticity_losses(
                learner, HPARAMS, params, partial(plasticity.minibatch_of, task)
            )
        )
    )
    found = np.asarray(fit(jax.tree.map(lambda x: jnp.stack([x, x]), state.params)))
    assert found.shape == (2, 2 * 512 // 64, 2)
    for column, head in enumerate(plasticity.HEADS):
        expected = straight_refit(learner, state.params, task, head)
        np.testing.assert_allclose(found[0, :, column], expected, rtol=1e-4)
        np.testing.assert_allclose(found[1, :, column], expected, rtol=1e-4)
        assert expected[-1] < expected[0]


def test_a_network_that_is_the_target_has_nothing_to_learn() -> None:
    learner, _, task = prepare()
    key = jax.random.key(5)
    target = learner.networks.init(key)
    obs = task.obs.reshape(-1, *task.obs.shape[2:])
    policy, critic = learner.networks.both(target, obs)
    shape = task.value.shape
    own = PlasticityTask(
        obs=task.obs, policy_outputs=policy.outputs.reshape(*shape, -1), value=critic.outputs.reshape(shape)
    )
    still = dataclasses.replace(HPARAMS, learning_rate=0.0)
    losses = plasticity.plasticity_losses(learner, still, target, partial(plasticity.minibatch_of, own))
    np.testing.assert_allclose(losses, 0, atol=1e-6)


def test_a_network_with_half_of_its_units_dead_fits_worse() -> None:
    """Bias far below zero on half of the units of every hidden layer: they are 0 and have no gradient."""
    learner, _, _ = prepare(env="gymnax/Acrobot-v1", hidden_sizes=(16, 16), num_plasticity_rollouts=8)

    def losses(key: Any) -> Any:
        state = init_run(learner, key)
        dead = {name: dict(network) for name, network in state.params.items()}
        for network in dead.values():
            for layer in ("hidden_0", "hidden_1"):
                bias = network[layer]["bias"]
                network[layer] = network[layer] | {"bias": bias.at[: bias.size // 2].set(-1e3)}
        assert state.plasticity_task is not None
        minibatch = partial(plasticity.minibatch_of, state.plasticity_task)
        return [plasticity.plasticity_losses(learner, HPARAMS, p, minibatch) for p in (state.params, dead)]

    fresh, dead = jax.jit(jax.vmap(losses))(jax.random.split(jax.random.key(1), 16))
    worse = np.asarray(dead)[:, -1] / np.asarray(fresh)[:, -1]
    assert (np.median(worse, axis=0) > 1.3).all(), np.median(worse, axis=0)


def assert_same(task: PlasticityTask, other: Any) -> None:
    """Up to the rounding of different programs."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), task, other)


def test_the_task_is_the_initial_policys_and_never_changes() -> None:
    learner, state, task = prepare()
    assert task.obs.shape == (16, 64, 4)
    fresh = make_learner(dataclasses.replace(learner.config, num_epochs=9, num_plasticity_points=1))
    other = jax.jit(lambda key: init_run(fresh, key))(jax.random.key(0)).plasticity_task
    assert_same(task, other)  # paired: the same in every configuration
    _, _, another = prepare(seed=1)
    assert not np.array_equal(task.obs, another.obs)
    assert not np.array_equal(task.value, another.value)
    result = jax.jit(pjp.make_train(learner.config))(HPARAMS, jax.random.key(0))
    assert_same(task, result.state.plasticity_task)
    assert not np.allclose(learner.networks.both(state.params, task.obs)[1].outputs[..., 0], task.value)


def test_normalised_observations_are_so_by_their_own_statistics() -> None:
    _, _, task = prepare(**SETTINGS["continuous"])
    obs = task.obs.reshape(-1, task.obs.shape[-1])
    np.testing.assert_allclose(obs.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(obs.std(0), 1, atol=1e-2)


def test_measuring_changes_no_training_and_shares_no_key() -> None:
    with_it = pjp.TrainConfig(**SMALL)
    without = dataclasses.replace(with_it, num_plasticity_points=0)
    on, off = (jax.jit(pjp.make_train(config))(HPARAMS, jax.random.key(3)) for config in (with_it, without))
    assert set(on.metrics) - set(off.metrics) == {"policy_plasticity_loss", "critic_plasticity_loss"}
    for name in off.metrics:
        np.testing.assert_array_equal(on.metrics[name], off.metrics[name], err_msg=name)
    with jax.debug_key_reuse(True):
        make_trainer(with_it).init(HPARAMS, jax.random.key(0))


def test_curves_are_kept_on_request() -> None:
    config = pjp.TrainConfig(**SMALL, num_plasticity_points=1, plasticity_curve=True)
    metrics = jax.jit(pjp.make_train(config))(HPARAMS, jax.random.key(0)).metrics
    for head in plasticity.HEADS:
        curve = np.asarray(metrics[f"{head}_plasticity_curve"])
        assert curve.shape == (3, 16)
        assert np.isnan(curve[:2]).all()
        assert np.isfinite(curve[2]).all()
        np.testing.assert_array_equal(curve[:, -1], metrics[f"{head}_plasticity_loss"])


@given(
    num_updates=st.integers(1, 500),
    num_log_points=st.integers(1, 300),
    num_plasticity_points=st.integers(0, 300),
)
def test_measurements_are_evenly_spaced(num_updates: int, num_log_points: int, num_plasticity_points: int) -> None:
    config = pjp.TrainConfig(
        total_steps=1024 * num_updates, num_log_points=num_log_points, num_plasticity_points=num_plasticity_points
    )
    due = [log for log in range(config.num_logs) if config.is_plasticity_point(log)]
    assert len(due) == min(num_plasticity_points, config.num_logs)
    if due:
        gaps = np.diff([-1, *due])
        assert due[-1] == config.num_logs - 1
        assert gaps.max() - gaps.min() <= 1
    assert not any(dataclasses.replace(config, diagnostics=False).is_plasticity_point(log) for log in due)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_plasticity_points": -1}, "num_plasticity_points is -1, but must be at least 0"),
        ({"num_plasticity_rollouts": 0}, "num_plasticity_rollouts is 0, but must be at least 1"),
        ({"num_plasticity_rollouts": 2**30}, "num_plasticity_rollouts x num_envs x num_steps is"),
    ],
)
def test_bad_input(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(pjp.ConfigError, match=message):
        pjp.make_train(pjp.TrainConfig(**fields))
