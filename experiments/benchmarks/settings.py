"""What the benchmarks train, and peers with them. No command; see peers.py."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from purejaxppo import Sweep, TrainConfig
from purejaxppo.sweep.plan import Group, make_groups


@dataclass(frozen=True, kw_only=True)
class Setting:
    env: str
    num_envs: int
    steps: int
    runs: int = 1
    num_steps: int = 128
    num_epochs: int = 4
    num_minibatches: int = 4
    torso: str = "mlp"
    hidden_sizes: tuple[int, ...] = (64, 64)
    total_steps: int = 500_000
    contestants: tuple[str, ...] = ()


BREAKOUT = Setting(env="gymnax/Breakout-MinAtar", runs=4, num_envs=64, steps=81_920)
CARTPOLE = Setting(env="gymnax/CartPole-v1", runs=16, num_envs=4, steps=102_400)
SETTINGS = {
    "cartpole": CARTPOLE,
    "breakout": BREAKOUT,
    "breakout_conv": dataclasses.replace(BREAKOUT, torso="minatar_conv", hidden_sizes=(128,), steps=16_384),
}


def group_of(name: str, num_runs: int | None = None, **changes: object) -> Group:
    """The group of runs that a setting trains, with its configuration changed as asked."""
    setting = SETTINGS[name]
    config = TrainConfig(
        env=setting.env,
        total_steps=setting.total_steps,
        num_envs=setting.num_envs,
        num_steps=setting.num_steps,
        num_epochs=setting.num_epochs,
        minibatch_size=setting.num_envs * setting.num_steps // setting.num_minibatches,
        torso=setting.torso,
        hidden_sizes=setting.hidden_sizes,
        activation="tanh",
        normalize_observations=setting.env.startswith("brax/"),
    )
    config = dataclasses.replace(config, **changes)
    return make_groups(Sweep(name=name, seeds=tuple(range(num_runs or setting.runs)), config=config))[0]
