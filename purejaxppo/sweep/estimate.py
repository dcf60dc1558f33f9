"""What a sweep will take, measured: memory from each compiled program, time from single updates of a few runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from purejaxppo.blas import is_cpu
from purejaxppo.errors import RunError
from purejaxppo.sweep.brought import check_brought
from purejaxppo.sweep.costs import Costs, measure
from purejaxppo.sweep.devices import check_settings
from purejaxppo.sweep.engine import lay_out
from purejaxppo.sweep.memory import available_memory, format_memory
from purejaxppo.sweep.plan import Group, Sweep, make_groups
from purejaxppo.sweep.program import GroupProgram, learner_of
from purejaxppo.sweep.snapshots import bytes_of_runs
from purejaxppo.sweep.store import Chunk

# What the time goes into, and the fields that change it.
FIELDS = {
    "rollouts": "total_steps; of equal steps, fewer and larger ones: num_envs",
    "epochs": "num_epochs, minibatch_size, hidden_sizes, critic_hidden_sizes",
    "diagnostics": "num_log_points; none with diagnostics = false",
    "plasticity": "num_plasticity_points (0: none), num_plasticity_rollouts, num_plasticity_epochs",
    "evaluation": "num_evaluation_episodes, num_evaluation_points; less where episodes end before their limit",
    "compiling": "the number of programs: fields that differ between them",
}


def estimate(sweep: Sweep, memory: int | None = None, say: Callable[[str], Any] = lambda line: None) -> str:
    """Lines of text: chunks, memory and time of every program and of the whole sweep, and what the time goes into.

    Compiles what the sweep would, and times single updates of a few runs (`costs.measure`), never a whole log point.
    say: gets a line about what is being done, before it is.
    """
    check_settings()
    groups = make_groups(sweep)
    check_brought(groups)
    budget = available_memory(jax.local_devices()) if memory is None else memory
    chunks, lines, total = lay_out(groups, budget), [], dict.fromkeys(FIELDS, 0.0)
    for number, group in enumerate(groups):
        own = [chunk for chunk in chunks if chunk.group == number]
        say(f"program {number + 1} of {len(groups)}: compiling, {own[0].width} runs at once")
        begin = time.perf_counter()
        program = _fitting(group, own[0].width, budget)
        compiling = time.perf_counter() - begin
        where = f"program {number + 1} of {len(groups)}"
        say(f"{where}: compiled in {format_seconds(compiling)}; compiling its parts by themselves")
        costs = measure(program, lambda line, where=where: say(f"{where}: {line}"))
        seconds = seconds_of_group(group, own, program.width, costs) | {"compiling": compiling}
        total = {name: total[name] + seconds[name] for name in FIELDS}
        lines.append(
            f"  program {number + 1}: {len(own)} chunk{'s' if len(own) > 1 else ''} of {program.width} runs, "
            f"{format_memory(program.needed_memory)} a chunk, {format_memory(program.needed_memory / program.width)} a "
            f"run; {format_seconds(compiling)} compiling, {format_seconds(sum(seconds.values()))} in all"
        )
        if group.config.num_snapshots:
            size = bytes_of_runs(learner_of(group), len(group.runs))
            lines.append(f"    snapshots: {format_memory(size)} on disk, {format_memory(size / len(group.runs))} a run")
    free = "unknown" if budget is None else format_memory(budget)
    whole = sum(total.values())
    shown = [name for name in FIELDS if name != "evaluation" or total[name]]
    shares = [[name, f"{100 * total[name] / whole:.0f} %", f"  {FIELDS[name]}"] for name in shown]
    return "\n".join(
        [
            f"Memory: {free} {'free' if memory is None else 'allowed'} for the runs computed at once, on "
            f"{len(jax.local_devices())} devices",
            *lines,
            f"Estimated time: {format_seconds(whole / jax.process_count())} (single updates of each program, timed and "
            "scaled), of which",
            *(f"  {name:<12}{share:>5}{fields}" for name, share, fields in shares),
        ]
    )


def seconds_of_group(group: Group, chunks: Sequence[Chunk], width: int, costs: Costs) -> dict[str, float]:
    """Seconds of all chunks of a group, by what they go into; on a CPU each has the epochs of its own runs."""
    config, total = group.config, {}
    own = {run.index: run.config.num_epochs for run in group.runs}
    epochs_of = [own[chunk.indices[0]] for chunk in chunks]
    for epochs, same in itertools.groupby(zip(epochs_of, chunks, strict=True), key=lambda pair: pair[0]):
        spans = [chunk for _, chunk in same]
        longest = epochs if is_cpu() else max(run.config.num_epochs for run in group.runs)
        num_chunks = -(-sum(chunk.num_runs for chunk in spans) // width)
        for name, seconds in costs.of_runs(config, longest).items():
            total[name] = total.get(name, 0.0) + num_chunks * seconds
    return total


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
