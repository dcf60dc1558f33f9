"""The host loop: one program per group, runs in chunks over the local devices, metrics and checkpoints on disk.

Time, disk and the terminal live here and nowhere else; the compiled programs know nothing of them. Several processes
(`jax.distributed`) share a directory: the i-th chunk of its layout belongs to process i modulo their number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from purejaxppo import own
from purejaxppo.blas import is_cpu
from purejaxppo.envs.suites import versions
from purejaxppo.errors import ConfigError, RunError, Stopped
from purejaxppo.metrics import Metrics
from purejaxppo.ppo.state import RunState
from purejaxppo.sweep import checkpoints, snapshots, store
from purejaxppo.sweep.brought import check_brought
from purejaxppo.sweep.devices import check_settings
from purejaxppo.sweep.interrupt import StopRequest
from purejaxppo.sweep.memory import available_memory, chunk_width, estimate_run, format_memory, parse_memory
from purejaxppo.sweep.parts import write_part
from purejaxppo.sweep.plan import (
    Group,
    Sweep,
    check_effects,
    describe,
    make_groups,
    own_modules,
    parse_sweep,
    to_json,
)
from purejaxppo.sweep.policies import save_policies
from purejaxppo.sweep.program import Arguments, GroupProgram, to_host
from purejaxppo.sweep.progress import Progress
from purejaxppo.sweep.provenance import provenance
from purejaxppo.sweep.snapshots import Kept
from purejaxppo.sweep.store import Chunk

if TYPE_CHECKING:
    import xarray as xr

# Share of the time that may go into checkpoints: one is due when this has been earned back since the last one.
_CHECKPOINT_SHARE = 0.05
_POLL_SECONDS = 0.5
TENSORBOARD = "tensorboard"
ONE_SWEEP = threading.RLock()  # of a process: it takes all devices, and netCDF bears no second thread


@dataclass(kw_only=True)
class Session:
    """What one process of a running sweep carries around."""

    out: Path
    groups: list[Group]
    chunks: list[Chunk]
    progress: Progress
    stop: StopRequest
    budget: int | None
    """Bytes that a program may take; None where nobody says, or where several processes share the sweep."""
    tensorboard: bool
    said: Path
    """The directory as the user knows it: of an extension, the one that is extended."""
    is_kept: bool
    """Whether final states are kept."""
    seconds_compiling: float = 0.0
    program: GroupProgram | None = None
    """The last one compiled; chunks of a group come one after the other, so no other is needed again."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be computed of a sweep, all of it unless it extends another one."""

    facts: dict[str, Any]
    """Of this process; see `provenance`."""
    is_kept: bool = True
    """Whether final states are kept."""
    base: Path | None = None
    """The directory that is extended."""
    todo: Mapping[int, int] | None = None
    """Run -> log point from whose state, in `base`, it goes on; 0 for one that begins."""
    note: str = ""
    """What else is to be said of an extension."""
    first_number: int = 0
    """Of the chunks of a group, so that no two files of a directory have one name."""


def run_sweep(
    sweep: Sweep,
    out: str | Path,
    *,
    memory: int | str | None = None,
    is_forced: bool = False,
    tensorboard: bool = False,
    is_quiet: bool = False,
    is_kept: bool = True,
) -> xr.Dataset:
    """Run every run of a sweep and return its dataset; a directory `out` that holds this very sweep is continued.

    Metrics are on disk after every log point, the state of all runs in checkpoints that take at most 5 % of the time:
    after a kill the same call goes on from the last checkpoint, and ends with the same bits. Ctrl-C stops after the
    current log point. `memory`, in bytes or as "4GiB", is for all runs that are computed at once; by default what is
    free when the sweep begins. Where it goes on, another value counts for programs that have not begun. Final states
    are kept, for `extend_sweep`, unless `is_kept` is false.
    Raises ConfigError for an impossible configuration or directory, before anything is compiled or written; RunError
    for a full disk or too little memory; Stopped (a KeyboardInterrupt) after Ctrl-C. Called from several threads, one
    sweep runs after the other.
    """
    if not isinstance(sweep, Sweep):
        raise ConfigError(f"sweep is {sweep!r}, but must be a pjp.Sweep, as Sweep.from_toml reads it from a file.")
    size = None if memory is None else parse_memory(memory)
    with ONE_SWEEP:
        return _run_sweep(sweep, Path(out).expanduser(), size, is_forced, tensorboard, is_quiet, is_kept)


