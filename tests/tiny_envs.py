"""An environment for tests, in which everything can be seen: what was carried out, the time, and both kinds of end."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from purejaxppo.envs.base import Discrete, Environment, Step, auto_reset
from purejaxppo.envs.names import CUSTOM

T = TypeVar("T")


@struct.dataclass(kw_only=True)
class WalkState:
    """position: float32; elapsed: int32, steps since the episode began."""

    position: jax.Array
    elapsed: jax.Array


class Walk(Environment):
    """Steps of -1, 0 or 1 along a line; the episode terminates beyond 2.5 on either side.

    Observations [3]: position, the action that was carried out (-1 at the start), 10 + 2 x a normal random number.
    Rewards are 3 (action - 1) + position / 2, so that their sign is something else.
    """

    name = "tiny/Walk"
    observation_shape = (3,)
    observation_dtype = np.dtype("float32")
    action_space = Discrete(3)

    def __init__(self, max_episode_steps: int | None):
        self.max_episode_steps = max_episode_steps or 6

    def reset(self, key: jax.Array) -> tuple[jax.Array, WalkState]:
        key_position, key_noise = jax.random.split(key)
        position = jax.random.uniform(key_position, (), minval=-1.0, maxval=1.0)
        return observed(position, jnp.int32(-1), key_noise), WalkState(position=position, elapsed=jnp.int32(0))

    def step(self, key: jax.Array, state: WalkState, action: jax.Array) -> Step:
        key_noise, key_reset = jax.random.split(key)
        position, elapsed = state.position + action - 1.0, state.elapsed + 1
        return auto_reset(
            self.reset,
            key_reset,
            obs=observed(position, action, key_noise),
            state=WalkState(position=position, elapsed=elapsed),
            reward=3.0 * (action - 1) + position / 2,
            terminated=jnp.abs(position) > 2.5,
            truncated=elapsed >= self.limit,
        )

    @property
    def limit(self) -> int:
        """Steps after which episodes are truncated."""
        return self.max_episode_steps


class UntruthfulWalk(Walk):
    """One that cuts its episodes twice as often as it says."""

    @property
    def limit(self) -> int:
        return self.max_episode_steps // 2


def observed(position: jax.Array, action: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.stack([position, action.astype(jnp.float32), 10.0 + 2.0 * jax.random.normal(key)])


def with_walk(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """`function(...)`, while configurations know `tiny/Walk` and `tiny/UntruthfulWalk`; other tests list all names."""
    CUSTOM.update({"tiny/Walk": Walk, "tiny/UntruthfulWalk": UntruthfulWalk})
    try:
        return function(*arguments, **options)
    finally:
        del CUSTOM["tiny/Walk"], CUSTOM["tiny/UntruthfulWalk"]
