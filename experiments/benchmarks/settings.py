"""What the benchmarks train, and how ours trains it. No command; see peers.py, floor.py, scaling.py, accelerator.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from purejaxppo import HyperParams, Sweep, TrainConfig, preset
from purejaxppo.config import Torso
from purejaxppo.sweep.plan import Group, make_groups

REJAX = ("ours", "ours_bare", "rejax", "rejax_split")
BRAX = ("ours_1", "ours_4", "brax", "brax_split")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What contestants have in common.

    A process times `repeats` pieces of training of at least `steps` environment steps of each run, or of at least
    `peer_steps` where peers are so much slower.
    """

    env: str
    num_envs: int
    steps: int
    peer_steps: int | None = None
    repeats: int = 3
    runs: int = 1
    num_steps: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    torso: Torso = "mlp"
    hidden_sizes: tuple[int, ...] = (64, 64)
    total_steps: int = 500_000
    contestants: tuple[str, ...] = REJAX


BREAKOUT = Setting(env="gymnax/Breakout-MinAtar", runs=4, num_envs=64, steps=81_920)
HOPPER = Setting(env="brax/hopper", num_envs=64, num_steps=64, num_minibatches=8, steps=81_920, contestants=BRAX)
CARTPOLE = Setting(env="gymnax/CartPole-v1", runs=16, num_envs=4, steps=102_400)


def _invaders(setting: Setting) -> Setting:
    return dataclasses.replace(setting, env="gymnax/SpaceInvaders-MinAtar")


def _convolved(setting: Setting) -> Setting:
    # rejax's convolutions, grouped by vmap, are so slow on a CPU that it gets one rollout a piece.
    sizes = {"steps": 40_960, "peer_steps": 8_192, "repeats": 1}
    return dataclasses.replace(setting, torso="minatar_conv", hidden_sizes=(128,), **sizes)


SETTINGS = {
    "cartpole": CARTPOLE,
    "cartpole64": dataclasses.replace(CARTPOLE, num_envs=64),
    "breakout": BREAKOUT,
    "spaceinvaders": _invaders(BREAKOUT),
    "breakout_conv": _convolved(BREAKOUT),
    "spaceinvaders_conv": _convolved(_invaders(BREAKOUT)),
    "hopper": HOPPER,
    "ant": dataclasses.replace(HOPPER, env="brax/ant", steps=32_768),
    "sb3": dataclasses.replace(CARTPOLE, peer_steps=20_480, contestants=("ours", "ours_1", "sb3")),
}


def group_of(setting: Setting | Mapping[str, Any], num_runs: int | None = None, **changes: Any) -> Group:
    """The runs that ours trains for a setting, whose configuration is changed as asked."""
    values = setting if isinstance(setting, Mapping) else dataclasses.asdict(setting)
    config = TrainConfig(
        env=values["env"],
        total_steps=values["total_steps"],
        num_envs=values["num_envs"],
        num_steps=values["num_steps"],
        num_epochs=values["num_epochs"],
        minibatch_size=values["num_envs"] * values["num_steps"] // values["num_minibatches"],
        torso=values["torso"],
        hidden_sizes=tuple(values["hidden_sizes"]),
        activation="tanh",
        diagnostics=values.get("diagnostics", True),
        normalize_observations="running" if values["env"].startswith("brax/") else "off",
    )
    config = dataclasses.replace(config, **changes)
    return make_groups(Sweep(name="benchmark", seeds=tuple(range(num_runs or values["runs"])), config=config))[0]


# What is meant for an accelerator: whole runs, as gpu.py measures them and accelerator.py compiles them.
SWEEPS: dict[str, tuple[TrainConfig, HyperParams]] = {
    "cartpole": (group_of(CARTPOLE).config, HyperParams()),
    "breakout": (group_of(BREAKOUT, total_steps=1_000_000).config, HyperParams()),
    "breakout_128": (group_of(BREAKOUT, total_steps=1_000_000, hidden_sizes=(128,)).config, HyperParams()),
    "breakout_conv": preset("paper_atari", num_log_points=100),
    # The paper's 5M steps have 25 updates between log points, each of 1024 steps in sequence; here 3, so that
    # diagnoses are eight times as dense and the rate is a lower bound.
    "hopper": preset("paper_mujoco", total_steps=614_400, num_log_points=100),
}
