"""The names `make` accepts: plain strings, so that listing them imports neither JAX, gymnax nor brax.

A test holds these tuples against the registries of the installed gymnax and brax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from purejaxppo.envs.suites import SUITES, installed_names

OURS = ("gymnax", "brax", "probe")
"""Suites that come with training; the others are extras."""

GYMNAX_NAMES = (
    "Acrobot-v1",
    "Asterix-MinAtar",
    "BernoulliBandit-misc",
    "Breakout-MinAtar",
    "CartPole-v1",
    "Catch-bsuite",
    "DeepSea-bsuite",
    "DiscountingChain-bsuite",
    "FourRooms-misc",
    "Freeway-MinAtar",
    "FrozenLake-misc",
    "GaussianBandit-misc",
    "MemoryChain-bsuite",
    "MetaMaze-misc",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "PointRobot-misc",
    "Pong-misc",
    "Reacher-misc",
    "Seaquest-MinAtar",
    "SimpleBandit-bsuite",
    "SpaceInvaders-MinAtar",
    "Swimmer-misc",
    "UmbrellaChain-bsuite",
)

BRAX_NAMES = (
    "ant",
    "fast",
    "halfcheetah",
    "hopper",
    "humanoid",
    "humanoidstandup",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "pusher",
    "reacher",
    "walker2d",
)
BRAX_BACKENDS = ("spring", "generalized", "positional", "mjx")

PROBE_NAMES = tuple(
    question + form
    for question in ("ValueOnly", "ValueByObservation", "Discounting", "Action", "ActionByObservation")
    for form in ("", "Continuous")
)

# Environments of gymnax whose actions are continuous; brax's all are.
_CONTINUOUS = ("MountainCarContinuous-v0", "Pendulum-v1", "PointRobot-misc", "Reacher-misc", "Swimmer-misc")

# Registered upstream, but unable to meet the contract; each with the reason a user is told.
REFUSED = {
    "gymnax/MNISTBandit-bsuite": "it downloads a data set when it is made",
    "brax/swimmer": "brax 0.14 implements it for one backend only, with a call that current JAX no longer has",
}


# Environments of users: name -> what builds one, given max_episode_steps; see `purejaxppo.envs.register`.
CUSTOM: dict[str, Callable[..., Any]] = {}


def all_names() -> list[str]:
    """Every name `make` accepts, as `suite/Environment`, sorted within its suite."""
    suites = (("gymnax", GYMNAX_NAMES), ("brax", BRAX_NAMES), ("probe", PROBE_NAMES))
    ours = [f"{suite}/{name}" for suite, names in suites for name in names]
    return [*ours, *installed_names(), *sorted(CUSTOM)]


def has_discrete_actions(name: str) -> bool | None:
    """Whether an environment's actions are discrete, by its name alone; None of one that a user registered."""
    suite, _, base = name.partition("/")
    if name in CUSTOM or suite not in (*OURS, *SUITES):
        return None
    if suite in SUITES:
        return SUITES[suite].has_discrete_actions
    return {"gymnax": base not in _CONTINUOUS, "brax": False, "probe": not base.endswith("Continuous")}[suite]
