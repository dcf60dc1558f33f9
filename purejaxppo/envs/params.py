"""Parameters of environments, `env_params`, against what an environment has. Imports no JAX."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from purejaxppo.errors import ConfigError
from purejaxppo.fields import unknown_name

# What suites call the limit that is here `max_episode_steps`.
LIMITS = (
    *("max_steps_in_episode", "max_timesteps", "max_steps", "episode_length", "time_limit"),
    *("max_num_steps_per_episodes", "max_frames_per_episode"),
)
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def checked_params(env: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`given` in the types of an environment's own values, of which only single ones may be changed.

    Raises ConfigError for a name that the environment does not have, or a value of another type.
    """
    allowed = {name: value for name, value in defaults.items() if type(value) in _KINDS and name not in LIMITS}
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in LIMITS:
            raise ConfigError(f"env_params has {name}, but the time limit of {env} is set by max_episode_steps.")
        if not allowed:
            raise ConfigError(f"env_params has {name}, but must be left out for {env}, which has no parameters.")
        if name not in allowed:
            raise unknown_name(f"env_params of {env}:", name, sorted(allowed))
        kind = type(allowed[name])
        value = float(value) if kind is float and type(value) is int else value
        if type(value) is not kind:
            raise ConfigError(f"env_params has {name} = {value!r}, but for {env} it must be {_KINDS[kind]}.")
        found[name] = value
    return found


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """The keywords of a function or class with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {x.name: x.default for x in parameters if x.default is not inspect.Parameter.empty}


def checked_limit(env: str, own: int, asked: int | None) -> int:
    """Steps after which an episode is truncated; raises ConfigError where more is asked for than an environment has."""
    if asked is not None and asked > own:
        raise ConfigError(f"max_episode_steps is {asked}, but must be at most {own}, the limit of {env}.")
    return own if asked is None else asked
