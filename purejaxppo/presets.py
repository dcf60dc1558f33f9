"""Named starting points: settings of the paper (its Table of hyper-parameters), and of three other implementations.

A preset is a pair of overrides of `TrainConfig` and `HyperParams`; a sweep file names one with `preset = "..."`, and
its own [config] and [hparams] come on top. The library's defaults are in those two classes.

Of the others, as their sources were in November 2026, a comment says what is different here. In all of them: each of
our networks has an Adam and a gradient norm of its own, where they have one for both; no advantage is divided by less
than 1e-6; and they halve the value loss, so that our `value_coef` is half of theirs.
"""

from __future__ import annotations

from typing import Any

from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.fields import unknown_name
from purejaxppo.hyperparams import HyperParams

PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # The paper's Atari settings, on MinAtar (the Arcade Learning Environment does not run inside JAX) with the MinAtar
    # convolution; 100M frames there are 25M steps, of which a run here has 10M.
    "paper_atari": (
        {
            "env": "gymnax/Breakout-MinAtar",
            "total_steps": 10_000_000,
            "num_envs": 8,
            "num_steps": 128,
            "minibatch_size": 256,
            "num_epochs": 4,
            "torso": "minatar_conv",
            "hidden_sizes": (128,),
            "activation": "relu",
            "initialization": "uniform",
            "sign_reward": True,
            "sticky_actions": 0.25,
            "time_limit": "terminate",
            "trunk_optimizers": "two",
            "num_log_points": 1000,
            "num_plasticity_points": 40,
        },
        {
            "learning_rate": 2.5e-4,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "clip_eps": 0.1,
            "entropy_coef": 0.01,
            "value_coef": 0.5,
        },
    ),
    # The paper's MuJoCo settings, on brax.
    "paper_mujoco": (
        {
            "env": "brax/hopper",
            "total_steps": 5_000_000,
            "num_envs": 2,
            "num_steps": 1024,
            "minibatch_size": 64,
            "num_epochs": 10,
            "hidden_sizes": (64, 64),
            "activation": "tanh",
            "initialization": "uniform",
            "action_distribution": "tanh_normal",
            "normalize_observations": "fixed",
            "time_aware": True,
            "time_limit": "terminate",
            "trunk_optimizers": "two",
            "num_log_points": 1000,
            "num_plasticity_points": 40,
            "num_plasticity_rollouts": 2,
            "num_plasticity_epochs": 4,
        },
        {
            "learning_rate": 3e-4,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "clip_eps": 0.2,
            "entropy_coef": 0.0,
            "value_coef": 0.5,
        },
    ),
    # CleanRL's ppo_continuous_action.py, on brax where it has MuJoCo. There observations are normalised by statistics
    # that move at every step, here between updates; `ppo.rewards` says how its reward statistics differ where episodes
    # end; the deviation that advantages are divided by is the unbiased one there.
    "cleanrl_continuous": (
        {
            "env": "brax/halfcheetah",
            "total_steps": 1_000_000,
            "num_envs": 1,
            "num_steps": 2048,
            "minibatch_size": 64,
            "num_epochs": 10,
            "hidden_sizes": (64, 64),
            "activation": "tanh",
            "initialization": "orthogonal",
            "action_distribution": "normal",
            "normalize_observations": "running",
            "normalize_rewards": "running",
            "time_limit": "terminate",
            "lr_schedule": "linear",
            "value_clipping": True,
        },
        {
            "learning_rate": 3e-4,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "clip_eps": 0.2,
            "value_clip_eps": 0.2,
            "entropy_coef": 0.0,
            "value_coef": 0.25,
            "max_grad_norm": 0.5,
            "adam_eps": 1e-5,
        },
    ),
    # purejaxrl's examples/brax_minatar.ipynb, "briefly tuned to do well on Gymnax's MinAtar environments"; observations
    # are flattened.
    "purejaxrl_minatar": (
        {
            "env": "gymnax/SpaceInvaders-MinAtar",
            "total_steps": 10_000_000,
            "num_envs": 64,
            "num_steps": 128,
            "minibatch_size": 1024,
            "num_epochs": 4,
            "hidden_sizes": (64, 64),
            "activation": "relu",
            "initialization": "orthogonal",
            "time_limit": "terminate",
            "lr_schedule": "linear",
            "value_clipping": True,
        },
        {
            "learning_rate": 5e-3,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "clip_eps": 0.2,
            "value_clip_eps": 0.2,
            "entropy_coef": 0.01,
            "value_coef": 0.25,
            "max_grad_norm": 0.5,
            "adam_eps": 1e-5,
        },
    ),
    # brax's notebooks/training.ipynb, ant. There swish, here gelu; there rewards times 10 (`reward_scaling`), here as
    # they are; there 16 unrolls of 5 steps in a row, with advantages that end with each, estimated anew for each
    # minibatch, here one rollout of 80; other weights at the start. brax clips no gradients.
    "brax_ant": (
        {
            "env": "brax/ant",
            "brax_backend": "positional",
            "total_steps": 50_000_000,
            "num_envs": 4096,
            "num_steps": 80,
            "minibatch_size": 10_240,
            "num_epochs": 4,
            "hidden_sizes": (32, 32, 32, 32),
            "critic_hidden_sizes": (256, 256, 256, 256, 256),
            "activation": "gelu",
            "action_distribution": "tanh_normal",
            "normalize_observations": "running",
            "num_plasticity_rollouts": 1,
        },
        {
            "learning_rate": 3e-4,
            "gamma": 0.97,
            "gae_lambda": 0.95,
            "clip_eps": 0.3,
            "entropy_coef": 0.01,
            "value_coef": 0.25,
            "max_grad_norm": 1e9,
        },
    ),
}


def preset(name: str, **overrides: Any) -> tuple[TrainConfig, HyperParams]:
    """Configuration and hyper-parameters of a preset, with overrides of the configuration's fields.

    Raises ConfigError for an unknown name.
    """
    config, hparams = preset_fields(name)
    return TrainConfig(**{**config, **overrides}), HyperParams(**hparams)


def preset_fields(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that a preset sets, of TrainConfig and of HyperParams."""
    if not isinstance(name, str):
        raise ConfigError(f"preset is {name!r}, but must be one of {', '.join(PRESETS)}.")
    if name not in PRESETS:
        raise unknown_name("preset", name, list(PRESETS))
    return PRESETS[name]
