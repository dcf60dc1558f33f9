"""Collecting experience, and everything about it that is computed once: values, old log-probabilities, advantages."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.wrappers import sign_reward
from purejaxppo.hyperparams import HyperParams
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


def prepare_batch(learner: Learner, hparams: HyperParams, state: RunState, rollout: Rollout) -> Batch:
    """Values, old distribution parameters, phi_old and advantages of a rollout: one pass of each network."""
    obs = learner.network_input(state.observation_statistics, rollout.obs)
    final_obs = learner.network_input(state.observation_statistics, rollout.final_obs)
    policy, critic = learner.networks.both(state.params, obs)
    value = critic.outputs[..., 0]
    next_value = learner.networks.critic(state.params, final_obs).outputs[..., 0]
    advantage = gae(
        rollout.reward, value, next_value, rollout.terminated, rollout.truncated, hparams.gamma, hparams.gae_lambda
    )
    batch = Batch(
        obs=rollout.obs,
        action=rollout.action,
        log_prob=learner.distribution.log_prob(policy.outputs, rollout.action),
        policy_outputs=policy.outputs,
        policy_phi=pfo_representation(learner.config, policy),
        critic_phi=pfo_representation(learner.config, critic),
        advantage=advantage,
        value_target=advantage + value,
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
