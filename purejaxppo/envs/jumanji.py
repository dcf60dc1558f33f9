"""Jumanji's puzzles and games for one agent, under the project's contract. The only file that imports jumanji."""

# pyright: reportMissingImports=false

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jumanji
import numpy as np
from flax import struct
from jax import Array

from purejaxppo.envs.base import Discrete, Environment, Step, reset_where_over, strongly_typed
from purejaxppo.envs.params import checked_limit, checked_params

_jumanji: Any = jumanji  # without the package, a type checker takes this file for it

# Not for the networks: the mask of legal actions, which PPO here does not use, and the time, which is `time_aware`'s.
_LEFT_OUT = ("action_mask", "step_count")
_NEVER = 2**31 - 1


@struct.dataclass(kw_only=True)
class JumanjiState:
    """inner: jumanji's state. elapsed: int32, steps since the episode began."""

    inner: Any
    elapsed: Array


class JumanjiEnvironment(Environment):
    """The jumanji environment `jumanji/{name}`.

    Observations are flat float32: all parts of jumanji's own side by side, but the mask of legal actions and the number
    of steps; a grid with channels (Snake) stays an image, float32 [height, width, channels]. Actions of several parts
    (Tetris: rotation and column) are numbered as by `np.ravel_multi_index`. What an illegal action does is jumanji's.

    Jumanji ends episodes at its time limit as if they had terminated: it is put out of reach, and the limit is ours.

    Raises ConfigError for a limit above jumanji's own, and for any parameters.
    """

    action_space: Discrete

    def __init__(self, name: str, max_episode_steps: int | None, params: Mapping[str, Any]):
        self.name = f"jumanji/{name}"
        checked_params(self.name, params, {})
        with jax.ensure_compile_time_eval(), jax.numpy_rank_promotion("allow"):
            self._env: Any = _jumanji.make(name)
            self._sizes = np.ravel(self._env.action_spec.num_values)
        own_limit = getattr(self._env, "time_limit", None)
        if own_limit is None:
            self.max_episode_steps = max_episode_steps
        else:
            self.max_episode_steps = checked_limit(self.name, own_limit, max_episode_steps)
            self._env.time_limit = _NEVER
        self.action_space = Discrete(math.prod(self._sizes.tolist()))
        first_obs, _ = jax.eval_shape(self.reset, jax.random.key(0))
        self.observation_shape = first_obs.shape
        self.observation_dtype = np.dtype(first_obs.dtype)

    def reset(self, key: Array) -> tuple[Array, JumanjiState]:
        with jax.numpy_rank_promotion("allow"):  # jumanji broadcasts silently in places
            state, first = self._env.reset(key)
        return _encoded(first.observation), strongly_typed(JumanjiState(inner=state, elapsed=jnp.int32(0)))

    def step(self, key: Array, state: JumanjiState, action: Array) -> Step:
        parts = jnp.stack(jnp.unravel_index(jnp.asarray(action, jnp.int32), self._sizes.tolist()))
        with jax.numpy_rank_promotion("allow"):
            inner, after = self._env.step(state.inner, parts if len(self._sizes) > 1 else parts[0])
        elapsed = state.elapsed + 1
        is_cut = jnp.bool_(False) if self.max_episode_steps is None else elapsed >= self.max_episode_steps
        return reset_where_over(
            self.reset,
            key,  # what jumanji draws within an episode is from a key in its own state: the whole key is the reset's
            obs=_encoded(after.observation),
            state=strongly_typed(JumanjiState(inner=inner, elapsed=elapsed)),
            reward=jnp.asarray(after.reward, jnp.float32),
            terminated=after.last(),
            truncated=is_cut,
        )


def _encoded(observation: Any) -> Array:
    parts = {name: part for name, part in observation._asdict().items() if name not in _LEFT_OUT}
    if len(parts) == 1 and "grid" in parts and parts["grid"].ndim == 3:
        return jnp.asarray(parts["grid"], jnp.float32)
    return jnp.concatenate([jnp.ravel(jnp.asarray(leaf, jnp.float32)) for leaf in jax.tree.leaves(parts)])


make = JumanjiEnvironment
