"""The directory of a sweep: its resolved plan, what its runs have measured so far, and the labelled dataset.

    sweep.json              the resolved sweep: `parse_sweep` of it gives the sweep back
    provenance.json         versions, device, flags, commit, command, times
    layout.json             the chunks: which runs are computed together; and the memory they were laid out for
    parts/CHUNK/00000.npz   metrics of a chunk at log point 0, before training; written as they come: `names` [M],
                            `values` [S, M], and spectra [S, D] by name
    checkpoints/CHUNK/00012.npz  complete state of a chunk after its first 12 log points (checkpoints.py)
    policies/CHUNK.npz      final parameters of a chunk (policies.py); a chunk that has them is done
    results.nc              everything, labelled; parts and checkpoints are deleted once it is written

Every file is written under a temporary name and then renamed, so that whatever has its name is whole. Imports no JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from purejaxppo.errors import ConfigError, RunError
from purejaxppo.results.dataset import GroupResult, load, save, sync_and_rename, to_dataset
from purejaxppo.sweep.plan import Group, Run, Sweep, make_groups, parse_sweep, to_json

if TYPE_CHECKING:
    from purejaxppo.metrics import Metrics

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SWEEP, PROVENANCE, LAYOUT, RESULTS = "sweep.json", "provenance.json", "layout.json", "results.nc"
PARTS, CHECKPOINTS, POLICIES, LOCK = "parts", "checkpoints", "policies", ".lock-"
# Facts that need not be the same when a sweep goes on; the bits depend on all others.
PASSING = ("created", "command", "git_commit", "python", "seconds_total", "seconds_compiling", "continued")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Runs `first` to `stop` (excluded) of a group, computed together in a program of `width` runs."""

    name: str
    group: int
    first: int
    stop: int
    width: int

    def runs(self, groups: Sequence[Group]) -> tuple[Run, ...]:
        """The runs of this chunk."""
        return groups[self.group].runs[self.first : self.stop]


def make_chunks(group_number: int, first: int, stop: int, width: int, *, first_number: int = 0) -> list[Chunk]:
    """Runs `first` to `stop` of a group in chunks of `width`; the last one may have fewer runs."""
    chunks = []
    for number, start in enumerate(range(first, stop, width), first_number):
        name, end = f"{group_number:04d}-{number:04d}", min(start + width, stop)
        chunks.append(Chunk(name=name, group=group_number, first=start, stop=end, width=width))
    return chunks


def is_started(out: Path) -> bool:
    """Whether a directory holds a sweep, finished or not."""
    return os.path.isfile(out / SWEEP)  # of a path that cannot be, or be looked at, it says no


def create(out: Path, sweep: Sweep) -> None:
    """Make the directory of a new sweep.

    Raises ConfigError when it cannot be written or holds something already: nothing is ever overwritten.
    """
    try:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"out is {out}, which is a file, but must be a new or empty directory.")
        if out.is_dir() and any(path.name != f".{SWEEP}.tmp" for path in out.iterdir()):  # a killed start leaves that
            raise ConfigError(
                f"out is {out}, which holds something that is not a sweep, but must be a new or empty directory."
            )
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / SWEEP, to_json(sweep))
    except OSError as error:
        raise ConfigError(f"out is {out}, which cannot be written: {error.strerror}.") from None


def check_same(out: Path, sweep: Sweep, facts: dict[str, Any], *, is_forced: bool) -> None:
    """Compare a sweep that is to go on with what its directory says.

    Raises ConfigError that says what differs: in the sweep always, in versions, flags and devices unless forced.
    """
    changes = _changes(_flat(to_json(read_sweep(out))), _flat(to_json(sweep)))
    if changes:
        raise ConfigError(
            f"out is {out}, which holds another sweep: {changes}; use another directory, or continue the one that is "
            f"there with: purejaxppo resume {out}"
        )
    if not (out / PROVENANCE).is_file() or (out / RESULTS).is_file():
        return
    known = read_json(out / PROVENANCE)
    latest = {name: x for name, x in (known | (known.get("continued") or [{}])[-1]).items() if name not in PASSING}
    changes = _changes(latest, {name: value for name, value in facts.items() if name not in PASSING})
    if changes and not is_forced:
        raise ConfigError(
            f"out is {out}, which was begun elsewhere or with other versions: {changes}; results would differ in their "
            "bits, so going on needs --force."
        )


