"""The directory of a sweep: its resolved plan, what its runs have measured so far, and the labelled dataset.

    sweep.json              the resolved sweep: `parse_sweep` of it gives the sweep back
    provenance.json         versions, device, flags, commit, command, times
    layout.json             the chunks: which runs are computed together; and the memory they were laid out for
    parts/CHUNK/00000.npz   metrics of a chunk at log point 0, before training; written as they come (parts.py)
    checkpoints/CHUNK/00012.npz  complete state of a chunk after its first 12 log points (checkpoints.py)
    policies/CHUNK.npz      final parameters of a chunk (policies.py); a chunk that has them is done
    snapshots/CHUNK-00012.npz  networks of a chunk at log point 12, where num_snapshots says so (snapshots.py)
    states/CHUNK.npz        complete final state of a chunk, from which an extension goes on
    extension/              the larger sweep that this one becomes, while it is computed (extend.py)
    .extension.new/         the same, until all that it takes over has been copied
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
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo import own
from purejaxppo.errors import ConfigError, RunError
from purejaxppo.results.concat import concat
from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.results.files import DAMAGED, load, save, writable, write_atomically
from purejaxppo.results.pieces import Piece, after, below, pick
from purejaxppo.sweep.parts import Parts, PartsMetric, count_parts
from purejaxppo.sweep.plan import Group, Run, Sweep, make_groups, own_modules, parse_sweep, to_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SWEEP, PROVENANCE, LAYOUT, RESULTS = "sweep.json", "provenance.json", "layout.json", "results.nc"
PARTS, CHECKPOINTS, POLICIES, STATES, LOCK = "parts", "checkpoints", "policies", "states", ".lock-"
SNAPSHOTS, EXTENSION, BEGUN, KEPT = "snapshots", "extension", ".extension.new", "kept.json"
# Facts that need not be the same when a sweep goes on; the bits depend on all others.
PASSING = (
    "created",
    "command",
    "git_commit",
    "python",
    "seconds_total",
    "seconds_compiling",
    "continued",
    "merged",
    "extended",
)
OWN_METRICS = "own_metrics"  # rows of metrics of the user's own, from the sources that are compared


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Runs of a group, computed together in a program of `width` runs; by their places in the sweep."""

    name: str
    group: int
    indices: tuple[int, ...]
    width: int
    start: int = 0
    """0, or the log point at which these runs had ended before they were extended: they go on from its state."""

    def runs(self, groups: Sequence[Group]) -> tuple[Run, ...]:
        """The runs of this chunk."""
        place = {run.index: run for run in groups[self.group].runs}
        return tuple(place[index] for index in self.indices)

    @property
    def num_runs(self) -> int:
        """Runs, without the padding."""
        return len(self.indices)

    @property
    def first_log_point(self) -> int:
        """The first log point that is computed: the one before training, or the one after `start`."""
        return self.start + 1 if self.start else 0


def make_chunks(
    group_number: int, indices: Sequence[int], width: int, *, first_number: int = 0, start: int = 0
) -> list[Chunk]:
    """Some runs of a group in chunks of `width`; the last one may have fewer runs."""
    chunks = []
    for number, first in enumerate(range(0, len(indices), width), first_number):
        name, own = f"{group_number:04d}-{number:04d}", tuple(indices[first : first + width])
        chunks.append(Chunk(name=name, group=group_number, indices=own, width=width, start=start))
    return chunks


def is_started(out: Path) -> bool:
    """Whether a directory holds a sweep, finished or not."""
    return os.path.isfile(out / SWEEP)  # of a path that cannot be, or be looked at, it says no


def is_extending(out: Path) -> bool:
    """Whether a directory is being extended, by a process that runs or by one that was stopped."""
    return is_started(out / EXTENSION) or is_being_replaced(out)


def is_being_replaced(out: Path) -> bool:
    """Whether a whole extension takes the place of what is in a directory, or is to do so."""
    return os.path.isfile(out / EXTENSION / RESULTS)


def check_settled(out: Path) -> None:
    """Raise ConfigError where some files of a directory may be of a sweep and others of its extension."""
    if is_being_replaced(out):
        raise ConfigError(
            f"directory {out} is being replaced by its extension; finish that with: purejaxppo resume {out}"
        )


