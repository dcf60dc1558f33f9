"""The worker of peers.py for brax's own PPO trainer: one run, timed by the trainer itself, epoch by epoch.

    python experiments/benchmarks/peers/brax_worker.py JSON

An epoch of the trainer is a repeat; evaluations are off, so its clock counts training alone. The first epoch compiles,
and so does the second, whose arguments are laid out differently: neither is a repeat. With "is_split" every core is a
device (as many as divide a minibatch), over which the trainer splits the run's environments.

brax 0.14.2 is the last one, and its trainer needs a function that jax 0.10 has no more; the worker gives it back.
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
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import brax.envs
    from brax.training.agents.ppo import networks
    from brax.training.agents.ppo.train import train

COMPILING_EPOCHS = 2


def main() -> None:
    """Train for two epochs more than there are repeats."""
    setting = json.loads(sys.argv[1])
    jax.device_put_replicated = put_replicated
    if setting["is_split"]:
        sequences = setting["minibatch_sequences"]
        num_devices = max(number for number in range(1, setting["num_cores"] + 1) if sequences % number == 0)
        jax.config.update("jax_num_cpu_devices", num_devices)
    batch_size = setting["num_envs"] * setting["num_steps"]
    steps = -(-setting["steps"] // batch_size) * batch_size
    epochs = COMPILING_EPOCHS + setting["repeats"]
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
        "seconds": seconds[COMPILING_EPOCHS:],
        "compile_seconds": sum(seconds[:COMPILING_EPOCHS])
        - COMPILING_EPOCHS * statistics.median(seconds[COMPILING_EPOCHS:]),
        "devices": jax.local_device_count(),
        "versions": {name: version(name) for name in ("brax", "jax")},
    }
    print(json.dumps(answer))


def put_replicated(tree: Any, devices: list[Any]) -> Any:
    """What `jax.device_put_replicated` did before jax 0.10 dropped it: every array once on each device, [D, ...]."""
    each = NamedSharding(Mesh(np.asarray(devices), ("devices",)), PartitionSpec("devices"))
    return jax.device_put(jax.tree.map(lambda x: jnp.stack([x] * len(devices)), tree), each)


if __name__ == "__main__":
    main()
