"""A finished sweep is extended: only what is missing is computed.

The sweep that it becomes is computed in DIR/extension, a directory like any other (stopped, killed, it goes on), which
keeps the runs that are there (kept.json says which); when it is whole it takes the place of what was in DIR. Whoever
does any of that holds the lock on DIR.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import xarray as xr

from purejaxppo.errors import ConfigError, RunError
from purejaxppo.sweep import checkpoints, engine, store
from purejaxppo.sweep.extended import compared, planned
from purejaxppo.sweep.memory import parse_memory
from purejaxppo.sweep.merge import carry
from purejaxppo.sweep.plan import Sweep, check_effects, make_groups
from purejaxppo.sweep.program import learner_of

SMALLER = "smaller"
"""Folder of what was drawn and written of a sweep before it was extended."""
_PICTURES = (".pdf", ".png", ".svg", ".gif")
_FOLDERS = ("export", engine.TENSORBOARD)
# How the names of the tables and pages begin that commands write into a sweep's directory.
_TABLES = ("summary", "compare", "claims", "evaluation", "rediagnosed", "report")


def extend_sweep(
    out: str | Path,
    *,
    seeds: int | Sequence[int] | None = None,
    total_steps: int | None = None,
    add: Mapping[str, Sequence[Any]] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Compute what the finished sweep of a directory lacks, and return the dataset of all.

    seeds, add: see `extended`. total_steps: all runs go on from their final states to so many environment steps,
    rounded up to whole log intervals of the length that they have. options: those of `run_sweep`.
    Raises ConfigError as `extended`, `lengthened` and `grow` do.
    """
    sweep = store.read_sweep(Path(out).expanduser())
    grown = planned(sweep, seeds=seeds, total_steps=total_steps, add=add)
    return grow(grown, out, **options)


def grow(
    sweep: Sweep,
    out: str | Path,
    *,
    memory: int | str | None = None,
    is_forced: bool = False,
    tensorboard: bool = False,
    is_quiet: bool = False,
    is_kept: bool = True,
) -> xr.Dataset:
    """Make a finished directory that of a larger sweep, or go on doing so; options as in `run_sweep`.

    Raises ConfigError for a directory that is not finished, is being extended otherwise, or was computed elsewhere or
    by other versions (unless forced), or is in the hands of another process, and where final states are needed that
    were not kept; RunError as `run_sweep` does.
    """
    out, size = Path(out).expanduser(), None if memory is None else parse_memory(memory)
    with engine.ONE_SWEEP:
        sweep = engine.checked(sweep, tensorboard=tensorboard)
        if not (out / store.RESULTS).is_file():
            store.read_sweep(out)
            raise ConfigError(f"directory {out} is not finished; finish it with: purejaxppo resume {out}")
        with store.lock(out, jax.process_index()):
            return _grow(sweep, out, size, is_forced, tensorboard, is_quiet, is_kept)


def _grow(
    sweep: Sweep, out: Path, memory: int | None, is_forced: bool, tensorboard: bool, is_quiet: bool, is_kept: bool
) -> xr.Dataset:
    extension, here = out / store.EXTENSION, jax.process_index()
    if here > 0:
        engine.wait_until(lambda: not store.is_being_replaced(out), f"process 0 to put an extension in place in {out}")
    elif store.is_being_replaced(out):
        adopt(out)
    facts = engine.facts_of(sweep)
    kept, todo = compared(out, sweep)
    if not todo:
        return store.load_results(out)
    if store.is_started(extension):
        if store.read_sweep(extension) != sweep:
            raise ConfigError(
                f"out is {out}, which is being extended otherwise; finish that with: purejaxppo resume {out}"
            )
        store.check_same(extension, sweep, facts, is_forced=is_forced)
    elif here == 0:
        _check_what_is_new(store.read_sweep(out), sweep)
        store.check_facts(out, facts, is_forced=is_forced)
        _begin(out, sweep, kept, todo, facts)
    note = _said_of_programs(out, sweep, kept)
    work = engine.Work(facts=facts, base=out, todo=todo, note=note, first_number=_next_number(out), is_kept=is_kept)
    engine.compute(sweep, extension, work, memory=memory, tensorboard=tensorboard, is_quiet=is_quiet)
    if here == 0:
        adopt(out)
    return store.load_results(out)


def _check_what_is_new(old: Sweep, sweep: Sweep) -> None:
    """Raise ConfigError for what has no effect, unless the directory was begun with such, by an earlier version."""
    try:
        check_effects(old)
    except ConfigError:
        return
    check_effects(sweep)


