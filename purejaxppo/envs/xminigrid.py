"""XLand-MiniGrid under the project's contract. The only file that imports xminigrid."""

# pyright: reportMissingImports=false

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xminigrid
from jax import Array
from xminigrid.core.constants import NUM_COLORS, NUM_TILES
from xminigrid.types import StepType, TimeStep

from purejaxppo.envs.base import Discrete, Environment, Step, one_hot_layers, reset_where_over, strongly_typed
from purejaxppo.envs.params import checked_limit, checked_params
from purejaxppo.errors import ConfigError

_xminigrid: Any = xminigrid  # without the package, a type checker takes this file for it

PARAMETERS = ("view_size",)


class XMiniGridEnvironment(Environment):
    """The environment `xminigrid/{name}`: MiniGrid's tasks as xminigrid has them.

    Observations are the cells before the agent, of each which tile and which colour: categories, so each is one-hot,
    bool [view_size, view_size, 25]. Its reward is 1 - 0.9 x the share of xminigrid's own time limit that has gone by;
    a lower limit of ours cuts the episode and leaves that as it is.

    Raises ConfigError for a limit above xminigrid's own, and for parameters other than `PARAMETERS`.
    """

    action_space: Discrete
    max_episode_steps: int

    def __init__(self, name: str, max_episode_steps: int | None, params: Mapping[str, Any]):
        self.name = f"xminigrid/{name}"
        with jax.ensure_compile_time_eval(), jax.numpy_rank_promotion("allow"):
            env, defaults = _xminigrid.make(name)
        self._env: Any = env
        known = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
        given = checked_params(self.name, params, {name: x for name, x in known.items() if name in PARAMETERS})
        if (view := given.get("view_size", 3)) < 3 or view % 2 == 0:
            raise ConfigError(
                f"env_params has view_size = {view}, but must be odd and at least 3: the agent is its middle."
            )
        self._params: Any = defaults.replace(**given)
        self.max_episode_steps = checked_limit(self.name, int(self._params.max_steps), max_episode_steps)
        self.action_space = Discrete(env.num_actions(self._params))
        first_obs, _ = jax.eval_shape(self.reset, jax.random.key(0))
        self.observation_shape = first_obs.shape
        self.observation_dtype = np.dtype(first_obs.dtype)

    def reset(self, key: Array) -> tuple[Array, Any]:
        with jax.numpy_rank_promotion("allow"):  # xminigrid broadcasts silently in places
            first = self._env.reset(self._params, key)
        return _encoded(first.observation), strongly_typed(first.state)

    def step(self, key: Array, state: Any, action: Array) -> Step:
        before = TimeStep(
            state=state,
            step_type=StepType.MID,
            reward=jnp.float32(0.0),
            discount=jnp.float32(1.0),
            observation=jnp.zeros((), jnp.uint8),
        )
        with jax.numpy_rank_promotion("allow"):
            after = self._env.step(self._params, before, jnp.asarray(action, jnp.int32))
        return reset_where_over(
            self.reset,
            key,  # a step of xminigrid draws nothing: the whole key is the reset's
            obs=_encoded(after.observation),
            state=strongly_typed(after.state),
            reward=jnp.asarray(after.reward, jnp.float32),
            terminated=after.discount == 0,
            truncated=after.state.step_num >= self.max_episode_steps,
        )


def _encoded(cells: Array) -> Array:
    return one_hot_layers(cells, (NUM_TILES, NUM_COLORS))


make = XMiniGridEnvironment
