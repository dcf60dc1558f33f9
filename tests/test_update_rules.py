"""Rules of the optimisation phase that are easy to miss, against gradients and steps by hand in NumPy, float64.

The network is one tanh layer shared by policy and critic, and a minibatch is the whole rollout: an epoch is one step.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_update import KEY, make_state, minibatch_update, random, update

from purejaxppo.config import TrainConfig
from purejaxppo.distributions import Categorical, Normal, PolicyDistribution, TanhNormal
from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import make_actor_critic
from purejaxppo.ppo import losses
from purejaxppo.ppo.interventions.kl_control import init_kl_control
from purejaxppo.ppo.interventions.objectives import policy_loss
from purejaxppo.ppo.interventions.optimizers import flattened
from purejaxppo.ppo.state import Batch, Learner, RunState
from purejaxppo.ppo.update import gradient_step

Weights = dict[str, Any]
SIZE, OBS, ACTIONS = 8, 3, 5
DISTRIBUTIONS = {"categorical": Categorical(ACTIONS), "normal": Normal((-1.0,) * 2, (1.0,) * 2)}
# A large epsilon, since Adam forgets how a gradient was scaled; a small norm, so that both clips act.
HPARAMS = HyperParams(
    learning_rate=0.02, adam_eps=1e-2, max_grad_norm=0.3, entropy_coef=0.1, value_coef=0.7, clip_eps=0.2
)


def prepare(kind: str, **fields: Any) -> tuple[Learner, RunState, Batch]:
    """A shared tanh network, weights drawn by NumPy, and a batch that is on policy but for the value targets."""
    fields = {"num_envs": 2, "num_steps": 4, "minibatch_size": 8, "hidden_sizes": (6,)} | fields
    config = TrainConfig(activation="tanh", share_trunk=True, **fields).validate()
    distribution = DISTRIBUTIONS[kind]
    is_normal = distribution.state_independent_scale
    networks = make_actor_critic(config, (OBS,), distribution.num_outputs, state_independent_scale=is_normal)
    learner = Learner(config, None, networks, distribution)
    state = make_state(learner)
    state = state.replace(kl_control=init_kl_control(learner))
    obs = random(1, SIZE, OBS)
    policy, critic = networks.both(state.params, obs)
    action = distribution.sample(policy.outputs, KEY)
    batch = Batch(
        obs=obs,
        action=action,
        log_prob=distribution.log_prob(policy.outputs, action),
        policy_outputs=policy.outputs,
        policy_phi=policy.preactivations[-1],
        critic_phi=critic.preactivations[-1],
        advantage=random(2, SIZE),
        value_target=3.0 * random(3, SIZE),
    )
    return learner, state, batch


class ByHand:
    """The same network, batch and optimisers again, in NumPy: `step` makes one gradient step."""

    def __init__(self, state: RunState, batch: Batch, hparams: HyperParams, owners: tuple[tuple[str, ...], ...]):
        """owners: of each Adam the layers that it owns."""
        as_numpy = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)  # noqa: E731
        self.weights, self.hparams, self.owners = as_numpy(state.params["shared"]), hparams, owners
        self.batch = as_numpy({field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)})
        zeros = {layer: jax.tree.map(np.zeros_like, x) for layer, x in self.weights.items()}
        self.moments = [(zeros, zeros) for _ in owners]
        self.count, self.norms, self.kls = 0, [], []

    def step(self) -> None:
        gradient, hparams = self.gradient(), self.hparams
        self.count += 1
        for layers in self.owners:  # in place, one after the other
            norm = math.sqrt(sum((x**2).sum() for name in layers for x in jax.tree.leaves(gradient[name])))
            self.norms.append(norm)
            scale = min(1.0, hparams.max_grad_norm / norm)
            gradient |= {name: jax.tree.map(lambda x, s=scale: s * x, gradient[name]) for name in layers}
        for i, layers in enumerate(self.owners):
            decays = (hparams.adam_beta1, hparams.adam_beta2)
            powers = (gradient, jax.tree.map(np.square, gradient))
            self.moments[i] = tuple(
                {name: jax.tree.map(lambda m, g, b=b: b * m + (1 - b) * g, old[name], new[name]) for name in layers}
                for b, old, new in zip(decays, self.moments[i], powers, strict=True)
            )
            first, second = self.moments[i]
            for name in layers:
                self.weights[name] = jax.tree.map(self.moved, self.weights[name], first[name], second[name])

    def moved(self, weight: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        first = first / (1 - self.hparams.adam_beta1**self.count)
        second = second / (1 - self.hparams.adam_beta2**self.count)
        return weight - self.hparams.learning_rate * first / (np.sqrt(second) + self.hparams.adam_eps)

    def gradient(self) -> Weights:
        """Of PPO-Clip - entropy_coef H + value_coef (V - target)^2, by the chain rule."""
        w, b, hparams = self.weights, self.batch, self.hparams
        hidden = np.tanh(b["obs"] @ w["hidden_0"]["kernel"] + w["hidden_0"]["bias"])
        value = hidden @ w["critic_head"]["kernel"][:, 0] + w["critic_head"]["bias"]
        output = hidden @ w["policy_head"]["kernel"] + w["policy_head"]["bias"]
        is_normal = "log_scale" in w
        log_prob, score, entropy_slope = (self.normal if is_normal else self.categorical)(output)
        advantage = (b["advantage"] - b["advantage"].mean()) / b["advantage"].std()
        ratio, eps = np.exp(log_prob - b["log_prob"]), hparams.clip_eps
        is_free = np.where(advantage > 0, ratio <= 1 + eps, ratio >= 1 - eps)
        slope = -(is_free * ratio * advantage)[:, None] * score / SIZE - hparams.entropy_coef * entropy_slope / SIZE
        value_slope = 2 * hparams.value_coef * (value - b["value_target"]) / SIZE
        gradient: Weights = {"critic_head": layer(hidden, value_slope[:, None])}
        if is_normal:
            slope, gradient["log_scale"] = slope[:, :2], slope[:, 2:].sum(axis=0)
        gradient["policy_head"] = layer(hidden, slope)
        back = slope @ w["policy_head"]["kernel"].T + value_slope[:, None] @ w["critic_head"]["kernel"].T
        return gradient | {"hidden_0": layer(b["obs"], back * (1 - hidden**2))}

    def categorical(self, logits: np.ndarray) -> tuple[np.ndarray, ...]:
        """log p(a) [B], d log p(a) / d logits [B, A], d H / d logits [B, A]."""
        log_p, old = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (logits, self.batch["policy_outputs"]))
        p, action = np.exp(log_p), self.batch["action"].astype(int)
        self.kls.append((np.exp(old) * (old - log_p)).sum(-1).mean())
        entropy = -(p * log_p).sum(-1, keepdims=True)
        return log_p[np.arange(SIZE), action], np.eye(ACTIONS)[action] - p, -p * (log_p + entropy)

    def normal(self, loc: np.ndarray) -> tuple[np.ndarray, ...]:
        """The same for a normal with one log scale per dimension: slopes of loc and log scale side by side."""
        log_scale = np.broadcast_to(self.weights["log_scale"], loc.shape)
        z = (self.batch["action"] - loc) / np.exp(log_scale)
        log_prob = (-(z**2) / 2 - log_scale - np.log(2 * np.pi) / 2).sum(-1)
        score = np.concatenate([z / np.exp(log_scale), z**2 - 1], axis=-1)
        return log_prob, score, np.concatenate([np.zeros_like(loc), np.ones_like(loc)], axis=-1)


def layer(x: np.ndarray, slope: np.ndarray) -> Weights:
    return {"kernel": x.T @ slope, "bias": slope.sum(axis=0)}


def assert_weights(found: RunState, expected: Weights) -> None:
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-6)  # noqa: E731
    jax.tree.map(close, found.params["shared"], expected)


# --- Two optimisers of one trunk


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_two_optimizers_clip_the_trunk_in_place_one_after_the_other_and_both_step_it(kind: str) -> None:
    """After one and after three steps; the scale of a normal that does not depend on the state is the policy's."""
    learner, state, batch = prepare(kind, trunk_optimizers="two")
    scale = ("log_scale",) if kind == "normal" else ()
    owners = (("hidden_0", "policy_head", *scale), ("hidden_0", "critic_head"))
    by_hand = ByHand(state, batch, HPARAMS, owners)
    for num_epochs in (1, 3):
        found, metrics = update(learner, HPARAMS, state, batch, num_epochs=num_epochs)
        while by_hand.count < num_epochs:
            by_hand.step()
        assert_weights(found, by_hand.weights)
        for i, network in enumerate(("policy", "critic")):
            assert found.optimizer[network].count == num_epochs
            np.testing.assert_allclose(metrics[f"{network}_gradient_norm"], by_hand.norms[-2 + i], rtol=1e-5)
    assert min(by_hand.norms) > HPARAMS.max_grad_norm  # so that both clips acted every time


