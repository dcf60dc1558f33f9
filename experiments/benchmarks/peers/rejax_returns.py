"""rejax's worker of parity.py: trains every seed, then plays fresh episodes with the trained policies.

    python experiments/benchmarks/peers/rejax_returns.py JSON    # in rejax's own virtual environment

rejax's own evaluation, once, at the end: 128 episodes a seed with sampled actions.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import jax
import numpy as np
from rejax_worker import make_algorithm, with_networks


def main() -> None:
    """Train, print the mean return of each seed."""
    setting = json.loads(sys.argv[1])
    algorithm = with_networks(make_algorithm(setting, setting["total_steps"]), setting)
    keys = jax.vmap(jax.random.PRNGKey)(np.arange(setting["runs"]))
    state, (_, returns) = jax.jit(jax.vmap(algorithm.train))(keys)
    assert (np.asarray(state.global_step) == setting["total_steps"]).all(), state.global_step
    answer = {
        "returns": np.asarray(returns, np.float64).mean(axis=(1, 2)).tolist(),
        "episodes": returns.shape[2],
        "versions": {name: version(name) for name in ("rejax", "jax", "gymnax", "flax")},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