def adopt(out: Path) -> None:
    """Let a whole extension take the place of what was there; killed in between, it goes on where it was."""
    extension = out / store.EXTENSION
    try:
        if store.is_started(extension):  # so nothing of it has been taken, and what is there is the smaller sweep's
            _set_aside(out)
            os.replace(extension / store.SWEEP, out / store.SWEEP)
        for folder in (store.POLICIES, store.STATES, store.SNAPSHOTS, engine.TENSORBOARD):
            before = out / f".{folder}.old"
            if (extension / folder).is_dir():
                if (out / folder).is_dir():
                    _remove(before)
                    os.replace(out / folder, before)
                os.replace(extension / folder, out / folder)
            _remove(before)
        for name in (store.LAYOUT, store.PROVENANCE, store.RESULTS):  # the results last: they say `whole`
            if (extension / name).is_file():
                os.replace(extension / name, out / name)
        _remove(extension)
    except OSError as error:
        raise RunError(
            f"directory {out} cannot be written: {error.strerror or error}; nothing is lost, continue with: "
            f"purejaxppo resume {out}"
        ) from error


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)


def _set_aside(out: Path) -> None:
    """Pictures, tables and reports of the smaller sweep go to DIR/smaller, where none is taken for the larger one's.

    What an earlier extension has left there goes into a folder of the same name in it.
    """
    collected = out / f".{SMALLER}.new"
    written = [path for path in out.iterdir() if _is_written(path)]
    if written or collected.is_dir():
        collected.mkdir(exist_ok=True)
        for path in sorted(written, key=lambda path: path.suffix != ".txt"):  # captions, while their pictures tell them
            os.replace(path, collected / path.name)
        if (out / SMALLER).is_dir():
            os.replace(out / SMALLER, collected / SMALLER)
        os.replace(collected, out / SMALLER)


def _is_written(path: Path) -> bool:
    """Whether commands have drawn, written or exported a file or folder of a sweep's directory."""
    if path.is_dir():
        return path.name in _FOLDERS
    is_page = path.suffix == ".html" and path.name.startswith("run_")
    is_caption = path.suffix == ".txt" and path.with_suffix(".svg").is_file()
    return path.suffix in _PICTURES or path.name.startswith(_TABLES) or is_page or is_caption


def _begin(out: Path, sweep: Sweep, kept: dict[int, int], todo: dict[int, int], facts: dict[str, Any]) -> None:
    """The directory of an extension, with what it takes over; it gets its name when it is whole."""
    going_on = {old for old, new in kept.items() if new in todo}
    if lacking := sorted(going_on - set(checkpoints.final_places(out / store.STATES))):
        raise ConfigError(
            f"directory {out} has no final state of run {lacking[0]}, from which it could go on: it was computed with "
            "--no-keep, or by an earlier version."
        )
    extension = out / store.BEGUN
    try:
        _remove(extension)
        _remove(out / store.EXTENSION)  # what one that has taken its place has left
        for folder in (store.POLICIES, store.STATES):
            (extension / folder).mkdir(parents=True)
        ended = {old: new for old, new in kept.items() if old not in going_on}
        carry(out, extension, ended, folders=(store.POLICIES, store.STATES))
        if (out / store.SNAPSHOTS).is_dir():
            (extension / store.SNAPSHOTS).mkdir()
            carry(out, extension, kept, folders=(store.SNAPSHOTS,))  # runs that go on keep those that they have
        store.write_json(extension / store.KEPT, {"runs": sorted(kept.items())})
        known = store.read_provenance(out)
        note = facts | {
            "extended": f"{len(kept)} runs there, {len(todo)} computed, {len(going_on)} of them from their end"
        }
        store.write_json(extension / store.PROVENANCE, known | {"continued": [*(known.get("continued") or []), note]})
        store.write_sweep(extension, sweep)
        os.replace(extension, out / store.EXTENSION)
    except OSError as error:
        shutil.rmtree(extension, ignore_errors=True)  # on a full disk it would take the room that is needed
        raise RunError(
            f"directory {out} cannot be written: {error.strerror or error}; it is as it was, extend it again."
        ) from error


def _said_of_programs(out: Path, sweep: Sweep, kept: dict[int, int]) -> str:
    """A warning where one sweep would have computed the runs that are there by another program than they were."""
    before = {run.index: group for group in make_groups(store.read_sweep(out)) for run in group.runs}
    after = {run.index: group for group in make_groups(sweep) for run in group.runs}
    pairs = {id(before[old]): (before[old], after[new]) for old, new in kept.items()}
    for one, other in (map(learner_of, pair) for pair in pairs.values()):
        if (dict(one.alternatives), one.absent) != (dict(other.alternatives), other.absent):
            return (
                "; one sweep would compute those that are there together with the new ones, by a program with more in "
                "it, and might give them other last bits"
            )
    return ""


def _next_number(out: Path) -> int:
    """The first number that no chunk of a directory has had."""
    return 1 + max((int(path.stem.split("-")[-1]) for path in (out / store.POLICIES).glob("*.npz")), default=-1)
