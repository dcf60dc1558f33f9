"""Learning against what is known: both rules for time limits, the sign of rewards, and that PPO climbs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import purejaxppo as pjp
from purejaxppo.envs.base import Discrete, Environment, Step, auto_reset
from purejaxppo.envs.names import CUSTOM
from purejaxppo.ppo.state import make_learner


@struct.dataclass(kw_only=True)
class ClockState:
    """elapsed: int32, steps since the episode began."""

    elapsed: jax.Array


class Clock(Environment):
    """Reward 2 at every step, whatever one does; nothing ends but by the time limit L.

    Observations [L] show t = elapsed modulo L, one-hot: the last of an episode, at t = L, looks like the first, so that
    its value is learned as well. Known answers, for rewards of r:
    limits terminate: V(t) = r (1 - gamma^(L - t)) / (1 - gamma);   limits bootstrap: V = r / (1 - gamma) at every t.
    """

    name = "limits/Clock"
    observation_dtype = np.dtype("float32")
    action_space = Discrete(2)

    def __init__(self, max_episode_steps: int):
        self.max_episode_steps = max_episode_steps
        self.observation_shape = (max_episode_steps,)

    def reset(self, key: jax.Array) -> tuple[jax.Array, ClockState]:
        del key
        return self._at(jnp.int32(0))

    def step(self, key: jax.Array, state: ClockState, action: jax.Array) -> Step:
        del action
        obs, next_state = self._at(state.elapsed + 1)
        return auto_reset(
            self.reset,
            key,
            obs=obs,
            state=next_state,
            reward=jnp.float32(2.0),
            terminated=jnp.bool_(False),
            truncated=next_state.elapsed >= self.max_episode_steps,
        )

    def _at(self, elapsed: jax.Array) -> tuple[jax.Array, ClockState]:
        return jax.nn.one_hot(elapsed % self.max_episode_steps, self.max_episode_steps), ClockState(elapsed=elapsed)


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The name is known while these tests run, and no longer: others list all names."""
    pjp.envs.register("limits/Clock", Clock)
    yield
    del CUSTOM["limits/Clock"]


LIMIT, GAMMA = 5, 0.8
CLOCK = {
    "env": "limits/Clock", "max_episode_steps": LIMIT, "total_steps": 24_000, "num_envs": 8, "num_steps": 16,
    "minibatch_size": 64, "hidden_sizes": (32,), "activation": "tanh", "num_log_points": 2, "diagnostics": False,
}  # fmt: skip


def train_clock(**fields):
    """Values [L] of the L observations after a short training, and the metrics of its last log point."""
    config = pjp.TrainConfig(**CLOCK | fields)
    hparams = pjp.HyperParams(learning_rate=1e-2, gamma=GAMMA)
    result = jax.jit(pjp.make_train(config))(hparams, jax.random.key(0))
    values = make_learner(config).networks.critic(result.state.params, jnp.eye(LIMIT)).outputs[:, 0]
    return np.asarray(values), {name: float(values[-1]) for name, values in result.metrics.items()}


@pytest.mark.parametrize("time_limit", ["terminate", "bootstrap"])
def test_values_before_a_time_limit(time_limit):
    values, metrics = train_clock(time_limit=time_limit)
    left = LIMIT - np.arange(LIMIT) if time_limit == "terminate" else np.inf
    np.testing.assert_allclose(values, 2.0 * (1 - GAMMA**left) / (1 - GAMMA) * np.ones(LIMIT), atol=0.3)
    assert (metrics["return_mean"], metrics["episode_length_mean"]) == (2.0 * LIMIT, LIMIT)
    assert metrics["learning_return_mean"] == metrics["return_mean"]


def test_learning_from_the_sign_and_reporting_the_reward():
    """Values are of rewards of 1; returns of rewards of 2, and those that are learned from half of them."""
    values, metrics = train_clock(sign_reward=True)
    np.testing.assert_allclose(values, np.full(LIMIT, 1.0 / (1 - GAMMA)), atol=0.2)
    assert (metrics["return_mean"], metrics["return_max"]) == (2.0 * LIMIT, 2.0 * LIMIT)
    assert (metrics["learning_return_mean"], metrics["learning_return_max"]) == (LIMIT, LIMIT)


def test_cartpole_is_learned():
    """From 20 to over 400 of 500, with each of seeds 1 to 5 as well; a flipped sign in the loss leaves it below 10."""
    config = pjp.TrainConfig(
        env="gymnax/CartPole-v1", total_steps=120_000, num_envs=16, num_steps=64, minibatch_size=256,
        hidden_sizes=(32, 32), activation="tanh", num_log_points=6, diagnostics=False,
    )  # fmt: skip
    hparams = pjp.HyperParams(learning_rate=3e-3, entropy_coef=0.0)
    returns = jax.jit(pjp.make_train(config))(hparams, jax.random.key(0)).metrics["return_mean"]
    assert returns.max() > 400
