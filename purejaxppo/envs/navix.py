"""NAVIX, MiniGrid in JAX, under the project's contract. The only file that imports navix."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import navix
import numpy as np
from flax import struct
from jax import Array
from navix.environments.environment import StepType, Timestep

from purejaxppo.envs.base import Discrete, Environment, Step, one_hot_layers, reset_where_over, strongly_typed
from purejaxppo.envs.params import checked_params
from purejaxppo.errors import ConfigError

_navix: Any = navix  # without the package, a type checker takes this file for it

# Numbers of categories of a cell: what is there (`EntityIds`), its colour (`PALETTE`), its state or direction.
LAYERS = (11, 6, 4)
VIEWS = ("symbolic", "symbolic_first_person")


@struct.dataclass(kw_only=True)
class NavixState:
    """grid: navix's state without its key and its cache of images, which symbols do not need. elapsed: int32, steps."""

    grid: Any
    elapsed: Array


class NavixEnvironment(Environment):
    """The navix environment `navix/{name}` with symbolic observations: of each cell its content, colour and state.

    These are categories, so each is one-hot: bool [height, width, 21]. The whole grid is seen, as by navix's default,
    or what is before the agent, with the parameter observation_fn = "symbolic_first_person". Navix's environments have
    no time limit but the one they are made with, which its `make` has at 100; another may be longer.

    Raises ConfigError for parameters other than observation_fn.
    """

    action_space: Discrete
    max_episode_steps: int

    def __init__(self, name: str, max_episode_steps: int | None, params: Mapping[str, Any]):
        self.name = f"navix/{name}"
        view = checked_params(self.name, params, {"observation_fn": VIEWS[0]}).get("observation_fn", VIEWS[0])
        if view not in VIEWS:
            raise ConfigError(f"env_params has observation_fn = {view!r}, but must be one of {', '.join(VIEWS)}.")
        self.max_episode_steps = 100 if max_episode_steps is None else max_episode_steps
        with jax.ensure_compile_time_eval():
            see = getattr(_navix.observations, view)
            self._env: Any = _navix.make(name, max_steps=self.max_episode_steps, observation_fn=see)
            self.action_space = Discrete(len(self._env.action_set))
        first_obs, _ = jax.eval_shape(self.reset, jax.random.key(0))
        self.observation_shape = first_obs.shape
        self.observation_dtype = np.dtype(first_obs.dtype)

    def reset(self, key: Array) -> tuple[Array, NavixState]:
        with jax.numpy_rank_promotion("allow"):  # navix broadcasts silently in places
            return self._kept(self._env.reset(key))

    def step(self, key: Array, state: NavixState, action: Array) -> Step:
        key_step, key_reset = jax.random.split(key)
        action = jnp.asarray(action, jnp.int32)
        before = Timestep(
            t=state.elapsed,
            observation=None,
            action=action,
            reward=jnp.float32(0.0),
            step_type=StepType.TRANSITION,
            state=state.grid.replace(key=key_step),
        )
        with jax.numpy_rank_promotion("allow"):
            after = self._env._step(before, action)
        obs, next_state = self._kept(after)
        return reset_where_over(
            self.reset,
            key_reset,
            obs=obs,
            state=next_state,
            reward=jnp.asarray(after.reward, jnp.float32),
            terminated=after.step_type == StepType.TERMINATION,
            truncated=next_state.elapsed >= self.max_episode_steps,
        )

    def _kept(self, timestep: Any) -> tuple[Array, NavixState]:
        grid = strongly_typed(timestep.state.replace(key=None, cache=None))
        return one_hot_layers(timestep.observation, LAYERS), NavixState(grid=grid, elapsed=jnp.int32(timestep.t))


make = NavixEnvironment
