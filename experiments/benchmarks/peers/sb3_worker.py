"""Stable-Baselines3's worker of peers.py: one run of its PPO on gymnasium's CartPole, stepped in the same process.

    python experiments/benchmarks/peers/sb3_worker.py JSON    # in its own virtual environment

On one thread: matrices of this size gain nothing from a second, which is waited for wherever other work is running.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import torch  # pyright: ignore[reportMissingImports]
from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.env_util import make_vec_env  # pyright: ignore[reportMissingImports]


def main() -> None:
    """Warm up, then time every repeat."""
    setting = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    batch_size = setting["num_envs"] * setting["num_steps"]
    steps = -(-setting["steps"] // batch_size) * batch_size
    model = PPO(
        "MlpPolicy",
        make_vec_env(setting["env"].removeprefix("gymnax/"), n_envs=setting["num_envs"]),
        n_steps=setting["num_steps"],
        batch_size=setting["minibatch_size"],
        n_epochs=setting["num_epochs"],
        policy_kwargs={"net_arch": setting["hidden_sizes"], "activation_fn": torch.nn.Tanh},
        device="cpu",
    )
    seconds = []
    for _ in range(setting["repeats"] + 1):
        start = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        seconds.append(time.perf_counter() - start)
    answer = {
        "steps": steps,
        "seconds": seconds[1:],
        "compile_seconds": None,
        "devices": 1,
        "versions": {name: version(name) for name in ("stable-baselines3", "torch", "gymnasium")},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
