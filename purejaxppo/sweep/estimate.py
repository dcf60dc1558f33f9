"""What a sweep will take, measured: memory from each compiled program, time from a few log points of it."""

from __future__ import annotations

import itertools
import time

import jax

from purejaxppo.errors import RunError
from purejaxppo.sweep.brought import check_brought
from purejaxppo.sweep.engine import lay_out
from purejaxppo.sweep.memory import available_memory, format_memory
from purejaxppo.sweep.plan import Group, Sweep, make_groups
from purejaxppo.sweep.program import Arguments, GroupProgram, to_host


def estimate(sweep: Sweep, memory: int | None = None) -> str:
    """Lines of text: chunks, memory and time of every program and of the whole sweep.

    Compiles what the sweep would, and runs every program's first chunk for some log points, of which the first one is
    not timed: one more, and one with the plasticity loss, each of which counts by its share.
    """
    groups = make_groups(sweep)
    check_brought(groups)
    budget = available_memory(jax.local_devices()) if memory is None else memory
    chunks, lines, total = lay_out(groups, budget), [], 0.0
    for number, group in enumerate(groups):
        own = [chunk for chunk in chunks if chunk.group == number]
        begin = time.perf_counter()
        program = _fitting(group, own[0].width, budget)
        compiling, points, seconds = time.perf_counter() - begin, 0.0, time.perf_counter() - begin
        for _, same in itertools.groupby(own, key=lambda chunk: chunk.runs(groups)[0].config.num_epochs):
            runs = [run for chunk in same for run in chunk.runs(groups)]
            num_chunks = -(-len(runs) // program.width)
            point = _seconds_of_log_point(program, program.arguments(runs[: program.width]))
            points, seconds = points + point, seconds + point * (1 + group.config.num_logs) * num_chunks
        total += seconds / jax.process_count()
        lines.append(
            f"  program {number + 1}: {len(own)} chunk{'s' if len(own) > 1 else ''} of {program.width} runs, "
            f"{format_memory(program.needed_memory)} a chunk, {format_memory(program.needed_memory / program.width)} a "
            f"run; {format_seconds(compiling)} compiling, {points:.2f} s a log point, {format_seconds(seconds)} in all"
        )
    free = "unknown" if budget is None else format_memory(budget)
    return "\n".join(
        [
            f"Memory: {free} {'free' if memory is None else 'allowed'} for the runs computed at once, on "
            f"{len(jax.local_devices())} devices",
            *lines,
            f"Estimated time: {format_seconds(total)} (measured on log points of each program)",
        ]
    )


def _seconds_of_log_point(program: GroupProgram, runs: Arguments) -> float:
    """Seconds of a log point on average, of one chunk: measured with and without the plasticity loss."""
    config = program.group.config
    state, _ = jax.block_until_ready(program.segment(runs, program.init(runs)))
    begin = time.perf_counter()
    state, metrics = program.segment(runs, state)
    to_host(metrics, program.width)
    jax.block_until_ready(state)
    seconds = time.perf_counter() - begin
    if not config.measures_plasticity:
        return seconds
    tasks = jax.block_until_ready(program.tasks(runs))
    begin = time.perf_counter()
    to_host(program.plasticity(runs, state, tasks), program.width)
    num_due = sum(config.is_plasticity_point(log) for log in range(1, config.num_logs + 1))
    return seconds + (time.perf_counter() - begin) * num_due / config.num_logs


def _fitting(group: Group, width: int, budget: int | None) -> GroupProgram:
    """The compiled program of a group as the sweep would choose it.

    Raises RunError when the device refuses it; the sweep itself would go on with half the runs.
    """
    program = GroupProgram(group, width)
    try:
        program.compile(program.arguments(group.runs[: min(width, group.spans[0][1])]))
        if budget is not None and program.needed_memory > budget and width > program.num_devices:
            return _fitting(group, program.narrower(budget), budget)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(f"{width} runs do not fit into the device's memory; try again with less --memory.") from error
    return program


def format_seconds(seconds: float) -> str:
    """Seconds as people read them: "42 s", "3 min 20 s", "5 h 12 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
