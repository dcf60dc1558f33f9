"""Collecting experience, and everything about it that is computed once: values, old log-probabilities, advantages."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.wrappers import ObservationStatistics, sign_reward
from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import NetworkOutput, Params
from purejaxppo.ppo.advantages import gae
from purejaxppo.ppo.interventions import pfo_representation
from purejaxppo.ppo.state import Array, Batch, Learner, RunState


@struct.dataclass(kw_only=True)
class Rollout:
    """Raw experience [T, N, ...], observations in the environment's own dtype."""

    obs: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: Array


def collect(learner: Learner, state: RunState, key: Array) -> tuple[RunState, Rollout]:
    """Step every environment `num_steps` times with the current policy."""
    config = learner.config
    statistics, params = state.observation_statistics, state.params

    def step(carry: RunState, key: Array) -> tuple[RunState, Rollout]:
        key_action, key_env = jax.random.split(key)
        outputs = learner.networks.policy(params, learner.network_input(statistics, carry.obs)).outputs
        action = learner.distribution.sample(outputs, key_action)
        transition = jax.vmap(learner.env.step)(
            jax.random.split(key_env, config.num_envs), carry.env_state, learner.distribution.to_environment(action)
        )
        reward = sign_reward(transition.reward) if config.sign_reward else transition.reward
        done = transition.terminated | transition.truncated
        is_limit_terminal = config.time_limit == "terminate"
        rollout = Rollout(
            obs=carry.obs,
            action=action,
            reward=reward,
            terminated=done if is_limit_terminal else transition.terminated,
            truncated=jnp.zeros_like(done) if is_limit_terminal else transition.truncated,
            final_obs=transition.final_obs,
        )
        episodes = carry.episodes.update(transition.reward, reward, done)
        carry = dataclasses.replace(carry, env_state=transition.state, obs=transition.obs, episodes=episodes)
        return carry, rollout

    return jax.lax.scan(step, state, jax.random.split(key, config.num_steps))


def prepare_batch(
    learner: Learner, hparams: HyperParams, state: RunState, rollout: Rollout
) -> tuple[Batch, tuple[NetworkOutput, NetworkOutput]]:
    """Old distribution parameters, phi_old, values and advantages of a rollout; and all that policy and critic gave."""
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout)
    policy, critic = learner.both_in_blocks(state.params, state.observation_statistics, flat.obs)
    value = critic.outputs.reshape(rollout.reward.shape)
    next_value = values_of_last_observations(learner, state.params, state.observation_statistics, rollout, value)
    advantage = gae(
        rollout.reward, value, next_value, rollout.terminated, rollout.truncated, hparams.gamma, hparams.gae_lambda
    )
    batch = Batch(
        obs=flat.obs,
        action=flat.action,
        log_prob=learner.distribution.log_prob(policy.outputs, flat.action),
        policy_outputs=policy.outputs,
        policy_phi=pfo_representation(learner.config, policy),
        critic_phi=pfo_representation(learner.config, critic),
        advantage=advantage.reshape(-1),
        value_target=(advantage + value).reshape(-1),
    )
    return batch, (policy, critic)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def values_of_last_observations(
    learner: Learner, params: Params, statistics: ObservationStatistics | None, rollout: Rollout, value: Array
) -> Array:
    """V(s'_t) [T, N] of every transition's last observation, where it counts; `value` [T, N] is V(s_t).

    While an episode goes on, s'_t is s_{t+1}, whose value is known, and where it terminated, nothing is asked for. So
    the critic is asked about those steps alone at which a time limit, or the rollout, cut an episode off: few of them.
    (Differentiated, it is asked about all: a loop of unknown length has no reverse mode.)
    """

    def look_up(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        is_open, values = carry
        step = jnp.argmax(is_open)
        is_cut = rollout.truncated[step] | (step == is_open.shape[0] - 1)
        last = _values(learner, params, statistics, rollout.final_obs[step])
        return is_open.at[step].set(False), values.at[step].set(jnp.where(is_cut, last, values[step]))

    is_open = rollout.truncated.any(axis=1).at[-1].set(True)
    known = jnp.concatenate([value[1:], value[-1:]])
    return jax.lax.while_loop(lambda carry: carry[0].any(), look_up, (is_open, known))[1]


@values_of_last_observations.defjvp
def _values_of_all_last_observations(learner: Learner, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    def values(params: Params, statistics: ObservationStatistics | None, rollout: Rollout, _: Array) -> Array:
        return _values(learner, params, statistics, rollout.final_obs)

    return jax.jvp(values, primals, tangents)


def _values(learner: Learner, params: Params, statistics: ObservationStatistics | None, obs: Array) -> Array:
    return learner.networks.critic(params, learner.network_input(statistics, obs)).outputs[..., 0]