def _run_sweep(
    sweep: Sweep, out: Path, memory: int | None, is_forced: bool, tensorboard: bool, is_quiet: bool, is_kept: bool
) -> xr.Dataset:
    sweep = checked(sweep, tensorboard=tensorboard)
    facts = facts_of(sweep)
    if store.is_started(out):
        store.check_settled(out)
        store.check_same(out, sweep, facts, is_forced=is_forced)
        if (out / store.RESULTS).is_file():
            if jax.process_index() == 0:  # and not while it is extended
                with contextlib.suppress(ConfigError, RunError), store.lock(out, 0):
                    store.clean(out)
            return store.load_results(out)
    elif jax.process_index() == 0:
        check_effects(sweep)
        store.create(out, sweep)
    work = Work(facts=facts, is_kept=is_kept)
    return compute(sweep, out, work, memory=memory, tensorboard=tensorboard, is_quiet=is_quiet)


def checked(sweep: Sweep, *, tensorboard: bool) -> Sweep:
    """The sweep as its directory will say it; raises ConfigError for what is impossible, before anything is written."""
    check_settings()
    if tensorboard:
        from purejaxppo.results.export import check_tensorboard

        check_tensorboard()
    sweep = parse_sweep(to_json(sweep), folder=sweep.folder)
    if sweep.folder is None:  # made in Python: `resume` in another process is to find its modules too
        sweep = dataclasses.replace(sweep, folder=own.place_of(own_modules(sweep)))
    check_brought(make_groups(sweep))
    return sweep


def facts_of(sweep: Sweep) -> dict[str, Any]:
    """What is to be kept of this process, of suites that are extras and of the user's own modules, with the results."""
    groups = make_groups(sweep)
    rows = check_brought(groups)
    facts = provenance() | versions(group.config.env for group in groups) | own.sources(own_modules(sweep))
    return facts | ({"own_metrics": rows} if rows else {})


def compute(
    sweep: Sweep, out: Path, work: Work, *, memory: int | None, tensorboard: bool, is_quiet: bool
) -> xr.Dataset:
    """What is missing of a sweep whose directory is there, to its end; raises as `run_sweep` does."""
    start, here, groups = time.perf_counter(), jax.process_index(), make_groups(sweep)
    said = out if work.base is None else work.base
    try:
        wait_until(lambda: store.is_started(out), f"process 0 to create {out}; do all processes see that directory?")
        with store.lock(out, here), StopRequest() as stop, Progress(groups, is_shown=not is_quiet) as progress:
            if here == 0:
                _begin(out, groups, work, memory)
            # Process 0 traces every program for that, which takes seconds each.
            wait_until(lambda: store.read_layout(out) is not None, f"process 0 to lay out {out}", minutes=30)
            budget = store.read_budget(out) if memory is None else memory
            session = Session(
                out=out,
                said=said,
                groups=groups,
                chunks=store.read_layout(out) or [],
                progress=progress,
                stop=stop,
                budget=budget if jax.process_count() == 1 else None,
                # Event files must not stop where a sweep did.
                tensorboard=tensorboard or any((folder / TENSORBOARD).is_dir() for folder in (out, said)),
                is_kept=work.is_kept,
            )
            progress.expect(session.chunks)
            progress.say(describe(sweep, groups))
            if work.todo is not None:
                progress.say(f"extends {said}: {len(work.todo)} of {sweep.num_runs} runs to compute{work.note}")
            try:
                _run_chunks(session)
                if jax.process_count() > 1:
                    _wait_for_all(session)
            finally:
                if here == 0:
                    store.note_seconds(out, time.perf_counter() - start, session.seconds_compiling)
            return store.load_results(said) if here > 0 else store.finish(out)
    except OSError as error:
        raise RunError(
            f"directory {out} cannot be written: {error.strerror or error}; the last whole checkpoint is safe, "
            f"continue with: purejaxppo resume {said}"
        ) from error


def _begin(out: Path, groups: list[Group], work: Work, memory: int | None) -> None:
    """Lay out a new sweep, or note that one goes on."""
    if store.read_layout(out) is not None:
        store.note_continuation(out, work.facts)
        return
    budget = available_memory(jax.local_devices()) if memory is None else memory
    if work.base is None:  # an extension has that of what it extends
        store.write_json(out / store.PROVENANCE, work.facts)
    store.write_layout(out, lay_out(groups, budget, work), budget)


def wait_until(is_true: Callable[[], bool], what: str, *, minutes: int = 2) -> None:
    """Wait for another process, which needs seconds; raises RunError after some minutes."""
    deadline = time.monotonic() + 60 * minutes
    while not is_true():
        if time.monotonic() > deadline:
            raise RunError(f"waited {minutes} minutes for {what}")
        time.sleep(_POLL_SECONDS)


