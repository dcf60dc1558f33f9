"""Collecting experience, and everything about it that is computed once: values, old log-probabilities, advantages."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo import blas
from purejaxppo.envs.base import Step
from purejaxppo.envs.wrappers import sign_reward
from purejaxppo.hyperparams import HyperParams
from purejaxppo.ppo.advantages import gae
from purejaxppo.ppo.interventions.proximity import pfo_representation
from purejaxppo.ppo.losses import normalize_advantage
from purejaxppo.ppo.rewards import normalize_rewards
from purejaxppo.ppo.state import Array, Batch, Learner, RunState

Carry = tuple[RunState, Array, Array]


@struct.dataclass(kw_only=True)
class Rollout:
    """Raw experience [T, N, ...], observations in the environment's own dtype."""

    obs: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    last_obs: Array
    """Observations [K + 1, N, *obs] to be valued beside `obs`: the true last ones of each environment's episodes that a
    time limit cut off, in order, and then those after the last step (of a fresh episode where one ended there)."""


def collect(learner: Learner, state: RunState, key: Array) -> tuple[RunState, Rollout]:
    """Step every environment `num_steps` times with the current policy."""
    config, num_cuts = learner.config, max_cuts(learner)
    at_cuts = jnp.zeros((num_cuts, *state.obs.shape), state.obs.dtype)  # of each environment's k-th cut, row k

    def keys_of_step(key: Array) -> tuple[Array, Array]:
        key_action, key_env = jax.random.split(key)
        return key_action, jax.random.split(key_env, config.num_envs)

    def step(carry: Carry, keys: tuple[Array, Array]) -> tuple[Carry, dict[str, Array]]:
        state, at_cuts, cuts = carry
        key_action, keys_env = keys
        action = learner.distribution.sample(learner.policy(state, state.obs).outputs, key_action)
        transition = jax.vmap(learner.env.step)(keys_env, state.env_state, learner.distribution.to_environment(action))
        if not blas.is_cpu():  # else a GPU computes physics for each reader, and copies the old state for them
            final_obs = jax.lax.optimization_barrier(transition.final_obs)
            transition = dataclasses.replace(transition, final_obs=final_obs)
        done = transition.terminated | transition.truncated
        reward, terminated, truncated = _as_learned(learner, state, transition)
        experience = {"obs": state.obs, "action": action, "reward": reward}
        experience |= {"terminated": terminated, "truncated": truncated}
        if num_cuts > 0:
            is_here = truncated[None] & (cuts[None] == jnp.arange(num_cuts)[:, None])
            is_here = is_here.reshape(*is_here.shape, *[1] * (state.obs.ndim - 1))
            at_cuts, cuts = jnp.where(is_here, transition.final_obs[None], at_cuts), cuts + truncated
        episodes = state.episodes.update(transition.reward, reward, done)
        state = dataclasses.replace(state, env_state=transition.state, obs=transition.obs, episodes=episodes)
        return (state, at_cuts, cuts), experience

    carry = state, at_cuts, jnp.zeros(config.num_envs, jnp.int32)
    keys = jax.vmap(keys_of_step)(jax.random.split(key, config.num_steps))  # all at once, not one by one in the loop
    (state, at_cuts, _), experience = jax.lax.scan(step, carry, keys)
    return state, Rollout(**experience, last_obs=jnp.concatenate([at_cuts, state.obs[None]]))


def max_cuts(learner: Learner) -> int:
    """How often a time limit can cut off one environment's episodes in a rollout, where that is not a termination."""
    limit = learner.env.max_episode_steps
    if limit is None or learner.values("time_limit") == ("terminate",):
        return 0
    return -(-learner.config.num_steps // limit)


def _as_learned(learner: Learner, state: RunState, transition: Step) -> tuple[Array, Array, Array]:
    """Reward, terminated and truncated [N] as the algorithm is to see them."""

    def ends(rule: str) -> tuple[Array, Array]:
        if rule == "terminate":
            return transition.terminated | transition.truncated, jnp.zeros_like(transition.truncated)
        return transition.terminated, transition.truncated

    reward = transition.reward
    reward = learner.choose(state.choices, "sign_reward", lambda is_sign: sign_reward(reward) if is_sign else reward)
    return reward, *learner.choose(state.choices, "time_limit", ends)


def collect_batch(learner: Learner, hparams: HyperParams, state: RunState, key: Array) -> tuple[RunState, Batch]:
    """A rollout, and what the update sees of it: values and advantages of the rewards to learn from."""
    after, rollout = collect(learner, state, key)
    if after.reward_statistics is not None:
        done = rollout.terminated | rollout.truncated
        statistics, reward = normalize_rewards(after.reward_statistics, rollout.reward, done, hparams.gamma)
        after = dataclasses.replace(after, reward_statistics=statistics)
        rollout = dataclasses.replace(rollout, reward=reward)
    return after, prepare_batch(learner, hparams, state, rollout)


def prepare_batch(learner: Learner, hparams: HyperParams, state: RunState, rollout: Rollout) -> Batch:
    """Old distribution parameters, phi_old, values and advantages of a rollout; its rewards are those to learn from."""
    obs = rollout.obs.reshape(-1, *rollout.obs.shape[2:])
    action = rollout.action.reshape(-1, *rollout.action.shape[2:])
    policy, critic = learner.both_of_rollout(state, obs)
    value = critic.outputs.reshape(rollout.reward.shape)
    advantage = gae(
        rollout.reward,
        value,
        next_values(learner, state, rollout, value),
        rollout.terminated,
        rollout.truncated,
        hparams.gamma,
        hparams.gae_lambda,
    )
    is_normalized = learner.config.advantage_normalization == "batch"
    return Batch(
        obs=obs,
        action=action,
        log_prob=learner.distribution.log_prob(policy.outputs, action),
        policy_outputs=policy.outputs,
        policy_phi=pfo_representation(learner, state, policy),
        critic_phi=pfo_representation(learner, state, critic),
        advantage=normalize_advantage(advantage.reshape(-1)) if is_normalized else advantage.reshape(-1),
        value_target=(advantage + value).reshape(-1),
        value=value.reshape(-1) if learner.config.value_clipping else None,
    )


def next_values(learner: Learner, state: RunState, rollout: Rollout, value: Array) -> Array:
    """V(s'_t) [T, N] of every transition's true last observation, where it counts; `value` [T, N] is V(s_t).

    While an episode goes on, s'_t is s_{t+1}, whose value is known or that of the last row, and where it terminated,
    nothing is asked for. So the critic is asked about `last_obs` alone. NaN, which stops the run as diverged, where an
    environment cuts its episodes more often than its `max_episode_steps` allows.
    """
    last = learner.critic(state, rollout.last_obs).outputs[..., 0]
    following = jnp.concatenate([value[1:], last[-1:]])
    number = jnp.cumsum(rollout.truncated, axis=0) - 1  # of the cut, where there is one
    at_cut = jnp.full_like(value, jnp.nan)
    for cut in range(last.shape[0] - 1):
        at_cut = jnp.where(number == cut, jnp.broadcast_to(last[cut], value.shape), at_cut)
    return jnp.where(rollout.truncated, at_cut, following)
