"""gymnax environments under the project's contract. The only file that imports gymnax."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from jax import Array

from purejaxppo.envs.base import Box, Discrete, Environment, Step, auto_reset, clip_to_box, strongly_typed
from purejaxppo.envs.params import checked_limit, checked_params
from purejaxppo.errors import ConfigError

# Parameters that gymnax has and its environments never read; a test looks for them in its source.
_UNREAD = {
    "Acrobot-v1": ("link_length_2",),
    "Asterix-MinAtar": ("shot_cool_down",),
    "Seaquest-MinAtar": ("ramp_interval", "enemy_move_interval"),
}


class GymnaxEnvironment(Environment):
    """The gymnax environment `gymnax/{name}` with gymnax's default parameters, but for those in `params`.

    Images of zeros and ones (MinAtar, Pong) are bool [height, width, channels]; every other observation is one flat
    float32 vector, a discrete one (FrozenLake) one-hot. Rewards are cast to float32. Episodes are truncated at
    `max_episode_steps`, else at gymnax's own limit.

    We compose gymnax's `step_env`, `is_truncated` and `reset_env` as its `step` does, with the same keys (a test holds
    the two equal), rather than call `step`: a lower limit must cut the episode and leave the environment as it is,
    whereas DiscountingChain also shows the limit parameter in its observation.

    CartPole reads the mass of cart and pole together and that of the pole times its length as parameters of their own
    (total_mass, polemass_length): unless these are given, they follow from masscart, masspole and length.

    Raises ConfigError for a limit above gymnax's own, and for parameters that the environment does not have or read.
    """

    def __init__(self, name: str, max_episode_steps: int | None = None, params: Mapping[str, Any] | None = None):
        self.name = f"gymnax/{name}"
        with jax.ensure_compile_time_eval(), jax.numpy_rank_promotion("allow"):
            self._env, defaults = gymnax.make(name)
            known = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
            given = checked_params(self.name, params or {}, known)
            self._params: Any = defaults.replace(**_read_ones(name, given, known))
            observation_space = self._env.observation_space(self._params)
        self.max_episode_steps = checked_limit(self.name, int(self._params.max_steps_in_episode), max_episode_steps)
        self._limit = self._params.replace(max_steps_in_episode=self.max_episode_steps)
        self.action_space = _action_space(self._env.action_space(self._params))
        self._num_categories = observation_space.n if isinstance(observation_space, spaces.Discrete) else None
        self._is_binary_image = name.endswith("-MinAtar") or name == "Pong-misc"
        first_obs, _ = jax.eval_shape(self.reset, jax.random.key(0))
        self.observation_shape = first_obs.shape
        self.observation_dtype = np.dtype(first_obs.dtype)

    def reset(self, key: Array) -> tuple[Array, Any]:
        with jax.numpy_rank_promotion("allow"):  # gymnax broadcasts silently in places
            obs, state = self._env.reset_env(key, self._params)
            return self._encode(obs), strongly_typed(state)

    def step(self, key: Array, state: Any, action: Array) -> Step:
        key_step, key_reset = jax.random.split(key)
        with jax.numpy_rank_promotion("allow"):
            obs, next_state, reward, terminated, _ = self._env.step_env(
                key_step, state, self._convert(action), self._params
            )
            truncated = self._env.is_truncated(next_state, self._limit)
            return auto_reset(
                self.reset,
                key_reset,
                obs=self._encode(obs),
                state=strongly_typed(next_state),
                reward=jnp.asarray(reward, jnp.float32),
                terminated=jnp.asarray(terminated, bool),
                truncated=jnp.asarray(truncated, bool),
            )

    def _convert(self, action: Array) -> Array:
        """The action as gymnax expects it: int32 scalar, or float32 [A] within bounds."""
        if isinstance(self.action_space, Discrete):
            return jnp.asarray(action, jnp.int32)
        return clip_to_box(action, self.action_space)

    def _encode(self, obs: Array) -> Array:
        """The observation as the rollout keeps it; see the class."""
        if self._num_categories is not None:
            return jax.nn.one_hot(obs, self._num_categories, dtype=jnp.float32)
        if self._is_binary_image:
            return jnp.asarray(obs, bool)
        return jnp.asarray(obs, jnp.float32).reshape(-1)


def _read_ones(name: str, given: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters to set for those given; raises ConfigError for one that the environment never reads."""
    unread = _UNREAD.get(name, ("masscart",) if name == "CartPole-v1" and "total_mass" in given else ())
    if found := [param for param in unread if param in given]:
        beside = " beside total_mass" if name == "CartPole-v1" else ""
        raise ConfigError(f"env_params has {found[0]}, but must leave it out{beside}: gymnax/{name} never reads it.")
    if name != "CartPole-v1":
        return given
    all_of = {**known, **given}
    derived = {
        "total_mass": all_of["masscart"] + all_of["masspole"],
        "polemass_length": all_of["masspole"] * all_of["length"],
    }
    return derived | given


def _action_space(space: Any) -> Discrete | Box:
    """gymnax's action space as ours; scalar bounds are spread over the shape."""
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    low = np.broadcast_to(np.asarray(space.low, float), space.shape)
    high = np.broadcast_to(np.asarray(space.high, float), space.shape)
    return Box(tuple(space.shape), tuple(low.ravel().tolist()), tuple(high.ravel().tolist()))
