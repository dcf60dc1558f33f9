"""What a caption says of the runs behind a figure: which sweep, environment, learning rate, steps and seeds."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.plots.style import format_steps
from purejaxppo.results.dataset import Point
from purejaxppo.results.runs import environments, how_far, last_step, planned_logs, recorded
from purejaxppo.statistics.estimates import MIN_RUNS
from purejaxppo.statistics.summary import SUMMARY_METRICS
from purejaxppo.statistics.tables import format_value


def describe_sweep(dataset: xr.Dataset) -> str:
    """`quickstart: gymnax/Acrobot-v1, learning rate 0.04, 300k steps, seeds 0 to 3, 16 runs`; what is known of it."""
    parts = [_environments(dataset)]
    if rates := recorded(dataset, "learning_rate"):
        parts.append(f"learning rate {_range(rates)}")
    parts += [_steps(dataset), _seeds(dataset)]
    parts.append(_runs(dataset))
    name = str(dataset.attrs.get("name", ""))
    return f"{name}: " * bool(name) + ", ".join(filter(None, parts))


def _runs(dataset: xr.Dataset) -> str:
    """`16 runs`; `12 of 16 runs`, of a sweep of which others have no log point yet; `8 of 16 runs, only pfo_coef = 1`.

    Counts are of the environments that are shown.
    """
    selected = json.loads(dataset.attrs.get("selected", "{}"))
    shown = set(environments(dataset).tolist())
    if selected:
        total = sum(number for env, number in selected["runs"].items() if env in shown)
    else:
        total = _planned_runs(dataset, shown)
    number = dataset.sizes["run"]
    is_part = total > number
    text = f"{number} of {total} runs" if is_part else f"{number} run" + "s" * (number != 1)
    return f"{text}, {selected['words']}" if selected and is_part else text


def _planned_runs(dataset: xr.Dataset, shown: Collection[str]) -> int:
    """Runs that the sweep's record has in the environments shown; 0 where it does not say, as of several sweeps."""
    record = {} if "merged" in dataset.attrs else json.loads(dataset.attrs.get("sweep", "{}"))
    told = [point for point in record.get("points", []) if point.get("env", "") in shown]
    return len(told) * len(record.get("seeds", []))


def describe_lines(dataset: xr.Dataset, everything: Sequence[Point]) -> str:
    """How to read lines against steps, and how many runs are behind a line."""
    counts = [runs.size for _, runs in everything]
    if max(counts, default=0) <= 1:
        text = "Each line is one run."
    else:
        text = f"Lines: interquartile mean over {_span(counts)} runs. {say_bands(counts)} Thin lines: single runs."
    shown = np.concatenate([runs for _, runs in everything] or [np.zeros(0, dtype=int)])
    if num_diverged := int(np.sum(dataset["status"].values[shown] != 0)):
        text += f" Crosses: last value of a run that diverged ({num_diverged} of {shown.size})"
        text += "; from there on its line is of the other runs." if max(counts) > 1 else "."
    return text


def say_bands(counts: Sequence[int]) -> str:
    """What bands are; that there are none where no line has runs enough for an interval."""
    if max(counts, default=0) < MIN_RUNS:
        return f"Fewer than {MIN_RUNS} runs have no interval."
    return "Bands: pointwise 95 % bootstrap intervals."


def say_diverged(dataset: xr.Dataset, metrics: Sequence[str], runs: np.ndarray) -> str:
    """What stands for the end of runs that diverged (`finals_or_worst`), and how many did; nothing where none did."""
    num_diverged = int(np.sum(dataset["status"].values[runs] != 0))
    known = [metric for metric in metrics if metric in SUMMARY_METRICS]
    rule = "counts as the worst value of any run" if known else "is left out"
    if known and len(known) < len(metrics):
        rule += f" of {', '.join(SUMMARY_METRICS[metric] for metric in known)}, and is left out elsewhere"
    return f" A run that diverged {rule} ({num_diverged} of {runs.size} diverged)." * bool(num_diverged)


def _environments(dataset: xr.Dataset) -> str:
    names = [str(name) for name in recorded(dataset, "env")]
    return ", ".join(names) if len(names) <= 2 else f"{len(names)} environments"


def _range(values: Sequence[Any]) -> str:
    low, high = min(values), max(values)
    return format_value(float(low)) if low == high else f"{format_value(float(low))} to {format_value(float(high))}"


def _steps(dataset: xr.Dataset) -> str:
    """Environment steps of the run that came furthest, and of how many where it is still on its way."""
    reached, planned = last_step(dataset), recorded(dataset, "total_steps")
    text = how_far(dataset)
    # Where log points are not recorded: a run ends with its last whole update, a few rollouts before what was planned.
    is_behind = planned_logs(dataset) is None and reached < 0.9 * max(planned, default=0.0)
    if text or is_behind:
        return ", ".join(filter(None, [f"{format_steps(reached)} of {format_steps(float(max(planned)))} steps", text]))
    return f"{format_steps(float(max(planned, default=reached)))} steps"


def _seeds(dataset: xr.Dataset) -> str:
    seeds = sorted(set(dataset["seed"].values.tolist()))
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    if len(seeds) <= 4:
        return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}" if seeds else ""
    return f"{len(seeds)} seeds"


def _span(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
