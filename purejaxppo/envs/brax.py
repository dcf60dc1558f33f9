"""Brax environments under the project's contract, with our own episode logic. The only file that imports brax.

Why not brax's wrappers: its AutoResetWrapper replays one cached first state for ever and drops the last observation,
and its EpisodeWrapper rejects `jax.random.key` arrays.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from purejaxppo.envs.base import Box, Environment, Step, auto_reset, clip_to_box, strongly_typed
from purejaxppo.envs.params import checked_params, keywords

# Brax environments have no limit of their own; this is the length brax trains with, and that of MuJoCo's v4 tasks.
DEFAULT_EPISODE_STEPS = 1000


@contextlib.contextmanager
def without_known_warnings() -> Iterator[None]:
    """Keep from users that jaxopt and brax are unmaintained, and that brax reads deprecated fields of MuJoCo's data.

    That is for this project to act on. Each is matched by its text, so that nothing else is hidden.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="JAXopt is no longer maintained")
        warnings.filterwarnings("ignore", message="Brax System, piplines and environments are not actively")
        warnings.filterwarnings("ignore", message="Accessing `(contact|ncon)` directly from `Data` is deprecated")
        yield


@contextlib.contextmanager
def without_warp_lines() -> Iterator[None]:
    """Drop the lines that MuJoCo prints on import where the optional package `warp` is absent, and no others."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines(keepends=True):
            if not line.startswith(("Failed to import warp", "Failed to import mujoco_warp")):
                sys.stdout.write(line)


with without_known_warnings(), without_warp_lines():
    import brax.envs
    import mujoco

_mujoco: Any = mujoco  # its compiled functions have no type stubs


@contextlib.contextmanager
def without_model_notices() -> Iterator[None]:
    """Load a model without MuJoCo's notices on brax's own model files, about which a user can do nothing.

    They would go to the terminal and to a log file in the working directory.
    """
    previous = _mujoco.get_mju_user_warning()
    _mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        _mujoco.set_mju_user_warning(previous)


@struct.dataclass(kw_only=True)
class BraxState:
    """physics: brax's pipeline state. elapsed: int32, steps since the episode began.

    The rest of brax's state (observation, reward, done, metrics, info) is output that none of its environments reads;
    a test holds us equal to brax with its whole state. Selecting and carrying it would cost as much as the reset.
    """

    physics: Any
    elapsed: Array


class BraxEnvironment(Environment):
    """The brax environment `brax/{name}` on one of brax's physics engines.

    Observations are flat float32; actions a float32 vector within [-1, 1]. `done` is termination; the limit is ours.
    `params` are keywords of brax's own class.

    Every step also computes a fresh reset, selected where an episode ended: measured with 64 environments on one CPU
    core, a reset costs 5 % of a step of hopper (spring), 5 % of humanoid, 3 % of walker2d, 1 % of ant and halfcheetah,
    since a step integrates the physics 4 to 16 times and a reset never. Anything cheaper would share first states.
    """

    action_space: Box
    max_episode_steps: int

    def __init__(
        self,
        name: str,
        backend: str = "spring",
        max_episode_steps: int | None = None,
        params: Mapping[str, Any] | None = None,
    ):
        self.name = f"brax/{name}"
        self.max_episode_steps = DEFAULT_EPISODE_STEPS if max_episode_steps is None else max_episode_steps
        known = {name: x for name, x in keywords(brax.envs._envs[name]).items() if name != "backend"}
        given = checked_params(self.name, params or {}, known)
        with without_known_warnings(), without_model_notices(), jax.ensure_compile_time_eval():
            self._env = brax.envs.get_environment(name, backend=backend, **given)
        num_actions = self._env.action_size
        self.action_space = Box((num_actions,), (-1.0,) * num_actions, (1.0,) * num_actions)
        first_obs, _ = jax.eval_shape(self.reset, jax.random.key(0))
        self.observation_shape = first_obs.shape
        self.observation_dtype = np.dtype(first_obs.dtype)

    def reset(self, key: Array) -> tuple[Array, BraxState]:
        with without_known_warnings(), jax.numpy_rank_promotion("allow"):  # brax broadcasts silently in places
            state = strongly_typed(self._env.reset(key))
        return state.obs, BraxState(physics=state.pipeline_state, elapsed=jnp.int32(0))

    def step(self, key: Array, state: BraxState, action: Array) -> Step:
        obs = jnp.zeros(self.observation_shape, self.observation_dtype)
        nothing = jnp.float32(0.0)
        before = brax.envs.State(state.physics, obs, reward=nothing, done=nothing)
        with without_known_warnings(), jax.numpy_rank_promotion("allow"):
            after = strongly_typed(self._env.step(before, clip_to_box(action, self.action_space)))
        elapsed = state.elapsed + 1
        return auto_reset(
            self.reset,
            key,  # brax's physics is deterministic: the whole key is the reset's
            obs=after.obs,
            state=BraxState(physics=after.pipeline_state, elapsed=elapsed),
            reward=jnp.asarray(after.reward, jnp.float32),
            terminated=after.done > 0,
            truncated=elapsed >= self.max_episode_steps,
        )
