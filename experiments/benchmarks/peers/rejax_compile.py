"""rejax's worker of accelerator.py: its `train`, vmapped over seeds, compiled for a described device.

    python experiments/benchmarks/peers/rejax_compile.py JSON    # where rejax and the device's compiler are

Trains two updates, so that the loop over them stays one; without evaluation, as rejax_worker.py.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # targets.py, which needs nothing but jax

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rejax.compat import create  # pyright: ignore[reportMissingImports]
from rejax_worker import make_algorithm, split
from targets import TARGETS

_UPDATES = 2


def main() -> None:
    """Compile, write the program's text, say what it needs."""
    setting: dict[str, Any] = json.loads(sys.argv[1])
    devices = TARGETS[setting["target"]].devices()
    name = setting["env"].removeprefix("gymnax/")
    if name.startswith("brax/"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of a shallow copy
        setting["env"], _ = create(name, backend=setting["brax_backend"])
    steps = _UPDATES * setting["num_envs"] * setting["num_steps"]
    algorithm = make_algorithm(setting, steps).replace(eval_callback=lambda algorithm, state, key: ())
    train = split(jax.vmap(algorithm.train), devices)
    sharding = NamedSharding(Mesh(np.asarray(devices), ("runs",)), PartitionSpec("runs"))
    keys = jax.ShapeDtypeStruct((setting["runs"], 2), np.uint32, sharding=sharding)
    begin = time.perf_counter()
    compiled = jax.jit(train).lower(keys).compile()
    seconds = time.perf_counter() - begin
    Path(setting["text"]).write_text(compiled.as_text())
    memory = compiled.memory_analysis()
    answer = {
        "updates": _UPDATES,
        "compile_seconds": seconds,
        "memory": memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes,
        "versions": {name: version(name) for name in ("rejax", "jax", "gymnax", "flax")},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
