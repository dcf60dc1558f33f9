"""The worker of peers.py for brax's own PPO trainer: one run, timed by the trainer itself, epoch by epoch.

    python experiments/benchmarks/peers/brax_worker.py JSON

An epoch of the trainer is a repeat; evaluations are off, so its clock counts training alone. The first epoch contains
the compilation. With "is_split" every core is a device, over which the trainer splits the run's environments.
"""

from __future__ import annotations

import json
import statistics
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import brax.envs
    from brax.training.agents.ppo import networks
    from brax.training.agents.ppo.train import train
from flax import linen as nn


def main() -> None:
    """Train for one epoch more than there are repeats."""
    setting = json.loads(sys.argv[1])
    if setting["is_split"]:
        jax.config.update("jax_num_cpu_devices", setting["num_cores"])
    batch_size = setting["num_envs"] * setting["num_steps"]
    steps = -(-setting["steps"] // batch_size) * batch_size
    epochs = setting["repeats"] + 1
    seconds: list[float] = []

    def note(step: int, metrics: Mapping[str, Any]) -> None:
        seconds.append(steps / float(metrics["training/sps"]))

    def make_networks(*arguments: Any, **options: Any) -> networks.PPONetworks:
        sizes = setting["hidden_sizes"]
        return networks.make_ppo_networks(
            *arguments,
            policy_hidden_layer_sizes=sizes,
            value_hidden_layer_sizes=sizes,
            activation=nn.tanh,
            **options,
        )

    train(
        environment=brax.envs.get_environment(setting["env"].removeprefix("brax/"), backend="spring"),
        num_timesteps=epochs * steps,
        num_evals=epochs + 1,
        run_evals=False,
        progress_fn=note,
        num_envs=setting["num_envs"],
        unroll_length=setting["num_steps"],
        batch_size=setting["minibatch_sequences"],
        num_minibatches=setting["num_minibatches"],
        num_updates_per_batch=setting["num_epochs"],
        network_factory=make_networks,
        episode_length=1000,
        action_repeat=1,
        normalize_observations=True,
        max_grad_norm=0.5,
    )
    assert len(seconds) == epochs, seconds
    answer = {
        "steps": steps,
        "seconds": seconds[1:],
        "compile_seconds": seconds[0] - statistics.median(seconds[1:]),
        "devices": jax.local_device_count(),
        "versions": {name: version(name) for name in ("brax", "jax")},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
