"""The tables of accelerator.py. No command."""

from __future__ import annotations

import dataclasses
from typing import Any

from targets import TARGETS, Target

from purejaxppo import TrainConfig

GIB = 2**30
RUNS = (16, 64, 300, 1024)  # of which memory is told
NEWEST_METRICS = "2026-11-28T17:06"  # gradients and weights in every diagnosis; settings compiled before are marked *


def tables(target: str, rows: dict[str, Any]) -> str:
    """Markdown: memory, launches, predicted seconds, library calls of all settings compiled for a target."""
    device = TARGETS[target]
    parts = [_memory(device, rows), _launches(rows), _predicted(device, rows), _library_calls(rows)]
    return "\n\n".join(f"**{target}: {title}**\n\n{table}" for title, table in parts)


def measured(rows: list[dict[str, Any]]) -> str:
    """Markdown: what was measured beside what is predicted."""
    head = ["setting", "runs", "of", "measured", "predicted", "predicted / measured", "launches measured", "compiled"]
    body = [
        [row["setting"], str(row["runs"]), row["of"], _milliseconds(row["measured"]), _milliseconds(row["predicted"]),
         f"{row['predicted'] / row['measured']:.2f}{' (fitted)' if row['is_fitted'] else ''}",
         _count(row["launches_measured"]) if row["launches_measured"] else "", _count(row["launches"])]
        for row in rows
    ]  # fmt: skip
    return _markdown(head, body)


def memory_for(row: dict[str, Any], num_runs: int) -> tuple[float, bool]:
    """Bytes that `num_runs` runs take, and whether that was compiled; else by how much more memory.py estimates.

    A diagnosis is of a block of runs, so that what it takes does not grow with them from some number on.
    """
    if str(num_runs) in row["memory"]:
        return row["memory"][str(num_runs)], True
    told = str(row["runs"])
    return row["memory"][told] * row["estimated"][str(num_runs)] / row["estimated"][told], False


def predicted_of_ours(programs: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Predicted seconds of an update, of what diagnostics add, and of a sweep with log point 0, all runs together."""
    seconds = {name: program["seconds"] for name, program in programs.items()} | {"plasticity": 0.0}
    if "plasticity" in programs:
        seconds["plasticity"] = programs["plasticity"]["seconds"]
    points = sum(config.is_plasticity_point(log) for log in range(config.num_logs + 1))
    begin = seconds["init"] + seconds.get("tasks", 0.0)
    sweep = begin + (config.num_logs + 1) * seconds["segment"] + points * seconds["plasticity"]
    bare = seconds["init"] + (config.num_logs + 1) * seconds["bare"]
    of_update = {k: v / config.updates_per_log for k, v in programs["bare"]["seconds_by"].items()}
    return {
        "update": seconds["bare"] / config.updates_per_log,
        "update_by": of_update,
        "log_point": seconds["segment"] - seconds["bare"],
        "plasticity_point": seconds["plasticity"],
        "sweep": sweep,
        "sweep_without_diagnostics": bare,
    }


def bounds_of_ours(row: dict[str, Any], device: Target) -> list[dict[str, Any]]:
    """The least and the most that `predicted_of_ours` may be, by the totals of a row's programs."""
    config = config_of(row["config"])
    return [
        predicted_of_ours({k: p | {"seconds": device.bounds(p)[end]} for k, p in row["programs"].items()}, config)
        for end in (0, 1)
    ]


def config_of(values: dict[str, Any]) -> TrainConfig:
    """A configuration as JSON has it, without fields that there are no more."""
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    return TrainConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in fields})


