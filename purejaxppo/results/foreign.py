"""Metrics that somebody else's trainer has logged, as a dataset that figures, tables, compare and claims accept."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.fields import check_types, coerce, field_names, hints_of
from purejaxppo.hyperparams import HyperParams
from purejaxppo.results.dataset import GroupResult, to_dataset

_STATIC, _TRACED = field_names(TrainConfig), field_names(HyperParams)


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
        point, whose columns are `run`, `env_steps`, perhaps `seed` and `status`, swept fields and metrics. Names
        that `purejaxppo metrics` lists mean what it says: `return_mean`, `policy_rank`, ...; others are kept.
    env_steps: environment steps of a run at its log points, [L] or [S, L]; NaN where a run has none (not of a table).
    seeds: of the runs, [S]; 0, 1, ... by default. Runs of one seed in several configurations are compared as pairs.
    swept: field -> its value in each run [S]; of a table the names of its columns. Our own names (`learning_rate`,
        `num_epochs`, `env`, ...) are understood by figures and claims.
    config: what all runs have in common, in our names: `env`, `total_steps`, `clip_eps`, `hidden_sizes`, ... Claims
        take what is not told as our default, plain PPO; a name that is none of ours is kept, with a warning.
    status: 0 for a sound run, else the log point before which it diverged, counted from 1, [S]; 0 by default.

    Raises ConfigError, which names it, for what is missing or has the wrong shape.
    """
    if isinstance(metrics, pd.DataFrame):
        if any(x is not None for x in (env_steps, seeds, status)) or isinstance(swept, Mapping):
            raise ConfigError(
                "metrics is a table: env_steps, seed and status must be columns of it, and swept names of its columns."
            )
        arrays, env_steps, seeds, status, fields = _of_table(metrics, swept)
    else:
        if not isinstance(swept, Mapping) and len(swept):
            raise ConfigError("swept must be a mapping of field -> values of the runs, where metrics is no table.")
        arrays, fields = _of_arrays(metrics), dict(swept) if isinstance(swept, Mapping) else {}
        if env_steps is None:
            raise ConfigError("env_steps is missing, but must be the environment steps at log points, [L] or [S, L].")
    num_runs, num_logs = next(iter(arrays.values())).shape[:2]
    steps = _shaped("env_steps", _numbers("env_steps", env_steps), (num_runs, num_logs))
    columns = {"seeds": np.arange(num_runs) if seeds is None else seeds}
    columns["status"] = np.zeros(num_runs) if status is None else status
    for label, values in {**columns, **fields}.items():
        if len(values) != num_runs:
            raise ConfigError(f"{label} has {len(values)} values, but must have one for each of the {num_runs} runs.")
    own_seeds = _whole("seeds", columns["seeds"], 2**32 - 1)
    own_status = _whole("status", columns["status"], num_logs)
    _check_points(fields, own_seeds)
    told = dict(config or {})
    for field in sorted(set(told) - set(_STATIC) - set(_TRACED)):
        warnings.warn(
            f"config has {field}, which is no name of a field: figures and claims do not know it.", stacklevel=2
        )
    record = _record(told)
    groups = [
        GroupResult(
            metrics={label: values[rows][:, reached] for label, values in arrays.items()},
            env_steps=steps[rows[0]][reached].astype(np.int64),
            seeds=own_seeds[rows],
            swept={field: [values[row] for row in rows] for field, values in fields.items()},
            status=own_status[rows],
            run_index=rows,
        )
        for rows, reached in _grids(steps)
    ]
    try:
        return to_dataset(groups, {"name": name, "sweep": record})
    except ValueError as error:  # a name with a slash, a field called as a coordinate of ours
        raise ConfigError(str(error)) from None