def test_one_optimizer_of_a_shared_trunk_clips_and_steps_once() -> None:
    learner, state, batch = prepare("normal")
    by_hand = ByHand(state, batch, HPARAMS, (("hidden_0", "policy_head", "critic_head", "log_scale"),))
    for _ in range(3):
        by_hand.step()
    found, _ = update(learner, HPARAMS, state, batch, num_epochs=3)
    assert_weights(found, by_hand.weights)
    assert set(found.optimizer) == {"shared"}


# --- The early stop


def test_the_step_of_the_minibatch_beyond_the_default_limit_is_the_last_one() -> None:
    """The reference's rule: KL > 0.01 is found on a minibatch whose own step is still made."""
    learner, state, batch = prepare("categorical", kl_stop=True)
    hparams = dataclasses.replace(HPARAMS, learning_rate=0.008)
    assert hparams.kl_stop_limit == 0.01
    by_hand = ByHand(state, batch, hparams, (("hidden_0", "policy_head", "critic_head"),))
    while not by_hand.kls or by_hand.kls[-1] <= 0.01:
        by_hand.step()
    num_steps = by_hand.count
    assert 3 <= num_steps <= 8
    found, metrics = update(learner, hparams, state, batch, num_epochs=10)
    assert_weights(found, by_hand.weights)
    np.testing.assert_allclose(metrics["minibatches_done_fraction"], num_steps / 10, rtol=1e-6)
    enough, metrics = update(learner, hparams, state, batch, num_epochs=num_steps)  # no step was left to be dropped
    assert_weights(enough, by_hand.weights)
    assert metrics["minibatches_done_fraction"] == 1.0
    assert bool(enough.kl_control.is_stopped)


