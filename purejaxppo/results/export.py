"""Results for other people's tools: CSV, Parquet, TensorBoard and Weights & Biases; no JAX in here.

Each tool's package is imported when it is asked for. TensorBoard's files are written record by record with the message
types of tensorboardX, and not with its writers: hundreds of runs would mean hundreds of threads and open files.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.errors import ConfigError, RunError
from purejaxppo.fields import scalar, unknown_name
from purejaxppo.results.dataset import recorded_fields, swept_fields
from purejaxppo.results.files import sync_and_rename
from purejaxppo.results.registry import HEADLINE, METRICS
from purejaxppo.results.tidy import tidy

_WANDB_SECONDS = 30
_GROUPS = {"performance": "return", "trust_region": "trust_region", "minibatch": "minibatch"}


class Run(Protocol):
    """What is asked of a run of a sweep that is still going on: its place, swept values and seed."""

    @property
    def index(self) -> int: ...
    @property
    def point(self) -> Mapping[str, Any]: ...
    @property
    def seed(self) -> int: ...


def export(dataset: xr.Dataset, directory: Path, to: str) -> Path:
    """Write a sweep's dataset below `directory/export/`, in place of an earlier export; returns the file or folder.

    to: csv or parquet (one file, see `long_table`), tensorboard (one folder of events per run), or wandb (one W&B run
    per run; offline unless WANDB_MODE is set or the user has logged in; `wandb sync` uploads offline runs).
    Raises ConfigError for any other `to` and for a package that is not installed, RunError when the disk refuses.
    """
    writers = {"csv": _write_csv, "parquet": _write_parquet, "tensorboard": _write_tensorboard, "wandb": _write_wandb}
    if to not in writers:
        raise unknown_name("export format", to, list(writers))
    folder = Path(directory) / "export"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return writers[to](dataset, folder)
    except OSError as error:
        raise RunError(f"folder {folder} cannot be written: {error.strerror or error}.") from error


def long_table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per run and log point that it has reached: `run_index`, `seed`, the swept fields, `status`, `env_steps`
    (steps) and every metric that is one number there; spectra are left out.
    """
    return tidy(dataset)


def run_name(index: int, swept: Mapping[str, Any], seed: int) -> str:
    """A run's folder: `run_0012_num_epochs=4_pfo_coef=1.0_seed=3`; long ones are cut, the index tells them apart.

    Characters that Windows refuses in names become `-`.
    """
    parts = [f"{name}={scalar(value)}" for name, value in (dict(swept) | {"seed": seed}).items()]
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]', "-", "_".join([f"run_{index:04d}", *parts]))[:200].rstrip(" .")


def tag(name: str) -> str:
    """A metric's name with the group that it is shown under: the ones to start with, which tools show first
    (0_overview), and else return, policy, critic, trust_region, minibatch."""
    if name in HEADLINE:
        return f"0_overview/{name}"
    metric = METRICS.get(name.removesuffix("_measured"))
    if metric is None:
        return f"other/{name}"
    network = "critic" if name.startswith(("critic_", "value_")) else "policy"
    return f"{_GROUPS.get(metric.family, network)}/{name}"


def check_tensorboard() -> None:
    """Raise ConfigError when tensorboardX is not installed."""
    _package("tensorboardX.record_writer")


