"""How far the runs of a dataset have come, how wide they are, and what they are called: questions to a dataset.

Log point 0, which results of older versions do not have, is the initial network at `env_steps` 0: nothing has been
updated, changes are 0 and minibatch metrics NaN. It is drawn and exported as any other; what is said about training
(collapse, final values, effects, correlations) is said of the log points after it, see `is_after_start`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import check_results, points, recorded_fields, recorded_widths
from purejaxppo.results.registry import METRICS


def steps_of_runs(dataset: xr.Dataset) -> np.ndarray:
    """Environment steps of every run and log point, [S, L]; NaN where a run has not come to a log point."""
    check_results(dataset)
    steps = dataset["env_steps"].values.astype(np.float64)
    return np.broadcast_to(steps, (dataset.sizes["run"], steps.shape[-1]))


def is_after_start(dataset: xr.Dataset) -> np.ndarray:
    """Whether a run has learned at a log point: all that it has reached, but log point 0; [S, L]."""
    return steps_of_runs(dataset) > 0


def steps_reached(dataset: xr.Dataset) -> np.ndarray:
    """Environment steps at the last log point of each run, [S]; 0 before the first."""
    steps = steps_of_runs(dataset)
    return np.max(np.where(np.isfinite(steps), steps, 0.0), axis=1, initial=0.0)


def last_step(dataset: xr.Dataset) -> float:
    """Environment steps at the last log point of the run that came furthest; 1 where there is none."""
    return float(np.max(steps_reached(dataset), initial=0.0)) or 1.0


def diverged_steps(dataset: xr.Dataset) -> np.ndarray:
    """Environment step of the log point before which each run diverged, [S]; NaN where it did not, or was not there.

    `status` counts the log points from 1 after the start: it is the place along `log` where there is a log point 0.
    """
    steps, status = steps_of_runs(dataset), dataset["status"].values.astype(np.int64)
    place = status - 1 + np.sum(steps == 0, axis=1)
    is_there = (status > 0) & (place < steps.shape[1])
    at = np.full(status.shape, np.nan)
    at[is_there] = steps[is_there, place[is_there]]
    return at


def planned_logs(dataset: xr.Dataset) -> np.ndarray | None:
    """Log points after number 0 that each run is to have, [S], as its sweep's record says; None without one."""
    names, known = ("total_steps", "num_envs", "num_steps", "num_log_points"), recorded_fields(dataset)
    parts = [json.loads(part["sweep"]) for part in json.loads(dataset.attrs.get("merged", "[]")) if "sweep" in part]
    # Of results beside those of another trainer the record is not everybody's.
    if not set(names) <= set(known) or any(not set(names) <= set(part.get("config", {})) for part in parts):
        return None
    columns = [dataset[name].values.tolist() if name in dataset.coords else None for name in names]
    rows = ([known[name] if c is None else c[run] for name, c in zip(names, columns, strict=True)]
            for run in range(dataset.sizes["run"]))  # fmt: skip
    return np.array([TrainConfig(**dict(zip(names, row, strict=True))).num_logs for row in rows], dtype=np.int64)


def how_far(dataset: xr.Dataset) -> str:
    """How far an unfinished sweep has come: `3 of 25 log points`, `3 to 25 of 25 log points`; "" of a finished one."""
    planned = planned_logs(dataset)
    if planned is None or not planned.size:
        return ""
    reached = np.sum(is_after_start(dataset), axis=1)
    if np.all(reached >= planned):
        return ""
    of = sorted(set(planned.tolist()))
    return f"{_span(reached)} of {_span(np.array(of))} log points"


def progress_sentence(dataset: xr.Dataset) -> str:
    """What to say below a table of a sweep that is not finished: how far it is, and how many runs have not begun."""
    text, record = how_far(dataset), json.loads(dataset.attrs.get("sweep", "{}"))
    missing = len(record.get("points", [])) * len(record.get("seeds", [])) - dataset.sizes["run"]
    parts = [f"runs have come to {text}"] * bool(text)
    parts += [f"{missing} of {missing + dataset.sizes['run']} runs have no log point yet"] * (missing > 0)
    return f"Not finished: {'; '.join(parts)}." if parts else ""


