"""What surrounds an environment: sticky actions, stacked frames, elapsed time, statistics, the sign of the reward."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from purejaxppo.envs.base import Discrete, Environment, Step
from purejaxppo.errors import ConfigError

# Added to the variance under the root: a constant input becomes 0, not NaN. The value that most PPO code uses.
VARIANCE_FLOOR = 1e-8
STD_FLOOR = 1e-6  # smallest deviation that the paper's reference implementation divides by


@struct.dataclass(kw_only=True)
class TimeAwareState:
    """env: the wrapped environment's state. elapsed: int32, steps since the episode began."""

    env: Any
    elapsed: Array


class TimeAware(Environment):
    """Append the time that has elapsed, from -1 at the start to 1 at the time limit, to a flat float observation.

    With a time limit the return still to come depends on the time left: without it in the observation no value function
    can be right (Pardo et al. 2018, arXiv 1712.00378). The paper does so on MuJoCo, in this range; like there,
    `ObservationStatistics` leave this last entry alone.

    Raises ConfigError (field `time_aware`) for an observation that is not a float vector, or without a time limit.
    """

    def __init__(self, env: Environment):
        if len(env.observation_shape) != 1 or not jnp.issubdtype(env.observation_dtype, jnp.floating):
            raise ConfigError(
                f"time_aware is true, but must be false for {env.name}: its observation is no float vector, but "
                f"{env.observation_dtype} of shape {list(env.observation_shape)}."
            )
        if env.max_episode_steps is None:
            raise ConfigError(f"time_aware is true, but must be false for {env.name} unless max_episode_steps is set.")
        self._env = env
        self.name = env.name
        self.observation_shape = (env.observation_shape[0] + 1,)
        self.observation_dtype = env.observation_dtype
        self.observation_scale = env.observation_scale
        self.action_space = env.action_space
        self.max_episode_steps: int = env.max_episode_steps

    def reset(self, key: Array) -> tuple[Array, TimeAwareState]:
        obs, state = self._env.reset(key)
        elapsed = jnp.int32(0)
        return self._append(obs, elapsed), TimeAwareState(env=state, elapsed=elapsed)

    def step(self, key: Array, state: TimeAwareState, action: Array) -> Step:
        step = self._env.step(key, state.env, action)
        elapsed = state.elapsed + 1
        elapsed_next = jnp.where(step.terminated | step.truncated, 0, elapsed)
        return dataclasses.replace(
            step,
            obs=self._append(step.obs, elapsed_next),
            state=TimeAwareState(env=step.state, elapsed=elapsed_next),
            final_obs=self._append(step.final_obs, elapsed),
        )

    def _append(self, obs: Array, elapsed: Array) -> Array:
        time = 2 * elapsed.astype(obs.dtype) / self.max_episode_steps - 1
        return jnp.concatenate([obs, time[None]])


@struct.dataclass(kw_only=True)
class StickyState:
    """env: the wrapped environment's state. action: int32, the one that was carried out last; 0 in a new episode."""

    env: Any
    action: Array


class StickyActions(Environment):
    """With some probability carry out the previous action, not the new one (Machado et al. 2018, arXiv 1709.06009).

    Raises ConfigError (field `sticky_actions`) for an environment without discrete actions.
    """

    def __init__(self, env: Environment, probability: float):
        if not isinstance(env.action_space, Discrete):
            raise ConfigError(
                f"sticky_actions is {probability}, but must be 0 for {env.name}: its actions are continuous."
            )
        self._env, self._probability = env, probability
        self.name = env.name
        self.observation_shape = env.observation_shape
        self.observation_dtype = env.observation_dtype
        self.observation_scale = env.observation_scale
        self.action_space = env.action_space
        self.max_episode_steps = env.max_episode_steps

    def reset(self, key: Array) -> tuple[Array, StickyState]:
        obs, state = self._env.reset(key)
        return obs, StickyState(env=state, action=jnp.int32(0))

    def step(self, key: Array, state: StickyState, action: Array) -> Step:
        key_sticky, key_env = jax.random.split(key)
        is_repeated = jax.random.bernoulli(key_sticky, self._probability)
        action = jnp.where(is_repeated, state.action, jnp.asarray(action, jnp.int32))
        step = self._env.step(key_env, state.env, action)
        is_over = step.terminated | step.truncated
        return dataclasses.replace(step, state=StickyState(env=step.state, action=jnp.where(is_over, 0, action)))


