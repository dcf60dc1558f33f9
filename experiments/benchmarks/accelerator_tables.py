"""The tables of accelerator.py. No command."""

from __future__ import annotations

from typing import Any

from targets import TARGETS, Target

GIB = 2**30
RUNS = (16, 64, 300, 1024)  # of which memory is told


def tables(target: str, rows: dict[str, Any]) -> str:
    """Markdown: memory, launches, predicted seconds, library calls of all settings compiled for a target."""
    device = TARGETS[target]
    parts = [_memory(device, rows), _launches(rows), _predicted(rows), _library_calls(rows)]
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
    """Bytes that `num_runs` runs take, and whether that was compiled; else on the line through what was."""
    known = sorted((int(runs), size) for runs, size in row["memory"].items())
    if str(num_runs) in row["memory"]:
        return row["memory"][str(num_runs)], True
    (few, size_of_few), (many, size) = ((0, 0), known[0]) if len(known) == 1 else (known[0], known[-1])
    return size_of_few + (num_runs - few) * (size - size_of_few) / (many - few), False


def _memory(device: Target, rows: dict[str, Any]) -> tuple[str, str]:
    head = [
        "setting",
        *(f"{runs} runs" for runs in RUNS),
        "MiB a run",
        "memory.py says",
        "rejax",
        "compiled in",
        "rejax",
    ]
    body = []
    for name, row in rows.items():
        cells = []
        for runs in RUNS:
            size, is_compiled = memory_for(row, runs)
            cells.append(f"{'' if is_compiled else '~'}{size / GIB:.2f}{' (too much)' if size > device.memory else ''}")
        each, estimated = row["memory"][str(row["runs"])] / row["runs"], row["estimated_bytes_a_run"]
        peer = row.get("rejax", {})
        body.append([
            name, *cells, f"{each / 2**20:.2f}", f"{estimated / 2**20:.2f} ({estimated / each:.2f} times)",
            f"{peer['memory'] / GIB:.2f} for {row['runs']}" if "memory" in peer else "",
            f"{sum(row['compile_seconds'].values()):.0f} s (segment and plasticity"
            f" {row['compile_seconds']['segment and plasticity']:.0f})",
            f"{peer['compile_seconds']:.0f} s" if "memory" in peer else "",
        ])  # fmt: skip
    return "memory (GiB of all runs) and compilation", _markdown(head, body)


def _launches(rows: dict[str, Any]) -> tuple[str, str]:
    head = ["setting", "", "environment step", "GAE step", "minibatch", "update", "conditions an update",
            "a diagnosis adds", "plasticity point", "loops of unknown length"]  # fmt: skip
    body = []
    for name, row in rows.items():
        own, programs = row["launches"], row["programs"]
        keys = ("environment_step", "gae_step", "minibatch", "update", "conditions_an_update", "log_point")
        unknown = sum(len(programs[x]["loops_of_unknown_length"]) for x in ("segment", "plasticity") if x in programs)
        body.append([name, "ours", *(_count(own[key]) for key in keys), _count(own["plasticity_point"]), str(unknown)])
        if "launches" in row.get("rejax", {}):
            peer = row["rejax"]["launches"]
            unknown = len(row["rejax"]["program"]["loops_of_unknown_length"])
            body.append(["", "rejax", *(_count(peer[key]) for key in keys[:4]), "0", "", "", str(unknown)])
    return "launches", _markdown(head, body)


def _predicted(rows: dict[str, Any]) -> tuple[str, str]:
    head = ["setting", "runs", "steps of a run", "update", "of which", "diagnosis", "plasticity point", "sweep",
            "without diagnostics", "rejax: update", "rejax: sweep"]  # fmt: skip
    body = []
    for name, row in rows.items():
        if "predicted" not in row:  # compiled before targets.py had its present numbers
            continue
        own, peer = row["predicted"], row.get("rejax", {}).get("predicted")
        shares = sorted(own["update_by"].items(), key=lambda item: -item[1])
        of_which = ", ".join(f"{kind.replace('_', ' ')} {100 * x / own['update']:.0f} %" for kind, x in shares[:3])
        body.append([
            name, str(row["runs"]), f"{row['config']['total_steps']:,}", _milliseconds(own["update"]), of_which,
            _milliseconds(own["log_point"]), _milliseconds(own["plasticity_point"]), f"{own['sweep']:.1f} s",
            f"{own['sweep_without_diagnostics']:.1f} s", _milliseconds(peer["update"]) if peer else "",
            f"{peer['sweep']:.1f} s" if peer else "",
        ])  # fmt: skip
    return "predicted, not measured", _markdown(head, body)


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
