"""MuJoCo Playground's DM-control tasks under the project's contract. The only file that imports mujoco_playground.

Its locomotion and manipulation tasks clone models of robots from the network when they are made, and are left out.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from purejaxppo.envs.base import Box, Environment, Step, clip_to_box, reset_where_over, strongly_typed
from purejaxppo.envs.brax import without_known_warnings, without_model_notices, without_warp_lines
from purejaxppo.envs.params import checked_limit, checked_params

with without_known_warnings(), without_warp_lines():
    from mujoco_playground import State, dm_control_suite

# Parts of a task's configuration that only playground's own wrappers, or its renderer, read.
_NOT_OURS = ("action_repeat", "vision")


@struct.dataclass(kw_only=True)
class PlaygroundState:
    """physics: MJX's data. info: what a task keeps beside it, such as its target. elapsed: int32, steps."""

    physics: Any
    info: dict[str, Any]
    elapsed: Array


class PlaygroundEnvironment(Environment):
    """The DM-control task `playground/{name}`, simulated by MJX in JAX (parameter impl: "jax", or "warp" on a GPU).

    Observations are flat float32; actions a float32 vector within [-1, 1]. Playground's `done`, a NaN in the physics,
    terminates an episode, with reward 0 where that is none either; the limit, 1000 steps, is that of its wrappers,
    which we do without: they replay cached first states. Parameters are those of the task's configuration that are
    single values.

    Raises ConfigError for a limit above playground's own, and for parameters that the task does not have.
    """

    action_space: Box
    max_episode_steps: int

    def __init__(self, name: str, max_episode_steps: int | None, params: Mapping[str, Any]):
        self.name = f"playground/{name}"
        config = dm_control_suite.get_default_config(name)
        known = {name: value for name, value in config.items() if name not in _NOT_OURS}
        given = {"impl": "jax"} | checked_params(self.name, params, known)
        with without_known_warnings(), without_model_notices(), jax.ensure_compile_time_eval():
            self._env: Any = dm_control_suite.load(name, config_overrides=given)
        self.max_episode_steps = checked_limit(self.name, config.episode_length, max_episode_steps)
        num_actions = self._env.action_size
        self.action_space = Box((num_actions,), (-1.0,) * num_actions, (1.0,) * num_actions)
        with without_known_warnings(), jax.numpy_rank_promotion("allow"):
            first = jax.eval_shape(self._env.reset, jax.random.key(0))
        self._metrics = {name: jnp.zeros(x.shape, x.dtype) for name, x in first.metrics.items()}  # which no task reads
        self.observation_shape = first.obs.shape
        self.observation_dtype = np.dtype(first.obs.dtype)

    def reset(self, key: Array) -> tuple[Array, PlaygroundState]:
        with without_known_warnings(), jax.numpy_rank_promotion("allow"):  # playground broadcasts silently in places
            first = self._env.reset(key)
        state = PlaygroundState(physics=first.data, info=first.info, elapsed=jnp.int32(0))
        return jnp.asarray(first.obs, jnp.float32), strongly_typed(state)

    def step(self, key: Array, state: PlaygroundState, action: Array) -> Step:
        nothing = jnp.float32(0.0)
        obs = jnp.zeros(self.observation_shape, self.observation_dtype)
        before = State(state.physics, obs, nothing, nothing, dict(self._metrics), dict(state.info))
        with without_known_warnings(), jax.numpy_rank_promotion("allow"):
            after = self._env.step(before, clip_to_box(action, self.action_space))
        elapsed, reward = state.elapsed + 1, jnp.asarray(after.reward, jnp.float32)
        is_broken = (after.done > 0) & ~jnp.isfinite(reward)
        return reset_where_over(
            self.reset,
            key,  # what a task draws within an episode is from a key in its own state: the whole key is the reset's
            obs=jnp.asarray(after.obs, jnp.float32),
            state=strongly_typed(PlaygroundState(physics=after.data, info=after.info, elapsed=elapsed)),
            reward=jnp.where(is_broken, 0.0, reward),
            terminated=after.done > 0,
            truncated=elapsed >= self.max_episode_steps,
        )


make = PlaygroundEnvironment
