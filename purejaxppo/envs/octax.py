"""Octax, CHIP-8 games in an emulator in JAX, under the project's contract. The only file that imports octax."""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from octax.env import OctaxEnv
from octax.environments import create_environment

from purejaxppo.envs.base import Discrete, Environment, Step, auto_reset, strongly_typed
from purejaxppo.envs.params import checked_limit, checked_params, keywords
from purejaxppo.errors import ConfigError

PARAMETERS = ("frame_skip", "instruction_frequency", "fps")


@contextlib.contextmanager
def _lenient() -> Iterator[None]:
    """Let octax broadcast silently, and write 16-bit numbers to 8-bit registers, which JAX warns of, as it does."""
    with jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="scatter inputs have incompatible types", category=FutureWarning)
        yield


class OctaxEnvironment(Environment):
    """The game `octax/{name}`; where a name ends in a number, that is its level.

    Observations are the screen's latest frames, as many as the frames of a step (frame_skip, 4), as bool [32, 64, 4]:
    the height first, unlike octax. The emulator's memory at the start is always the same; its random numbers are not.

    Raises ConfigError for a limit above octax's own, 4500, and for parameters other than `PARAMETERS`.
    """

    action_space: Discrete
    max_episode_steps: int

    def __init__(self, name: str, max_episode_steps: int | None, params: Mapping[str, Any]):
        self.name = f"octax/{name}"
        known = {name: x for name, x in keywords(OctaxEnv).items() if name in PARAMETERS}
        given = checked_params(self.name, params, known)
        if small := [name for name, value in given.items() if type(value) is int and value < 1]:
            raise ConfigError(f"env_params has {small[0]} = {given[small[0]]}, but must be at least 1.")
        with jax.ensure_compile_time_eval(), _lenient():
            self._env: Any = create_environment(name, render_mode=None, **given)[0]
        self.max_episode_steps = checked_limit(self.name, self._env.max_num_steps_per_episodes, max_episode_steps)
        self.action_space = Discrete(int(self._env.num_actions))
        first_obs, _ = jax.eval_shape(self.reset, jax.random.key(0))
        self.observation_shape = first_obs.shape
        self.observation_dtype = np.dtype(first_obs.dtype)

    def reset(self, key: Array) -> tuple[Array, Any]:
        state, frames, _ = self._env.reset(key)
        return jnp.transpose(frames, (2, 1, 0)), strongly_typed(state)

    def step(self, key: Array, state: Any, action: Array) -> Step:
        with _lenient():
            after, frames, reward, terminated, _, _ = self._env.step(state, jnp.asarray(action, jnp.int32))
        return auto_reset(
            self.reset,
            key,  # the emulator draws from a key in its own state: the whole key is the reset's
            obs=jnp.transpose(frames, (2, 1, 0)),
            state=strongly_typed(after),
            reward=jnp.asarray(reward, jnp.float32),
            terminated=jnp.asarray(terminated, bool),
            truncated=after.time >= self.max_episode_steps,
        )


make = OctaxEnvironment
