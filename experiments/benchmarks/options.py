"""What options of other PPOs cost: processor time of training with each of them, in turn with training without.

    python experiments/benchmarks/options.py --rounds 7

CartPole, 8 environments x 128 steps, 4 epochs of 4 minibatches, 64-64, one run, no diagnostics. Every program is
compiled and warmed up; then each round trains with every option once and with none before and after it. Printed: the
median over rounds of the ratio of processor seconds, and the lowest and the highest. A machine that does something else
disturbs processor time less than time, but not little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

import purejaxppo as pjp

BASE = {"total_steps": 60 * 1024, "num_log_points": 30, "diagnostics": False}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "value_clipping": ({"value_clipping": True}, {}),
    "advantage_normalization batch": ({"advantage_normalization": "batch"}, {}),
    "separate_learning_rates": ({"separate_learning_rates": True}, {"critic_learning_rate": 1e-3}),
    "lr_schedule linear": ({"lr_schedule": "linear", "lr_final_fraction": 0.1}, {}),
    "normalize_observations running": ({"normalize_observations": "running"}, {}),
    "normalize_rewards": ({"normalize_rewards": "running"}, {}),
    "critic_hidden_sizes 256-256": ({"critic_hidden_sizes": (256, 256)}, {}),
}


def main() -> None:
    """Compile, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    plain = training({}, {})
    trained = {name: training(*changes) for name, changes in OPTIONS.items()}
    ratios: dict[str, list[float]] = {name: [] for name in OPTIONS}
    for _ in range(rounds):
        before = seconds(plain)
        for name, train in trained.items():
            own = seconds(train)
            after = seconds(plain)
            ratios[name].append(2 * own / (before + after))
            before = after
    for name, found in ratios.items():
        print(f"{name:<32}{statistics.median(found):.3f}  ({min(found):.3f} to {max(found):.3f})")


def training(config: dict[str, Any], hparams: dict[str, float]) -> Callable[[], Any]:
    """A whole run, compiled and run once."""
    train = pjp.make_train(pjp.TrainConfig(**BASE | config))
    arguments = pjp.HyperParams(**hparams), jax.random.key(0)
    compiled = jax.jit(train).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    return lambda: jax.block_until_ready(compiled(*arguments))


def seconds(train: Callable[[], Any]) -> float:
    """Processor seconds of a run, of all threads."""
    begin = time.process_time()
    train()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
