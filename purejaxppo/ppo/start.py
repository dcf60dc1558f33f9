"""A run before its first update: networks, optimisers, environments, statistics of random play."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from purejaxppo.envs.base import Discrete
from purejaxppo.envs.wrappers import EpisodeStatistics, ObservationStatistics
from purejaxppo.networks import Params
from purejaxppo.ppo.interventions import after_step
from purejaxppo.ppo.interventions.kl_control import init_kl_control
from purejaxppo.ppo.interventions.optimizers import init_optimizers
from purejaxppo.ppo.interventions.penalties import init_power_iteration
from purejaxppo.ppo.interventions.proximity import init_pfo_memory
from purejaxppo.ppo.interventions.resets import init_resets
from purejaxppo.ppo.rewards import init_rewards
from purejaxppo.ppo.state import Array, Learner, RunState, origin_of

# Steps of random play that fixed statistics are computed from, in all, as the reference implementation makes with its
# two environments; and the least of each environment.
_RANDOM_STEPS, _LEAST_RANDOM_STEPS = 4000, 100
_RANDOM_PLAY = 0x72616E64  # folded into the run's key, whose children 0 to 3 are `split`'s


def init_run(learner: Learner, key: Array, choices: dict[str, Array] | None = None) -> RunState:
    """Fresh networks and environments; the same key gives the same ones in every configuration."""
    key_params, key_env, key_run, _ = jax.random.split(key, 4)  # the last one is the plasticity task's
    params = learner.networks.init(key_params)
    obs, env_state = jax.vmap(learner.env.reset)(jax.random.split(key_env, learner.config.num_envs))
    state = RunState(
        params=params,
        optimizer=init_optimizers(learner, params),
        env_state=env_state,
        obs=obs,
        episodes=EpisodeStatistics.init(learner.config.num_envs),
        observation_statistics=init_statistics(learner, jax.random.fold_in(key, _RANDOM_PLAY)),
        key=key_run,
        update=jnp.zeros((), jnp.int32),
        status=jnp.zeros((), jnp.int32),
        choices=choices or {},
        kl_control=init_kl_control(learner),
        power_vectors=init_power_iteration(learner, params),
        memory=init_memory(learner, params),
        reward_statistics=init_rewards(learner.config.num_envs) if learner.config.normalize_rewards != "off" else None,
    )
    return replace(state, origin=origin_of(learner, state))


def init_memory(learner: Learner, params: Params) -> dict[str, Any]:
    """What interventions that are switched on remember, by name; see `RunState.memory`."""
    memory = init_resets(learner) | init_pfo_memory(learner, params)
    if learner.config.l2_init:
        memory["l2_init"] = params
    if learner.config.weight_projection:
        memory["weight_projection"] = after_step.matrix_norms(params)
    return memory


def init_statistics(learner: Learner, key: Array) -> ObservationStatistics | None:
    """Statistics that observations are normalised by: None, of random play (`fixed`), or of nothing yet (`running`)."""
    kind = learner.config.normalize_observations
    nothing = ObservationStatistics.init(learner.env.observation_shape)
    if kind == "off":
        return None
    return nothing if kind == "running" else learner.updated_statistics(nothing, random_play(learner, key))


def random_play(learner: Learner, key: Array) -> Array:
    """Observations [M, *obs] that uniformly random actions meet, in environments of their own."""
    num_envs, space = learner.config.num_envs, learner.env.action_space
    key_reset, key_steps = jax.random.split(key)

    def random_action(key: Array) -> Array:
        if isinstance(space, Discrete):
            return jax.random.randint(key, (), 0, space.n)
        return jax.random.uniform(key, space.shape, minval=jnp.asarray(space.low), maxval=jnp.asarray(space.high))

    def step(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Array]:
        key_action, key_env = jax.random.split(key)
        actions = jax.vmap(random_action)(jax.random.split(key_action, num_envs))
        made = jax.vmap(learner.env.step)(jax.random.split(key_env, num_envs), carry[1], actions)
        return (made.obs, made.state), carry[0]

    first = jax.vmap(learner.env.reset)(jax.random.split(key_reset, num_envs))
    num_steps = max(-(-_RANDOM_STEPS // num_envs), _LEAST_RANDOM_STEPS)
    _, obs = jax.lax.scan(step, first, jax.random.split(key_steps, num_steps))
    return obs.reshape(-1, *learner.env.observation_shape)