def lay_out(groups: list[Group], budget: int | None, work: Work | None = None) -> list[Chunk]:
    """The chunks of all groups, as wide as a budget of bytes allows; on a CPU each of runs with equally many epochs.

    Of an extension, those of the runs that are to be computed, which in a chunk go on from the same log point.
    """
    todo, first_number = (None, 0) if work is None else (work.todo, work.first_number)
    chunks = []
    for number, group in enumerate(groups):
        starts = {run.index: 0 for run in group.runs} if todo is None else todo
        alike: dict[tuple[int, int], list[int]] = {}
        for run in (run for run in group.runs if run.index in starts):
            alike.setdefault((starts[run.index], run.config.num_epochs if is_cpu() else 0), []).append(run.index)
        spans = [(start, indices) for (start, _), indices in alike.items()]
        if not spans:
            continue
        longest = max(len(indices) for _, indices in spans)
        width = chunk_width(longest, estimate_run(group), budget, len(jax.local_devices()), jax.process_count())
        own: list[Chunk] = []
        for start, indices in spans:
            own += store.make_chunks(number, indices, width, first_number=first_number + len(own), start=start)
        chunks += own
    return chunks


def _run_chunks(session: Session) -> None:
    """All chunks of this process that are not done yet."""
    for chunk in session.chunks:
        if store.is_done(session.out, chunk):
            session.progress.skip(chunk, 1 + session.groups[chunk.group].config.num_logs)
    mine = session.chunks[jax.process_index() :: jax.process_count()]
    queue = [chunk for chunk in mine if not store.is_done(session.out, chunk)]
    while queue:
        if session.stop.is_made:
            raise Stopped(f"stopped; everything is saved, continue with: purejaxppo resume {session.said}")
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
            f"{chunk.width} runs at once do not fit into memory any more; make room, or go on where they began, with: "
            f"purejaxppo resume {session.said}, or start again in a new directory with less --memory."
        )
    number = 1 + max(int(c.name.split("-")[1]) for c in session.chunks if c.group == chunk.group)
    kept, new = [], []
    for old in session.chunks:
        if old.group != chunk.group or store.is_done(session.out, old):
            kept.append(old)
        else:
            snapshots.discard(session.out, old)  # of a log point that was computed before the device refused
            new += store.make_chunks(chunk.group, old.indices, width, first_number=number + len(new), start=old.start)
    session.progress.say(f"{chunk.width} runs at once do not fit into memory: going on with {width}.")
    session.chunks = sorted([*kept, *new], key=lambda c: c.name)
    store.write_layout(session.out, session.chunks, session.budget)
    return new


def _run_chunk(session: Session, chunk: Chunk) -> None:
    """One chunk from its last checkpoint, or its start, to its end.

    Raises _TooWide when it does not fit into memory, and Stopped when that was asked for.
    """
    folder = session.out / store.CHECKPOINTS / chunk.name
    try:
        program, runs = _compiled_program(session, chunk)
        restored = checkpoints.restore(folder, program.shapes(runs))
        state = _first_state(session, chunk, program, runs) if restored is None else program.put(restored[1])
        start = chunk.first_log_point if restored is None else restored[0]
        session.progress.skip(chunk, start)
        _run_segments(session, chunk, program, runs, state, start)
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


def _first_state(session: Session, chunk: Chunk, program: GroupProgram, runs: Arguments) -> RunState:
    """Fresh states, or in an extension those in which runs had ended."""
    state = program.init(runs)
    if not chunk.start:
        return state
    old = {new: old for old, new in store.read_kept(session.out)}
    ended = [old[index] for index in chunk.indices]
    return program.put(checkpoints.restore_final(session.said / store.STATES, ended, state))


def _compiled_program(session: Session, chunk: Chunk) -> tuple[GroupProgram, Arguments]:
    """The program of a chunk, compiled where it has not been yet, and its arguments."""
    begin = time.perf_counter()
    group, program, own_runs = session.groups[chunk.group], session.program, chunk.runs(session.groups)
    # On a CPU only where the sweep was laid out on an accelerator, and goes on here.
    is_mixed = not is_cpu() or len({run.config.num_epochs for run in own_runs}) > 1
    wanted = chunk.width, is_mixed
    is_new = program is None or program.group is not group or (program.width, program.is_mixed) != wanted
    if program is None or is_new:
        session.progress.compiling(chunk)
        session.program = None  # lets go of the one before
        program = GroupProgram(group, chunk.width, is_mixed=is_mixed)
    session.program = program
    runs = program.arguments(own_runs)
    program.compile(runs)
    session.seconds_compiling += time.perf_counter() - begin
    needed = program.needed_memory
    budget = session.budget
    if (session.out / store.CHECKPOINTS / chunk.name).is_dir():
        budget = None  # it fitted before, and would lose what it has
    if is_new and budget is not None and needed > budget and chunk.width > program.num_devices:
        session.program = None
        raise _TooWide(program.narrower(budget))
    if is_new:
        session.progress.say(
            f"program {chunk.group + 1}: {chunk.width} runs at once, {format_memory(needed)} "
            f"({format_memory(needed / chunk.width)} a run), compiled in {time.perf_counter() - begin:.0f} s"
        )
    return program, runs


