"""Results as one labelled xarray.Dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.fields import scalar
from purejaxppo.results.files import Values, lazy
from purejaxppo.results.files import load as load  # these three are known by this module's name too
from purejaxppo.results.files import save as save
from purejaxppo.results.files import sync_and_rename as sync_and_rename
from purejaxppo.results.registry import AT_START, METRICS

STATUS_MEANING = (
    "0: ok; k > 0: the run diverged (non-finite loss or parameters) before its k-th log point after the start "
    "(log point 0, if there is one, is the initial network); it is frozen, and NaN from there on"
)
OWN_COORDINATES = ("run", "run_index", "seed", "group", "env_steps", "status")


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """What one compiled program (a group of runs) hands over: S runs, L log points, D features."""

    metrics: Mapping[str, Values]
    """Name -> [S, L], or [S, L, D] for spectra; what is not in memory stays where it is until it is asked for."""
    env_steps: np.ndarray
    """Environment steps at each log point reached so far, [L]."""
    seeds: np.ndarray
    """Seed of each run, [S]."""
    swept: Mapping[str, Sequence[Any]]
    """Swept field -> its value in each run, length S; the same fields in every group."""
    status: np.ndarray
    """0 for a sound run, [S]; see STATUS_MEANING."""
    run_index: np.ndarray
    """Position of each run in the sweep's own order, [S]."""


