"""What training costs against runs, epochs and log points, what diagnostics add, and when the first result is there.

    python experiments/benchmarks/scaling.py                      # everything
    python experiments/benchmarks/scaling.py --parts runs epochs

Parts, each timed in turn within one process, in segments from log point to log point, compilation excluded:

- runs: 1, 4, 16, 64, 256 CartPole runs of 4 environments in one program; also the memory a run takes.
- epochs: 1 to 32 of them, 16 CartPole runs.
- log_points: 0 (no diagnostics), 10, 25, 50, 100 in runs of 500,000 steps, 16 CartPole runs; plasticity loss included.
- diagnostics: seconds with over seconds without, every setting of settings.py at its own log points.
- first_result: `purejaxppo sweep` on the quickstart with an empty and with a full cache of compiled programs: seconds
  until Python has imported JAX and the package, all programs are compiled (as the sweep tells, in whole seconds), and
  the first progress line, which is that of the first log point, is there.

Writes results/scaling.json and results/scaling.png.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import jax
import pictures
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from settings import SETTINGS, group_of

from purejaxppo.plots.channels import COLOURS
from purejaxppo.plots.sheets import house_style
from purejaxppo.sweep.devices import use_cpu_cores
from purejaxppo.sweep.plan import Group
from purejaxppo.sweep.program import GroupProgram
from purejaxppo.sweep.provenance import provenance

HERE = Path(__file__).parent
QUICKSTART = HERE.parent / "configs" / "quickstart.toml"
NUM_RUNS = (1, 4, 16, 64, 256)
NUM_EPOCHS = (1, 2, 4, 8, 16, 32)
NUM_LOG_POINTS = (0, 10, 25, 50, 100)

Key = TypeVar("Key", bound=Hashable)


def main() -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="of these, none to draw only"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "scaling.json")
    args = parser.parse_args()
    use_cpu_cores()
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for part in args.parts:
        result[part] = {"provenance": provenance(), "rows": PARTS[part](args.rounds)}
        for row in result[part]["rows"]:
            print(part, ", ".join(f"{name} {_short(value)}" for name, value in row.items()), flush=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    caption = f"{pictures.measured_on(result)}; medians of pieces in turn."
    pictures.write(draw(result), args.out.with_suffix(".png"), caption)
    print(f"written: {args.out} and {args.out.with_suffix('.png').name}")


def _short(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def in_turn(groups: dict[Key, Group], rounds: int) -> dict[Key, tuple[GroupProgram, float]]:
    """The program of each group and the seconds of one of its segments, a weighted mean over kinds of log points.

    Medians of segments of all groups in turn, of which the first round warms up. Where the plasticity loss is measured
    at some log points, such segments are timed too, and count by their share.
    """
    programs: dict[Key, GroupProgram] = {}
    runs, states, tasks = {}, {}, {}
    for key, group in groups.items():
        programs[key] = program = GroupProgram(group)
        runs[key] = program.arguments()
        program.compile(runs[key])
        states[key] = program.init(runs[key])
        tasks[key] = program.tasks(runs[key]) if group.config.measures_plasticity else None
    seconds: dict[tuple[Key, bool], list[float]] = {}
    for number in range(rounds + 1):
        for key, program in programs.items():
            for is_plasticity_point in (False, True) if program.group.config.measures_plasticity else (False,):
                start = time.perf_counter()
                states[key], metrics = program.segment(runs[key], states[key])
                if is_plasticity_point:
                    metrics = metrics.joined(program.plasticity(runs[key], states[key], tasks[key]))
                jax.block_until_ready((states[key], metrics))
                if number:
                    seconds.setdefault((key, is_plasticity_point), []).append(time.perf_counter() - start)
    found = {}
    for key, program in programs.items():
        config = program.group.config
        share = sum(map(config.is_plasticity_point, range(1, config.num_logs + 1))) / config.num_logs
        medians = {flag: statistics.median(seconds[key, flag]) for flag in (False, True) if (key, flag) in seconds}
        found[key] = program, (1 - share) * medians[False] + share * medians.get(True, 0.0)
    return found


def cost_of_runs(rounds: int) -> list[dict[str, Any]]:
    """Environment steps a second of all runs together, and memory a run."""
    rows = []
    for num_runs, (program, seconds) in in_turn(
        {s: group_of(SETTINGS["cartpole"], s) for s in NUM_RUNS}, rounds
    ).items():
        steps = num_runs * program.group.config.steps_per_log
        memory = program.needed_memory / program.width
        rows.append({"runs": num_runs, "steps_per_second": steps / seconds, "bytes_a_run": memory})
    return rows


def cost_of_epochs(rounds: int) -> list[dict[str, Any]]:
    """Seconds for 1,000 environment steps of every one of 16 runs."""
    found = in_turn({n: group_of(SETTINGS["cartpole"], num_epochs=n) for n in NUM_EPOCHS}, rounds)
    return [{"epochs": n, "seconds": 1000 * s / p.group.config.steps_per_log} for n, (p, s) in found.items()]


def cost_of_log_points(rounds: int) -> list[dict[str, Any]]:
    """Seconds of a whole run of 500,000 steps, by log points, and over the seconds without diagnostics."""
    groups = {n: group_of(SETTINGS["cartpole"], diagnostics=n > 0, num_log_points=n or 10) for n in NUM_LOG_POINTS}
    found = in_turn(groups, rounds)
    # Over steps, not over log points: a whole number of updates between them makes runs of slightly different lengths.
    seconds = {n: 500_000 * s / p.group.config.steps_per_log for n, (p, s) in found.items()}
    return [
        {
            "log_points": found[n][0].group.config.num_logs if n else 0,
            "seconds": seconds[n],
            "cost": seconds[n] / seconds[0] - 1,
        }
        for n in found
    ]


def cost_of_diagnostics(rounds: int) -> list[dict[str, Any]]:
    """What diagnostics and plasticity loss add to the time of every setting, in runs of 0.5M and of 2M steps."""
    rows = []
    for name in [name for name in SETTINGS if name != "sb3"]:  # to us the same as cartpole
        for total_steps in (500_000, 2_000_000):
            group = group_of(SETTINGS[name], total_steps=total_steps)
            config = group.config
            bare = dataclasses.replace(config, diagnostics=False)
            groups = {"bare": dataclasses.replace(group, config=bare), "on": group}
            found = in_turn(groups, rounds)
            program, seconds = found["on"]
            rows.append(
                {
                    "setting": name,
                    "total_steps": total_steps,
                    "log_points": config.num_logs,
                    "updates_per_log": config.updates_per_log,
                    "cost": seconds / found["bare"][1] - 1,
                    "bytes_a_run": program.needed_memory / program.width,
                }
            )
    return rows


def time_to_first_result(rounds: int) -> list[dict[str, Any]]:
    """Seconds from the start of the process, with an empty and with a full cache."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            cache = Path(folder) / f"cache-{number}"
            for state in ("cold", "warm"):
                rows.append({"cache": state} | _first_result(Path(folder) / f"{state}-{number}", cache))
    return rows