# --- Log ratios


@pytest.mark.parametrize("distribution", [Normal((-1.0,), (1.0,)), TanhNormal((-1.0,), (1.0,)), Categorical(3)])
def test_log_ratios_are_clamped_and_have_no_gradient_outside(distribution: PolicyDistribution) -> None:
    """Continuous actions: [log 1e-7, log 1e9], as in the reference. Discrete ones: only where exp would overflow."""
    log_ratio = np.array([-40.0, -16.2, -16.0, -0.5, 0.0, 0.5, 20.6, 20.8, 59.9, 60.1, 300.0])
    low, high = (np.exp(-300.0), np.exp(60.0)) if isinstance(distribution, Categorical) else (1e-7, 1e9)
    ratio = np.clip(np.exp(log_ratio), low, high)
    is_within = (np.exp(log_ratio) > low) & (np.exp(log_ratio) < high)
    assert 0 < (~is_within).sum() < 7
    advantage = np.linspace(-1.0, 1.5, len(ratio)) ** 3
    config = TrainConfig(policy_objective="unclipped", num_envs=1, num_steps=16, minibatch_size=8)
    learner = Learner(config, None, None, distribution)
    with jax.enable_x64(True):
        nothing = jnp.zeros((len(ratio), 1))
        batch = Batch(
            obs=nothing, action=nothing, log_prob=jnp.zeros(len(ratio)), policy_outputs=nothing, policy_phi=nothing,
            critic_phi=nothing, advantage=jnp.asarray(advantage), value_target=nothing,
        )  # fmt: skip
        state = RunState(**dict.fromkeys([field.name for field in dataclasses.fields(RunState)]))

        def loss(log_prob: jax.Array) -> jax.Array:
            return policy_loss(learner, HyperParams(), state, log_prob, nothing, batch)

        value, gradient = jax.value_and_grad(loss)(jnp.asarray(log_ratio))
    normalized = (advantage - advantage.mean()) / advantage.std()
    np.testing.assert_allclose(value, -(ratio * normalized).mean(), rtol=1e-9)
    np.testing.assert_allclose(gradient, -(is_within * ratio * normalized) / len(ratio), rtol=1e-9)


# --- Terms that no run uses


def test_terms_that_are_absent_are_not_in_the_program_and_change_nothing_but_its_size() -> None:
    """With coefficients of 0 the steps are those of a program that has the terms, and all metrics are there."""
    learner, state, batch = prepare("normal")
    without = dataclasses.replace(learner, absent=frozenset({"entropy_loss", "pfo_loss", "critic_pfo_loss"}))
    batch = batch.replace(policy_phi=batch.policy_phi + 0.3, critic_phi=batch.critic_phi - 0.2)
    hparams = dataclasses.replace(HPARAMS, entropy_coef=0.0)
    (full, metrics), (small, others) = (update(x, hparams, state, batch, num_epochs=3) for x in (learner, without))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), full.params, small.params)
    assert set(metrics) == set(others)
    for name in ("entropy_loss", "pfo_loss", "critic_pfo_loss", "minibatch_entropy"):
        assert abs(others[name]) > 1e-3, name
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), metrics, others)
    weights, unravel = flattened(state.params)

    def num_equations(learner: Learner) -> int:  # of the step with its gradients, before any compiler sees it
        def step(hparams: HyperParams, state: RunState) -> Any:
            return gradient_step(learner, hparams, {"shared": jnp.float32(0.1)}, unravel, state, batch, KEY)[0].params

        return str(jax.make_jaxpr(step)(hparams, state.replace(params=weights))).count(" = ")

    assert num_equations(without) < num_equations(learner)


def test_an_absent_term_with_a_coefficient_would_be_missed() -> None:
    """The gradient of a term that acts is part of the step: `absent` takes it away."""
    learner, state, batch = prepare("normal")
    without = dataclasses.replace(learner, absent=frozenset({"entropy_loss"}))
    found, other = (minibatch_update(x, HPARAMS, jnp.float32(0.1), state, batch, KEY)[0] for x in (learner, without))
    change = found.params["shared"]["log_scale"] - other.params["shared"]["log_scale"]
    assert (np.abs(change) > 1e-3).all()
    assert losses.COEFFICIENTS["entropy_loss"] == "entropy_coef"