def _record(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What all runs have in common, as a sweep's own record says it; raises ConfigError for values of a wrong type."""
    record = {"config": {}, "hparams": {}}
    for field, value in told.items():
        if value is not None:  # of a field that may be None it is the default
            plain = value.tolist() if hasattr(value, "tolist") else value  # of NumPy and JAX
            record["hparams" if field in _TRACED else "config"][field] = plain
    for cls, values in ((TrainConfig, record["config"]), (HyperParams, record["hparams"])):
        hints = hints_of(cls)
        check_types(cls(**{field: coerce(field, x, hints[field]) for field, x in values.items() if field in hints}))
    return record


def _of_arrays(metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays [S, L(, D)] of floats, all of the same S and L."""
    if not metrics:
        raise ConfigError("metrics is empty, but must have at least one metric.")
    arrays = {str(name): _array(f"metric {str(name)!r}", values) for name, values in metrics.items()}
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
) -> tuple[dict[str, np.ndarray], np.ndarray, list[Any] | None, list[Any] | None, dict[str, list[Any]]]:
    """Arrays of the metrics, steps [S, L], seeds, status and swept fields from a row for each run and log point."""
    for name in ("run", "env_steps", *swept):
        if name not in table:
            known = ", ".join(map(str, table.columns))
            raise ConfigError(
                f"metrics has no column {name}; it must have run, env_steps and what is swept, and has {known}."
            )
    if num_lost := int(np.sum(table["run"].isna().to_numpy())):
        raise ConfigError(f"column run of metrics is missing in {num_lost} rows, but must name the run of each.")
    table = table.assign(env_steps=_numbers("env_steps", table["env_steps"]))
    ordered = table.sort_values(["run", "env_steps"], kind="stable")
    parts = [part for _, part in ordered.groupby("run", sort=True)]
    num_logs = max(map(len, parts), default=0)
    if num_logs == 0:
        raise ConfigError("metrics is empty, but must have a row for each run and log point.")
    constant = [*swept, *(name for name in ("seed", "status") if name in table and name not in swept)]
    for name in constant:
        if any(part[name].nunique(dropna=False) != 1 for part in parts):
            raise ConfigError(f"column {name} of metrics changes within a run, but must be the same in all its rows.")

    def padded(name: str) -> np.ndarray:
        rows = [part[name].to_numpy(np.float64) for part in parts]
        return np.stack([np.pad(row, (0, num_logs - row.size), constant_values=np.nan) for row in rows])

    names = [str(name) for name in table.columns if name not in ("run", "env_steps", *constant)]
    for name in names:
        try:  # a column of arrays of no axis, as JAX gives numbers, is one of objects
            ordered[name].astype(np.float64)
        except (TypeError, ValueError):
            raise ConfigError(
                f"column {name} of metrics holds no numbers; name it in swept, or leave it out."
            ) from None
    if not names:
        raise ConfigError("metrics has no column with a metric.")
    of_runs = {name: [part[name].iloc[0] for part in parts] for name in constant}
    fields = {name: of_runs[name] for name in swept if name != "seed"}
    arrays = {name: padded(name) for name in names}
    return arrays, padded("env_steps"), of_runs.get("seed"), of_runs.get("status"), fields


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:  # lists of unequal lengths
        raise ConfigError(f"{name} must have as many values for each run, but has not; pad it with NaN.") from None


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be numbers, as many for each run, but is not.") from None


def _whole(name: str, values: Any, most: int) -> np.ndarray:
    """Whole numbers from 0 to `most`, one for each run."""
    found = _numbers(name, values)
    wrong = found[~((found >= 0) & (found <= most) & (found == np.floor(found)))]
    if wrong.size:
        raise ConfigError(f"{name} has {wrong.flat[0]:g}, but must have whole numbers from 0 to {most}.")
    return found.astype(np.int64)


def _check_points(fields: Mapping[str, Sequence[Any]], seeds: np.ndarray) -> None:
    """Raise ConfigError where a run has no value of a swept field, or two runs of one setting have the same seed."""
    for field, values in fields.items():
        if any(x is not None and pd.api.types.is_scalar(x) and bool(pd.isna(x)) for x in values):
            raise ConfigError(f"{field} is missing in some runs, but must have the value that each run had.")
    counted = Counter(zip(*(map(str, values) for values in fields.values()), seeds.tolist(), strict=True))
    for (*_, seed), number in counted.items():
        if number > 1:
            raise ConfigError(
                f"seeds has {seed} in {number} runs of one setting, but must tell them apart; name in swept what they "
                "differ in."
            )


def _shaped(name: str, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if values.shape not in (shape, shape[1:]):
        raise ConfigError(f"{name} has shape {list(values.shape)}, but must have {list(shape[1:])} or {list(shape)}.")
    if any(np.any(np.diff(row[np.isfinite(row)]) <= 0) for row in np.atleast_2d(values)):
        raise ConfigError(f"{name} must grow from log point to log point.")
    return np.broadcast_to(values, shape)


def _grids(steps: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Runs with the same log points, as positions, and which of these they have come to [L]."""
    members: dict[bytes, list[int]] = {}
    for run, row in enumerate(steps):
        members.setdefault(row.tobytes(), []).append(run)
    return [(np.asarray(runs), np.isfinite(steps[runs[0]])) for runs in members.values()]
