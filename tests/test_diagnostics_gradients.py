"""Diagnostics of gradients and of how far weights moved: against NumPy in float64, sample by sample, unit by unit."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles as slow
import pytest

import purejaxppo as pjp
from purejaxppo import own
from purejaxppo.diagnostics import ntk
from purejaxppo.diagnostics.neurons import always_active_neurons
from purejaxppo.hyperparams import HyperParams
from purejaxppo.ppo.state import Learner, RunState
from purejaxppo.ppo.state import make_learner as make_whole_learner
from purejaxppo.training.diagnosis import feature_gradients, weight_change
from purejaxppo.training.train import make_trainer

KEY = jax.random.key(0)


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_always_active_units_are_positive_on_every_sample() -> None:
    z = np.abs(random(0, 2, 50, 6)) + 0.1
    z[0, 7, 2], z[1, 3, 0], z[1, 4, 5] = -0.1, 0.0, -9.0  # one negative sample, one at 0, one negative
    np.testing.assert_array_equal(jax.jit(always_active_neurons)(z), [5, 4])
    assert always_active_neurons(jnp.full((4, 3), jnp.nan)) == 0


def test_how_far_weights_moved_is_the_norm_over_all_layers_of_a_network() -> None:
    before = {"policy": {"a": {"kernel": random(0, 3, 2), "bias": random(1, 2)}}, "critic": {"a": random(2, 4)}}
    after = jax.tree.map(lambda x: x + random(x.size, *x.shape), before)
    found = weight_change(before, after)
    for name in ("policy", "critic"):
        pairs = zip(*(jax.tree.leaves(tree[name]) for tree in (before, after)), strict=True)
        square = sum(((np.float64(y) - np.float64(x)) ** 2).sum() for x, y in pairs)
        np.testing.assert_allclose(found[f"{name}_weight_change"], np.sqrt(square), rtol=1e-5)
    shared = weight_change({"shared": before}, {"shared": after})
    assert shared["policy_weight_change"] == shared["critic_weight_change"] > 0


def a_run(**fields: Any) -> tuple[Learner, RunState]:
    config = pjp.TrainConfig(num_envs=2, num_steps=4, minibatch_size=8, hidden_sizes=(6, 5), **fields)
    learner = make_whole_learner(config)
    params = jax.jit(learner.networks.init)(KEY)
    empty = dict.fromkeys(("optimizer", "env_state", "obs", "episodes", "observation_statistics"))
    return learner, RunState(params=params, key=KEY, update=jnp.int32(0), status=jnp.int32(0), **empty)  # pyright: ignore


@partial(jax.jit, static_argnums=0)
def ranks_of(learner: Learner, state: RunState, obs: jax.Array, action: jax.Array) -> dict[str, jax.Array]:
    networks = learner.networks_of(state, learner.both(state, obs))
    return ntk.ranks(networks, networks, SimpleNamespace(obs=obs, action=action))


def hidden(layers: Any, x: np.ndarray) -> list[np.ndarray]:
    """The input x [n, *] and all h [n, D_l] of tanh layers, in float64."""
    hs = [np.float64(x).reshape(len(x), -1)]
    for name in sorted(name for name in layers if name.startswith("hidden_")):
        hs.append(np.tanh(hs[-1] @ np.float64(layers[name]["kernel"]) + np.float64(layers[name]["bias"])))
    return hs


def backward(layers: Any, x: np.ndarray, head: str, slope: np.ndarray) -> np.ndarray:
    """Gradients [n, P] of sample n's output with respect to all parameters, in the order of sorted names; by hand.

    slope [n, K]: what is differentiated, with respect to the head's outputs. Layers of other heads have gradient 0.
    """
    hs, found = hidden(layers, x), jax.tree.map(lambda w: np.zeros((len(x), *w.shape)), dict(layers))
    found[head] = {"bias": slope, "kernel": hs[-1][:, :, None] * slope[:, None, :]}
    delta = slope @ np.float64(layers[head]["kernel"]).T
    for i in range(len(hs) - 1, 0, -1):
        delta = delta * (1 - hs[i] ** 2)
        found[f"hidden_{i - 1}"] = {"bias": delta, "kernel": hs[i - 1][:, :, None] * delta[:, None, :]}
        delta = delta @ np.float64(layers[f"hidden_{i - 1}"]["kernel"]).T
    return np.concatenate([leaf.reshape(len(x), -1) for leaf in jax.tree.leaves(found)], axis=1)


@pytest.mark.parametrize("shared", [False, True])
def test_ntk_ranks_are_those_of_the_gram_matrix_of_gradients_written_by_hand(shared: bool) -> None:
    """d log pi(a) / dy = [b = a] - p_b, by hand; of more states than are looked at."""
    learner, state = a_run(env="gymnax/CartPole-v1", activation="tanh", share_trunk=shared)
    obs, action = random(1, 100, 4), np.arange(100) % 2
    found = ranks_of(learner, state, obs, action)
    places = np.random.default_rng(0).permutation(100)[:64]
    for name in ("policy", "critic"):
        layers, x = state.params["shared" if shared else name], obs[places]
        slope = np.ones((64, 1))
        if name == "policy":
            y = hidden(layers, x)[-1] @ np.float64(layers["policy_head"]["kernel"]) + np.float64(
                layers["policy_head"]["bias"]
            )
            slope = np.eye(2)[action[places]] - np.exp(y) / np.exp(y).sum(1, keepdims=True)
        jacobian = backward(layers, x, f"{name}_head", slope)
        eigenvalues = np.sort(np.linalg.eigvalsh(jacobian @ jacobian.T))[::-1].clip(0)
        rank = 1 + np.argmax(np.cumsum(eigenvalues) >= 0.99 * eigenvalues.sum())
        p = np.sqrt(eigenvalues) / np.sqrt(eigenvalues).sum()
        p = p[p > 0]
        assert 2 < rank < 64
        assert found[f"{name}_ntk_rank"] == rank
        np.testing.assert_allclose(found[f"{name}_ntk_effective_rank"], np.exp(-(p * np.log(p)).sum()), rtol=1e-4)


def test_gradients_are_those_of_each_sample_alone() -> None:
    params, x = {"a": jnp.array([2.0, 3.0]), "b": jnp.float32(5.0)}, jnp.array([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    found = ntk.gradients(lambda p, x: (p["a"] * x).sum() ** 2 + p["b"] * x[0], params, x)
    inner = np.array([8.0, 18.0, 0.0])
    np.testing.assert_allclose(found, np.column_stack([2 * inner[:, None] * x, x[:, 0]]), rtol=1e-6)


def test_collinear_states_have_a_kernel_of_rank_one() -> None:
    learner, state = a_run(env="gymnax/CartPole-v1")
    obs, action = jnp.broadcast_to(jnp.arange(4.0), (32, 4)), jnp.zeros(32, jnp.int32)
    found = ranks_of(learner, state, obs, action)
    for name in ("policy", "critic"):
        assert found[f"{name}_ntk_rank"] == 1
        np.testing.assert_allclose(found[f"{name}_ntk_effective_rank"], 1.0, rtol=1e-2)


def test_ntk_ranks_are_an_option_by_import_path_in_any_kind_of_run() -> None:
    path = "purejaxppo.diagnostics.ntk:ranks"
    names = {name for name, _ in own.find_diagnostic(path).rows}
    assert names == {f"{net}_ntk_{rank}" for net in ("policy", "critic") for rank in ("rank", "effective_rank")}
    for fields in (
        {"env": "gymnax/Pendulum-v1", "action_distribution": "normal", "share_trunk": True},
        {"env": "gymnax/Breakout-MinAtar", "torso": "minatar_conv", "layer_norm": True},
    ):
        small = {"num_envs": 2, "num_steps": 4, "minibatch_size": 8, "hidden_sizes": (6, 5), "num_log_points": 1}
        trainer = make_trainer(pjp.TrainConfig(total_steps=8, diagnostics=(path,), **small, **fields))
        state = jax.eval_shape(trainer.init, HyperParams(), KEY)
        metrics = jax.eval_shape(trainer.segment, HyperParams(), state)[1]
        assert names <= set(metrics)


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_of_features_are_those_through_the_heads(shared: bool) -> None:
    """Of continuous actions with a scale of its own; central differences in float64 of the loss as it is written."""
    learner, state = a_run(
        env="gymnax/Pendulum-v1", activation="tanh", action_distribution="normal", share_trunk=shared,
        advantage_normalization="off",
    )  # fmt: skip
    hparams = HyperParams(entropy_coef=0.02, value_coef=0.7, clip_eps=0.2)
    obs, action, advantage, target = random(1, 8, 3), random(2, 8, 1), random(3, 8), random(4, 8)
    outputs = jax.jit(learner.both)(state, obs)
    log_prob = np.asarray(learner.distribution.log_prob(outputs[0].outputs, action))
    old = log_prob + np.linspace(-0.3, 0.3, 8, dtype=np.float32)
    batch: Any = SimpleNamespace(action=action, log_prob=old, advantage=advantage, value_target=target)
    batch.policy_phi = outputs[0].preactivations[-1]
    found = jax.jit(lambda: feature_gradients(learner, hparams, state, outputs, batch, KEY))()
    layers = {name: state.params.get(name, state.params.get("shared")) for name in ("policy", "critic")}
    features = {name: hidden(layers[name], obs)[-1] for name in layers}

    def loss(policy: np.ndarray, critic: np.ndarray) -> float:
        heads = {}
        for name, h in (("policy", policy), ("critic", critic)):
            head = layers[name][f"{name}_head"]
            heads[name] = h @ np.float64(head["kernel"]) + np.float64(head["bias"])
        log_std = np.float64(layers["policy"]["log_scale"])
        z = (action - heads["policy"]) / np.exp(log_std)
        r = np.exp((-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(1) - old)
        surrogate = np.minimum(r * advantage, np.clip(r, 0.8, 1.2) * advantage).mean()
        return -surrogate + 0.7 * ((heads["critic"][:, 0] - target) ** 2).mean()  # the entropy is of log_std alone

    for name in ("policy", "critic"):
        expected = np.zeros((8, 5))
        for n, d in np.ndindex(8, 5):
            step = np.zeros((8, 5))
            step[n, d] = 1e-5
            moves = [step if shared or other == name else 0 for other in ("policy", "critic")]
            ends = [loss(*(features[o] + s * m for o, m in zip(features, moves, strict=True))) for s in (1, -1)]
            expected[n, d] = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-6)
        assert slow.dormant_neurons(found[name]) <= 5
