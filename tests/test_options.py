"""Options that users of other PPOs look for, each against NumPy in float64, or against who had it first."""

import dataclasses
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from test_networks import make, random_params
from test_update import KEY, make_batch, make_learner, make_state, minibatch_update

from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.ppo import losses
from purejaxppo.ppo.interventions.objectives import learned_advantage
from purejaxppo.ppo.rewards import RewardStatistics, init_rewards, normalize_rewards

# --- Normalised rewards

GAMMA = 0.9


def rewards(num_steps: int, num_envs: int) -> np.ndarray:
    """Rewards [T, N] with a mean, so that a deviation is not a root mean square; the first ones are far from 0."""
    return 3.0 + np.random.default_rng(0).normal(size=(num_steps, num_envs)).astype(np.float32) * 2


def by_hand(reward: np.ndarray, done: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Scaled rewards [T, N] and the deviation after each step [T]: VecNormalize's rule in loops, all values kept."""
    returns, seen, scaled, deviations = np.zeros(reward.shape[1]), [], np.zeros(reward.shape), []
    for t, step in enumerate(reward.astype(np.float64)):
        for n, r in enumerate(step):
            returns[n] = gamma * returns[n] + r
            seen.append(returns[n])
        weights = np.array([1e-4, *np.ones(len(seen))])  # the prior: mean 0, variance 1
        mean = np.average([0.0, *seen], weights=weights)
        var = np.average([1.0 + mean**2, *(np.array(seen) - mean) ** 2], weights=weights)
        scaled[t] = np.clip(step / np.sqrt(var + 1e-8), -10, 10)
        deviations.append(np.sqrt(var))
        returns[done[t]] = 0
    return scaled, np.array(deviations)


def ours(reward: np.ndarray, done: np.ndarray, num_rollouts: int = 1) -> tuple[RewardStatistics, np.ndarray]:
    step = jax.jit(normalize_rewards)
    statistics, found = init_rewards(reward.shape[1]), []
    for part, over in zip(np.split(reward, num_rollouts), np.split(done, num_rollouts), strict=True):
        statistics, scaled = step(statistics, part, over, jnp.float32(GAMMA))
        found.append(scaled)
    return statistics, np.concatenate(found)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_normalized_rewards_equal_a_loop_over_rollouts_and_ends_of_episodes(num_envs: int) -> None:
    """Of one environment the first step knows a deviation of nearly nothing: its reward is clipped to 10."""
    reward = rewards(120, num_envs)
    done = np.random.default_rng(1).random(reward.shape) < 0.1
    expected, deviations = by_hand(reward, done, GAMMA)
    statistics, found = ours(reward, done, num_rollouts=4)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    np.testing.assert_allclose(statistics.moments.var, deviations[-1] ** 2, rtol=2e-5)
    assert (found[0] == 10).any() == (num_envs == 1)
    endless, _ = by_hand(reward, np.zeros_like(done), GAMMA)
    assert np.abs(expected - endless).max() > 0.1  # so ends matter here


def test_after_tens_of_millions_of_steps_the_variance_stays_where_it_is() -> None:
    """A weight of one step in 2^24 is rounded in float32: merged step by step, the variance fell by 0.6 % here."""
    moments = dataclasses.replace(init_rewards(1).moments, var=jnp.float32(1.5), count=jnp.float32(2**24))
    reward = np.sqrt(1.5) * np.random.default_rng(0).normal(size=(200_000, 1)).astype(np.float32)
    before = RewardStatistics(discounted_return=jnp.zeros(1), moments=moments)
    after, _ = jax.jit(normalize_rewards)(before, reward, np.zeros(reward.shape, bool), jnp.float32(0.0))
    np.testing.assert_allclose(after.moments.var, 1.5, rtol=1e-3)


class Given(gymnasium.vector.VectorEnv):
    """Gives these rewards [T, N] and never ends."""

    def __init__(self, reward: np.ndarray):
        self.reward, self.num_envs, self.t = reward, reward.shape[1], -1
        self.single_observation_space = self.observation_space = gymnasium.spaces.Box(0, 1, (1,))
        self.single_action_space = self.action_space = gymnasium.spaces.Discrete(2)

    def step(self, actions: Any) -> Any:
        self.t += 1
        nothing = np.zeros(self.num_envs, bool)
        return np.zeros((self.num_envs, 1)), self.reward[self.t], nothing, nothing, {}


def test_without_ends_normalized_rewards_are_those_of_gymnasium() -> None:
    reward = rewards(50, 3)
    env = gymnasium.wrappers.vector.NormalizeReward(Given(reward), gamma=GAMMA)
    expected = np.stack([env.step(np.zeros(3))[1] for _ in reward])
    assert np.abs(expected).max() < 10  # which gymnasium leaves to another wrapper
    np.testing.assert_allclose(ours(reward, np.zeros(reward.shape, bool))[1], expected, rtol=2e-5)


# --- Advantages and values


def test_advantages_are_normalised_where_the_option_says_and_targets_never_move() -> None:
    """make_batch: a rollout of 8 samples; its first half is a minibatch."""
    plain = make_learner(advantage_normalization="off")
    state = make_state(plain)
    raw = make_batch(plain, state)
    advantage = np.asarray(raw.advantage, np.float64)

    def normalised(a: np.ndarray) -> np.ndarray:
        return (a - a.mean()) / a.std()

    half = slice(0, 4)
    expected = {
        "off": advantage[half],
        "batch": normalised(advantage)[half],
        "minibatch": normalised(advantage[half]),
    }
    for name, values in expected.items():
        learner = make_learner(advantage_normalization=name)
        batch = make_batch(learner, state)
        np.testing.assert_array_equal(batch.value_target, raw.value_target)
        found = learned_advantage(learner, jax.tree.map(lambda x: x[half], batch))
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)
    assert abs(advantage.mean()) > 0.1


