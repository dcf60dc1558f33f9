"""A finished sweep with more seeds, more points or more steps: what it becomes, and what is missing of that. No JAX."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from purejaxppo.errors import ConfigError
from purejaxppo.results.concat import in_order
from purejaxppo.sweep import store
from purejaxppo.sweep.plan import Run, Sweep, make_groups, parse_seeds, parse_sweep, to_json

_SPACED = ("num_plasticity_points", "num_evaluation_points", "num_snapshots")  # numbers of evenly spaced log points


def planned(
    sweep: Sweep,
    *,
    seeds: int | Sequence[int] | None = None,
    total_steps: int | None = None,
    add: Mapping[str, Sequence[Any]] | None = None,
) -> Sweep:
    """What a sweep becomes; raises ConfigError for nothing to do, and for more steps together with anything else."""
    if total_steps is not None and (seeds is not None or add):
        raise ConfigError("total_steps is given with seeds or add, but must be given alone; extend twice.")
    if total_steps is None and seeds is None and not add:
        raise ConfigError("extend has nothing to do: it must be given seeds, total_steps or add.")
    return extended(sweep, seeds, add) if total_steps is None else lengthened(sweep, total_steps)


def extended(
    sweep: Sweep, seeds: int | Sequence[int] | None = None, add: Mapping[str, Sequence[Any]] | None = None
) -> Sweep:
    """A sweep with more seeds (a number counts from 0), and with every value of `add` at all its other points.

    A field that was not swept has its value of before at the points of before. Points that make a whole product are in
    its order, so that the sweep is the one that a file would have said.
    Raises ConfigError for unknown fields and impossible values.
    """
    content = to_json(sweep)
    if seeds is not None:
        every = [*sweep.seeds, *(seed for seed in parse_seeds(seeds) if seed not in sweep.seeds)]
        content["seeds"] = sorted(every) if list(sweep.seeds) == sorted(sweep.seeds) else every
    base = dataclasses.asdict(sweep.config) | content["hparams"]
    points = content["points"]
    for field, values in (add or {}).items():
        points = [{**point, field: point.get(field, base.get(field))} for point in points]
        points += [{**point, field: value} for point in points for value in values]
        points = in_order(points, list(points[0]))
    return parse_sweep(content | {"points": points}, folder=sweep.folder)


def parse_additions(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Values of fields as the command line has them: FIELD=VALUE or FIELD=VALUE,VALUE, each as in a sweep file."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        field, sign, values = text.partition("=")
        if not sign or not field or not values:
            raise ConfigError(f"add is {text!r}, but must be FIELD=VALUE or FIELD=VALUE,VALUE.")
        try:
            parsed = tomllib.loads(f"values = [{values}]")["values"]
        except tomllib.TOMLDecodeError:
            parsed = values.split(",")  # text, without its quotes
        found[field] = found.get(field, []) + parsed
    return found


def lengthened(sweep: Sweep, total_steps: int) -> Sweep:
    """A sweep with more steps and the log intervals that it has.

    Raises ConfigError for fewer steps, for a swept number of them, where programs would need different numbers of log
    points, and where the learning rate falls: it would have fallen more slowly.
    """
    groups = make_groups(sweep)
    for field in ("total_steps", "num_log_points", *_SPACED):
        if field in sweep.swept:
            raise ConfigError(f"{field} is swept, but must be the same in all runs that are to go on.")
    if any(run.config.lr_schedule == "linear" for group in groups for run in group.runs):
        raise ConfigError(
            "lr_schedule is linear: the learning rate has fallen to 0 at total_steps, and with more of them would have "
            "fallen more slowly, so these runs cannot go on; make a new sweep."
        )
    longest = max(group.config.num_logs * group.config.steps_per_log for group in groups)
    if total_steps < longest:
        raise ConfigError(f"total_steps is {total_steps}, but must be at least {longest}, which the runs have.")
    counts = {-(-total_steps // group.config.steps_per_log) for group in groups}
    scales = {(group.config.num_logs, group.config.updates_per_log) for group in groups}
    if len(counts) > 1 or len({logs for logs, _ in scales}) > 1:
        raise ConfigError(
            "total_steps cannot grow: the programs of this sweep have log intervals of different lengths, so that they "
            "would need different numbers of log points."
        )
    (num_logs,), before = counts, groups[0].config
    points = {field: getattr(before, field) for field in _SPACED}
    for field, number in points.items():
        if number < num_logs:  # as often as before
            points[field] = round(min(number, before.num_logs) * num_logs / before.num_logs)
    config = dataclasses.replace(sweep.config, total_steps=total_steps, num_log_points=num_logs, **points)
    if any(  # of a number of steps that is no whole number of log intervals the last ones would be shorter
        dataclasses.replace(group.config, total_steps=total_steps, num_log_points=num_logs).updates_per_log
        != group.config.updates_per_log
        for group in groups
    ):
        config = dataclasses.replace(config, total_steps=num_logs * before.steps_per_log)
    return parse_sweep(to_json(dataclasses.replace(sweep, config=config)), folder=sweep.folder)


def compared(out: Path, sweep: Sweep) -> tuple[dict[int, int], dict[int, int]]:
    """What a finished directory has of a sweep: places of its runs, before -> in the sweep; and what is to be computed.

    The second is of each run of the sweep that is missing, or too short, the log point from which it goes on; 0 for one
    that begins.
    """
    there = set(store.load_results(out)["run_index"].values.tolist())
    before = [run for group in make_groups(store.read_sweep(out)) for run in group.runs if run.index in there]
    after = [run for group in make_groups(sweep) for run in group.runs]
    place = {_identity(run): run.index for run in before}
    taken = {_identity(run) for run in after}
    shorter = {_lineage(run): run for run in before if _identity(run) not in taken}
    kept, todo = {}, {}
    for run in after:
        old = shorter.get(_lineage(run))
        if _identity(run) in place:
            kept[place[_identity(run)]] = run.index
        elif old is not None and old.config.num_logs <= run.config.num_logs:
            kept[old.index] = run.index
            if old.config.num_logs < run.config.num_logs:
                todo[run.index] = old.config.num_logs
        else:
            todo[run.index] = 0
    return kept, todo


def what_is_missing(out: Path, sweep: Sweep) -> str:
    """A line about what is to be computed."""
    kept, todo = compared(out, sweep)
    if not todo:
        return f"Nothing is missing: {out} has all {len(kept)} runs."
    longer = sum(start > 0 for start in todo.values())
    parts = [f"{len(kept)} runs are there", f"{len(todo) - longer} are computed"]
    return f"Extends {out}: {', '.join(parts)}{f', {longer} go on from their end' * bool(longer)}."


def _identity(run: Run) -> tuple[Any, ...]:
    """What a run is, wherever it is listed."""
    return run.config, run.hparams, run.seed


def _lineage(run: Run) -> tuple[Any, ...]:
    """What a run is that may be longer than another, with the same log intervals."""
    at_most_one = {field: min(getattr(run.config, field), 1) for field in _SPACED}
    same = {"total_steps": run.config.steps_per_log, "num_log_points": 1, **at_most_one}
    return (dataclasses.replace(run.config, **same), *_identity(run)[1:])
