"""The contract every environment meets, and the two pieces of logic all adapters share."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array, lax


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0 .. n - 1, an int32 scalar."""

    n: int


@dataclasses.dataclass(frozen=True)
class Box:
    """Actions are float32 vectors of `shape` [A], in the environment's own units, each bounded from below and above."""

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@struct.dataclass(kw_only=True)
class Step:
    """One transition of one environment, already reset where the episode ended.

    obs, state: where the next step starts: the first of a new episode if this one ended here.
    reward: float32 scalar, as the environment gives it.
    terminated: the episode ended by the environment's rules; the value of what follows is zero.
    truncated: the episode was cut by the time limit; never true together with `terminated`, which wins.
    final_obs: the true last observation of this transition; equals `obs` while the episode goes on.
    """

    obs: Array
    state: Any
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: Array


class Environment(abc.ABC):
    """A single environment of fixed shapes and dtypes; callers `vmap` it.

    name: as `make` knows it.
    observation_shape, observation_dtype: of every `obs`; the dtype (bool, uint8 or float32) is the smallest that holds
        it, and the one to keep in a rollout.
    observation_scale: what networks see observations divided by, where they are not normalised: 255 of pixels, else 1.
    action_space: Discrete or Box.
    max_episode_steps: steps after which an episode is truncated, and never before; or None where nothing cuts it. With
        time_limit bootstrap a run whose environment cuts more often is stopped as diverged.
    """

    name: str
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype
    action_space: Discrete | Box
    max_episode_steps: int | None
    observation_scale: float = 1.0

    @abc.abstractmethod
    def reset(self, key: Array) -> tuple[Array, Any]:
        """First observation and state of a new episode."""

    @abc.abstractmethod
    def step(self, key: Array, state: Any, action: Array) -> Step:
        """One transition; an episode that ends is followed by a fresh `reset`, with a key of its own.

        Box actions are in the environment's own units and clipped to its bounds.
        """


def auto_reset(
    reset: Callable[[Array], tuple[Array, Any]],
    key: Array,
    *,
    obs: Array,
    state: Any,
    reward: Array,
    terminated: Array,
    truncated: Array,
) -> Step:
    """The `Step` that continues from `reset(key)` where the episode ended, and from `obs`, `state` where it goes on.

    The reset is computed at every step and selected: under `vmap` a `cond` would become this very `select`.
    """
    truncated = truncated & ~terminated
    is_over = terminated | truncated
    next_obs, next_state = jax.tree.map(
        lambda first, stepped: lax.select(is_over, first, stepped), reset(key), (obs, state)
    )
    return Step(
        obs=next_obs,
        state=next_state,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        final_obs=obs,
    )


def reset_where_over(reset: Callable[[Array], tuple[Array, Any]], key: Array, **transition: Any) -> Step:
    """`auto_reset` for a reset that costs more than a step: made for those environments alone that ended.

    Of environments that are stepped together, by the innermost `vmap`, those that ended are reset one after the other
    in a loop, which is as long as there are any; `auto_reset` resets all of them, at every step.
    """

    @jax.custom_batching.custom_vmap
    def begin(key: Array, is_over: Array, going_on: Any) -> Any:
        return jax.tree.map(lambda *each: lax.select(is_over, *each), reset(key), going_on)

    @begin.def_vmap
    def begin_each(axis_size: int, in_batched: Any, *arguments: Any) -> tuple[Any, Any]:
        def with_axis(is_batched: bool, x: Array) -> Array:
            return x if is_batched else jnp.broadcast_to(x, (axis_size, *x.shape))

        keys, is_over, going_on = jax.tree.map(with_axis, tuple(in_batched), arguments)

        def body(carry: tuple[Array, Any]) -> tuple[Array, Any]:
            left, states = carry
            place = jnp.argmax(left)
            first = reset(keys[place])
            return left.at[place].set(False), jax.tree.map(lambda x, new: x.at[place].set(new), states, first)

        _, begun = lax.while_loop(lambda carry: carry[0].any(), body, (is_over, going_on))
        return begun, jax.tree.map(lambda _: True, begun)

    transition = strongly_typed(transition)
    truncated = transition["truncated"] & ~transition["terminated"]
    is_over = transition["terminated"] | truncated
    obs, state = begin(key, is_over, (transition["obs"], transition["state"]))
    return Step(
        obs=obs,
        state=state,
        reward=transition["reward"],
        terminated=transition["terminated"],
        truncated=truncated,
        final_obs=transition["obs"],
    )


def strongly_typed(tree: Any) -> Any:
    """Python numbers and weakly typed arrays as arrays of fixed dtype: reset and step must agree for a scan."""
    return jax.tree.map(lambda leaf: lax.convert_element_type(leaf, jnp.result_type(leaf)), tree)


def one_hot_layers(ids: Array, sizes: tuple[int, ...]) -> Array:
    """Grids of categories [H, W, L] as bool [H, W, sum(sizes)]: every layer one-hot, side by side."""
    return jnp.concatenate(
        [jax.nn.one_hot(ids[..., layer], size, dtype=bool) for layer, size in enumerate(sizes)], axis=-1
    )


def clip_to_box(action: Array, box: Box) -> Array:
    """Action [A] as float32 within the bounds of the box."""
    low = np.asarray(box.low, np.float32).reshape(box.shape)
    high = np.asarray(box.high, np.float32).reshape(box.shape)
    return jnp.clip(jnp.asarray(action, jnp.float32), low, high)
