"""Rewards of about the same size everywhere: divided by the standard deviation of discounted returns so far.

As OpenAI baselines' and Stable-Baselines3's VecNormalize do it: in each environment R <- gamma R + r, the variance of
all R so far, of all environments together, is updated at every step, and the reward of that step becomes

    clip(r / sqrt(var R + 1e-8), -10, 10);   R <- 0 where an episode ends, terminated or truncated.

The mean is not subtracted. Before the first step the variance is 1, with the weight of 1e-4 samples. gymnasium's
NormalizeReward, which CleanRL uses, is the same until an episode ends: it drops R at a termination *before* the last
reward, which stays for the next episode, goes on through a truncation, and leaves the clip to another wrapper.

Statistics move with every step, not with every rollout, since this is what the peers do, and since a scan over a few
scalars is little next to a rollout. A rollout's own are kept apart and merged with those before it: in float32 a weight
of one step in 1e7 would be rounded, and the variance slide by tens of percent.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.envs.wrappers import VARIANCE_FLOOR, ObservationStatistics

Array = jax.Array

_PRIOR_COUNT = 1e-4  # samples that the variance of 1 before the first step counts for
_LARGEST = 10.0


@struct.dataclass(kw_only=True)
class RewardStatistics:
    """discounted_return: R of the episodes under way, [N]. moments: mean, variance and count [] of all R so far."""

    discounted_return: Array
    moments: ObservationStatistics


def init_rewards(num_envs: int) -> RewardStatistics:
    """Statistics before the first step of `num_envs` environments that have just been reset."""
    moments = dataclasses.replace(ObservationStatistics.init(()), count=jnp.float32(_PRIOR_COUNT))
    return RewardStatistics(discounted_return=jnp.zeros(num_envs), moments=moments)


def normalize_rewards(
    statistics: RewardStatistics, reward: Array, done: Array, gamma: Array | float
) -> tuple[RewardStatistics, Array]:
    """Statistics after a rollout, and its rewards [T, N] as they are learned from.

    reward, done [T, N]: as the environments gave them, done where an episode terminated or was truncated.
    """

    before = statistics.moments

    def step(own: RewardStatistics, now: tuple[Array, Array]) -> tuple[RewardStatistics, Array]:
        reward, done = now
        returns = gamma * own.discounted_return + reward
        moments = own.moments.update(returns)
        variance = before.merged(moments).var
        scaled = jnp.clip(reward * jax.lax.rsqrt(variance + VARIANCE_FLOOR), -_LARGEST, _LARGEST)
        return RewardStatistics(discounted_return=jnp.where(done, 0.0, returns), moments=moments), scaled

    nothing = dataclasses.replace(statistics, moments=ObservationStatistics.init(()))
    own, scaled = jax.lax.scan(step, nothing, (reward, done))
    return dataclasses.replace(own, moments=before.merged(own.moments)), scaled
