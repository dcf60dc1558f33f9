"""JAXtari, Atari games in JAX, under the project's contract. The only file that imports jaxtari.

The games' pictures, sprites, are no part of the package: its command `install-sprites` asks whether one owns the ROMs
and downloads them, or takes others. Games need them to start, also where nothing is drawn.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from purejaxppo.envs.base import Discrete, Environment, Step, reset_where_over, strongly_typed
from purejaxppo.envs.params import checked_limit, checked_params
from purejaxppo.errors import ConfigError

os.environ.setdefault("JAXTARI_SKIP_SPRITE_UPDATE", "1")  # else it may ask a question on the terminal

import jaxtari
from jaxtari.wrappers import AtariWrapper

_jaxtari: Any = jaxtari  # without the package, a type checker takes this file for it

FRAMES = 108_000  # of an episode at most: 30 minutes at 60 a second, as in ALE
SIDE = 84  # of pixels that networks see (Mnih et al. 2015)
DEFAULTS = {"pixels": False, "frame_skip": 4, "noop_max": 30}


@struct.dataclass(kw_only=True)
class JaxtariState:
    """game: of jaxtari's AtariWrapper. elapsed: int32, steps since the episode began."""

    game: Any
    elapsed: Array


class JaxtariEnvironment(Environment):
    """The game `jaxtari/{name}`, an action held for frame_skip frames, rewards summed over them.

    Observations are jaxtari's objects as one flat float32 vector; with the parameter pixels they are uint8 [84, 84, 1],
    grey, the brighter of the last two frames (which networks see divided by 255). Stacked frames, sticky actions and
    signs of rewards are ours: frame_stack, sticky_actions and sign_reward. A sticky action is drawn once a step and
    lasts for all its frames: 0.25 makes one frame of four an old one, in ALE, which draws for each, 0.33. An episode
    begins with up to noop_max idle frames and, where the game has it, a shot, and ends with the game, not with a life.

    Raises ConfigError without sprites, for a limit above 27,000 steps of 4 frames, and for other parameters.
    """

    action_space: Discrete
    max_episode_steps: int

    def __init__(self, name: str, max_episode_steps: int | None, params: Mapping[str, Any]):
        self.name = f"jaxtari/{name}"
        given = DEFAULTS | checked_params(self.name, params, DEFAULTS)
        self._is_pixels, self._frame_skip = given["pixels"], given["frame_skip"]
        if self._frame_skip < 1:
            raise ConfigError(f"env_params has frame_skip = {self._frame_skip}, but must be at least 1.")
        try:
            with jax.ensure_compile_time_eval(), jax.numpy_rank_promotion("allow"):
                game: Any = _jaxtari.make(name)
        except (RuntimeError, OSError) as error:
            raise ConfigError(
                f"env {self.name} needs its sprites, which are not installed; jaxtari's command install-sprites asks "
                "whether you own the game and installs them."
            ) from error
        self._game: Any = AtariWrapper(game, sticky_actions=0.0, episodic_life=False, noop_max=given["noop_max"])
        self.max_episode_steps = checked_limit(self.name, FRAMES // self._frame_skip, max_episode_steps)
        self.action_space = Discrete(int(game.action_space().n))
        self.observation_scale = 255.0 if self._is_pixels else 1.0
        first_obs, _ = jax.eval_shape(self.reset, jax.random.key(0))
        self.observation_shape = first_obs.shape
        self.observation_dtype = np.dtype(first_obs.dtype)

    def reset(self, key: Array) -> tuple[Array, JaxtariState]:
        with jax.numpy_rank_promotion("allow"):  # jaxtari broadcasts silently in places
            obs, game = self._game.reset(key)
        game = strongly_typed(game)
        return self._encoded(obs, game, game), JaxtariState(game=game, elapsed=jnp.int32(0))

    def step(self, key: Array, state: JaxtariState, action: Array) -> Step:
        action = jnp.asarray(action, jnp.int32)

        def one_frame(carry: Any, _: None) -> tuple[Any, tuple[Array, Any]]:
            game, is_over, last = carry
            with jax.numpy_rank_promotion("allow"):
                obs, after, reward, terminated, _, _ = self._game.step(game, action)
            held = jax.tree.map(
                lambda old, new: jnp.where(is_over, old, new), (game, last), (strongly_typed(after), obs)
            )
            reward = jnp.where(is_over, 0.0, jnp.asarray(reward, jnp.float32))
            return (held[0], is_over | terminated, held[1]), (reward, game if self._is_pixels else ())

        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._observed(state.game))
        carry = state.game, jnp.bool_(False), blank
        (game, terminated, obs), (rewards, before) = jax.lax.scan(one_frame, carry, None, length=self._frame_skip)
        elapsed = state.elapsed + 1
        return reset_where_over(
            self.reset,
            key,  # a game draws from keys in its own state: the whole key is the reset's
            obs=self._encoded(obs, game, jax.tree.map(lambda x: x[-1], before)),
            state=JaxtariState(game=game, elapsed=elapsed),
            reward=jnp.sum(rewards),
            terminated=terminated,
            truncated=elapsed >= self.max_episode_steps,
        )

    def _observed(self, game: Any) -> Any:
        with jax.numpy_rank_promotion("allow"):
            return jax.eval_shape(self._game.step, game, jnp.int32(0))[0]

    def _encoded(self, obs: Any, game: Any, before: Any) -> Array:
        """The observation of a game, of whose latest frame `before` is the state before it."""
        if not self._is_pixels:
            return jnp.concatenate([jnp.ravel(jnp.asarray(leaf, jnp.float32)) for leaf in jax.tree.leaves(obs)])
        with jax.numpy_rank_promotion("allow"):
            frames = [self._game.render(x.env_state).astype(jnp.float32) for x in (game, before)]
        grey = jnp.maximum(*frames) @ jnp.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
        return jnp.round(jax.image.resize(grey, (SIDE, SIDE), "linear")).astype(jnp.uint8)[..., None]


make = JaxtariEnvironment