def note_continuation(out: Path, facts: dict[str, Any]) -> None:
    """Keep under which circumstances a sweep went on."""
    if (out / PROVENANCE).is_file():
        known = read_json(out / PROVENANCE)
        write_json(out / PROVENANCE, known | {"continued": [*known.get("continued", []), facts]})


def note_seconds(out: Path, total: float, compiling: float) -> None:
    """Add the time of this process to what earlier ones took; what a SIGKILL ends is not counted."""
    known = read_json(out / PROVENANCE)
    seconds = {"seconds_total": total, "seconds_compiling": compiling}
    write_json(out / PROVENANCE, known | {name: known.get(name, 0.0) + value for name, value in seconds.items()})


def _changes(there: dict[str, Any], here: dict[str, Any]) -> str:
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return ", ".join(f"{name} ({there.get(name)} there, {here.get(name)} here)" for name in names)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def write_layout(out: Path, chunks: Sequence[Chunk], budget: int | None) -> None:
    """Keep which runs are computed together, and how many bytes a program may take; resumed, it does the same."""
    layout = {"memory": budget, "first_log_point": 0, "chunks": [dataclasses.asdict(chunk) for chunk in chunks]}
    write_json(out / LAYOUT, layout)


def read_layout(out: Path) -> list[Chunk] | None:
    """The chunks of a sweep, or None where it has not come to that.

    Raises ConfigError for a damaged file, and for that of an earlier version, whose log points are numbered otherwise.
    """
    if not (out / LAYOUT).is_file():
        return None
    layout = read_json(out / LAYOUT)
    try:
        chunks = [Chunk(**chunk) for chunk in layout["chunks"]]
    except (KeyError, TypeError):
        raise ConfigError(f"file {out / LAYOUT} is damaged: it does not list chunks.") from None
    if chunks and "first_log_point" not in layout:
        raise ConfigError(f"directory {out} was begun by an earlier version and is not finished; finish it with that.")
    return chunks


def is_of_version_0_1(out: Path) -> bool:
    """Whether a sweep was laid out by the version that had no log point 0, and elapsed time in [0, 1]."""
    return (out / LAYOUT).is_file() and "first_log_point" not in read_json(out / LAYOUT)


def read_budget(out: Path) -> int | None:
    """Bytes that a sweep's programs may take, as its layout says; None where nobody knew."""
    return read_json(out / LAYOUT).get("memory")


