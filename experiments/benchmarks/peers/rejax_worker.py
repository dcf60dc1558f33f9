"""rejax's worker of peers.py: its `train`, vmapped over seeds and jitted, as its README tells.

    python experiments/benchmarks/peers/rejax_worker.py JSON    # in rejax's own virtual environment

Evaluation is switched off: no initial one, and the one at the end is replaced by nothing. Initialisation is part of
`train` and so of the time; it costs little. With "is_split" every core is a device (as many as divide the seeds), and
the seeds are split over them by `jax.shard_map`, which rejax's users have to write themselves.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rejax import PPO  # pyright: ignore[reportMissingImports]
from rejax.networks import DiscretePolicy  # pyright: ignore[reportMissingImports]


def main() -> None:
    """Compile, warm up, then time every repeat with other seeds."""
    setting = json.loads(sys.argv[1])
    if setting["is_split"]:
        num_devices = max(number for number in range(1, setting["num_cores"] + 1) if setting["runs"] % number == 0)
        jax.config.update("jax_num_cpu_devices", num_devices)
    batch_size = setting["num_envs"] * setting["num_steps"]
    steps = -(-setting["steps"] // batch_size) * batch_size
    algorithm = make_algorithm(setting, steps).replace(eval_callback=lambda algorithm, state, key: ())
    devices = jax.local_devices()
    train = split(jax.vmap(algorithm.train), devices)

    def keys(repeat: int) -> jax.Array:
        some = jax.random.split(jax.random.PRNGKey(repeat), setting["runs"])
        return jax.device_put(some, NamedSharding(Mesh(np.asarray(devices), ("runs",)), PartitionSpec("runs")))

    start = time.perf_counter()
    compiled = jax.jit(train).lower(keys(0)).compile()
    compile_seconds = time.perf_counter() - start

    seconds = []
    for repeat in range(setting["repeats"] + 1):
        start = time.perf_counter()
        jax.block_until_ready(compiled(keys(repeat)))
        seconds.append(time.perf_counter() - start)
    answer = {
        "steps": setting["runs"] * steps,
        "seconds": seconds[1:],
        "compile_seconds": compile_seconds,
        "devices": len(devices),
        "versions": {name: version(name) for name in ("rejax", "jax", "gymnax", "flax")},
    }
    print(json.dumps(answer))


def make_algorithm(setting: dict[str, Any], steps: int) -> PPO:
    """rejax's PPO for a setting: its own networks where they are flat, and an equivalent one where they are not."""
    algorithm = PPO.create(
        env=setting["env"].removeprefix("gymnax/") if isinstance(setting["env"], str) else setting["env"],
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
        num_envs=setting["num_envs"],
        num_steps=setting["num_steps"],
        num_epochs=setting["num_epochs"],
        num_minibatches=setting["num_minibatches"],
        agent_kwargs={"hidden_layer_sizes": setting["hidden_sizes"], "activation": "tanh"},
        **setting.get("hparams", {}),
    )
    return with_networks(algorithm, setting) if setting["torso"] == "minatar_conv" else algorithm


def with_networks(algorithm: PPO, setting: dict[str, Any]) -> PPO:
    """The algorithm with networks as purejaxppo's: their shapes and the distribution of their dense initial weights."""
    channels = 16 if setting["torso"] == "minatar_conv" else 0
    sizes, activation = tuple(setting["hidden_sizes"]), getattr(nn, setting.get("activation", "tanh"))
    return algorithm.replace(
        actor=Actor(algorithm.action_dim, sizes, activation, channels), critic=Critic(sizes, activation, channels)
    )


def split(function: Callable[..., Any], devices: list[Any]) -> Callable[..., Any]:
    """A function of arrays with a leading axis of runs, with that axis split over devices."""
    runs = PartitionSpec("runs")
    mesh = Mesh(np.asarray(devices), ("runs",))
    return jax.shard_map(function, mesh=mesh, in_specs=runs, out_specs=runs, check_vma=False)


class UniformDense(nn.Module):
    """Affine layer with weights and biases from U(+-1/sqrt(fan_in))."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = x.shape[-1] ** -0.5

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        kernel = self.param("kernel", uniform, (x.shape[-1], self.width))
        return x @ kernel + self.param("bias", uniform, (self.width,))


class Torso(nn.Module):
    """A 3x3 convolution where there are channels, then dense layers."""

    hidden_sizes: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]
    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.channels:
            x = self.activation(nn.Conv(self.channels, (3, 3), padding="VALID")(x))
        x = x.reshape(x.shape[0], -1)
        for width in self.hidden_sizes:
            x = self.activation(UniformDense(width)(x))
        return x


class Actor(DiscretePolicy):
    """rejax's discrete policy on this torso."""

    channels: int

    def setup(self) -> None:
        self.features = Torso(self.hidden_layer_sizes, self.activation, self.channels)
        self.action_logits = UniformDense(self.action_dim)


class Critic(nn.Module):
    """Values [B] on this torso."""

    hidden_layer_sizes: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]
    channels: int

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        features = Torso(self.hidden_layer_sizes, self.activation, self.channels)(obs)
        return UniformDense(1)(features).squeeze(1)


if __name__ == "__main__":
    main()
