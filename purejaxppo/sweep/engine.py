"""The host loop: one program per group, runs split over the local devices, a file per log point, progress.

Time, disk and the terminal live here and nowhere else; the compiled programs know nothing of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.ppo.state import Array, RunState, make_learner
from purejaxppo.ppo.train import Trainer, make_trainer
from purejaxppo.sweep import store
from purejaxppo.sweep.plan import Group, Sweep, describe, make_groups
from purejaxppo.sweep.progress import Progress
from purejaxppo.sweep.provenance import provenance

if TYPE_CHECKING:
    import xarray as xr


def use_cpu_cores(num_cores: int | None = None) -> int:
    """Make every CPU core a JAX device of its own, so that runs are split over them; returns their number.

    Call it before the first JAX computation of a process; the command line does. Afterwards it changes nothing. Two
    cores as two devices run a sweep about 1.9 times as fast as one program over both. No effect on GPU and TPU runs.
    """
    num_cores = num_cores or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", num_cores)
    except RuntimeError:  # JAX has computed something already: its devices are fixed
        return len(jax.local_devices())
    return num_cores


def to_host(metrics: Metrics, num_runs: int) -> dict[str, np.ndarray]:
    """Metrics by name, [S] and [S, D], on the host, of the first `num_runs` runs."""
    local = jax.tree.map(lambda x: np.asarray(x)[:num_runs], metrics)
    return {name: local[name] for name in local}


class GroupProgram:
    """One group's compiled program: all its runs, vmapped and split over the local devices.

    Runs are padded to a multiple of the devices (the last run repeated) and the padding is dropped from every result.
    """

    def __init__(self, group: Group, devices: list[Any] | None = None):
        self.group = group
        self.num_runs = len(group.runs)
        devices = jax.local_devices() if devices is None else devices
        devices = devices[: min(len(devices), self.num_runs)]
        self.num_padded = -(-self.num_runs // len(devices)) * len(devices)
        mesh = Mesh(np.asarray(devices), ("runs",))
        self.sharding = NamedSharding(mesh, PartitionSpec("runs"))
        trainer: Trainer = make_trainer(group.config)

        def split(function: Callable[..., Any], donate: tuple[int, ...] = ()) -> Any:
            mapped = jax.shard_map(
                function, mesh=mesh, in_specs=PartitionSpec("runs"), out_specs=PartitionSpec("runs"), check_vma=False
            )
            return jax.jit(mapped, donate_argnums=donate)

        def segment(hparams: HyperParams, state: RunState) -> tuple[RunState, Metrics]:
            state, metrics = jax.vmap(trainer.segment)(hparams, state)
            return state, metrics.joined(Metrics.of({"status": state.status}))

        self._init = split(jax.vmap(trainer.init))
        self._segment = split(segment, donate=(1,))
        self._compiled: Any = None

    def arguments(self) -> tuple[HyperParams, Array]:
        """Hyper-parameters [S'] and keys [S'] of the group's runs, padded and placed on the devices."""
        runs = self.group.runs
        runs = [*runs, *[runs[-1]] * (self.num_padded - self.num_runs)]
        hparams = jax.tree.map(lambda *values: np.asarray(values, np.float32), *[run.hparams for run in runs])
        keys = jax.vmap(jax.random.key)(np.asarray([run.seed for run in runs], np.uint32))
        return jax.device_put((hparams, keys), self.sharding)

    def init(self, hparams: HyperParams, keys: Array) -> RunState:
        """Fresh states of all runs."""
        return self._init(hparams, keys)

    def compile(self, hparams: HyperParams, state: RunState) -> None:
        """Compile the segment ahead of time, so that progress can tell compiling from running."""
        # LLVM's second level of optimisation compiles for half as long again and makes nothing measurably faster here.
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
        self._compiled = self._segment.lower(hparams, state).compile(compiler_options=options)

    def segment(self, hparams: HyperParams, state: RunState) -> tuple[RunState, Metrics]:
        """All runs up to their next log point; returns before the devices are done. The old state is consumed."""
        return (self._compiled or self._segment)(hparams, state)


def run_group(program: GroupProgram, hparams: HyperParams, state: RunState) -> Iterator[dict[str, np.ndarray]]:
    """Metrics of all runs, one log point after the other.

    The next segment is started before the last one's metrics are read, so that the devices never wait for the disk.
    """
    pending: Metrics | None = None
    for _ in range(program.group.config.num_logs):
        state, packed = program.segment(hparams, state)
        if pending is not None:
            yield to_host(pending, program.num_runs)
        pending = packed
    if pending is not None:
        yield to_host(pending, program.num_runs)


def run_sweep(sweep: Sweep, out: str | Path, *, is_quiet: bool = False) -> xr.Dataset:
    """Run every run of a sweep and return its dataset; the directory `out` must be new or empty.

    Metrics are on disk after every log point: an interrupted sweep keeps what it has (`load_results(out)`).
    Raises ConfigError for an impossible configuration, before anything is compiled or written.
    """
    groups, out = make_groups(sweep), Path(out)
    for group in groups:
        make_learner(group.config)
    store.create(out, sweep)
    facts, start = provenance(), time.perf_counter()
    store.write_json(out / store.PROVENANCE, facts)
    progress = Progress(groups, is_shown=not is_quiet)
    progress.say(describe(sweep, groups))
    seconds_compiling = 0.0
    for number, group in enumerate(groups):
        progress.compiling(number)
        compile_start = time.perf_counter()
        program = GroupProgram(group)
        hparams, keys = program.arguments()
        state = program.init(hparams, keys)
        program.compile(hparams, state)
        seconds_compiling += time.perf_counter() - compile_start
        for log_point, metrics in enumerate(run_group(program, hparams, state)):
            store.write_part(out, number, log_point, metrics)
            progress.advance(number, metrics)
    progress.close()
    facts |= {"seconds_total": time.perf_counter() - start, "seconds_compiling": seconds_compiling}
    store.write_json(out / store.PROVENANCE, facts)
    return store.finish(out)