def _first_result(out: Path, cache: Path) -> dict[str, float]:
    """Seconds of one process: to import the package, to compile, and until the first progress line is there."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import purejaxppo.sweep.engine, purejaxppo.envs.gymnax"], check=True)
    importing = time.perf_counter() - start
    command = [sys.executable, "-m", "purejaxppo", "sweep", str(QUICKSTART), "--out", str(out)]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    start, text = time.perf_counter(), ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as process:
        assert process.stderr is not None
        while "program 1/2, runs" not in text:
            block = os.read(process.stderr.fileno(), 4096).decode(errors="replace")
            if not block:
                raise RuntimeError(f"the quickstart ended early: {text[-300:]}")
            text += block
        first = time.perf_counter() - start
        process.kill()
    compiling = sum(float(seconds) for seconds in re.findall(r"compiled in (\d+) s", text))
    return {"importing": importing, "compiling": compiling, "first_progress_line": first}


def draw(result: dict[str, Any]) -> Figure:
    """One panel for each part that has been measured."""
    panels = {"runs": _draw_runs, "epochs": _draw_epochs, "log_points": _draw_log_points}
    panels |= {"diagnostics": _draw_diagnostics, "first_result": _draw_first_result}
    panels = {name: panel for name, panel in panels.items() if name in result}
    with house_style():
        figure = Figure(figsize=(10, 6.5), layout="constrained")
        axes = figure.subplots(2, 3, squeeze=False).ravel()
        for ax, (name, panel) in zip(axes, panels.items(), strict=False):
            panel(ax, result[name]["rows"])
        for ax in axes[len(panels) :]:
            ax.remove()
    return figure


def _column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def _draw_runs(ax: Axes, rows: list[dict[str, Any]]) -> None:
    ax.plot(_column(rows, "runs"), _column(rows, "steps_per_second"), marker="o", color=COLOURS[0])
    ax.set_xscale("log", base=2)
    ax.set_xticks(_column(rows, "runs"), _column(rows, "runs"))
    ax.set_ylim(bottom=0)
    ax.set(xlabel="runs at once", ylabel="environment steps a second", title="CartPole, all runs together")


def _draw_epochs(ax: Axes, rows: list[dict[str, Any]]) -> None:
    ax.plot(_column(rows, "epochs"), _column(rows, "seconds"), marker="o", color=COLOURS[0])
    ax.set_ylim(bottom=0)
    ax.set(xlabel="epochs", ylabel="seconds", title="16 CartPole runs x 1,000 steps")


def _draw_log_points(ax: Axes, rows: list[dict[str, Any]]) -> None:
    ax.plot(_column(rows, "log_points"), [100 * cost for cost in _column(rows, "cost")], marker="o", color=COLOURS[0])
    ax.set(xlabel="log points in 500,000 steps", ylabel="% on top", title="Diagnostics, 16 CartPole runs")


def _draw_diagnostics(ax: Axes, rows: list[dict[str, Any]]) -> None:
    labels = [f"{row['setting']}, {row['total_steps'] / 1e6:g}M" for row in rows]
    bars = ax.barh(labels, [100 * cost for cost in _column(rows, "cost")], color=COLOURS[0])
    ax.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.2)
    ax.set(xlabel="% on top", title="Diagnostics, by setting and steps")


def _draw_first_result(ax: Axes, rows: list[dict[str, Any]]) -> None:
    states = ("cold", "warm")
    for colour, name in zip(COLOURS, ("first_progress_line", "compiling", "importing"), strict=False):
        medians = [statistics.median(row[name] for row in rows if row["cache"] == state) for state in states]
        bars = ax.bar(states, medians, label=name.replace("_", " "), color=colour)
        pictures.mark(bars[0], name.replace("_", " "))
    ax.legend(loc="upper right")
    ax.margins(y=0.4)
    ax.set(ylabel="seconds", title="Quickstart: time to the first result")


PARTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "runs": cost_of_runs,
    "epochs": cost_of_epochs,
    "log_points": cost_of_log_points,
    "diagnostics": cost_of_diagnostics,
    "first_result": time_to_first_result,
}


if __name__ == "__main__":
    sys.exit(main())