def check_out(out: Path) -> None:
    """Raise ConfigError where a directory is not new or empty: nothing is ever overwritten."""
    if (shown := str(out.absolute())) != writable(shown):
        raise ConfigError(f"out is {writable(shown)}, but must be a path of UTF-8 text: netCDF writes to no other.")
    try:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"out is {out}, which is a file, but must be a new or empty directory.")
        if out.is_dir() and any(path.name != f".{SWEEP}.tmp" for path in out.iterdir()):  # a killed start leaves that
            raise ConfigError(
                f"out is {out}, which holds something that is not a sweep, but must be a new or empty directory."
            )
    except OSError as error:
        raise ConfigError(f"out is {out}, which cannot be written: {error.strerror}.") from None


def create(out: Path, sweep: Sweep) -> None:
    """Make the directory of a new sweep; raises ConfigError as `check_out` does, and when it cannot be written."""
    check_out(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_sweep(out, sweep)
    except OSError as error:
        raise ConfigError(f"out is {out}, which cannot be written: {error.strerror}.") from None


def write_sweep(out: Path, sweep: Sweep) -> None:
    """Keep the resolved sweep, and where the user's own modules are found."""
    folder = {"folder": sweep.folder} if own_modules(sweep) else {}
    write_json(out / SWEEP, folder | to_json(sweep))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The arrays of a file of policies or states; raises ConfigError when it is damaged."""
    try:
        with open(path, "rb") as file, np.load(file) as content:
            yield content
    except (ConfigError, RunError):
        raise
    except (OSError, *DAMAGED) as error:
        raise ConfigError(f"file {path} is damaged and cannot be read.") from error


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
    if not (out / RESULTS).is_file():
        check_facts(out, facts, is_forced=is_forced)


def check_facts(out: Path, facts: dict[str, Any], *, is_forced: bool) -> None:
    """Raise ConfigError, unless forced, where versions, flags or devices differ from those of a directory."""
    if not (out / PROVENANCE).is_file():
        return
    known = read_json(out / PROVENANCE)
    latest = known | (known.get("continued") or [{}])[-1]
    latest, here = ({k: x for k, x in told.items() if k not in (*PASSING, OWN_METRICS)} for told in (latest, facts))
    changes = _changes(latest, here)
    if changes and not is_forced:
        raise ConfigError(
            f"out is {out}, which was begun elsewhere or with other versions: {changes}; results would differ in their "
            "bits, so going on needs --force."
        )


def read_provenance(out: Path) -> dict[str, Any]:
    """What a directory says of the processes that computed it; nothing where that is lost."""
    return read_json(out / PROVENANCE) if os.path.isfile(out / PROVENANCE) else {}  # False for impossible paths


def warn_of_other_sources(out: Path, sweep: Sweep) -> None:
    """Say so where the user's own modules are not those that the sweep was run with."""
    known = read_provenance(out)
    known |= (known.get("continued") or [{}])[-1]
    now = own.sources(own_modules(sweep), is_to_run=False)
    changed = [name for name, code in now.items() if known.get(name, code) != code]
    for name in changed:
        module = name.removeprefix("source_of_")
        warnings.warn(f"the source of {module} has changed since the sweep in {out} was run with it.", stacklevel=2)


def note_continuation(out: Path, facts: dict[str, Any]) -> None:
    """Keep under which circumstances a sweep went on."""
    if (out / PROVENANCE).is_file():
        known = read_json(out / PROVENANCE)
        write_json(out / PROVENANCE, known | {"continued": [*known.get("continued", []), facts]})


def note_seconds(out: Path, total: float, compiling: float) -> None:
    """Add the time of this process to what earlier ones took; what a SIGKILL ends is not counted."""
    known = read_provenance(out)
    seconds = {"seconds_total": total, "seconds_compiling": compiling}
    write_json(out / PROVENANCE, known | {name: known.get(name, 0.0) + value for name, value in seconds.items()})


def _changes(there: dict[str, Any], here: dict[str, Any]) -> str:
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return ", ".join(f"{name} ({_difference(name, there.get(name), here.get(name))})" for name in names)


def _difference(name: str, there: Any, here: Any) -> str:
    """Both values; of long lists how many they have, and the first item that differs."""
    told = f"{there} there, {here} here"
    if not isinstance(there, list) or not isinstance(here, list) or len(told) < 200:
        return told
    pairs = itertools.zip_longest(there, here, fillvalue="none")
    number, (one, other) = next((number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1])
    return f"{len(there)} there, {len(here)} here; {name}[{number}] is {one} there, {other} here"


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
        chunks = [_read_chunk(chunk, out) for chunk in layout["chunks"]]
    except (KeyError, TypeError):
        raise ConfigError(f"file {out / LAYOUT} is damaged: it does not list chunks.") from None
    if chunks and "first_log_point" not in layout:
        raise ConfigError(f"directory {out} was begun by an earlier version and is not finished; finish it with that.")
    return chunks


def _read_chunk(content: dict[str, Any], out: Path) -> Chunk:
    """A chunk as it was written; earlier versions wrote positions in its group, `first` to `stop` (excluded)."""
    if "first" in content:
        span = slice(content.pop("first"), content.pop("stop"))
        runs = make_groups(read_sweep(out))[content["group"]].runs[span]
        content["indices"] = [run.index for run in runs]
    content["indices"] = tuple(content["indices"])
    return Chunk(**content)


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


@contextlib.contextmanager
def lock(out: Path, process_index: int) -> Iterator[None]:
    """Keep other processes from computing the same sweep; the system lets go when this one ends, however it does.

    Raises ConfigError when another one holds the lock, RunError when the directory cannot be written. Does nothing
    where the system has no such locks.
    """
    if fcntl is None:
        yield
        return
    path, is_ours = out / f"{LOCK}{process_index}", True
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunError(f"directory {out} cannot be written: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.fstat(handle), path.stat())
        except (BlockingIOError, FileNotFoundError):  # who had it may have just deleted the file that was opened
            is_ours = False
        except OSError:  # a file system without locks
            pass
        if not is_ours:
            raise ConfigError(f"out is {out}, where another process is computing this sweep right now.")
        yield
    finally:
        if is_ours:
            path.unlink(missing_ok=True)
        os.close(handle)


def finish(out: Path) -> xr.Dataset:
    """Assemble the parts into results.nc and delete what it replaces; returns the dataset.

    Raises RunError when a log point of any chunk is missing: then nothing is deleted.
    """
    groups = make_groups(read_sweep(out))
    for chunk in read_layout(out) or []:
        found = count_parts(out / PARTS / chunk.name, chunk.first_log_point)
        expected = 1 + groups[chunk.group].config.num_logs - chunk.first_log_point
        if found != expected:
            raise RunError(
                f"folder {out / PARTS / chunk.name} has metrics of {found} log points and then a gap, but should have "
                f"{expected}; to compute these runs again, delete it and {out / POLICIES / chunk.name}.npz."
            )
    for path in out.glob(f".{RESULTS}.*.partial"):  # of a process that was killed: as large as what is to be written
        path.unlink(missing_ok=True)
    save(assemble(out), out / RESULTS)
    clean(out)
    return load(out / RESULTS)


def clean(out: Path) -> None:
    """Delete what results.nc replaces, and what a killed process left half written."""
    for folder in (PARTS, CHECKPOINTS, *(() if is_extending(out) else (EXTENSION,))):
        shutil.rmtree(out / folder, ignore_errors=True)
    litter = [*out.glob(".*.tmp"), *out.glob(".*.partial"), *out.glob(f"{LOCK}*")]
    for folder in (POLICIES, STATES, SNAPSHOTS):
        litter += (out / folder).glob(".*.tmp")
    for path in litter:
        path.unlink(missing_ok=True)


def load_results(out: str | Path) -> xr.Dataset:
    """The dataset of a sweep's directory (or of a results.nc), finished or still running.

    Metrics are read when they are asked for; `.load()` reads all. Raises ConfigError when there is none.
    """
    path = Path(out).expanduser()
    if os.path.isfile(path):
        return load(path)
    if os.path.isfile(path / RESULTS):
        return load(path / RESULTS)
    if is_started(path):
        return assemble(path)
    raise ConfigError(f"directory {path} holds no results of a sweep (no {RESULTS} and no {SWEEP}).")


def load_several(paths: Sequence[str | Path]) -> xr.Dataset:
    """The dataset of one directory, or of several together (see `concat`), by their names if nothing else differs.

    Raises ConfigError as `load_results` and `concat` do, and without any directory.
    """
    if not paths:
        raise ConfigError("directory is missing, but must be one directory of a sweep, or several.")
    return concat([load_results(path) for path in paths], names_of(paths))


def names_of(paths: Sequence[str | Path]) -> list[str]:
    """What several directories are called: by the last part of their paths where that tells them apart."""
    folders = [Path(path).parent if Path(path).name == RESULTS else Path(path) for path in paths]
    short = [folder.absolute().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def assemble(out: Path) -> xr.Dataset:
    """The dataset from all parts written so far, and from what an extension keeps of the results before it."""
    sweep = read_sweep(out)
    attributes = read_provenance(out)
    groups, chunks = make_groups(sweep), read_layout(out) or []
    kept = _read_kept(out)
    pieces: dict[int, list[Piece]] = {number: [] for number in range(len(groups))}
    for chunk in chunks:
        own = kept.pieces([index for index in chunk.indices if index in kept.places])
        kept = kept.without(chunk.indices)
        parts = Parts(out / PARTS / chunk.name, chunk.num_runs, chunk.first_log_point)
        if parts.num_points:
            piece = _piece_of(parts, chunk, groups[chunk.group])
            own = [after(own[0], piece)] if own else [piece]
        pieces[chunk.group] += own
    for number, group in enumerate(groups):
        pieces[number] += kept.pieces([run.index for run in group.runs if run.index in kept.places])
    results = gather(list(pieces.values()), sweep)
    if not results:
        raise ConfigError(f"directory {out} holds no log point yet: its first one is still being computed.")
    attributes |= {"name": sweep.name, "sweep": json.dumps(to_json(sweep))}
    rows: dict[str, Any] = attributes.pop(OWN_METRICS, {})
    for facts in attributes.get("continued", []):
        rows |= facts.get(OWN_METRICS, {})
    return to_dataset(results, attributes, own_rows=rows)


def gather(pieces: Sequence[Sequence[Piece]], sweep: Sweep) -> list[GroupResult]:
    """What `to_dataset` takes, from the pieces of each group of a sweep."""
    place = {run.index: run for group in make_groups(sweep) for run in group.runs}
    results = []
    for of_group in pieces:
        grids: dict[bytes, list[Piece]] = {}
        for piece in of_group:
            grids.setdefault(piece.env_steps.astype(np.int64).tobytes(), []).append(piece)
        for piece in map(below, grids.values()):  # one, unless the sweep is still running
            runs = [place[index] for index in piece.run_index.tolist()]
            results.append(
                GroupResult(
                    env_steps=piece.env_steps,
                    seeds=np.asarray([run.seed for run in runs]),
                    swept={name: [run.point[name] for run in runs] for name in sweep.swept},
                    status=piece.status.astype(np.int32),
                    run_index=piece.run_index,
                    metrics=piece.metrics,
                )
            )
    return results


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What an extension keeps of the results before it: of each run, by its new place in the sweep, its position."""

    dataset: xr.Dataset | None
    places: dict[int, int]

    def pieces(self, indices: Sequence[int]) -> list[Piece]:
        """Some of these runs."""
        if not indices or self.dataset is None:
            return []
        return pick(self.dataset, np.asarray([self.places[index] for index in indices]), np.asarray(indices))

    def without(self, indices: Sequence[int]) -> _Kept:
        """All but some runs."""
        others = self.places.keys() - set(indices)
        return _Kept(dataset=self.dataset, places={new: row for new, row in self.places.items() if new in others})


def _read_kept(out: Path) -> _Kept:
    if not (out / KEPT).is_file():
        return _Kept(dataset=None, places={})
    dataset = load(out.parent / RESULTS)
    row = {index: row for row, index in enumerate(dataset["run_index"].values.tolist())}
    return _Kept(dataset=dataset, places={new: row[old] for old, new in read_kept(out)})


def read_kept(out: Path) -> list[tuple[int, int]]:
    """Of each run that an extension keeps its place in the sweep before and in the sweep that it becomes."""
    return [(old, new) for old, new in read_json(out / KEPT)["runs"]] if (out / KEPT).is_file() else []


def read_sweep(out: Path) -> Sweep:
    """The sweep of a directory; raises ConfigError when there is none or it is damaged."""
    if not is_started(out):
        raise ConfigError(f"directory {out} is not a sweep's: {SWEEP} is missing.")
    content = read_json(out / SWEEP)
    return parse_sweep(content, folder=content.pop("folder", None))


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


def _piece_of(parts: Parts, chunk: Chunk, group: Group) -> Piece:
    """What a chunk has measured so far."""
    metrics = {name: PartsMetric(name, parts) for name in parts.widths}
    points = chunk.first_log_point + np.arange(parts.num_points)
    return Piece(
        run_index=np.asarray(chunk.indices),
        env_steps=points * group.config.steps_per_log,
        status=metrics.pop("status")[:, -1:][:, 0].astype(np.int32),
        metrics=metrics,
    )
