"""Whether an environment of a user's meets the contract of `base.Environment`, told before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo import own
from purejaxppo.envs.base import Box, Discrete, Environment, Step
from purejaxppo.errors import ConfigError


def checked(name: str, build: Callable[[int | None], Any], max_episode_steps: int | None) -> Environment:
    """The environment that `build` makes, once its shapes and types are right; raises ConfigError where they are not.

    Nothing is computed: `jax.eval_shape` of a reset and a step.
    """
    try:
        env = build(max_episode_steps)
    except Exception as error:
        raise own.failure(f"env {name} cannot be built with max_episode_steps {max_episode_steps}", error) from error
    if not isinstance(env, Environment):
        raise ConfigError(f"env {name} gives {type(env).__name__}, but must give a purejaxppo.envs.Environment.")
    names = ("name", "observation_shape", "observation_dtype", "action_space", "max_episode_steps")
    for attribute in names:
        if not hasattr(env, attribute):
            raise ConfigError(f"env {name} has no {attribute}, but must have {', '.join(names)}.")
    space = env.action_space
    if not isinstance(space, Discrete | Box):
        raise ConfigError(f"env {name} has action_space {space!r}, but must have a Discrete or a Box.")
    action = jax.ShapeDtypeStruct((), jnp.int32) if isinstance(space, Discrete) else _floats(space.shape)
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        obs, state = jax.eval_shape(env.reset, key)
        step = jax.eval_shape(env.step, key, state, action)
    except Exception as error:
        raise own.failure(f"env {name} cannot reset and step", error) from error
    if not isinstance(step, Step):
        raise ConfigError(f"env {name}: step gives {type(step).__name__}, but must give a purejaxppo.envs.Step.")
    expected = jax.ShapeDtypeStruct(tuple(env.observation_shape), np.dtype(env.observation_dtype))
    _same(name, "reset's observation", obs, expected, "observation_shape and observation_dtype say")
    for part in ("obs", "final_obs"):
        _same(name, f"step's {part}", getattr(step, part), expected, "observation_shape and observation_dtype say")
    _same(name, "step's state", step.state, state, "reset's is")
    _same(name, "step's reward", step.reward, _floats(()), "it must be")
    for part in ("terminated", "truncated"):
        _same(name, f"step's {part}", getattr(step, part), jax.ShapeDtypeStruct((), jnp.bool_), "it must be")
    return env


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
