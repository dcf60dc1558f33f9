"""Environments of every suite under one contract: `make(name)` builds one, `list_environments()` names them all.

Nothing heavy is imported until it is used: listing names needs no JAX; a suite loads when one of its own is made.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from purejaxppo import own
from purejaxppo.envs.names import BRAX_BACKENDS, CUSTOM, OURS, REFUSED, all_names
from purejaxppo.envs.suites import SUITES
from purejaxppo.errors import ConfigError

if TYPE_CHECKING:
    from purejaxppo.envs.base import Box, Discrete, Environment, Step, auto_reset
    from purejaxppo.envs.wrappers import (
        EpisodeStatistics,
        FrameStack,
        ObservationStatistics,
        StickyActions,
        TimeAware,
        sign_reward,
    )

__all__ = [
    "Box",
    "Discrete",
    "Environment",
    "EpisodeStatistics",
    "FrameStack",
    "ObservationStatistics",
    "Step",
    "StickyActions",
    "TimeAware",
    "auto_reset",
    "check_options",
    "list_environments",
    "make",
    "register",
    "sign_reward",
]

_HOMES = {
    "Box": "base",
    "Discrete": "base",
    "Environment": "base",
    "Step": "base",
    "EpisodeStatistics": "wrappers",
    "FrameStack": "wrappers",
    "ObservationStatistics": "wrappers",
    "StickyActions": "wrappers",
    "TimeAware": "wrappers",
    "auto_reset": "base",
    "sign_reward": "wrappers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def list_environments() -> list[str]:
    """Every name `make` accepts: `gymnax/...`, `brax/...`, `probe/...`, those of extras that are installed, such as
    `craftax/...`, and those that were registered.

    It accepts import paths, `module:name`, as well.
    """
    return all_names()


def register(name: str, build: Callable[..., Environment]) -> None:
    """Let `make`, and so every configuration of this process, know an environment of your own.

    name: `suite/Environment`; a new suite of yours, such as "mine/Corridor". Registering it again replaces it.
    build: from `max_episode_steps` (None: the environment's own limit; else the one that it must have), and
        `env_params` by keyword where a configuration has any, to an `Environment`; called for every program.

    Raises ConfigError for a name of another form, or of a suite that is taken.
    """
    if not re.fullmatch(r"[\w-]+/[\w.-]+", name) or name.split("/")[0] in (*OURS, *SUITES):
        raise ConfigError(
            f"env name is {name!r}, but must be suite/Environment, of another suite than {', '.join((*OURS, *SUITES))}."
        )
    CUSTOM[name] = build


def make(
    name: str,
    *,
    brax_backend: str = "spring",
    time_aware: bool = False,
    sticky_actions: float = 0.0,
    frame_stack: int = 1,
    max_episode_steps: int | None = None,
    env_params: Iterable[tuple[str, Any]] = (),
) -> Environment:
    """Build the environment called `name`: one of `list_environments()`, or an import path, `module:name`.

    What an import path leads to is called with max_episode_steps, and with env_params by keyword where there are any,
    and gives an `Environment`.
    brax_backend: the physics engine of brax environments; other suites ignore it.
    time_aware: append the elapsed time, from -1 to 1, to the observation (`wrappers.TimeAware`).
    sticky_actions: probability of carrying out the previous action in place of the new one (`wrappers.StickyActions`).
    frame_stack: how many of the latest observations are side by side (`wrappers.FrameStack`).
    max_episode_steps: truncate episodes after so many steps, at most the environment's own limit where it has one
        (brax environments have none of their own; they get 1000).
    env_params: names and values of parameters of the environment that are to differ from its own.

    Raises ConfigError, naming the field, for an unknown name, backend or parameter, for a suite that is not installed,
    for one of your own that breaks the contract, for a limit below 1 or above the environment's own, for `time_aware`
    on an observation that is not a flat float vector, and for `sticky_actions` without discrete actions.
    """
    check_options(name, brax_backend=brax_backend, max_episode_steps=max_episode_steps)
    try:
        env = _make(name, brax_backend, max_episode_steps, dict(env_params))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        if not env_params:
            raise
        given = ", ".join(f"{name} = {value!r}" for name, value in env_params)
        raise own.failure(f"env {name} cannot be made with env_params {given}", error) from error
    if sticky_actions or frame_stack > 1 or time_aware:
        from purejaxppo.envs.wrappers import FrameStack, StickyActions, TimeAware

        env = StickyActions(env, sticky_actions) if sticky_actions else env
        env = FrameStack(env, frame_stack) if frame_stack > 1 else env
        env = TimeAware(env) if time_aware else env
    return env


def _make(name: str, brax_backend: str, max_episode_steps: int | None, params: dict[str, Any]) -> Environment:
    """The environment itself, with nothing wrapped around it."""
    suite, _, base_name = name.partition("/")
    if name in CUSTOM or own.is_path(name):
        from purejaxppo.envs.contract import checked

        build = CUSTOM[name] if name in CUSTOM else own.find("env", name)
        return checked(name, build, max_episode_steps, params)
    if suite == "gymnax":
        from purejaxppo.envs.gymnax import GymnaxEnvironment

        return GymnaxEnvironment(base_name, max_episode_steps, params)
    if suite == "brax":
        from purejaxppo.envs.brax import BraxEnvironment

        return BraxEnvironment(base_name, brax_backend, max_episode_steps, params)
    if suite in SUITES:
        return SUITES[suite].adapter().make(base_name, max_episode_steps, params)
    from purejaxppo.envs.params import checked_params
    from purejaxppo.envs.probes import make_probe

    checked_params(name, params, {})
    return make_probe(base_name, max_episode_steps)


def check_options(name: str, *, brax_backend: str = "spring", max_episode_steps: int | None = None) -> None:
    """Raise ConfigError for what can be seen to be wrong without importing JAX or building the environment."""
    if name in REFUSED:
        raise ConfigError(
            f"env {name!r} is not supported, since {REFUSED[name]}; `purejaxppo envs` lists those that are."
        )
    if own.is_path(name):
        own.check_path("env", name)
    elif name not in all_names():
        if (suite := SUITES.get(name.split("/")[0])) and name.split("/")[-1] in suite.names:
            suite.check()
        raise ConfigError(f"env {name!r} is unknown; {_suggestion(str(name))}")
    if brax_backend not in BRAX_BACKENDS:
        raise ConfigError(f"brax_backend is {brax_backend!r}, but must be one of {', '.join(BRAX_BACKENDS)}.")
    if max_episode_steps is None:
        return
    if not isinstance(max_episode_steps, int) or isinstance(max_episode_steps, bool) or max_episode_steps < 1:
        raise ConfigError(f"max_episode_steps is {max_episode_steps!r}, but must be a whole number of at least 1.")


def _suggestion(name: str) -> str:
    """How the sentence about an unknown name ends: the nearest known names, found with or without their suite."""
    full_names = {}  # spelling to compare with -> name
    for known in all_names():
        full_names[known.lower()] = known
        full_names.setdefault(known.split("/", 1)[1].lower(), known)
    near = difflib.get_close_matches(name.lower(), full_names, n=3, cutoff=0.6)
    candidates = dict.fromkeys(full_names[spelling] for spelling in near)
    if "/" in name and not candidates and name.split("/")[0] not in (*OURS, *SUITES):
        return (
            "`purejaxppo envs` lists those that are known; one of your own is registered by a module that `import` "
            "names, or is itself named module:Class."
        )
    if not candidates:
        return "`purejaxppo envs` lists those that are known, such as 'gymnax/CartPole-v1'."
    return "did you mean " + " or ".join(map(repr, candidates)) + "?"
