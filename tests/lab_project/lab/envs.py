"""A corridor of this project's own, seen as an image."""

import jax.numpy as jnp
import numpy as np

import purejaxppo as pjp

LENGTH = 10


class Corridor(pjp.envs.Environment):
    """Start in the middle; action 1 steps right, 0 left; the right end pays 1, the left end 0.

    Observations are images [3, 10, 2] of booleans: the walls, and where one is.
    """

    name = "lab/Corridor"
    action_space = pjp.envs.Discrete(2)
    observation_shape = (3, LENGTH, 2)
    observation_dtype = np.dtype("bool")

    def __init__(self, max_episode_steps=None):
        self.max_episode_steps = max_episode_steps or 50

    def observe(self, position):
        walls = jnp.zeros((3, LENGTH), bool).at[jnp.array([0, 2])].set(True)
        here = (jnp.arange(3)[:, None] == 1) & (jnp.arange(LENGTH)[None] == position)
        return jnp.stack([walls, here], axis=-1)

    def reset(self, key):
        position = jnp.int32(LENGTH // 2)
        nothing = jnp.zeros((0, 3))  # as MuJoCo's states have, for what a model has none of
        return self.observe(position), (position, jnp.int32(0), nothing)

    def step(self, key, state, action):
        position, age = state[0] + 2 * action - 1, state[1] + 1
        is_right = position == LENGTH - 1
        return pjp.envs.auto_reset(
            self.reset,
            key,
            obs=self.observe(position),
            state=(position, age, state[2]),
            reward=is_right.astype(jnp.float32),
            terminated=(position == 0) | is_right,
            truncated=age >= self.max_episode_steps,
        )


def corridor(max_episode_steps=None):
    """The environment, as `env = "lab.envs:corridor"` asks for it."""
    return Corridor(max_episode_steps)
