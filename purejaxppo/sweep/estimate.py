"""What a sweep will take, measured: memory from each compiled program, time from a few log points of it."""

from __future__ import annotations

import time

import jax

from purejaxppo.errors import RunError
from purejaxppo.sweep.engine import lay_out
from purejaxppo.sweep.memory import available_memory, format_memory
from purejaxppo.sweep.plan import Group, Sweep, compile_order, make_groups
from purejaxppo.sweep.program import GroupProgram, to_host


def estimate(sweep: Sweep, memory: int | None = None) -> str:
    """Lines of text: chunks, memory and time of every program and of the whole sweep.

    Compiles what the sweep would, and runs every program's first chunk for some log points, of which the first one is
    not timed: one more, and one with the plasticity loss, each of which counts by its share.
    """
    groups = make_groups(sweep)
    budget = available_memory(jax.local_devices()) if memory is None else memory
    chunks, lines, total, program = lay_out(groups, budget), [], 0.0, None
    for number in compile_order(groups):
        group = groups[number]
        begin = time.perf_counter()
        width = next(c for c in chunks if c.group == number).width
        program = (program and program.for_group(group, width)) or _fitting(group, width, budget)
        num_chunks = -(-len(group.runs) // program.width)
        hparams, keys = program.arguments(group.runs[: program.width])
        state = program.init(hparams, keys)
        compiling = time.perf_counter() - begin
        state, _ = jax.block_until_ready(program.segment(hparams, state))
        due = [group.config.is_plasticity_point(log) for log in range(group.config.num_logs)]
        segment = 0.0
        for is_plasticity_point in sorted(set(due)):
            begin = time.perf_counter()
            state, metrics = program.segment(hparams, state, is_plasticity_point)
            to_host(metrics, program.width)
            jax.block_until_ready(state)
            segment += (time.perf_counter() - begin) * due.count(is_plasticity_point) / len(due)
        del state
        seconds = compiling + segment * group.config.num_logs * num_chunks
        total += seconds / jax.process_count()
        lines.append(
            f"  program {number + 1}: {num_chunks} chunk{'s' if num_chunks > 1 else ''} of {program.width} runs, "
            f"{format_memory(program.needed_memory)} a chunk, {format_memory(program.needed_memory / program.width)} a "
            f"run; {format_seconds(compiling)} compiling, {segment:.2f} s a log point, {format_seconds(seconds)} in all"
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


def _fitting(group: Group, width: int, budget: int | None) -> GroupProgram:
    """The compiled program of a group as the sweep would choose it.

    Raises RunError when the device refuses it; the sweep itself would go on with half the runs.
    """
    program = GroupProgram(group, width)
    try:
        program.compile(*program.arguments(group.runs[:width]))
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
