"""What a caption says of the runs behind a figure: which sweep, environment, learning rate, steps and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.plots.style import format_steps
from purejaxppo.results.dataset import Point
from purejaxppo.results.runs import how_far, last_step, recorded
from purejaxppo.statistics.estimates import MIN_RUNS
from purejaxppo.statistics.tables import format_value


def describe_sweep(dataset: xr.Dataset) -> str:
    """`quickstart: gymnax/Acrobot-v1, learning rate 0.04, 300k steps, seeds 0 to 3, 16 runs`; what is known of it."""
    parts = [_environments(dataset)]
    if rates := recorded(dataset, "learning_rate"):
        parts.append(f"learning rate {_range(rates)}")
    parts += [_steps(dataset), _seeds(dataset)]
    num_runs = dataset.sizes["run"]
    parts.append(f"{num_runs} run" + "s" * (num_runs != 1))
    name = str(dataset.attrs.get("name", ""))
    return f"{name}: " * bool(name) + ", ".join(filter(None, parts))


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


def _environments(dataset: xr.Dataset) -> str:
    names = [str(name) for name in recorded(dataset, "env")]
    return ", ".join(names) if len(names) <= 2 else f"{len(names)} environments"


def _range(values: Sequence[Any]) -> str:
    low, high = min(values), max(values)
    return format_value(float(low)) if low == high else f"{format_value(float(low))} to {format_value(float(high))}"


def _steps(dataset: xr.Dataset) -> str:
    """Environment steps of the run that came furthest, and of how many where it is still on its way."""
    reached, planned = last_step(dataset), recorded(dataset, "total_steps")
    # A run ends with its last whole update: within a few rollouts of what was planned.
    if planned and reached < 0.9 * max(planned):
        text = f"{format_steps(reached)} of {format_steps(float(max(planned)))} steps"
        return ", ".join(filter(None, [text, how_far(dataset)]))
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
