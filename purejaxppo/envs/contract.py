"""Whether an environment of a user's meets the contract of `base.Environment`, told before anything is compiled."""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo import own
from purejaxppo.envs.base import Box, Discrete, Environment, Step
from purejaxppo.errors import ConfigError


def checked(
    name: str, build: Callable[..., Any], max_episode_steps: int | None, params: Mapping[str, Any]
) -> Environment:
    """The environment that `build` makes, once its attributes, shapes and types are right.

    Nothing is computed: `jax.eval_shape` of a reset and a step. Raises ConfigError for what breaks the contract.
    """
    env = _built(name, build, max_episode_steps, params)
    _check_limit(name, env.max_episode_steps, max_episode_steps)
    space = env.action_space
    if not isinstance(space, Discrete | Box):
        raise ConfigError(f"env {name} has action_space {space!r}, but must have a Discrete or a Box.")
    if isinstance(space, Box):
        _check_bounds(name, space)
    _check_observations(name, env)
    action = jax.ShapeDtypeStruct((), jnp.int32) if isinstance(space, Discrete) else _floats(space.shape)
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        obs, state = jax.eval_shape(env.reset, key)
        step = jax.eval_shape(env.step, key, state, action)
    except Exception as error:
        raise own.failure(f"env {name} cannot reset and step", error) from error
    if not isinstance(step, Step):
        raise ConfigError(f"env {name}: step gives {type(step).__name__}, but must give a purejaxppo.envs.Step.")
    expected = jax.ShapeDtypeStruct(env.observation_shape, np.dtype(env.observation_dtype))
    _same(name, "reset's observation", obs, expected, "observation_shape and observation_dtype say")
    for part in ("obs", "final_obs"):
        _same(name, f"step's {part}", getattr(step, part), expected, "observation_shape and observation_dtype say")
    _same(name, "step's state", step.state, state, "reset's is")
    _same(name, "step's reward", step.reward, _floats(()), "it must be")
    for part in ("terminated", "truncated"):
        _same(name, f"step's {part}", getattr(step, part), jax.ShapeDtypeStruct((), jnp.bool_), "it must be")
    return env


def _built(name: str, build: Any, max_episode_steps: int | None, params: Mapping[str, Any]) -> Environment:
    """What `build` makes, if that is an environment with all attributes."""
    if not callable(build):
        raise ConfigError(
            f"env {name} is {type(build).__name__}, but must be a function or class that, called with "
            "max_episode_steps, gives a purejaxppo.envs.Environment."
        )
    try:
        env = build(max_episode_steps, **params)
    except Exception as error:
        told = "".join(f", {key} = {value!r}" for key, value in params.items())
        told = f"env {name} cannot be built with max_episode_steps {max_episode_steps}{told}"
        raise own.failure(told, error) from error
    if not isinstance(env, Environment):
        raise ConfigError(f"env {name} gives {type(env).__name__}, but must give a purejaxppo.envs.Environment.")
    names = ("name", "observation_shape", "observation_dtype", "action_space", "max_episode_steps")
    for attribute in names:
        if not hasattr(env, attribute):
            raise ConfigError(f"env {name} has no {attribute}, but must have {', '.join(names)}.")
    return env


def _check_observations(name: str, env: Environment) -> None:
    shape = env.observation_shape
    if not isinstance(shape, tuple) or not all(isinstance(size, numbers.Integral) for size in shape):
        raise ConfigError(f"env {name} has observation_shape {shape!r}, but must have a tuple of whole numbers.")
    with contextlib.suppress(TypeError):  # a text that names no type
        if np.dtype(env.observation_dtype) in (np.bool_, np.uint8, np.float32):
            return
    raise ConfigError(
        f"env {name} has observation_dtype {env.observation_dtype!r}, but must have bool, uint8 or float32."
    )


def _check_limit(name: str, limit: Any, asked: int | None) -> None:
    """Raise ConfigError unless an environment's limit is one, and the one that was asked for."""
    is_limit = isinstance(limit, numbers.Integral) and not isinstance(limit, bool) and int(limit) >= 1
    if limit is not None and not is_limit:
        raise ConfigError(f"env {name} has max_episode_steps {limit!r}, but must have None or a whole number from 1.")
    if asked is not None and limit != asked:
        raise ConfigError(
            f"env {name} was called with max_episode_steps {asked}, but has max_episode_steps {limit}; it must cut its "
            "episodes at the limit that it is called with, and say so."
        )


def _check_bounds(name: str, space: Box) -> None:
    """Raise ConfigError unless every action of a box has bounds whose difference is a positive float32."""
    try:
        size = math.prod(space.shape)
        low, high = (np.asarray(bounds, np.float32) for bounds in (space.low, space.high))
        with np.errstate(over="ignore", invalid="ignore"):
            is_right = low.shape == high.shape == (size,) and bool(np.all((high > low) & np.isfinite(high - low)))
    except (TypeError, ValueError):  # no numbers, or no sequence of them
        is_right = False
    if not is_right:
        raise ConfigError(
            f"env {name} has action_space {space!r}, but a Box must have the shape [A] and A finite numbers each as "
            "low and high, every low one below its high one."
        )


def _floats(shape: tuple[int, ...]) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _same(name: str, what: str, found: Any, expected: Any, rule: str) -> None:
    """Raise ConfigError unless two trees have the same structure, shapes and types."""
    told = [_describe(tree) for tree in (found, expected)]
    if told[0] != told[1]:
        raise ConfigError(f"env {name}: {what} is {told[0]}, but {rule} {told[1]}.")


def _describe(tree: Any) -> str:
    leaves, structure = jax.tree.flatten(tree)
    each = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves]
    return each[0] if len(each) == 1 and structure == jax.tree.structure(0) else f"{structure} of {', '.join(each)}"
