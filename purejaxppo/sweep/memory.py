"""How many runs fit: chunks of a group's runs, all of one shape, so that a group still compiles once."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import NetworkOutput
from purejaxppo.ppo.rollout import collect, prepare_batch
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import Learner, make_learner
from purejaxppo.sweep.plan import Group
from purejaxppo.training.diagnosis import DIAGNOSED_BYTES, diagnosed_together
from purejaxppo.training.evaluation import begin
from purejaxppo.training.plasticity import make_task

_UNITS = {"": 1, "B": 1, **{f"{p}B": 1000**i for i, p in enumerate("KMGT", 1)}}
_UNITS |= {f"{p}iB": 1024**i for i, p in enumerate("KMGT", 1)}
_HOST_COPIES = 1  # the one that a checkpoint is written from
_OF_OUTPUTS = 1.25  # of a pass' outputs, what lies between them and the observations included
# Of a TPU's compiler: how often a diagnosis holds its features, and what it keeps out of the memory that is told. Both
# were fitted, to four numbers: the settings of accelerator.json, 64 runs each, of which they give 0.84 to 1.17.
_TPU_FEATURES, _TPU_ELSEWHERE = 7, 2**27
_SHARE = 0.8  # of the memory that is free: the rest is for what the program itself does not see


def parse_memory(size: str | float) -> int:
    """Bytes of "4GiB", "500MB", "1000000" or a number; raises ConfigError for anything else."""
    text = f"{size:.0f}" if isinstance(size, float) else str(size)
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if not match or match[2].lower() not in units or not 0 < float(match[1]) < math.inf:
        raise ConfigError(f"memory is {size!r}, but must be a size such as 4GiB, 500MB or a number of bytes.")
    return int(float(match[1]) * units[match[2].lower()])


def format_memory(num_bytes: float) -> str:
    """Bytes as people read them: "1.4 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def available_memory(devices: Sequence[Any]) -> int | None:
    """Bytes that all runs of one chunk may take on these devices together; None where nobody says.

    On a CPU what the machine (and a control group, as of a batch system) has free, elsewhere what the devices have.
    """
    if devices[0].platform != "cpu":
        statistics = devices[0].memory_stats()
        if not statistics or "bytes_limit" not in statistics:  # as with XLA_PYTHON_CLIENT_ALLOCATOR=platform
            return None
        return int(_SHARE * len(devices) * (statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)))
    limits = [_free_memory(), *_free_in_control_groups()]
    known = [limit for limit in limits if limit is not None]
    return int(_SHARE * min(known)) if known else None


def _free_memory() -> int | None:
    """Bytes that the machine could give, the disk cache included; half of what it has where only that is told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass
    try:  # macOS
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, OSError, ValueError):
        return None


def _free_in_control_groups() -> list[int]:
    """Bytes that the control groups of this process (a batch job, a container) allow it beyond what they use."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for controllers, path in (line.split(":", 2)[1:] for line in lines):
        version1 = "memory" in controllers.split(",")
        if controllers and not version1:
            continue
        root = Path("/sys/fs/cgroup/memory" if version1 else "/sys/fs/cgroup")
        names = ("limit_in_bytes", "usage_in_bytes") if version1 else ("max", "current")
        cache = "total_inactive_file" if version1 else "inactive_file"  # counts as used, and is given up for the asking
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            try:
                limit, used = (int((group / f"memory.{name}").read_text()) for name in names)
                told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                found.append(limit - used + min(int(told.get(cache, 0)), used))
            except (OSError, ValueError):  # no limit, or not visible from here
                pass
            if group == root:
                break
    return found


def estimate_run(group: Group) -> int:
    """Bytes that one run of a group takes, from the shapes of what it keeps, before anything is compiled.

    The batch, the rollout, the state with its gradients, the plasticity task, environments of evaluations. On a CPU
    also a second batch where an update follows the one before a log point, and the copy that a checkpoint is written
    from. On an accelerator also its part of a block of runs that is diagnosed, or what the networks make of what they
    are passed at once if that is more.
    """
    config, learner = group.config, make_learner(group.config)
    hparams, key = group.runs[0].hparams, jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: init_run(learner, key), key)
    _, rollout = jax.eval_shape(lambda state, key: collect(learner, state, key), state, key)
    batch = jax.eval_shape(lambda state, rollout: prepare_batch(learner, hparams, state, rollout), state, rollout)
    size = bytes_of(batch) + bytes_of(rollout) + 3 * bytes_of(state)
    if config.measures_plasticity:
        size += bytes_of(jax.eval_shape(lambda key: make_task(learner, HyperParams(), key), key))
    if config.num_evaluation_episodes:
        size += 2 * bytes_of(jax.eval_shape(lambda key: begin(learner, config.num_evaluation_episodes, key), key))
    if jax.default_backend() == "cpu":
        size += bytes_of(batch) * (config.updates_per_log > 1) + _HOST_COPIES * bytes_of(state)
        return int(1.2 * size)
    passed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((learner.passed_at_once(batch.obs), *x.shape[1:]), x.dtype), batch.obs
    )
    outputs = _OF_OUTPUTS * bytes_of(jax.eval_shape(learner.both, state, passed))
    diagnosed = 0
    if config.diagnostics and jax.default_backend() == "tpu":
        diagnosed = _diagnosed_by_tpu(learner, jax.eval_shape(learner.both, state, batch.obs), len(group.runs))
    elif config.diagnostics:
        diagnosed = DIAGNOSED_BYTES // max(len(group.runs), diagnosed_together(learner))
    return int(size + max(outputs, diagnosed))


def _diagnosed_by_tpu(learner: Learner, outputs: Sequence[NetworkOutput], num_runs: int) -> int:
    """A run's part of what a TPU takes to diagnose a block: both moments' features, several times, and other layers."""
    networks = outputs[:1] if learner.config.share_trunk else outputs
    features = bytes_of([x.features for x in networks])
    others = bytes_of([x.preactivations[:-1] for x in networks])
    block = min(num_runs, diagnosed_together(learner)) * 2 * (_TPU_FEATURES * features + others)
    return max(block - _TPU_ELSEWHERE, 0) // num_runs


def needed_memory(compiled: Any, num_devices: int) -> int:
    """Bytes that a compiled program takes on all its devices together: arguments, results and what is in between.

    On a CPU, where devices and host share their memory, also the copy of the state that a checkpoint is written from.
    """
    found = compiled.memory_analysis()
    one = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    if jax.default_backend() == "cpu":
        one += _HOST_COPIES * found.argument_size_in_bytes
    return (one + found.temp_size_in_bytes) * num_devices


def chunk_width(num_runs: int, bytes_per_run: int, budget: int | None, num_devices: int, num_processes: int = 1) -> int:
    """Runs in a chunk: as few equal chunks as fit in `budget` bytes, at least one a process, a multiple of the devices.

    A group with fewer runs than devices uses fewer devices.
    """
    a_process = -(-num_runs // num_processes)
    num_devices = min(num_devices, a_process)
    fit = a_process if budget is None else budget // bytes_per_run // num_devices * num_devices
    fit = max(fit, num_devices)
    num_chunks = -(-a_process // fit)
    each = -(-a_process // num_chunks)
    return -(-each // num_devices) * num_devices


def bytes_of(tree: Any) -> int:
    """Bytes of all arrays, or shapes, of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