def bounds_of_rejax(row: dict[str, Any], device: Target) -> list[dict[str, Any]]:
    """The same of rejax's program, which makes a few updates."""
    program, config = row["rejax"]["program"], row["config"]
    updates = round(program["launches"] / row["rejax"]["launches"]["update"])
    needed = -(-config["total_steps"] // (config["num_envs"] * config["num_steps"]))
    return [{"update": x / updates, "sweep": x / updates * needed} for x in device.bounds(program)]


def _memory(device: Target, rows: dict[str, Any]) -> tuple[str, str]:
    head = [
        "setting",
        *(f"{runs} runs" for runs in RUNS),
        "MiB a run",
        "memory.py says",
        "rejax",
        "a sweep's programs compiled in",
        "without diagnostics",
        "rejax",
    ]
    body = []
    total = dict.fromkeys(("sweep", "bare", "rejax"), 0.0)
    for name, row in rows.items():
        cells = []
        for runs in RUNS:
            size, is_compiled = memory_for(row, runs)
            cells.append(f"{'' if is_compiled else '~'}{size / GIB:.2f}{' (too much)' if size > device.memory else ''}")
        each, estimated = (row[key][str(row["runs"])] / row["runs"] for key in ("memory", "estimated"))
        peer = row.get("rejax", {})
        *parts, bare = (row["compile_seconds"].get(x, 0.0) for x in ("segment and plasticity", "tasks", "init", "bare"))
        for key, seconds in zip(total, (sum(parts), bare, peer.get("compile_seconds", 0.0)), strict=True):
            total[key] += seconds
        body.append([
            _title(name, row), *cells, f"{each / 2**20:.2f}", f"{estimated / 2**20:.2f} ({estimated / each:.2f} times)",
            f"{peer['memory'] / GIB:.2f} for {row['runs']}" if "memory" in peer else "",
            f"{sum(parts):.0f} s ({' + '.join(f'{x:.0f}' for x in parts)})", f"{bare:.0f} s",
            f"{peer['compile_seconds']:.0f} s" if "memory" in peer else "",
        ])  # fmt: skip
    body.append(["all", *[""] * 7, *(f"{x:,.0f} s" if x else "" for x in total.values())])
    return "memory (GiB of all runs) and compilation", _markdown(head, body)


def _title(name: str, row: dict[str, Any]) -> str:
    return name + "*" * (row["provenance"]["created"] < NEWEST_METRICS)


def _launches(rows: dict[str, Any]) -> tuple[str, str]:
    head = ["setting", "", "environment step", "GAE step", "minibatch", "update", "conditions an update",
            "a diagnosis adds", "plasticity point", "loops of unknown length"]  # fmt: skip
    body = []
    for name, row in rows.items():
        own, programs = row["launches"], row["programs"]
        keys = ("environment_step", "gae_step", "minibatch", "update", "conditions_an_update", "log_point")
        unknown = sum(len(programs[x]["loops_of_unknown_length"]) for x in ("segment", "plasticity") if x in programs)
        counts = [*(_count(own[key]) for key in keys), _count(own["plasticity_point"]), str(unknown)]
        body.append([_title(name, row), "ours", *counts])
        if "launches" in row.get("rejax", {}):
            peer = row["rejax"]["launches"]
            unknown = len(row["rejax"]["program"]["loops_of_unknown_length"])
            body.append(["", "rejax", *(_count(peer[key]) for key in keys[:4]), "0", "", "", str(unknown)])
    return "launches", _markdown(head, body)


def _predicted(device: Target, rows: dict[str, Any]) -> tuple[str, str]:
    head = ["setting", "runs", "steps of a run", "update", "of which", "diagnosis", "plasticity point", "sweep",
            "without diagnostics", "rejax: update", "rejax: sweep"]  # fmt: skip
    body = []
    for name, row in rows.items():
        own, peer = row.get("predicted"), row.get("rejax", {})
        ends = bounds_of_ours(row, device) if own is None or _is_of_bits(row) else [own]
        of_which, diagnosis = "totals only", ""
        if len(ends) == 1:
            shares = sorted(own["update_by"].items(), key=lambda item: -item[1])
            of_which = ", ".join(f"{kind.replace('_', ' ')} {100 * x / own['update']:.0f} %" for kind, x in shares[:3])
            diagnosis = _milliseconds(own["log_point"])
        of_peer = []
        if "program" in peer:
            of_peer = [peer["predicted"]] if "predicted" in peer else bounds_of_rejax(row, device)
        body.append([
            _title(name, row), str(row["runs"]), f"{row['config']['total_steps']:,}", _range(ends, "update"), of_which,
            diagnosis, _range(ends, "plasticity_point"), _range(ends, "sweep"),
            _range(ends, "sweep_without_diagnostics"), _range(of_peer, "update"), _range(of_peer, "sweep"),
        ])  # fmt: skip
    return "predicted, not measured", _markdown(head, body)


def _is_of_bits(row: dict[str, Any]) -> bool:
    """Whether a row's prediction took products of Booleans with exact floats for quick ones, as hlo.py once did."""
    return any("pred" in program["operations"] for program in row["programs"].values())


def _range(ends: list[dict[str, Any]], key: str) -> str:
    """Milliseconds of a part, seconds of a sweep; both ends where there are two."""
    if not ends:
        return ""
    scale, unit = (1, "s") if key.startswith("sweep") else (1e3, "ms")
    return f"{' to '.join(f'{scale * end[key]:,.1f}' for end in ends)} {unit}"


def _library_calls(rows: dict[str, Any]) -> tuple[str, str]:
    head = ["setting", "program", "call", "of", "calls x matrices [rows, columns]", "verdict"]
    body = []
    for name, row in rows.items():
        for program, found in row["programs"].items():
            for call in found["library_calls"]:
                shape = f"{call['times']} x {call['matrices']} [{call['rows']}, {call['columns']}] {call['dtype']}"
                body.append([name, program, call["target"], call["of"], shape, call["verdict"]])
    return "library calls", _markdown(head, body) if body else "none"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms" if seconds else "-"


def _markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