def to_dataset(
    groups: Sequence[GroupResult],
    attrs: Mapping[str, Any],
    status_meaning: str = STATUS_MEANING,
    own_rows: Mapping[str, Sequence[str]] | None = None,
) -> xr.Dataset:
    """One Dataset with dims (run, log[, D or minibatch]) from the groups of a sweep, runs in the sweep's own order.

    Groups with fewer log points and narrower spectra, of a group or of the critic, are padded with NaN. `env_steps` is
    (log) when all runs share it, else (run, log). `attrs` become plain strings, other values than strings as JSON. A
    metric that shares its name with a swept field (`learning_rate`) leaves the name to the field and is stored as
    `<name>_measured`. own_rows: of metrics of the user's own, the rows that `registry` has of ours.
    Raises ValueError when groups contradict themselves or each other.
    """
    for number, group in enumerate(groups):
        _check_group(number, group, groups[0])
    run_index = np.concatenate([np.asarray(group.run_index, dtype=np.int64) for group in groups] or [np.zeros(0)])
    if np.unique(run_index).size != run_index.size:
        raise ValueError("run_index must name every run once.")
    order = np.argsort(run_index)

    def by_run(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
        return np.concatenate([np.asarray(part, dtype=dtype) for part in parts] or [np.zeros(0, dtype)])[order]

    fields = [field for field in (groups[0].swept if groups else ()) if field != "seed"]
    group_number = [np.full(len(group.seeds), number) for number, group in enumerate(groups)]
    dataset = xr.Dataset(
        coords={
            "env_steps": _env_steps(groups, order),
            "run_index": ("run", run_index[order].astype(np.int64)),
            "seed": ("run", by_run([group.seeds for group in groups], np.int64)),
            "group": ("run", by_run(group_number, np.int64)),
            **{field: ("run", _swept_values(groups, field)[order]) for field in fields},
        },
        attrs={name: value if isinstance(value, str) else _json(value) for name, value in attrs.items()},
    )
    variables = {}
    for name, (dims, values) in _padded(groups, order).items():
        variables[f"{name}_measured" if name in fields else name] = (
            dims,
            values[:, :] if values.is_in_memory else lazy(values),
            _description(name, (own_rows or {}).get(name)),
        )
    dataset = dataset.assign(variables)  # all at once: one by one takes seconds
    dataset["status"] = ("run", by_run([group.status for group in groups], np.int32))
    _describe_own(dataset, fields, status_meaning)
    return dataset


def check_results(dataset: xr.Dataset) -> None:
    """Raise ConfigError for what is no dataset of runs, or has lost whether each of its runs stayed finite.

    xarray's `where` without `drop=True` makes `status` NaN for the runs that it masks: they would count as diverged.
    """
    if not isinstance(dataset, xr.Dataset):
        raise ConfigError(f"dataset is {type(dataset).__name__}, but must be a Dataset as pjp.load_results gives it.")
    if "run" not in dataset.dims or "status" not in dataset or dataset["status"].dims != ("run",):
        raise ConfigError("dataset has no status of each run; keep `status` in it, and `run` as a dimension (run=[0]).")
    status = dataset["status"]
    if status.dtype.kind == "f" and np.any(np.isnan(status.values)):
        raise ConfigError(
            "dataset has runs whose status is NaN, as `where` leaves them; take runs by isel or where(..., drop=True)."
        )


def swept_fields(dataset: xr.Dataset) -> list[str]:
    """The axes of a sweep: names of the swept fields, in the sweep's order, without the seed.

    Coordinates over runs that were added later count as axes too, after the others. Raises as `check_results`.
    """
    check_results(dataset)
    over_runs = [str(name) for name, value in dataset.coords.items() if value.dims == ("run",)]
    return [name for name in over_runs if name not in OWN_COORDINATES]


Point = tuple[dict[str, Any], np.ndarray]
"""Swept values, and the positions of their runs [S]."""


def points(dataset: xr.Dataset) -> list[Point]:
    """The points of the axes, in order of first appearance: (swept values, positions of their runs [S])."""
    fields = swept_fields(dataset)
    columns = [dataset[field].values.tolist() for field in fields]
    members: dict[tuple[Any, ...], list[int]] = {}
    for run in range(dataset.sizes["run"]):
        members.setdefault(tuple(column[run] for column in columns), []).append(run)
    return [(dict(zip(fields, key, strict=True)), np.array(runs)) for key, runs in members.items()]


def by_environment(dataset: xr.Dataset) -> dict[str, xr.Dataset]:
    """The results of each environment by themselves, in order of first appearance; {"": dataset} with a single one.

    Returns, norms and ranks of two environments do not belong on one axis, nor into one mean.
    """
    check_results(dataset)
    if "env" not in dataset.coords:
        return {"": dataset}
    names = dataset["env"].values.astype(str)
    parts = {str(name): dataset.isel(run=np.flatnonzero(names == name)) for name in dict.fromkeys(names.tolist())}
    return parts if len(parts) > 1 else {"": dataset}


def recorded_fields(dataset: xr.Dataset) -> dict[str, Any]:
    """Configuration and hyper-parameters in the sweep's own record; empty if there is none."""
    sweep = json.loads(dataset.attrs.get("sweep", "{}"))
    return sweep.get("config", {}) | sweep.get("hparams", {})


def recorded_widths(dataset: xr.Dataset) -> np.ndarray | None:
    """Units of the penultimate layer in each run [S], from `hidden_sizes` as swept or recorded; None if not told.

    A network of the user's own does not tell.
    """
    if "network" in dataset.coords or recorded_fields(dataset).get("network"):
        return None
    if "hidden_sizes" in dataset.coords:  # "64-48", or a number where it is one layer in all runs
        return np.array([int(str(size).split("-")[-1]) for size in dataset["hidden_sizes"].values.tolist()])
    sizes = recorded_fields(dataset).get("hidden_sizes")
    return np.full(dataset.sizes["run"], int(sizes[-1])) if sizes else None


def _check_group(number: int, group: GroupResult, first: GroupResult) -> None:
    """Raise ValueError when a group's arrays disagree in length, or its fields with the first group's."""
    num_runs, num_logs = len(group.seeds), len(group.env_steps)
    lengths = {"status": len(group.status), "run_index": len(group.run_index)}
    lengths |= {field: len(values) for field, values in group.swept.items()}
    for name, length in lengths.items():
        if length != num_runs:
            raise ValueError(f"group {number}: {name} has {length} values for {num_runs} runs.")
    for name, values in group.metrics.items():
        if len(values.shape) not in (2, 3) or values.shape[:2] != (num_runs, num_logs):
            raise ValueError(f"group {number}: {name} has shape {values.shape}, not ({num_runs}, {num_logs}[, D]).")
        if "/" in name:
            raise ValueError(f"group {number}: a metric name may not contain '/', as {name!r} does.")
    if list(group.swept) != list(first.swept):
        raise ValueError(f"group {number}: swept fields {list(group.swept)} differ from {list(first.swept)}.")
    if clash := [field for field in group.swept if field in OWN_COORDINATES and field != "seed"]:
        raise ValueError(f"group {number}: a swept field may not be called {clash[0]!r}.")
    if clash := [name for name in group.metrics if name in (*OWN_COORDINATES, "log")]:
        raise ValueError(f"group {number}: a metric may not be called {clash[0]!r}.")


def _env_steps(groups: Sequence[GroupResult], order: np.ndarray) -> tuple[Any, np.ndarray]:
    """(dims, values) of the step coordinate: (log) when every group has the same, else (run, log) padded with NaN."""
    grids = [np.asarray(group.env_steps) for group in groups]
    if all(np.array_equal(grid, grids[0]) for grid in grids):
        return ("log",), (grids[0] if grids else np.zeros(0)).astype(np.int64)
    num_logs = max(grid.size for grid in grids)
    rows = [np.pad(grid.astype(np.float64), (0, num_logs - grid.size), constant_values=np.nan) for grid in grids]
    counts = [len(group.seeds) for group in groups]
    return ("run", "log"), np.repeat(np.stack(rows), counts, axis=0)[order]


def _padded(groups: Sequence[GroupResult], order: np.ndarray) -> dict[str, tuple[tuple[str, ...], _Padded]]:
    """Every metric with its axes; along one axis all are as long as the longest, as critic and policy may differ."""
    names = dict.fromkeys(name for group in groups for name in group.metrics)
    found = {name: _Padded([group.metrics.get(name) for group in groups], groups, order) for name in names}
    dims = {
        name: (METRICS[name].dims if name in METRICS else ("run", "log", "D"))[: len(values.shape)]
        for name, values in found.items()
    }
    longest: dict[str, int] = {}
    for name, values in found.items():
        for dim, size in zip(dims[name][2:], values.shape[2:], strict=True):
            longest[dim] = max(size, longest.get(dim, 0))
    for name, values in found.items():
        values.shape = (*values.shape[:2], *(longest[dim] for dim in dims[name][2:]))
    return {name: (dims[name], values) for name, values in found.items()}


class _Padded:
    """One metric of all groups, [S, L] or [S, L, D], runs in the sweep's order; NaN where a group has none."""

    def __init__(self, parts: Sequence[Values | None], groups: Sequence[GroupResult], order: np.ndarray):
        found = [part for part in parts if part is not None]
        if len({len(part.shape) for part in found}) > 1:
            raise ValueError("a metric must have the same number of dimensions in every group.")
        dtype = np.result_type(*(part.dtype for part in found))
        # Whole numbers, and types that netCDF does not know (bfloat16), become doubles.
        self.dtype = dtype if np.issubdtype(dtype, np.floating) else np.dtype(np.float64)
        num_logs = max(len(group.env_steps) for group in groups)
        self.shape = (order.size, num_logs, *(max(part.shape[2] for part in found) for _ in found[0].shape[2:]))
        self.is_in_memory = all(isinstance(part, np.ndarray) for part in found)
        ends = np.cumsum([len(group.seeds) for group in groups])
        self._parts = list(zip(parts, np.split(np.argsort(order), ends[:-1]), strict=True))

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        runs, logs, *rest = key
        values = np.full((self.shape[0], len(range(self.shape[1])[logs]), *self.shape[2:]), np.nan, dtype=self.dtype)
        for part, rows in self._parts:
            if part is not None:
                found = part[:, logs]
                values[(rows, *(slice(size) for size in found.shape[1:]))] = found
        return values[(runs, slice(None), *rest)]


def _swept_values(groups: Sequence[GroupResult], field: str) -> np.ndarray:
    """A swept field of all runs as booleans, whole numbers, floats, or else strings."""
    values = [scalar(value) for group in groups for value in group.swept[field]]
    kinds = {type(value) for value in values}
    if kinds <= {bool} or kinds <= {int} or kinds <= {int, float}:
        return np.array(values)
    return np.array([str(value) for value in values])


def _json(value: Any) -> str:
    return json.dumps(value, default=lambda other: other.tolist() if hasattr(other, "tolist") else str(other))


def own_metrics(dataset: xr.Dataset) -> list[str]:
    """Metrics that diagnostics and penalties of the user's own have given; of several moments, the last."""
    own = [str(name) for name, variable in dataset.data_vars.items() if variable.attrs.get("family") == "own"]
    return [name for name in own if not name.endswith(("_first_epoch_first", "_first_epoch_last", "_last_epoch_first"))]


def _description(name: str, own_row: Sequence[str] | None = None) -> dict[str, str]:
    """Attributes of a metric from the registry or a row of one's own; unknown names say that they are unknown."""
    metric = METRICS.get(name)
    if metric is None and own_row is not None:
        texts = dict(zip(("long_name", "units", "definition", "source"), own_row, strict=True))
        return {key: text for key, text in texts.items() if text} | {"family": "own"}
    if metric is None:
        return {"long_name": name.replace("_", " "), "definition": "not in the table of metrics"}
    described = {"long_name": metric.long_name, "definition": metric.definition}
    return described | {key: text for key in ("units", "source") if (text := getattr(metric, key))}


def _describe_own(dataset: xr.Dataset, fields: Sequence[str], status_meaning: str) -> None:
    """Attributes of the variables that are not metrics."""
    texts = {
        "env_steps": ("environment steps", "steps of all environments of a run, since its start; " + AT_START),
        "run_index": ("run", "position of the run in the sweep's own order"),
        "seed": ("seed", "the same seed gives the same initial weights and environment keys in every configuration"),
        "group": ("group", "runs of one group were trained by one compiled program"),
        "status": ("status", "whether the run stayed finite; see meaning"),
        **{field: (field.replace("_", " "), f"swept field {field}") for field in fields},
    }
    for name, (long_name, definition) in texts.items():
        dataset[name].attrs.update(long_name=long_name, definition=definition)
    dataset["env_steps"].attrs["units"] = "steps"
    dataset["status"].attrs["meaning"] = status_meaning
