"""The directory of a sweep: its resolved plan, one small file per log point, and the labelled dataset. Imports no JAX.

    sweep.json           the resolved sweep: `parse_sweep` of it gives the sweep back
    provenance.json      versions, device, flags, commit, command, times
    parts/0000/00000.npz metrics of program 0 at log point 0, written as they come
    results.nc           everything, labelled; the parts are deleted once it is written

Every file is written under a temporary name and then renamed, so that whatever has its name is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import xarray as xr

from purejaxppo.analysis.results import GroupResult, load, save, to_dataset
from purejaxppo.errors import ConfigError
from purejaxppo.sweep.plan import Group, Sweep, make_groups, parse_sweep, to_json

SWEEP, PROVENANCE, PARTS, RESULTS = "sweep.json", "provenance.json", "parts", "results.nc"


def create(out: Path, sweep: Sweep) -> None:
    """Make the directory of a new sweep.

    Raises ConfigError when it cannot be written or holds something already: nothing is ever overwritten.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out is {out}, which is a file, but must be a new or empty directory.")
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"out is {out}, which holds something already, but must be a new or empty directory.")
    try:
        (out / PARTS).mkdir(parents=True)
        write_json(out / SWEEP, to_json(sweep))
    except OSError as error:
        raise ConfigError(f"out is {out}, which cannot be written: {error.strerror}.") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain data atomically."""
    text = json.dumps(content, indent=2, default=str)
    write_atomically(path, lambda file: file.write(text.encode()))


def write_part(out: Path, group_number: int, log_point: int, metrics: dict[str, np.ndarray]) -> None:
    """Keep the metrics of one program at one log point."""
    folder = out / PARTS / f"{group_number:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{log_point:05d}.npz", lambda file: np.savez(file, **metrics))  # pyright: ignore


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name beside it, flush it to the disk, and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def finish(out: Path) -> xr.Dataset:
    """Assemble the parts into results.nc and delete them; returns the dataset."""
    dataset = assemble(out)
    save(dataset, out / RESULTS)
    shutil.rmtree(out / PARTS)
    return dataset


def load_results(out: str | Path) -> xr.Dataset:
    """The dataset of a sweep's directory (or of a results.nc), finished or still running.

    Raises ConfigError when there is none.
    """
    path = Path(out)
    if path.is_file():
        return load(path)
    if (path / RESULTS).is_file():
        return load(path / RESULTS)
    if (path / PARTS).is_dir():
        return assemble(path)
    raise ConfigError(f"directory {path} holds no results of a sweep (no {RESULTS} and no {PARTS}).")


def assemble(out: Path) -> xr.Dataset:
    """The dataset from all parts written so far."""
    try:
        sweep = parse_sweep(read_json(out / SWEEP))
        attributes = read_json(out / PROVENANCE)
    except FileNotFoundError as error:
        raise ConfigError(f"directory {out} is not a sweep's: {Path(error.filename).name} is missing.") from None
    groups = make_groups(sweep)
    results = [_read_group(out / PARTS / f"{number:04d}", group, sweep) for number, group in enumerate(groups)]
    results = [result for result in results if result is not None]
    if not results:
        raise ConfigError(f"directory {out} holds no log point yet: its first one is still being computed.")
    attributes |= {"name": sweep.name, "sweep": json.dumps(to_json(sweep))}
    return to_dataset(results, attributes)


def read_json(path: Path) -> dict[str, Any]:
    """Plain data from a file that this module wrote; raises ConfigError when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ConfigError(f"file {path} is damaged: it is not valid JSON.") from None


def _read_group(folder: Path, group: Group, sweep: Sweep) -> GroupResult | None:
    files = sorted(folder.glob("*.npz"))
    if not files:
        return None
    points = []
    for path in files:
        with np.load(path) as content:
            points.append({name: content[name] for name in content.files})
    metrics = {name: np.stack([point[name] for point in points], axis=1) for name in points[0]}
    status = metrics.pop("status")[:, -1].astype(np.int32)
    return GroupResult(
        metrics=metrics,
        env_steps=(1 + np.arange(len(points))) * group.config.steps_per_log,
        seeds=np.asarray([run.seed for run in group.runs]),
        swept={name: [run.point[name] for run in group.runs] for name in sweep.swept},
        status=status,
        run_index=np.asarray([run.index for run in group.runs]),
    )
