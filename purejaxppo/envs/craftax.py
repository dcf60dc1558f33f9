"""Craftax and Craftax-Classic under the project's contract. The only file that imports craftax."""

# pyright: reportMissingImports=false

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from craftax.craftax_env import make_craftax_env_from_name
from jax import Array

from purejaxppo.envs.base import Discrete, Environment, Step, reset_where_over, strongly_typed
from purejaxppo.envs.params import checked_limit, checked_params

NEVER = 2**31 - 1


class CraftaxEnvironment(Environment):
    """The craftax environment `craftax/{name}` with symbolic observations, a flat float32 vector.

    Craftax's `is_terminal` includes its time limit (10,000 steps in Classic, 100,000 in Craftax), which its rules know
    nowhere else: with the limit out of reach it tells terminations alone.

    A new world costs nine steps of Classic on a CPU, so one is made only where an episode ended; each environment gets
    one of its own, unlike with craftax's "optimistic resets".

    Raises ConfigError for a limit above craftax's own, and for parameters that it does not have.
    """

    action_space: Discrete
    max_episode_steps: int

    def __init__(self, name: str, max_episode_steps: int | None, params: Mapping[str, Any]):
        self.name = f"craftax/{name}"
        with jax.ensure_compile_time_eval(), jax.numpy_rank_promotion("allow"):
            self._env: Any = make_craftax_env_from_name(name, auto_reset=False)
            defaults: Any = self._env.default_params
        self.max_episode_steps = checked_limit(self.name, defaults.max_timesteps, max_episode_steps)
        known = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
        self._params = defaults.replace(**checked_params(self.name, params, known), max_timesteps=NEVER)
        self.action_space = Discrete(int(self._env.num_actions))
        first_obs, _ = jax.eval_shape(self.reset, jax.random.key(0))
        self.observation_shape = first_obs.shape
        self.observation_dtype = np.dtype(first_obs.dtype)

    def reset(self, key: Array) -> tuple[Array, Any]:
        with jax.numpy_rank_promotion("allow"):  # craftax broadcasts silently in places
            obs, state = self._env.reset_env(key, self._params)
        return jnp.asarray(obs, jnp.float32), strongly_typed(state)

    def step(self, key: Array, state: Any, action: Array) -> Step:
        key_step, key_reset = jax.random.split(key)
        with jax.numpy_rank_promotion("allow"):
            obs, next_state, reward, terminated, _ = self._env.step_env(
                key_step, state, jnp.asarray(action, jnp.int32), self._params
            )
        return reset_where_over(
            self.reset,
            key_reset,
            obs=jnp.asarray(obs, jnp.float32),
            state=strongly_typed(next_state),
            reward=jnp.asarray(reward, jnp.float32),
            terminated=jnp.asarray(terminated, bool),
            truncated=next_state.timestep >= self.max_episode_steps,
        )


make = CraftaxEnvironment
