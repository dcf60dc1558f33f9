"""purejaxppo's worker of peers.py: segments of a sweep's program as `purejaxppo sweep` runs them, on all cores.

    python experiments/benchmarks/ours_worker.py JSON

Log points are as dense as in a run of `total_steps`, with the diagnostics and plasticity measurements of the defaults.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

import jax
from settings import group_of

from purejaxppo.sweep.devices import use_cpu_cores
from purejaxppo.sweep.program import GroupProgram


def main() -> None:
    """Compile, warm up, then time every repeat."""
    setting = json.loads(sys.argv[1])
    use_cpu_cores()
    group = group_of(setting)
    config = group.config
    start = time.perf_counter()
    program = GroupProgram(group)
    runs = program.arguments()
    state = jax.block_until_ready(program.init(runs))
    program.compile(runs)
    tasks = jax.block_until_ready(program.tasks(runs)) if config.measures_plasticity else None
    compile_seconds = time.perf_counter() - start

    segments = -(-setting["steps"] // config.steps_per_log)
    seconds, plasticity_points = [], []
    for repeat in range(setting["repeats"] + 1):
        logs = [1 + log % config.num_logs for log in range(repeat * segments, (repeat + 1) * segments)]
        start = time.perf_counter()
        for log in logs:
            state, metrics = program.segment(runs, state)
            if tasks is not None and config.is_plasticity_point(log):
                metrics = metrics.joined(program.plasticity(runs, state, tasks))
            jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
        plasticity_points.append(sum(map(config.is_plasticity_point, logs)))
    answer = {
        "steps": setting["runs"] * segments * config.steps_per_log,
        "seconds": seconds[1:],
        "compile_seconds": compile_seconds,
        "log_points": segments,
        "plasticity_points": plasticity_points[1:],
        "log_points_of_whole_run": config.num_logs,
        "devices": program.num_devices,
        "versions": {name: version(name) for name in ("purejaxppo", "jax", "gymnax", "brax")},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