def is_done(out: Path, chunk: Chunk) -> bool:
    """Whether all log points of a chunk and its final parameters are on disk."""
    return (out / POLICIES / f"{chunk.name}.npz").is_file()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain data atomically."""
    text = json.dumps(content, indent=2, default=str)
    write_atomically(path, lambda file: file.write(text.encode()))


def write_part(out: Path, chunk: Chunk, log_point: int, metrics: Metrics) -> None:
    """Keep the metrics of a chunk at one log point: as the few arrays that they are, an array a metric takes 8 times as
    long to write, and 20 times as long to read.
    """
    folder = out / PARTS / chunk.name
    folder.mkdir(parents=True, exist_ok=True)
    names = np.array(metrics.names, dtype=bytes)
    write_atomically(
        folder / f"{log_point:05d}.npz",
        lambda file: np.savez(file, names=names, values=metrics.values, **metrics.spectra),  # pyright: ignore
    )


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name beside it, force it to the disk, and rename it; raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
        sync_and_rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk it would take the room that it needs itself
        raise


@contextlib.contextmanager
def lock(out: Path, process_index: int) -> Iterator[None]:
    """Keep other processes from computing the same sweep; the system lets go when this one ends, however it does.

    Raises ConfigError when another one holds the lock. Does nothing where the system has no such locks.
    """
    if fcntl is None:
        yield
        return
    with open(out / f"{LOCK}{process_index}", "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"out is {out}, where another process is computing this sweep right now.") from None
        except OSError:  # a file system without locks
            pass
        yield


def finish(out: Path) -> xr.Dataset:
    """Assemble the parts into results.nc and delete what it replaces; returns the dataset.

    Raises RunError when a log point of any chunk is missing: then nothing is deleted.
    """
    groups = make_groups(read_sweep(out))
    for chunk in read_layout(out) or []:
        found, expected = _num_parts(out, chunk), 1 + groups[chunk.group].config.num_logs
        if found != expected:
            raise RunError(
                f"folder {out / PARTS / chunk.name} has metrics of {found} log points and then a gap, but should have "
                f"{expected}; to compute these runs again, delete it and {out / POLICIES / chunk.name}.npz."
            )
    save(assemble(out), out / RESULTS)
    clean(out)
    return load(out / RESULTS)


def clean(out: Path) -> None:
    """Delete what results.nc replaces, and what a killed process left half written."""
    for folder in (PARTS, CHECKPOINTS):
        shutil.rmtree(out / folder, ignore_errors=True)
    litter = [*out.glob(".*.tmp"), *out.glob(".*.partial"), *(out / POLICIES).glob(".*.tmp"), *out.glob(f"{LOCK}*")]
    for path in litter:
        path.unlink(missing_ok=True)


def load_results(out: str | Path) -> xr.Dataset:
    """The dataset of a sweep's directory (or of a results.nc), finished or still running.

    Metrics are read when they are asked for; `.load()` reads all. Raises ConfigError when there is none.
    """
    path = Path(out)
    if os.path.isfile(path):
        return load(path)
    if os.path.isfile(path / RESULTS):
        return load(path / RESULTS)
    if is_started(path):
        return assemble(path)
    raise ConfigError(f"directory {path} holds no results of a sweep (no {RESULTS} and no {SWEEP}).")


def assemble(out: Path) -> xr.Dataset:
    """The dataset from all parts written so far."""
    sweep = read_sweep(out)
    attributes = read_json(out / PROVENANCE) if (out / PROVENANCE).is_file() else {}
    groups, chunks = make_groups(sweep), read_layout(out) or []
    results = []
    for number in range(len(groups)):
        alike: dict[Any, list[_Parts]] = {}
        for chunk in [chunk for chunk in chunks if chunk.group == number]:
            if num_points := _num_parts(out, chunk):
                parts = _Parts(out, chunk, num_points)
                alike.setdefault((num_points, frozenset(parts.widths)), []).append(parts)
        # One, unless the sweep is still running, or was forced on by a version that measures something else.
        results += [_group_result(parts, number, groups, sweep) for parts in alike.values()]
    if not results:
        raise ConfigError(f"directory {out} holds no log point yet: its first one is still being computed.")
    attributes |= {"name": sweep.name, "sweep": json.dumps(to_json(sweep))}
    return to_dataset(results, attributes)


def read_sweep(out: Path) -> Sweep:
    """The sweep of a directory; raises ConfigError when there is none or it is damaged."""
    if not is_started(out):
        raise ConfigError(f"directory {out} is not a sweep's: {SWEEP} is missing.")
    return parse_sweep(read_json(out / SWEEP))


def read_json(path: Path) -> dict[str, Any]:
    """Plain data from a file that this module wrote; raises ConfigError when it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"file {path} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise ConfigError(f"file {path} is damaged: it is not valid JSON.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"file {path} is damaged: it is not a table.")
    return content


def _num_parts(out: Path, chunk: Chunk) -> int:
    """Log points of a chunk on disk, from the first one up to the first gap."""
    names = {path.name for path in (out / PARTS / chunk.name).glob("*.npz")}
    return next(number for number in itertools.count() if f"{number:05d}.npz" not in names)