class LiveTensorBoard:
    """Event files that grow while a sweep runs: a folder per run, with the headline metrics.

    Names and tags are those of `export`. Nothing is held open between two writes.
    """

    def __init__(self, folder: Path, runs: Sequence[Run]):
        """Make the folders of `runs` in `folder`; raises ConfigError when tensorboardX is not installed."""
        self._files = []
        for run in runs:
            run_folder = Path(folder) / run_name(run.index, run.point, run.seed)
            run_folder.mkdir(parents=True, exist_ok=True)
            self._files.append(_start_events(run_folder))

    def write(self, env_steps: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Append one log point of all runs: name -> [S], in the order of `runs`; others than HEADLINE are ignored."""
        for position, path in enumerate(self._files):
            values = {name: float(metrics[name][position]) for name in HEADLINE if name in metrics}
            with open(path, "ab") as file:
                file.write(_record(env_steps, values))

    def close(self) -> None:
        """The end of the sweep; every log point is on its file already."""


def _write_csv(dataset: xr.Dataset, folder: Path) -> Path:
    target = folder / "results.csv"
    partial = target.with_name(f".{target.name}.partial")
    long_table(dataset).to_csv(partial, index=False, lineterminator="\n")
    sync_and_rename(partial, target)
    return target


def _write_parquet(dataset: xr.Dataset, folder: Path) -> Path:
    _package("pyarrow")
    target = folder / "results.parquet"
    partial = target.with_name(f".{target.name}.partial")
    long_table(dataset).to_parquet(partial, engine="pyarrow", index=False)
    sync_and_rename(partial, target)
    return target


def _write_tensorboard(dataset: xr.Dataset, folder: Path) -> Path:
    target, partial = folder / "tensorboard", folder / ".tensorboard.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for name, _, table in _runs(dataset):
        run_folder = partial / name
        run_folder.mkdir(parents=True)
        with open(_start_events(run_folder), "ab") as file:
            for row in table.to_dict("records"):
                file.write(_record(int(row.pop("env_steps")), row))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def _write_wandb(dataset: xr.Dataset, folder: Path) -> Path:
    wandb: Any = _package("wandb")
    mode = os.environ.get("WANDB_MODE")
    if mode in ("disabled", "dryrun") or os.environ.get("WANDB_DISABLED"):
        raise ConfigError("WANDB_MODE is disabled, so nothing would be written; it must be online, offline or unset.")
    if not mode and not wandb.login(prompt=False, verify=False):
        mode = "offline"
    base = recorded_fields(dataset)
    shutil.rmtree(folder / "wandb", ignore_errors=True)
    options = {
        "project": os.environ.get("WANDB_PROJECT", "purejaxppo"),
        "group": dataset.attrs.get("name"),
        "dir": folder,
        "mode": mode,
        "settings": wandb.Settings(silent=True, console="off", disable_git=True, init_timeout=_WANDB_SECONDS),
    }
    try:
        for name, facts, table in _runs(dataset):
            _write_wandb_run(wandb, options | {"name": name}, base, facts, table)
    except wandb.errors.Error as error:
        raise RunError(
            f"Weights & Biases cannot be reached ({str(error).splitlines()[0]}); WANDB_MODE=offline writes runs that "
            "`wandb sync` uploads later."
        ) from error
    return folder / "wandb"


def _write_wandb_run(
    wandb: Any, options: dict[str, Any], base: dict[str, Any], facts: dict[str, Any], table: pd.DataFrame
) -> None:
    status = facts.pop("status")
    with wandb.init(**options, config=base | facts) as run:
        run.define_metric("env_steps")
        run.define_metric("*", step_metric="env_steps")
        run.summary["status"] = status
        for row in table.to_dict("records"):
            steps = int(row.pop("env_steps"))
            run.log({"env_steps": steps} | {tag(str(key)): x for key, x in row.items() if not np.isnan(x)})


def _runs(dataset: xr.Dataset) -> list[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Each run's name, its facts (swept fields, seed, run_index, status), and its table of `env_steps` and metrics."""
    facts_of_runs, found = [*swept_fields(dataset), "seed", "run_index", "status"], []
    for _, table in long_table(dataset).groupby("run_index"):
        facts = {name: table[name].tolist()[0] for name in facts_of_runs}
        swept = {name: facts[name] for name in swept_fields(dataset)}
        name = run_name(facts["run_index"], swept, facts["seed"])
        found.append((name, facts, table.drop(columns=facts_of_runs)))
    return found


def _start_events(folder: Path) -> Path:
    """A new event file in a run's folder, with the record that every event file begins with."""
    events: Any = _package("tensorboardX.proto.event_pb2")
    now = time.time()
    path = folder / f"events.out.tfevents.{now:.6f}"  # a later process (a continued sweep) begins a later file
    path.write_bytes(_frame(events.Event(wall_time=now, file_version="brain.Event:2")))
    return path


def _record(step: int, values: Mapping[str, float]) -> bytes:
    """One event with all metrics of a log point, without those that are NaN."""
    events: Any = _package("tensorboardX.proto.event_pb2")
    summaries: Any = _package("tensorboardX.proto.summary_pb2")
    shown = [summaries.Summary.Value(tag=tag(name), simple_value=x) for name, x in values.items() if not np.isnan(x)]
    return _frame(events.Event(wall_time=time.time(), step=step, summary=summaries.Summary(value=shown)))


def _frame(event: Any) -> bytes:
    """A record as TensorBoard reads it: length, its checksum, the message, its checksum; little endian."""
    checksum = _package("tensorboardX.record_writer").masked_crc32c
    message = event.SerializeToString()
    length = struct.pack("<Q", len(message))
    return b"".join((length, struct.pack("<I", checksum(length)), message, struct.pack("<I", checksum(message))))


def _package(name: str) -> Any:
    """A module of an optional package; raises ConfigError, telling how to install it, when it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.split(".")[0]
        raise ConfigError(
            f"package {package} is not installed, but this export needs it; `pip install 'purejaxppo[export]'` "
            "installs it."
        ) from None