@struct.dataclass(kw_only=True)
class FrameStackState:
    """env: the wrapped environment's state. frames: [..., k * C], the latest observations; what `step` appends to."""

    env: Any
    frames: Array


class FrameStack(Environment):
    """The latest k observations [..., C] side by side along the last axis, [..., k * C], the oldest first.

    After a reset the first observation fills all k places (Mnih et al. 2015 as in gymnasium's FrameStackObservation).
    The true last observation is stacked with those of its own episode; after a reset only the new one's first counts.

    Raises ConfigError (field `frame_stack`) for observations without an axis.
    """

    def __init__(self, env: Environment, num_frames: int):
        if not env.observation_shape:
            raise ConfigError(
                f"frame_stack is {num_frames}, but must be 1 for {env.name}: its observation is a scalar."
            )
        self._env, self._num_frames = env, num_frames
        self.name = env.name
        *shape, channels = env.observation_shape
        self.observation_shape = (*shape, num_frames * channels)
        self.observation_dtype = env.observation_dtype
        self.observation_scale = env.observation_scale
        self.action_space = env.action_space
        self.max_episode_steps = env.max_episode_steps

    def reset(self, key: Array) -> tuple[Array, FrameStackState]:
        obs, state = self._env.reset(key)
        frames = self._filled(obs)
        return frames, FrameStackState(env=state, frames=frames)

    def step(self, key: Array, state: FrameStackState, action: Array) -> Step:
        step = self._env.step(key, state.env, action)
        oldest = step.final_obs.shape[-1]
        final_obs = jnp.concatenate([state.frames[..., oldest:], step.final_obs], axis=-1)
        frames = jax.lax.select(step.terminated | step.truncated, self._filled(step.obs), final_obs)
        return dataclasses.replace(
            step, obs=frames, state=FrameStackState(env=step.state, frames=frames), final_obs=final_obs
        )

    def _filled(self, obs: Array) -> Array:
        return jnp.concatenate([obs] * self._num_frames, axis=-1)


def innermost(state: Any) -> Any:
    """The state of the environment itself, inside those of whatever is wrapped around it."""
    while isinstance(state, TimeAwareState | StickyState | FrameStackState):
        state = state.env
    return state


@struct.dataclass(kw_only=True)
class EpisodeStatistics:
    """Returns and lengths of the episodes that finished since the last `reset_interval`, kept per environment [N].

    The sums stay per environment until `metrics`, so that a step costs elementwise operations only.

    current_*: of the episode now under way. *_sum, *_max: over finished episodes (max: -inf, or 0, before the first).
    learning_*: the same for the reward the agent learns from. count: int32, finished episodes.
    """

    current_return: Array
    current_learning_return: Array
    current_length: Array
    return_sum: Array
    return_max: Array
    learning_return_sum: Array
    learning_return_max: Array
    length_sum: Array
    length_max: Array
    count: Array

    @classmethod
    def init(cls, num_envs: int) -> EpisodeStatistics:
        """Statistics of `num_envs` environments that have just been reset."""
        zeros, zero_steps = jnp.zeros(num_envs), jnp.zeros(num_envs, jnp.int32)
        never = jnp.full(num_envs, -jnp.inf)
        return cls(
            current_return=zeros,
            current_learning_return=zeros,
            current_length=zero_steps,
            return_sum=zeros,
            return_max=never,
            learning_return_sum=zeros,
            learning_return_max=never,
            length_sum=zero_steps,
            length_max=zero_steps,
            count=zero_steps,
        )

    def update(self, reward: Array, learning_reward: Array, done: Array) -> EpisodeStatistics:
        """Account for one step: reward, learning_reward and done (terminated or truncated), each [N]."""
        returns = self.current_return + reward
        learning_returns = self.current_learning_return + learning_reward
        lengths = self.current_length + 1
        return EpisodeStatistics(
            current_return=jnp.where(done, 0.0, returns),
            current_learning_return=jnp.where(done, 0.0, learning_returns),
            current_length=jnp.where(done, 0, lengths),
            return_sum=self.return_sum + jnp.where(done, returns, 0.0),
            return_max=jnp.maximum(self.return_max, jnp.where(done, returns, -jnp.inf)),
            learning_return_sum=self.learning_return_sum + jnp.where(done, learning_returns, 0.0),
            learning_return_max=jnp.maximum(self.learning_return_max, jnp.where(done, learning_returns, -jnp.inf)),
            length_sum=self.length_sum + jnp.where(done, lengths, 0),
            length_max=jnp.maximum(self.length_max, jnp.where(done, lengths, 0)),
            count=self.count + done,
        )

    def reset_interval(self) -> EpisodeStatistics:
        """Forget the finished episodes and keep those under way: call it after each `metrics`."""
        fresh = EpisodeStatistics.init(self.count.shape[0])
        return dataclasses.replace(
            fresh,
            current_return=self.current_return,
            current_learning_return=self.current_learning_return,
            current_length=self.current_length,
        )

    def metrics(self) -> dict[str, Array]:
        """Scalars over the finished episodes of all environments, by registry name; NaN where none has finished."""
        count = jnp.sum(self.count)
        divisor = jnp.maximum(count, 1)

        def or_nan(value: Array) -> Array:
            return jnp.where(count > 0, value, jnp.nan)

        return {
            "return_mean": or_nan(jnp.sum(self.return_sum) / divisor),
            "return_max": or_nan(jnp.max(self.return_max)),
            "learning_return_mean": or_nan(jnp.sum(self.learning_return_sum) / divisor),
            "learning_return_max": or_nan(jnp.max(self.learning_return_max)),
            "episode_length_mean": or_nan(jnp.sum(self.length_sum, dtype=jnp.float32) / divisor),
            "episode_length_max": or_nan(jnp.max(self.length_max).astype(jnp.float32)),
            "episode_count": count.astype(jnp.float32),
        }