class _Parts:
    """What a chunk has measured so far: the metrics in the files of its log points.

    widths: name -> () of a number, (D,) of a spectrum; not every log point has all of them.
    """

    def __init__(self, out: Path, chunk: Chunk, num_points: int):
        self.chunk, self.num_points = chunk, num_points
        self.widths: dict[str, tuple[int, ...]] = {}
        self._folder, self._kept = out / PARTS / chunk.name, (range(0), np.zeros(0))
        for point in range(num_points):
            with self._opened(point) as part:
                self.widths |= dict.fromkeys(_numbers_in(part), ())
                spectra = [name for name in part.files if name not in {*self.widths, "names", "values"}]
                self.widths |= {name: part[name].shape[1:] for name in spectra}

    def read(self, name: str, points: range) -> np.ndarray:
        """A metric at some log points, [S, L] or [S, L, D]; NaN where one lacks it.

        All numbers at the log points asked for last are kept, as whoever wants one wants others too.
        """
        num_runs = self.chunk.stop - self.chunk.first
        if not self.widths[name]:
            numbers = [number for number, width in self.widths.items() if not width]
            if self._kept[0] != points:
                self._kept = (range(0), np.zeros(0))  # lets go of them first
                self._kept = (points, self._table(points, numbers))
            return self._kept[1][:, :, numbers.index(name)].T
        spectra = np.full((num_runs, len(points), *self.widths[name]), np.nan, np.float32)
        for place, point in enumerate(points):
            with self._opened(point) as part:
                if name in part:
                    spectra[:, place] = part[name]
        return spectra

    def _table(self, points: range, numbers: list[str]) -> np.ndarray:
        """All numbers at some log points, [L, S, M]."""
        table = np.full((len(points), self.chunk.stop - self.chunk.first, len(numbers)), np.nan, np.float32)
        for place, point in enumerate(points):
            with self._opened(point) as part:
                there = _numbers_in(part)
                values = part["values"] if "values" in part else np.stack([part[name] for name in there], axis=1)
                if there == numbers[: len(there)]:  # as nearly always, and then ten times as fast
                    table[place, :, : len(there)] = values
                else:
                    table[place][:, [numbers.index(name) for name in there]] = values
        return table

    @contextlib.contextmanager
    def _opened(self, point: int) -> Iterator[Any]:
        path = self._folder / f"{point:05d}.npz"
        try:
            with open(path, "rb") as file, np.load(file) as content:
                yield content
        except FileNotFoundError:
            raise ConfigError(
                f"file {path} is gone: the sweep has ended since its results were loaded; load them again."
            ) from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"file {path} is damaged and cannot be read.") from error


def _numbers_in(part: Any) -> list[str]:
    """Names of the metrics that are one number a run; earlier versions wrote each as an array of its own."""
    if "names" in part:
        return part["names"].astype(str).tolist()
    return [name for name in part.files if part[name].ndim == 1]


@dataclass(frozen=True)
class _Metric:
    """A metric of chunks that have come equally far, their runs below each other: [S, L] or [S, L, D]."""

    name: str
    parts: Sequence[_Parts]
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        num_runs = sum(parts.chunk.stop - parts.chunk.first for parts in self.parts)
        return num_runs, self.parts[0].num_points, *self.parts[0].widths[self.name]

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        runs, logs, *rest = key
        points = range(self.parts[0].num_points)[logs]
        values = np.concatenate([parts.read(self.name, points) for parts in self.parts])
        return values[(runs, slice(None), *rest)]


def _group_result(parts: Sequence[_Parts], group: int, groups: Sequence[Group], sweep: Sweep) -> GroupResult:
    """Chunks of a group with the same log points and metrics, below each other."""
    runs = [run for own in parts for run in own.chunk.runs(groups)]
    num_points = parts[0].num_points
    return GroupResult(
        metrics={name: _Metric(name, parts) for name in parts[0].widths if name != "status"},
        env_steps=np.arange(num_points) * groups[group].config.steps_per_log,
        seeds=np.asarray([run.seed for run in runs]),
        swept={name: [run.point[name] for run in runs] for name in sweep.swept},
        status=_Metric("status", parts)[:, num_points - 1 :][:, 0].astype(np.int32),
        run_index=np.asarray([run.index for run in runs]),
    )
