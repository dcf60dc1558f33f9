"""Several finished sweeps as the directory of one: `purejaxppo merge A B --out C`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import xarray as xr

from purejaxppo.errors import ConfigError, RunError
from purejaxppo.results.concat import join, own_rows, unite
from purejaxppo.results.files import save
from purejaxppo.sweep import store
from purejaxppo.sweep.plan import parse_sweep

_OF_RUNS = "run_index"  # in a file of policies, or of states: the places of its runs in the sweep


def merge(sources: Sequence[str | Path], out: str | Path) -> xr.Dataset:
    """Write the directory of the sweep that finished ones make together, and return its dataset; see `concat`.

    Where they do not make a whole product of points and seeds, runs are missing, and `extend` computes them. Policies,
    snapshots and final states come along, and where each is from. `out` is new or empty.
    Raises ConfigError for a directory that is not a finished sweep's, for what `concat` refuses, and for `out` as
    `create` does.
    """
    folders, target = [Path(source).expanduser() for source in sources], Path(out).expanduser()
    if len(folders) < 2:
        raise ConfigError(f"merge has {len(folders)} directory, but must have at least two.")
    for folder in folders:
        store.read_sweep(folder)  # results alone, as `import_metrics` makes them, have no plan that runs could lack
        store.check_settled(folder)
        if not (folder / store.RESULTS).is_file():
            raise ConfigError(f"directory {folder} is not finished; finish it with: purejaxppo resume {folder}")
    if len({store.is_of_version_0_1(folder) for folder in folders}) > 1:
        raise ConfigError("one of the directories is of version 0.1 and another is not, so their log points differ.")
    datasets, names = [store.load_results(folder) for folder in folders], [folder.name for folder in folders]
    union = unite(datasets, [str(folder) for folder in folders], is_by_name=False)
    merged = join(datasets, union, names)
    sweep = parse_sweep(json.loads(merged.attrs["sweep"]), folder=store.read_sweep(folders[0]).folder)
    store.check_out(target)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        unfinished.mkdir(parents=True)
        for number, (folder, dataset, places) in enumerate(zip(folders, datasets, union.places, strict=True)):
            indices = dataset["run_index"].values.tolist()
            carry(folder, unfinished, {indices[row]: index for row, index in places.items()}, prefix=f"{number:04d}-")
        save(merged, unfinished / store.RESULTS)
        facts = {name: _parsed(name, value) for name, value in merged.attrs.items() if name not in ("name", "sweep")}
        if rows := own_rows(datasets):
            facts[store.OWN_METRICS] = rows
        store.write_json(unfinished / store.PROVENANCE, facts)
        if not store.is_of_version_0_1(folders[0]):
            store.write_layout(unfinished, [], None)
        store.write_sweep(unfinished, sweep)
        if target.is_dir():
            target.rmdir()
        unfinished.rename(target)
    except OSError as error:
        raise RunError(f"directory {target} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return store.load_results(target)


def carry(
    source: Path,
    target: Path,
    places: Mapping[int, int],
    prefix: str = "",
    folders: Sequence[str] = (store.POLICIES, store.STATES, store.SNAPSHOTS),
) -> None:
    """Copy what a directory has of some runs to another in which they have other places, old -> new.

    folders: of policies, final states and snapshots.
    """
    for folder in folders:
        for path in sorted((source / folder).glob("*.npz")):
            with store.opened(path) as content:
                indices = content[_OF_RUNS].tolist()
                rows = [row for row, index in enumerate(indices) if index in places]
                arrays = {name: content[name][rows] for name in content.files}
            if not rows:
                continue
            arrays[_OF_RUNS] = np.asarray([places[indices[row]] for row in rows], np.int64)
            (target / folder).mkdir(exist_ok=True)
            store.write_atomically(target / folder / f"{prefix}{path.name}", partial(_write, arrays))


def _write(arrays: Mapping[str, np.ndarray], file: IO[bytes]) -> None:
    np.savez(file, **arrays)  # pyright: ignore


def _parsed(name: str, value: Any) -> Any:
    """An attribute of a dataset as provenance.json has it: what is no text was written as JSON."""
    if name in ("merged", "extended", "continued"):
        return [{key: x for key, x in own.items() if key != "sweep"} for own in json.loads(value)]
    try:
        return json.loads(value) if name.startswith(("seconds_", "num_")) else value
    except ValueError:
        return value