def _span(values: np.ndarray) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def curves(dataset: xr.Dataset, name: str, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps [L] and values [S, L] (spectra: [S, L, D]) of the runs of one line, as far as the sweep has come.

    Log points without a measurement of plasticity or an evaluation, by design most of them, are left out of these; gaps
    of other metrics stay. Of runs that log at different steps, `steps` has all of these, and each run holds its last
    value, from its first to its last log point (measurement); NaN outside.
    """
    grid = dataset["env_steps"].values.astype(np.float64)
    values = dataset[name].values[runs].astype(np.float64)
    if grid.ndim == 2 and np.any(np.fmax.reduce(grid[runs], axis=0) > np.fmin.reduce(grid[runs], axis=0)):
        return _on_all_steps(grid[runs], values, is_sparse(name))
    # The run that came furthest has all of the grid.
    steps = grid if grid.ndim == 1 else np.fmax.reduce(grid[runs], axis=0)
    shown = np.isfinite(steps)
    if is_sparse(name):
        shown &= np.any(~np.isnan(values), axis=0)
    return steps[shown], values[:, shown]


def _on_all_steps(grid: np.ndarray, values: np.ndarray, is_sparse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Values [S, L, ...] of runs at steps [S, L] on all steps that any of them has, see `curves`."""
    present = np.isfinite(grid)
    if is_sparse:
        present &= ~np.isnan(values)
    steps = np.unique(grid[present])
    if steps.size > (most := 10 * grid.shape[1]):  # of loggers that write when an episode ends, nearly all differ
        steps = steps[np.linspace(0, steps.size - 1, most).round().astype(int)]
    held = np.full((len(grid), steps.size, *values.shape[2:]), np.nan)
    for run, own in enumerate(present):
        if own.any():
            at, there = grid[run, own], (steps >= grid[run, own].min()) & (steps <= grid[run, own].max())
            held[run, there] = values[run, own][np.searchsorted(at, steps[there], side="right") - 1]
    return steps, held


def is_sparse(name: str) -> bool:
    """Whether a metric is measured at some log points only."""
    return name in METRICS and METRICS[name].family in ("plasticity", "evaluation")


def environments(dataset: xr.Dataset) -> np.ndarray:
    """Environment of each run where they differ, [S]; else "" of all."""
    return dataset["env"].values.astype(str) if "env" in dataset.coords else np.full(dataset.sizes["run"], "")


def has_widths(dataset: xr.Dataset) -> bool:
    """Whether `policy_widths` are told, or can be read from spectra."""
    return recorded_widths(dataset) is not None or "policy_singular_values" in dataset


def policy_widths(dataset: xr.Dataset) -> np.ndarray:
    """Units of the policy's penultimate layer in each run [S]: as recorded, else the number of its singular values.

    There are min(N, D) of these: fewer than units where a rollout has fewer samples. Narrower spectra are padded with
    NaN, so it is the largest number of values at any log point of the run's group.
    Raises ConfigError for results with neither.
    """
    if (widths := recorded_widths(dataset)) is not None:
        return widths.astype(np.float64)
    if not has_widths(dataset):
        raise ConfigError(
            "neither hidden_sizes nor policy_singular_values is in these results, but one of them has to say how "
            "wide the policy is."
        )
    counts = np.sum(np.isfinite(dataset["policy_singular_values"].values), axis=2).max(axis=1, initial=0)
    groups = dataset["group"].values if "group" in dataset.coords else np.zeros(counts.size)
    return np.array([counts[groups == group].max() for group in groups], dtype=np.float64)


def feature_width(dataset: xr.Dataset) -> int | None:
    """Number of penultimate policy neurons, when all runs have the same and the dataset tells it."""
    try:
        widths = {int(width) for width in policy_widths(dataset) if width > 0}
    except ConfigError:
        return None
    return widths.pop() if len(widths) == 1 else None


def recorded(dataset: xr.Dataset, field: str) -> list[Any]:
    """Values of a field: those swept, else the one in the sweep's own record; empty if it is not told."""
    if field in dataset.coords:
        return list(dict.fromkeys(dataset[field].values.tolist()))
    fields = recorded_fields(dataset)
    return [fields[field]] if field in fields else []


def describe_runs(dataset: xr.Dataset) -> str:
    """Environment and number of runs: `gymnax/Acrobot-v1, 16 runs`."""
    environments = [str(name) for name in recorded(dataset, "env")]
    num_runs = dataset.sizes["run"]
    runs = f"{num_runs} run" + "s" * (num_runs != 1)
    if len(environments) > 2:
        return f"{len(environments)} environments, {runs}"
    return ", ".join([*environments, runs])


def how_to_read(dataset: xr.Dataset) -> str:
    """How to read lines against steps, and how many runs are behind a line."""
    counts = [runs.size for _, runs in points(dataset)]
    if max(counts, default=0) <= 1:
        text = "Each line is one run."
    else:
        per_line = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
        text = (
            f"Lines: interquartile mean over {per_line} runs. Bands: 95 % bootstrap intervals. Thin lines: single runs."
        )
    if num_diverged := int(np.sum(dataset["status"].values != 0)):
        text += f" Crosses: last value of a run that diverged ({num_diverged} of {dataset.sizes['run']})."
    return text
