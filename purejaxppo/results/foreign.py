"""Metrics that somebody else's trainer has logged, as a dataset that figures, tables, compare and claims accept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.fields import field_names
from purejaxppo.hyperparams import HyperParams
from purejaxppo.results.dataset import GroupResult, to_dataset

_TRACED = field_names(HyperParams)


def import_metrics(
    metrics: Mapping[str, Any] | pd.DataFrame,
    *,
    env_steps: Any = None,
    seeds: Sequence[int] | None = None,
    swept: Mapping[str, Sequence[Any]] | Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    status: Sequence[int] | None = None,
    name: str = "imported",
) -> xr.Dataset:
    """A dataset of S runs at L log points from what another trainer has logged; write it with `pjp.results.save`.

    metrics: name -> array [S, L], of one run also [L], of spectra [S, L, D]; or a table with a row for each run and log
        point, whose columns are `run`, `env_steps`, perhaps `seed`, the swept fields and the metrics. Names that
        `purejaxppo metrics` lists mean what it says: `return_mean`, `policy_rank`, ...; others are kept as they are.
    env_steps: environment steps of a run at its log points, [L] or [S, L]; NaN where a run has none (not of a table).
    seeds: of the runs, [S]; 0, 1, ... by default. Runs of one seed in several configurations are compared as pairs.
    swept: field -> its value in each run [S]; of a table the names of its columns. Our own names (`learning_rate`,
        `num_epochs`, `env`, ...) are understood by figures and claims.
    config: what all runs have in common, in our names: `env`, `total_steps`, `clip_eps`, `hidden_sizes`, ... Claims
        take what is not told as our default, plain PPO.
    status: 0 for a sound run, else the log point before which it diverged, counted from 1, [S]; 0 by default.

    Raises ConfigError, which names it, for what is missing or has the wrong shape.
    """
    if isinstance(metrics, pd.DataFrame):
        if env_steps is not None or seeds is not None or isinstance(swept, Mapping):
            raise ConfigError(
                "metrics is a table: env_steps and seed must be columns of it, and swept names of its columns."
            )
        arrays, env_steps, seeds, fields = _of_table(metrics, swept)
    else:
        if not isinstance(swept, Mapping) and len(swept):
            raise ConfigError("swept must be a mapping of field -> values of the runs, where metrics is no table.")
        arrays, fields = _of_arrays(metrics), dict(swept) if isinstance(swept, Mapping) else {}
        if env_steps is None:
            raise ConfigError("env_steps is missing, but must be the environment steps at log points, [L] or [S, L].")
    num_runs, num_logs = next(iter(arrays.values())).shape[:2]
    steps = _shaped("env_steps", np.asarray(env_steps, np.float64), (num_runs, num_logs))
    own_seeds = np.arange(num_runs) if seeds is None else np.asarray(seeds)
    columns = {"seeds": own_seeds, "status": np.zeros(num_runs) if status is None else np.asarray(status)}
    for label, values in {**columns, **fields}.items():
        if len(values) != num_runs:
            raise ConfigError(f"{label} has {len(values)} values, but must have one for each of the {num_runs} runs.")
    told = dict(config or {})
    record = {
        "config": {field: value for field, value in told.items() if field not in _TRACED},
        "hparams": {field: value for field, value in told.items() if field in _TRACED},
    }
    groups = [
        GroupResult(
            metrics={label: values[rows][:, reached] for label, values in arrays.items()},
            env_steps=steps[rows[0]][reached].astype(np.int64),
            seeds=own_seeds[rows],
            swept={field: [values[row] for row in rows] for field, values in fields.items()},
            status=columns["status"][rows],
            run_index=rows,
        )
        for rows, reached in _grids(steps)
    ]
    try:
        return to_dataset(groups, {"name": name, "sweep": record})
    except ValueError as error:  # a name with a slash, a field called as a coordinate of ours
        raise ConfigError(str(error)) from None


def _of_arrays(metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays [S, L(, D)] of floats, all of the same S and L."""
    if not metrics:
        raise ConfigError("metrics is empty, but must have at least one metric.")
    arrays = {str(name): np.asarray(values) for name, values in metrics.items()}
    arrays = {name: values[None] if values.ndim == 1 else values for name, values in arrays.items()}
    (first, leading), *_ = arrays.items()
    for name, values in arrays.items():
        if values.ndim not in (2, 3) or values.dtype.kind not in "iufb":
            raise ConfigError(
                f"metric {name!r} has shape {list(values.shape)} and type {values.dtype}, but must be numbers of shape "
                "[runs, log points], or [runs, log points, D]."
            )
        if values.shape[:2] != leading.shape[:2]:
            raise ConfigError(
                f"metric {name!r} has shape {list(values.shape)}, but must begin as that of {first!r}, "
                f"{list(leading.shape)}, with runs and log points."
            )
    return {name: x.astype(np.float64) if x.dtype.kind in "iub" else x for name, x in arrays.items()}


def _of_table(
    table: pd.DataFrame, swept: Sequence[str]
) -> tuple[dict[str, np.ndarray], np.ndarray, list[int] | None, dict[str, list[Any]]]:
    """Arrays of the metrics, steps [S, L], seeds and swept fields from a row for each run and log point."""
    for name in ("run", "env_steps", *swept):
        if name not in table:
            known = ", ".join(map(str, table.columns))
            raise ConfigError(
                f"metrics has no column {name}; it must have run, env_steps and what is swept, and has {known}."
            )
    ordered = table.sort_values(["run", "env_steps"], kind="stable")
    parts = [part for _, part in ordered.groupby("run", sort=True)]
    num_logs = max(map(len, parts), default=0)
    if num_logs == 0:
        raise ConfigError("metrics is empty, but must have a row for each run and log point.")
    constant = [*swept, *(["seed"] if "seed" in table else [])]
    for name in constant:
        if any(part[name].nunique(dropna=False) != 1 for part in parts):
            raise ConfigError(f"column {name} of metrics changes within a run, but must be the same in all its rows.")

    def padded(name: str) -> np.ndarray:
        rows = [part[name].to_numpy(np.float64) for part in parts]
        return np.stack([np.pad(row, (0, num_logs - row.size), constant_values=np.nan) for row in rows])

    names = [str(name) for name in table.columns if name not in ("run", "env_steps", *constant)]
    for name in names:
        if table[name].dtype.kind not in "iufb":
            raise ConfigError(f"column {name} of metrics holds no numbers; name it in swept, or leave it out.")
    if not names:
        raise ConfigError("metrics has no column with a metric.")
    seeds = [int(part["seed"].iloc[0]) for part in parts] if "seed" in table else None
    fields = {name: [part[name].iloc[0] for part in parts] for name in swept if name != "seed"}
    return {name: padded(name) for name in names}, padded("env_steps"), seeds, fields


def _shaped(name: str, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if values.shape not in (shape, shape[1:]):
        raise ConfigError(f"{name} has shape {list(values.shape)}, but must have {list(shape[1:])} or {list(shape)}.")
    if not np.all(np.nan_to_num(np.diff(values, axis=-1), nan=1.0) > 0):
        raise ConfigError(f"{name} must grow from log point to log point.")
    return np.broadcast_to(values, shape)


def _grids(steps: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Runs with the same log points, as positions, and which of these they have come to [L]."""
    members: dict[bytes, list[int]] = {}
    for run, row in enumerate(steps):
        members.setdefault(row.tobytes(), []).append(run)
    return [(np.asarray(runs), np.isfinite(steps[runs[0]])) for runs in members.values()]
