"""A policy plays fresh episodes: whole ones, in environments and with keys of their own, for their raw returns.

The environment is training's own: its time limit, sticky actions, elapsed time; observations are normalised as the
networks have them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.wrappers import ObservationStatistics
from purejaxppo.metrics import Metrics
from purejaxppo.networks import Activate, Params
from purejaxppo.ppo.state import Array, Learner, RunState

# Folded into a key that training uses otherwise. Training splits a seed's key in four, and `split(key, n)[i]` is
# `fold_in(key, i)`, and folds `ppo.start`'s number into it; into a run's own key it folds the numbers u of its updates
# and -1 - u. So this gives keys that no training run has used.
EVALUATION = 0x6576616C


@struct.dataclass(kw_only=True)
class Episodes:
    """The first episodes of the E environments of a run, while they are played.

    obs [E, *obs], env_state: where each environment stands; after its first episode it goes on unnoticed.
    returns [E]: sum of raw rewards. lengths [E]: int32, steps. is_over [E]: whether the first episode has ended.
    """

    obs: Array
    env_state: Any
    returns: Array
    lengths: Array
    is_over: Array


Choose = Callable[[Array, Array], Array]
"""Observations [E, *obs] and a key -> actions [E, ...] in the environment's units."""


def choose_action(
    learner: Learner,
    params: Params,
    statistics: ObservationStatistics | None,
    obs: Array,
    key: Array | None,
    activation: Activate = None,
) -> Array:
    """Actions of one run in the environment's units, at observations [..., *obs]: the mode, or a sample with a key.

    activation: of the hidden layers; None for the configuration's.
    """
    obs = learner.network_input(statistics, obs)
    outputs = learner.networks.policy(params, obs, activation).outputs
    distribution = learner.distribution
    action = distribution.mode(outputs) if key is None else distribution.sample(outputs, key)
    return distribution.to_environment(action)


def begin(learner: Learner, num_episodes: int, key: Array) -> Episodes:
    """Environments of one run, just reset."""
    obs, env_state = jax.vmap(learner.env.reset)(jax.random.split(key, num_episodes))
    return Episodes(
        obs=obs,
        env_state=env_state,
        returns=jnp.zeros(num_episodes),
        lengths=jnp.zeros(num_episodes, jnp.int32),
        is_over=jnp.zeros(num_episodes, jnp.bool_),
    )


def step(learner: Learner, choose: Choose, key: Array, episodes: Episodes) -> Episodes:
    """One step of all environments of one run; rewards count until the first episode is over."""
    key_action, key_env = jax.random.split(key)
    action = choose(episodes.obs, key_action)
    keys_env = jax.random.split(key_env, episodes.is_over.shape[0])
    transition = jax.vmap(learner.env.step)(keys_env, episodes.env_state, action)
    return Episodes(
        obs=transition.obs,
        env_state=transition.state,
        returns=episodes.returns + jnp.where(episodes.is_over, 0.0, transition.reward),
        lengths=episodes.lengths + ~episodes.is_over,
        is_over=episodes.is_over | transition.terminated | transition.truncated,
    )


@jax.default_matmul_precision("highest")  # inside of the environment
def play(learner: Learner, num_episodes: int, max_steps: int, choose: Choose, key: Array) -> Episodes:
    """The first `num_episodes` episodes of one run, until the last one is over, `max_steps` steps at most.

    The key's first child resets; the second, folded with the number of the step, steps.
    """
    key_reset, key_steps = jax.random.split(key)

    def is_going_on(carry: tuple[Array, Episodes]) -> Array:
        time, episodes = carry
        return (time < max_steps) & ~episodes.is_over.all()

    def advance(carry: tuple[Array, Episodes]) -> tuple[Array, Episodes]:
        time, episodes = carry
        return time + 1, step(learner, choose, jax.random.fold_in(key_steps, time), episodes)

    return jax.lax.while_loop(is_going_on, advance, (jnp.int32(0), begin(learner, num_episodes, key_reset)))[1]


def measure(learner: Learner, state: RunState) -> Metrics:
    """Returns and lengths of `num_evaluation_episodes` episodes of a run's policy as it is; NaN for one that diverged.

    Keys are functions of the seed and the number of updates: the same in every configuration, others at every log
    point.
    """
    config, limit = learner.config, learner.env.max_episode_steps
    assert limit is not None, "`make_learner` has seen to it"
    key = jax.random.fold_in(jax.random.fold_in(state.key, EVALUATION), state.update)
    params, statistics, activation = state.params, state.observation_statistics, learner.activation(state.choices)
    is_sampled = config.evaluation_actions == "sample"

    def choose(obs: Array, key: Array) -> Array:
        return choose_action(learner, params, statistics, obs, key if is_sampled else None, activation)

    episodes = play(learner, config.num_evaluation_episodes, limit, choose, key)
    found = {
        "evaluation_return_mean": episodes.returns.mean(),
        "evaluation_return_std": episodes.returns.std(ddof=1),
        "evaluation_length_mean": episodes.lengths.mean(dtype=jnp.float32),
        "evaluation_length_max": episodes.lengths.max().astype(jnp.float32),
    }
    return Metrics.of({name: jnp.where(state.status == 0, value, jnp.nan) for name, value in found.items()})