@struct.dataclass(kw_only=True)
class ObservationStatistics:
    """Mean and variance of every entry of an observation; count: float32, samples so far.

    The count is a float because int32 overflows after 2e9 samples; float32 stays exact for batches of a power of two.
    """

    mean: Array
    var: Array
    count: Array

    @classmethod
    def init(cls, shape: tuple[int, ...]) -> ObservationStatistics:
        """Statistics of no sample: mean 0 and variance 1."""
        return cls(mean=jnp.zeros(shape), var=jnp.ones(shape), count=jnp.float32(0.0))

    def update(self, batch: Array) -> ObservationStatistics:
        """Merge a batch [M, ...] of observations into the statistics; variances divide by the number of samples."""
        batch = batch.astype(jnp.float32)
        own = ObservationStatistics(
            mean=jnp.mean(batch, axis=0), var=jnp.var(batch, axis=0), count=jnp.float32(batch.shape[0])
        )
        return self.merged(own)

    def merged(self, other: ObservationStatistics) -> ObservationStatistics:
        """Statistics of these samples and of at least one other.

        Chan, Golub & LeVeque 1979: with n and m samples, d = mean_b - mean_a,
        mean = mean_a + d m / (n + m),  var = (n var_a + m var_b) / (n + m) + d^2 n m / (n + m)^2.
        Written with the weight w = m / (n + m), which stays finite where n m would not.
        """
        count = self.count + other.count
        weight = other.count / count
        delta = other.mean - self.mean
        return ObservationStatistics(
            mean=self.mean + delta * weight,
            var=self.var * (1 - weight) + other.var * weight + delta**2 * weight * (1 - weight),
            count=count,
        )

    def without_last(self) -> ObservationStatistics:
        """These statistics, but of mean 0 and variance 1 in the last entry, which `normalize` then leaves alone."""
        return dataclasses.replace(self, mean=self.mean.at[..., -1].set(0.0), var=self.var.at[..., -1].set(1.0))

    def normalize(self, obs: Array, kind: str) -> Array:
        """Standardised observations [..., *shape] as float32, for any leading axes.

        running: (obs - mean) / sqrt(var + 1e-8), clipped to [-10, 10], as most PPO code does.
        fixed: (obs - mean) / max(sqrt(var), 1e-6), not clipped: the rule of the paper's reference implementation.
        """
        mean = jnp.broadcast_to(self.mean, obs.shape)
        if kind == "fixed":
            return (obs - mean) / jnp.broadcast_to(jnp.maximum(jnp.sqrt(self.var), STD_FLOOR), obs.shape)
        scale = jnp.broadcast_to(jax.lax.rsqrt(self.var + VARIANCE_FLOOR), obs.shape)
        return jnp.clip((obs - mean) * scale, -10.0, 10.0)


def sign_reward(reward: Array) -> Array:
    """The sign of the reward, -1, 0 or 1: what the paper's Atari agents learn from."""
    return jnp.sign(reward)
