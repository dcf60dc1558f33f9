"""What a sweep will take, measured: memory from each compiled program, time from a few log points of it."""

from __future__ import annotations

import time

import jax

from purejaxppo.sweep.engine import GroupProgram, lay_out, to_host
from purejaxppo.sweep.memory import available_memory, format_memory
from purejaxppo.sweep.plan import Sweep, make_groups

_NUM_SEGMENTS = 2


def estimate(sweep: Sweep, memory: int | None = None) -> str:
    """Lines of text: chunks, memory and time of every program and of the whole sweep.

    Compiles every program and runs its first chunk for three log points, of which the first one is not timed.
    """
    groups = make_groups(sweep)
    budget = available_memory(jax.local_devices()) if memory is None else memory
    chunks, lines, total = lay_out(groups, budget), [], 0.0
    for number, group in enumerate(groups):
        of_group = [chunk for chunk in chunks if chunk.group == number]
        begin = time.perf_counter()
        program = GroupProgram(group, of_group[0].width)
        hparams, keys = program.arguments(of_group[0].runs(groups))
        program.compile(hparams, keys)
        state = program.init(hparams, keys)
        compiling = time.perf_counter() - begin
        state, _ = jax.block_until_ready(program.segment(hparams, state))
        begin = time.perf_counter()
        for _ in range(_NUM_SEGMENTS):
            state, metrics = program.segment(hparams, state)
            to_host(metrics, len(of_group[0].runs(groups)))
        jax.block_until_ready(state)
        segment = (time.perf_counter() - begin) / _NUM_SEGMENTS
        seconds = compiling + segment * group.config.num_logs * len(of_group)
        total += seconds
        lines.append(
            f"  program {number + 1}: {len(of_group)} chunk{'s' if len(of_group) > 1 else ''} of {program.width} runs, "
            f"{format_memory(program.needed_memory)} a chunk, {format_memory(program.needed_memory / program.width)} a "
            f"run; {format_seconds(compiling)} compiling, {segment:.2f} s a log point, {format_seconds(seconds)} in all"
        )
    free = "unknown" if budget is None else format_memory(budget)
    return "\n".join(
        [
            f"Memory: {free} {'free' if memory is None else 'allowed'} for the runs computed at once, on "
            f"{len(jax.local_devices())} devices",
            *lines,
            f"Estimated time: {format_seconds(total)} (measured on {_NUM_SEGMENTS} log points of each program)",
        ]
    )


def format_seconds(seconds: float) -> str:
    """Seconds as people read them: "42 s", "3 min 20 s", "5 h 12 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