def test_clipped_value_loss_and_its_gradient_by_hand() -> None:
    """Every place of V and of the target relative to the clip range, V - V_old and R - V_old in units of eps."""
    eps = 0.2
    moves, aims = (x.ravel() for x in np.meshgrid([-3.0, -0.5, 0.5, 3.0], [-9.0, -1.5, 0.1, 1.5, 9.0]))
    old = np.linspace(-1, 1, moves.size)
    value, target = old + eps * moves, old + eps * aims
    total, gradient = 0.0, np.zeros(moves.size)
    for i in range(moves.size):
        plain, clipped = value[i] - target[i], old[i] + min(max(value[i] - old[i], -eps), eps) - target[i]
        total += max(plain**2, clipped**2)
        is_flat = clipped**2 > plain**2  # then the loss does not depend on V
        gradient[i] = 0 if is_flat else 2 * plain
    arrays = [jnp.asarray(x, jnp.float32) for x in (value, old, target)]
    found, slope = jax.value_and_grad(losses.clipped_value_loss)(*arrays, eps)
    np.testing.assert_allclose(found, total / moves.size, rtol=1e-5)
    np.testing.assert_allclose(slope, gradient / moves.size, rtol=1e-4, atol=1e-6)
    assert 0 < np.count_nonzero(gradient) < gradient.size


# --- What the critic has to itself


@pytest.mark.parametrize("size", [7, 80])  # from 64 on the first layers are one product
def test_a_critic_of_its_own_widths_beside_the_policy(size: int) -> None:
    networks = make((size,), hidden_sizes=(8, 6), critic_hidden_sizes=(10, 5, 3))
    params = random_params(networks)
    shapes = {name: [x["kernel"].shape for x in layers.values()] for name, layers in params.items()}
    assert sorted(shapes["policy"]) == sorted([(size, 8), (8, 6), (6, 3)])
    assert sorted(shapes["critic"]) == sorted([(size, 10), (10, 5), (5, 3), (3, 1)])
    obs = jax.random.normal(KEY, (5, size))
    together, apart = networks.both(params, obs), (networks.policy(params, obs), networks.critic(params, obs))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), together, apart)
    assert [z.shape for z in together[1].preactivations] == [(5, 10), (5, 5), (5, 3)]
    alone = make((size,), hidden_sizes=(8, 6))  # the same key gives the same policy
    first, second = (x.init(KEY)["policy"] for x in (networks, alone))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_each_network_steps_by_its_own_learning_rate() -> None:
    """Adam's first step is its learning rate in every coordinate that has a gradient."""
    learner = make_learner(separate_learning_rates=True)
    state, hparams = make_state(learner), HyperParams(learning_rate=0.5, critic_learning_rate=0.02, adam_eps=1e-30)
    batch = make_batch(learner, state)
    rates = {"policy": jnp.float32(0.5), "critic": jnp.float32(0.02)}
    after, _ = minibatch_update(learner, hparams, rates, state, batch, KEY)
    for name, rate in rates.items():
        moved = np.abs(ravel_pytree(after.params[name])[0] - ravel_pytree(state.params[name])[0])
        np.testing.assert_allclose(moved[moved > 0], rate, rtol=1e-3)
        assert (moved > 0).mean() > 0.3


# --- The scale at the start


def test_the_log_scale_begins_where_it_is_told() -> None:
    networks = make((7,), log_scale=True, initial_log_std=-0.5)
    params = networks.init(KEY)
    np.testing.assert_array_equal(params["policy"]["log_scale"], np.full(3, -0.5, np.float32))
    np.testing.assert_array_equal(networks.policy(params, jnp.ones((2, 7))).outputs[:, 3:], -0.5)


# --- What is refused


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"lr_final_fraction": 1.0}, "lr_final_fraction is 1.0, but must be at least 0 and below 1."),
        ({"initial_log_std": float("nan")}, "initial_log_std is nan, but must be between -20.0 and 20.0."),
        (
            {"critic_hidden_sizes": (8, 0)},
            "critic_hidden_sizes is [8, 0], but must be a list of widths of at least 1.",
        ),
        (
            {"critic_hidden_sizes": (8,), "share_trunk": True},
            "critic_hidden_sizes is [8], but must be [] with share_trunk, which shares them.",
        ),
        (
            {"separate_learning_rates": True, "share_trunk": True},
            "separate_learning_rates is True, but must be False with share_trunk and trunk_optimizers 'one': one "
            "optimiser has one learning rate.",
        ),
        ({"normalize_rewards": True}, "normalize_rewards is True, but must be one of 'off', 'running'."),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig(**fields).validate()
    assert str(error.value) == sentence
