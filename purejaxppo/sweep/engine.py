"""The host loop: one program per group, runs in chunks over the local devices, metrics and checkpoints on disk.

Time, disk and the terminal live here and nowhere else; the compiled programs know nothing of them. Several processes
(`jax.distributed`) share a directory: the i-th chunk of its layout belongs to process i modulo their number.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from purejaxppo.errors import ConfigError, RunError, Stopped
from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.ppo.state import Array, RunState, make_learner
from purejaxppo.ppo.train import Trainer, make_trainer
from purejaxppo.sweep import checkpoints, store
from purejaxppo.sweep.interrupt import StopRequest
from purejaxppo.sweep.memory import available_memory, chunk_width, estimate_run, format_memory, needed_memory
from purejaxppo.sweep.plan import Group, Run, Sweep, describe, make_groups
from purejaxppo.sweep.policies import save_policies
from purejaxppo.sweep.progress import Progress
from purejaxppo.sweep.provenance import processor, provenance
from purejaxppo.sweep.store import Chunk

if TYPE_CHECKING:
    import xarray as xr

# Share of the time that may go into checkpoints: one is due when this has been earned back since the last one.
_CHECKPOINT_SHARE = 0.05
_POLL_SECONDS = 0.5


def use_cpu_cores(num_cores: int | None = None) -> int:
    """Make every CPU core a JAX device of its own, so that runs are split over them; returns their number.

    Call it before the first JAX computation of a process; the command line does. Afterwards it changes nothing. Two
    cores as two devices run a sweep about 1.9 times as fast as one program over both. No effect on GPU and TPU runs.
    """
    if num_cores is None:
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", num_cores)
    except RuntimeError:  # JAX has computed something already: its devices are fixed
        return len(jax.local_devices())
    return num_cores


def use_cache() -> None:
    """Keep compiled programs on disk, so that the same program compiles once on a machine; the command line does.

    In JAX_COMPILATION_CACHE_DIR, or by default in a folder of the user's cache that belongs to this kind of processor.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "purejaxppo" / processor()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def join_processes(coordinator: str | None, num_processes: int | None, process_index: int | None) -> None:
    """Make this process one of several that share a sweep, by `jax.distributed`; call it before any computation.

    Raises ConfigError unless all three are given, or none.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_index": process_index}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if missing or coordinator is None or num_processes is None or process_index is None:
        raise ConfigError(f"{missing[0]} is missing, but {', '.join(given)} must be given together or not at all.")
    if not re.fullmatch(r"[^\s:]+:[0-9]{1,5}", coordinator):
        raise ConfigError(f"coordinator is {coordinator!r}, but must be host:port.")
    if not 0 <= process_index < num_processes:
        raise ConfigError(f"process_index is {process_index}, but must be from 0 to num_processes - 1.")
    jax.distributed.initialize(coordinator, num_processes, process_index)


def to_host(metrics: Metrics, num_runs: int) -> dict[str, np.ndarray]:
    """Metrics by name, [S] and [S, D], on the host, of the first `num_runs` runs."""
    local = jax.tree.map(lambda x: np.asarray(x)[:num_runs], metrics)
    return {name: local[name] for name in local}


def _is_cpu() -> bool:
    return jax.default_backend() == "cpu"


def runs_at_once(state: RunState) -> int:
    """How many of a device's runs are to be computed side by side: all of them; on a CPU as many as its cache likes.

    The largest divisor of their number up to 4, and only as many as have weights, gradients and moments of 4 MiB
    together. Narrower means more calls, wider means that each step's data have left the cache when the next needs them.
    """
    num_runs = state.status.shape[0]
    if not _is_cpu():
        return num_runs
    size = 4 * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params)) // num_runs
    return max(width for width in (1, 2, 3, 4) if num_runs % width == 0 and (width == 1 or width * size <= 2**22))


def map_runs(function: Callable[[Any], Any], runs: Any, width: int) -> Any:
    """`function` over the leading axis of `runs`: `width` runs side by side by vmap, one such group after the other."""
    num_runs = jax.tree.leaves(runs)[0].shape[0]
    return jax.vmap(function)(runs) if width == num_runs else jax.lax.map(function, runs, batch_size=width)


class GroupProgram:
    """A group's compiled program for `width` runs at a time, vmapped and split over the local devices.

    Chunks with fewer runs are padded (the last run repeated), and the padding is dropped from every result.
    """

    def __init__(self, group: Group, width: int | None = None, devices: list[Any] | None = None):
        self.group = group
        devices = jax.local_devices() if devices is None else devices
        devices = devices[: min(len(devices), width or len(group.runs))]
        self.width = width or -(-len(group.runs) // len(devices)) * len(devices)
        while self.width % len(devices):  # a width laid down for other devices
            devices = devices[:-1]
        self.num_devices = len(devices)
        mesh = Mesh(np.asarray(devices), ("runs",))
        self.sharding = NamedSharding(mesh, PartitionSpec("runs"))
        trainer: Trainer = make_trainer(group.config)

        runs, all_runs = PartitionSpec("runs"), PartitionSpec()

        def split(function: Callable[..., Any], arguments: tuple[PartitionSpec, ...], donate: tuple[int, ...]) -> Any:
            mapped = jax.shard_map(function, mesh=mesh, in_specs=arguments, out_specs=runs, check_vma=False)
            return jax.jit(mapped, donate_argnums=donate)

        def segment(hparams: HyperParams, state: RunState, is_plasticity_point: Array) -> tuple[RunState, Metrics]:
            def one(run: tuple[HyperParams, RunState]) -> tuple[RunState, Metrics]:
                return trainer.segment(*run, is_plasticity_point)

            state, metrics = map_runs(one, (hparams, state), runs_at_once(state))
            return state, metrics.joined(Metrics.of({"status": state.status}))

        self._init = split(jax.vmap(trainer.init), (runs, runs), donate=())
        self._segment = split(segment, (runs, runs, all_runs), donate=(1,))
        self._compiled_init: Any = None
        self._compiled: Any = None

    def arguments(self, runs: Sequence[Run] | None = None) -> tuple[HyperParams, Array]:
        """Hyper-parameters [width] and keys [width] of some runs (all by default), padded and on the devices."""
        runs = self.group.runs if runs is None else runs
        runs = [*runs, *[runs[-1]] * (self.width - len(runs))]
        hparams = jax.tree.map(lambda *values: np.asarray(values, np.float32), *[run.hparams for run in runs])
        keys = jax.vmap(jax.random.key)(np.asarray([run.seed for run in runs], np.uint32))
        return jax.device_put((hparams, keys), self.sharding)

    def init(self, hparams: HyperParams, keys: Array) -> RunState:
        """Fresh states of all runs."""
        if self._compiled_init is None:  # it runs once: what compiles fastest is best
            options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
            self._compiled_init = self._init.lower(hparams, keys).compile(compiler_options=options if _is_cpu() else {})
        return self._compiled_init(hparams, keys)

    def shapes(self, hparams: HyperParams, keys: Array) -> RunState:
        """The states of all runs, as shapes and types."""
        return jax.eval_shape(self._init, hparams, keys)

    def put(self, state: RunState) -> RunState:
        """A host state on the devices; in memory of its own, because the next segment consumes it."""
        return jax.device_put(state, self.sharding, may_alias=False)

    def compile(self, hparams: HyperParams, keys: Array) -> None:
        """Compile the segment ahead of time, so that progress can tell compiling from running."""
        if self._compiled is None:
            # LLVM's second level of optimisation compiles for half as long again, and makes nothing faster here.
            options = {"xla_backend_optimization_level": 1} if _is_cpu() else {}
            state = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.sharding), self.shapes(hparams, keys)
            )
            self._compiled = self._segment.lower(hparams, state, np.bool_(False)).compile(compiler_options=options)

    @property
    def needed_memory(self) -> int:
        """Bytes that the compiled program takes on all its devices together."""
        return needed_memory(self._compiled, self.num_devices)

    def narrower(self, budget: int) -> int:
        """The width that fits into `budget` bytes, by what the compiled program takes; a multiple of the devices."""
        return max(int(self.width * budget / self.needed_memory) // self.num_devices, 1) * self.num_devices

    def segment(
        self, hparams: HyperParams, state: RunState, is_plasticity_point: bool = False
    ) -> tuple[RunState, Metrics]:
        """All runs up to their next log point; returns before the devices are done. The old state is consumed."""
        return (self._compiled or self._segment)(hparams, state, np.bool_(is_plasticity_point))


@dataclass(kw_only=True)
class Session:
    """What one process of a running sweep carries around."""

    out: Path
    groups: list[Group]
    chunks: list[Chunk]
    progress: Progress
    stop: StopRequest
    budget: int | None
    tensorboard: bool
    seconds_compiling: float = 0.0
    program: GroupProgram | None = None
    """The last one compiled; groups come one after the other, so no other is needed again."""


def run_sweep(
    sweep: Sweep,
    out: str | Path,
    *,
    memory: int | None = None,
    is_forced: bool = False,
    tensorboard: bool = False,
    is_quiet: bool = False,
) -> xr.Dataset:
    """Run every run of a sweep and return its dataset; a directory `out` that holds this very sweep is continued.

    Metrics are on disk after every log point, the state of all runs in checkpoints that take at most 5 % of the time:
    after a kill the same call goes on from the last checkpoint, and ends with the same bits. Ctrl-C stops after the
    current log point. `memory` is in bytes, for all runs that are computed at once; by default what is free.
    Raises ConfigError for an impossible configuration or directory, before anything is compiled or written; RunError
    for a full disk or too little memory; Stopped (a KeyboardInterrupt) after Ctrl-C.
    """
    groups, out = make_groups(sweep), Path(out)
    for group in groups:
        make_learner(group.config)
    facts, start, here = provenance(), time.perf_counter(), jax.process_index()
    if store.is_started(out):
        store.check_same(out, sweep, facts, is_forced=is_forced)
        if (out / store.RESULTS).is_file():
            dataset = store.load_results(out)
            store.clean(out)
            return dataset
    elif here == 0:
        store.create(out, sweep)
    try:
        _await(lambda: store.is_started(out), f"process 0 to create {out}; do all processes see that directory?")
        with store.lock(out, here), StopRequest() as stop, Progress(groups, is_shown=not is_quiet) as progress:
            budget = available_memory(jax.local_devices()) if memory is None else memory
            is_new = store.read_layout(out) is None
            if here == 0 and is_new:
                store.write_json(out / store.PROVENANCE, facts)
                store.write_layout(out, lay_out(groups, budget))
            elif here == 0:
                store.note_continuation(out, facts)
            _await(lambda: store.read_layout(out) is not None, f"process 0 to lay out {out}")
            session = Session(
                out=out,
                groups=groups,
                chunks=store.read_layout(out) or [],
                progress=progress,
                stop=stop,
                budget=budget if is_new else None,
                tensorboard=tensorboard,
            )
            progress.say(describe(sweep, groups))
            _run_chunks(session)
            if jax.process_count() > 1:
                _wait_for_all(session)
            if here > 0:
                return store.load_results(out)
            known = store.read_json(out / store.PROVENANCE)
            seconds = {"seconds_total": time.perf_counter() - start, "seconds_compiling": session.seconds_compiling}
            store.write_json(out / store.PROVENANCE, known | {k: known.get(k, 0.0) + v for k, v in seconds.items()})
            return store.finish(out)
    except OSError as error:
        raise RunError(
            f"directory {out} cannot be written: {error.strerror or error}; the last whole checkpoint is safe, "
            f"continue with: purejaxppo resume {out}"
        ) from error


def _await(is_true: Callable[[], bool], what: str) -> None:
    """Wait for another process, which needs seconds; raises RunError after two minutes."""
    deadline = time.monotonic() + 120
    while not is_true():
        if time.monotonic() > deadline:
            raise RunError(f"waited two minutes for {what}")
        time.sleep(_POLL_SECONDS)


def lay_out(groups: list[Group], budget: int | None) -> list[Chunk]:
    """The chunks of all groups, as wide as a budget of bytes allows."""
    chunks = []
    for number, group in enumerate(groups):
        num_runs, num_devices = len(group.runs), len(jax.local_devices())
        width = chunk_width(num_runs, estimate_run(group), budget, num_devices, jax.process_count())
        chunks += store.make_chunks(number, 0, num_runs, width)
    return chunks


def _run_chunks(session: Session) -> None:
    """All chunks of this process that are not done yet."""
    for chunk in session.chunks:
        if store.is_done(session.out, chunk):
            session.progress.skip(chunk, session.groups[chunk.group].config.num_logs)
    mine = session.chunks[jax.process_index() :: jax.process_count()]
    queue = [chunk for chunk in mine if not store.is_done(session.out, chunk)]
    while queue:
        if session.stop.is_made:
            raise Stopped(f"stopped; everything is saved, continue with: purejaxppo resume {session.out}")
        chunk = queue.pop(0)
        try:
            _run_chunk(session, chunk)
        except _TooWide as error:
            halves = _narrower(session, chunk, error.width)
            queue = [*halves, *[c for c in queue if c.group != chunk.group]]


class _TooWide(Exception):
    """The device refused, or would refuse, a chunk; `width` runs should fit."""

    def __init__(self, width: int):
        super().__init__(width)
        self.width = width


def _narrower(session: Session, chunk: Chunk, width: int) -> list[Chunk]:
    """Lay out the rest of this chunk's group anew, in narrower chunks, and write that down.

    Raises RunError where that would throw something away: checkpoints, or what other processes compute.
    """
    if jax.process_count() > 1 or (session.out / store.CHECKPOINTS / chunk.name).is_dir():
        raise RunError(
            f"{chunk.width} runs at once do not fit into memory any more; make room and continue with: "
            f"purejaxppo resume {session.out}, or start again in a new directory with less --memory."
        )
    number = 1 + max(int(c.name.split("-")[1]) for c in session.chunks if c.group == chunk.group)
    kept, new = [], []
    for old in session.chunks:
        if old.group != chunk.group or store.is_done(session.out, old):
            kept.append(old)
        else:
            new += store.make_chunks(chunk.group, old.first, old.stop, width, first_number=number + len(new))
    session.progress.say(f"{chunk.width} runs at once do not fit into memory: going on with {width}.")
    session.chunks = sorted([*kept, *new], key=lambda c: c.name)
    store.write_layout(session.out, session.chunks)
    return new


def _run_chunk(session: Session, chunk: Chunk) -> None:
    """One chunk from its last checkpoint, or its start, to its end.

    Raises _TooWide when it does not fit into memory, and Stopped when that was asked for.
    """
    folder = session.out / store.CHECKPOINTS / chunk.name
    try:
        program, hparams, keys = _compiled_program(session, chunk)
        restored = checkpoints.restore(folder, program.shapes(hparams, keys))
        state = program.init(hparams, keys) if restored is None else program.put(restored[1])
        start = 0 if restored is None else restored[0]
        session.progress.skip(chunk, start)
        _run_segments(session, chunk, program, hparams, state, start)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        num_devices = min(len(jax.local_devices()), chunk.width)
        half = chunk.width // 2 // num_devices * num_devices
        if half < 1:
            raise RunError(
                f"{chunk.width} runs of program {chunk.group + 1} are more than the memory holds."
            ) from error
        session.program = None
        raise _TooWide(half) from error
    shutil.rmtree(folder, ignore_errors=True)  # its final parameters are saved


def _compiled_program(session: Session, chunk: Chunk) -> tuple[GroupProgram, HyperParams, Array]:
    """The program of a chunk, compiled where it has not been yet, and its arguments."""
    begin = time.perf_counter()
    group, program = session.groups[chunk.group], session.program
    is_new = False
    if program is None or program.group is not group or program.width != chunk.width:
        is_new = True
        session.progress.compiling(chunk)
        session.program = None  # lets go of the one before
        program = session.program = GroupProgram(group, chunk.width)
    hparams, keys = program.arguments(chunk.runs(session.groups))
    program.compile(hparams, keys)
    session.seconds_compiling += time.perf_counter() - begin
    needed = program.needed_memory
    if is_new and session.budget is not None and needed > session.budget and chunk.width > program.num_devices:
        session.program = None
        raise _TooWide(program.narrower(session.budget))
    if is_new:
        session.progress.say(
            f"program {chunk.group + 1}: {chunk.width} runs at once, {format_memory(needed)} "
            f"({format_memory(needed / chunk.width)} a run), compiled in {time.perf_counter() - begin:.0f} s"
        )
    return program, hparams, keys


@dataclass(kw_only=True)
class _Pending:
    """A log point whose results are still being computed while the next one is started."""

    log_point: int
    metrics: Metrics
    state: Any = None
    """Host copy of the state after it, where a checkpoint is due."""


def _run_segments(
    session: Session, chunk: Chunk, program: GroupProgram, hparams: HyperParams, state: RunState, start: int
) -> None:
    """Log point after log point; the next is started before the last is written, so that no device waits for the disk.

    A checkpoint is written only after the metrics of every log point before it.
    """
    num_logs, runs = program.group.config.num_logs, chunk.runs(session.groups)
    live = _live_tensorboard(session, chunk) if session.tensorboard else None
    clock = _CheckpointClock()
    pending: _Pending | None = None

    def write(item: _Pending) -> None:
        metrics = to_host(item.metrics, len(runs))
        store.write_part(session.out, chunk, item.log_point, metrics)
        if live is not None:
            live.write((item.log_point + 1) * program.group.config.steps_per_log, metrics)
        if item.state is not None:
            with clock:
                checkpoints.save(session.out / store.CHECKPOINTS / chunk.name, item.log_point + 1, item.state)
        session.progress.advance(chunk, metrics)

    for log_point in range(start, num_logs):
        is_plasticity_point = program.group.config.is_plasticity_point(log_point)
        state, metrics = program.segment(hparams, state, is_plasticity_point)
        if pending is not None:
            write(pending)
        pending = _Pending(log_point=log_point, metrics=metrics)
        if log_point + 1 < num_logs and (session.stop.is_made or clock.is_due()):
            pending.state = checkpoints.to_host(state)
        if session.stop.is_made and pending.state is not None:
            break
    if pending is not None:
        write(pending)
    if live is not None:
        live.close()
    if pending is not None and pending.state is not None:
        raise Stopped(
            f"stopped after log point {pending.log_point + 1} of {num_logs}; everything is saved, continue with: "
            f"purejaxppo resume {session.out}"
        )
    final = checkpoints.to_host(state)
    final = jax.tree.map(lambda x: x[: len(runs)], (final.params, final.observation_statistics))
    (session.out / store.POLICIES).mkdir(exist_ok=True)
    save_policies(session.out / store.POLICIES / f"{chunk.name}.npz", [run.index for run in runs], *final)


class _CheckpointClock:
    """Says when a checkpoint is due: when the last one has cost at most `_CHECKPOINT_SHARE` of the time since."""

    def __init__(self) -> None:
        self._last, self._cost = time.perf_counter(), 0.1

    def is_due(self) -> bool:
        return time.perf_counter() - self._last >= self._cost / _CHECKPOINT_SHARE

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._last = time.perf_counter()
        self._cost = self._last - self._begin


def _live_tensorboard(session: Session, chunk: Chunk) -> Any:
    from purejaxppo.analysis.export import LiveTensorBoard

    return LiveTensorBoard(session.out / "tensorboard", chunk.runs(session.groups))


def _wait_for_all(session: Session) -> None:
    """Wait until the chunks of all processes are done; other processes than 0 also for its results."""
    while waiting := [chunk for chunk in session.chunks if not store.is_done(session.out, chunk)]:
        session.progress.waiting(len(waiting))
        time.sleep(_POLL_SECONDS)
    while jax.process_index() > 0 and not (session.out / store.RESULTS).is_file():
        time.sleep(_POLL_SECONDS)