@dataclass(kw_only=True)
class _Pending:
    """A log point whose results are still being computed while the next one is started."""

    log_point: int
    metrics: Metrics
    state: Any = None
    """Host copy of the state after it, where a checkpoint is due."""
    snapshot: Kept | None = None
    """Host copy of what a snapshot keeps, where one is due."""


def _run_segments(
    session: Session, chunk: Chunk, program: GroupProgram, runs: Arguments, state: RunState, start: int
) -> None:
    """Log point after log point; the next is started before the last is written, so that no device waits for the disk.

    A checkpoint is written only after the metrics of every log point before it.
    """
    config, num_runs = program.group.config, chunk.num_runs
    live = _live_tensorboard(session, chunk) if session.tensorboard else None
    clock = _CheckpointClock()
    pending: _Pending | None = None
    tasks = program.tasks(runs) if config.measures_plasticity else None

    def write(item: _Pending) -> None:
        metrics = to_host(item.metrics, num_runs)
        if config.num_snapshots:
            metrics = snapshots.marked(metrics, is_kept=item.snapshot is not None)
        if item.snapshot is not None:
            snapshots.save(session.out, chunk, item.log_point, item.snapshot)
        write_part(session.out / store.PARTS / chunk.name, item.log_point, metrics)
        if live is not None:
            live.write(item.log_point * config.steps_per_log, metrics)
        if item.state is not None:
            with clock:
                checkpoints.save(session.out / store.CHECKPOINTS / chunk.name, item.log_point + 1, item.state)
        session.progress.advance(chunk, item.log_point, metrics)

    for log_point in range(start, config.num_logs + 1):
        if log_point == 0:  # the initial networks: nothing is learned, and that state is thrown away
            metrics = program.segment(runs, program.init(runs), is_learning=False)[1]
        else:
            state, metrics = program.segment(runs, state)
        if tasks is not None and config.is_plasticity_point(log_point):
            metrics = metrics.joined(program.plasticity(runs, state, tasks))
        metrics = metrics.joined(program.evaluation(state)) if config.is_evaluation_point(log_point) else metrics
        if pending is not None:
            write(pending)
        pending = _Pending(log_point=log_point, metrics=metrics)
        if log_point < config.num_logs and (session.stop.is_made or clock.is_due()):
            pending.state = checkpoints.to_host(state)
        if config.is_snapshot_point(log_point):
            pending.snapshot = snapshots.kept_of(state)
        if session.stop.is_made and pending.state is not None:
            break
    if pending is not None:
        write(pending)
    if live is not None:
        live.close()
    if pending is not None and pending.state is not None:
        raise Stopped(
            f"stopped after log point {pending.log_point} of {config.num_logs}; everything is saved, continue with: "
            f"purejaxppo resume {session.said}"
        )
    final = checkpoints.to_host(state)
    places = list(chunk.indices)
    if session.is_kept:
        checkpoints.save_final(session.out / store.STATES / f"{chunk.name}.npz", places, final)
    final = jax.tree.map(lambda x: x[:num_runs], (final.params, final.observation_statistics, final.status))
    (session.out / store.POLICIES).mkdir(exist_ok=True)
    save_policies(session.out / store.POLICIES / f"{chunk.name}.npz", places, *final)


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
    from purejaxppo.results.export import LiveTensorBoard

    return LiveTensorBoard(session.out / TENSORBOARD, chunk.runs(session.groups))


def _wait_for_all(session: Session) -> None:
    """Wait until the chunks of all processes are done; other processes than 0 also for its results."""
    while waiting := [chunk for chunk in session.chunks if not store.is_done(session.out, chunk)]:
        session.progress.waiting(len(waiting))
        _sleep(session)
    # Of an extension, until process 0 has put it in its place.
    while jax.process_index() > 0 and not _is_whole(session):
        _sleep(session)


def _is_whole(session: Session) -> bool:
    is_plain = session.said == session.out
    return (session.out / store.RESULTS).is_file() if is_plain else not session.out.exists()


def _sleep(session: Session) -> None:
    if session.stop.is_made:
        raise Stopped(f"stopped while waiting for others; continue with: purejaxppo resume {session.said}")
    time.sleep(_POLL_SECONDS)
