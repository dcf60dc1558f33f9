"""Dataclasses of settings: whether values fit their fields' annotations, and what fields are called elsewhere.

Imports no JAX.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from purejaxppo.errors import ConfigError

EnvParams = tuple[tuple[str, bool | int | float | str], ...]
"""Names and values of an environment's parameters, sorted; a table in a file."""


def check_types(value: Any) -> None:
    """Compare every field of a dataclass instance with its annotation (bool, int, float, str, Literal, tuple, None).

    Raises ConfigError naming the first field that does not fit.
    """
    for name, hint in hints_of(type(value)).items():
        found = getattr(value, name)
        if not _fits(found, hint):
            raise ConfigError(f"{name} is {found!r}, but must be {_describe(hint)}.")


def coerce(name: str, value: Any, hint: Any) -> Any:
    """`value` as read from TOML in the type of its field.

    Lists become tuples, tables sorted tuples of pairs, whole numbers floats, and floats without a fraction (1e6) whole
    numbers.
    """
    if hint == EnvParams and isinstance(value, dict):
        return tuple(sorted(value.items()))
    if hint == EnvParams and isinstance(value, list | tuple) and all(isinstance(x, list | tuple) for x in value):
        return tuple(sorted(map(tuple, value), key=lambda pair: tuple(map(str, pair))))
    if isinstance(value, list):
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    if hint in (int, int | None) and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # more than a float can hold: `validate_hyperparams` says so
            return math.inf if value > 0 else -math.inf
    return value


def scalar(value: Any) -> bool | int | float | str:
    """A swept value as coordinates, tables, legends and names of folders have it: a bool, int, float or string.

    A list is its items, `64-64`; a table its names and values, `gravity=1.62 length=1`; None, and whatever is empty,
    `none`.
    """
    if isinstance(value, np.floating) and value.dtype.itemsize < 8:
        return float(str(value))  # the shortest decimal: 0.1 stays 0.1 and does not become 0.10000000149
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or value == () or value == []:
        return "none"
    if isinstance(value, tuple | list):
        if all(isinstance(item, tuple | list) and isinstance(item[0], str) for item in value):
            return " ".join(f"{name}={_short(item)}" for name, item in value)
        return "-".join(_short(item) for item in value)
    return value if isinstance(value, bool | int | float | str) else str(value)


# What fields are called elsewhere.
SYNONYMS = {
    "activation_fn": "activation",
    "anneal_lr": "lr_schedule",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "batch_size": "minibatch_size",
    "clip_coef": "clip_eps",
    "clip_range": "clip_eps",
    "clip_range_vf": "value_clip_eps",
    "clip_value_loss": "value_clipping",
    "clip_vloss": "value_clipping",
    "critic_lr": "critic_learning_rate",
    "discount": "gamma",
    "ent_coef": "entropy_coef",
    "env_id": "env",
    "env_name": "env",
    "lam": "gae_lambda",
    "log_std_init": "initial_log_std",
    "lr": "learning_rate",
    "max_steps": "total_steps",
    "n_envs": "num_envs",
    "n_epochs": "num_epochs",
    "n_steps": "num_steps",
    "net_arch": "hidden_sizes",
    "norm_adv": "advantage_normalization",
    "norm_obs": "normalize_observations",
    "norm_reward": "normalize_rewards",
    "normalize_advantage": "advantage_normalization",
    "normalize_advantages": "advantage_normalization",
    "normalize_obs": "normalize_observations",
    "normalize_reward": "normalize_rewards",
    "num_seeds": "seeds",
    "rollout_length": "num_steps",
    "seed": "seeds",
    "step_size": "learning_rate",
    "timesteps": "total_steps",
    "total_timesteps": "total_steps",
    "update_epochs": "num_epochs",
    "value_lr": "critic_learning_rate",
    "vf_clip": "value_clip_eps",
    "vf_clip_param": "value_clip_eps",
    "vf_coef": "value_coef",
}


@cache
def hints_of(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def unknown_name(kind: str, name: str, allowed: list[str]) -> ConfigError:
    """ConfigError for a name that is not in `allowed`, with what it is called here, or near matches, if any."""
    synonym = SYNONYMS.get(name.lower().replace("-", "_"))
    near = [synonym] if synonym in allowed else difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    if near:
        return ConfigError(f"{kind} {name!r} is unknown; did you mean {' or '.join(near)}?")
    return ConfigError(f"{kind} {name!r} is unknown; allowed are {', '.join(allowed)}.")


def field_names(cls: type) -> list[str]:
    """Names of a dataclass's fields, in order."""
    return [field.name for field in dataclasses.fields(cls)]


def _short(item: Any) -> str:
    """An item of a list; 1 and 1.0 are the same."""
    return str(scalar(item)).removesuffix(".0")


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin is dict:
        return isinstance(value, dict)  # what is in it has names of its own
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = get_args(hint)[:1] * len(value) if get_args(hint)[-1] is Ellipsis else get_args(hint)
        return len(value) == len(kinds) and all(_fits(item, kind) for item, kind in zip(value, kinds, strict=True))
    if get_args(hint):  # a union, such as int | None
        return any(_fits(value, part) for part in get_args(hint))
    if hint in (int, float):  # bool is an int in Python, but not what anybody means by one
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    if origin is dict:
        return "a table of numbers"
    if origin is tuple:
        if hint == EnvParams:
            return "a table of names and their values, each true or false, a number or a text"
        kinds = {str: "texts", int: "whole numbers"}
        return f"a list of {kinds.get(get_args(hint)[0], 'lists of three whole numbers')}"
    if get_args(hint):
        return " or ".join(_describe(part) for part in get_args(hint))
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", type(None): "left out"}
    return names[hint]
