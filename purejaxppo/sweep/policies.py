"""Trained parameters on disk, readable by anybody with NumPy, and a trained policy as a function of observations.

A file holds the final parameters of the runs that were computed together, each array [S, ...] under its nested name
("params/policy/hidden_0/kernel"), the statistics of normalised observations ("observation_mean", "observation_var",
"observation_count") where there are any, which runs they are, "run_index" [S], and whether they stayed finite,
"status" [S]: a run that diverged was frozen at its last good log point, or as it was initialised, and so is its policy.
A snapshot is such a file of some log point before the end, with more in it (snapshots.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from purejaxppo.config import TrainConfig
from purejaxppo.envs.wrappers import ObservationStatistics
from purejaxppo.errors import ConfigError
from purejaxppo.networks import Params
from purejaxppo.ppo.state import Array, Learner, make_learner
from purejaxppo.results.files import DAMAGED
from purejaxppo.sweep import store
from purejaxppo.sweep.plan import Group, Run, make_groups
from purejaxppo.training.evaluation import choose_action

_PARAMS, _RUN_INDEX, _STATUS = "params/", "run_index", "status"
LOG_POINT, ORIGIN = "log_point", "origin"
_STATISTICS = ("mean", "var", "count")


@dataclass(frozen=True, kw_only=True)
class Policies:
    """Trained parameters of runs that share a configuration, as NumPy arrays [S, ...]."""

    config: TrainConfig
    runs: tuple[Run, ...]
    params: Params
    statistics: ObservationStatistics | None
    status: np.ndarray
    """0 for a sound run, else the log point at which it diverged, [S]; 0 where a file does not say."""
    log_point: np.ndarray
    """The log point of training whose policy it is, [S]."""

    @property
    def env_steps(self) -> np.ndarray:
        """Environment steps that each policy has been trained for, [S]."""
        return self.log_point * self.config.steps_per_log


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a snapshot of a run is: the file, the row of its arrays, and the log point of training."""

    path: Path
    row: int
    log_point: int


class Policy:
    """One trained policy as a function: `policy(obs, key=None) -> action`.

    obs [..., *observation_shape], as the environment gives it (of a time-aware one with the elapsed time, -1 to 1).
    Without a key the action is the mode of the distribution, with a `jax.random.key` a sample from it. Actions [...] or
    [..., A] are in the environment's own units; those of an unsquashed normal may lie outside its bounds.

    config, run: what it was trained with, for env_steps environment steps. env: its environment. diverged_at: None, or
    the log point before which the run diverged: then this is its last policy before that, not one of the end.

    Raises ConfigError for parameters of another network than the configuration's, and when called with an observation
    of another shape.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        params: Params,
        statistics: ObservationStatistics | None,
        diverged_at: int | None = None,
        env_steps: int | None = None,
    ):
        learner = make_learner(config)
        check_fit(learner, params)
        self.config, self.run, self.env, self.diverged_at = config, run, learner.env, diverged_at
        self.env_steps = env_steps
        self._params, self._statistics = params, statistics
        self._choose = jax.jit(partial(choose_action, learner))

    def __call__(self, obs: Any, key: Array | None = None) -> Array:
        obs = jnp.asarray(obs).astype(self.env.observation_dtype)
        shape = self.env.observation_shape
        if obs.shape[max(obs.ndim - len(shape), 0) :] != shape:
            raise ConfigError(
                f"obs has shape {list(obs.shape)}, but must end in {list(shape)}, the observation of {self.env.name}."
            )
        return self._choose(self._params, self._statistics, obs, key)


def check_fit(learner: Learner, params: Params, num_runs: int | None = None) -> None:
    """Raise ConfigError unless parameters (of several runs: [S, ...]) are those of the learner's networks.

    flax itself lets parameters lie that a network does not ask for, and plays with the others.
    """
    lead = () if num_runs is None else (num_runs,)
    expected = jax.eval_shape(lambda: learner.networks.init(jax.random.key(0)))
    flat: list[Any] = [flatten_dict(dict(tree), sep="/").items() for tree in (params, expected)]
    there, asked = ({name: tuple(np.shape(x)) for name, x in tree} for tree in flat)
    asked = {name: (*lead, *shape) for name, shape in asked.items()}
    for name in sorted({*there, *asked}):
        if there.get(name) != asked.get(name):
            shapes = ["none" if x is None else str(list(x[len(lead) :])) for x in (there.get(name), asked.get(name))]
            raise ConfigError(
                f"these parameters are of another network than the configuration asks for: {name} is {shapes[0]} among "
                f"them, and {shapes[1]} there."
            )


def save_policies(
    path: Path,
    run_index: Sequence[int],
    params: Mapping[str, Any],
    statistics: ObservationStatistics | None,
    status: Array | np.ndarray | None = None,
    *,
    more: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the parameters [S, ...] of runs to `path`, atomically; its folder is made if missing.

    status: [S], that of the runs' states; None says that all are sound. more: other arrays [S, ...] by name.
    """
    arrays = {_PARAMS + name: np.asarray(x) for name, x in flatten_dict(dict(params), sep="/").items()}
    if statistics is not None:
        arrays |= {f"observation_{name}": np.asarray(getattr(statistics, name)) for name in _STATISTICS}
    arrays[_RUN_INDEX] = np.asarray(run_index, np.int64)
    arrays[_STATUS] = np.zeros(len(run_index), np.int32) if status is None else np.asarray(status, np.int32)
    arrays |= more or {}
    path.parent.mkdir(parents=True, exist_ok=True)
    store.write_atomically(path, lambda file: np.savez(file, **arrays))  # pyright: ignore


def load_policies(out: str | Path, runs: Sequence[int] | None = None, snapshot: int | None = None) -> list[Policies]:
    """Trained parameters from a sweep's directory, one item per configuration that has any, runs in the sweep's order.

    runs: places in the sweep (`run_index` of the dataset); None takes all that are there. snapshot: number of the
    snapshot of each run, 0 of its initial networks; None takes the final ones.
    Raises ConfigError for a run that the sweep lacks or has not finished, or without that snapshot, where there is
    none, and for damaged files.
    """
    groups, wanted = _wanted(out := Path(out).expanduser(), runs)
    if snapshot is None:
        return _stacked(groups, _final(out, runs, wanted))
    return _stacked(groups, _of_snapshot(out, find_snapshots(out), wanted, snapshot, is_each=runs is not None))


def _wanted(out: Path, runs: Sequence[int] | None) -> tuple[list[Group], set[int]]:
    """The plan of a directory, and which of its runs are asked for; raises as `load_policies` does."""
    sweep = store.read_sweep(out)
    store.check_settled(out)
    groups = make_groups(sweep)
    if any(group.config.time_aware for group in groups) and store.is_of_version_0_1(out):
        raise ConfigError(f"directory {out} has policies of version 0.1 that saw time in [0, 1]; play them with that.")
    known = {run.index for group in groups for run in group.runs}
    if unknown := sorted({*(runs or ())} - known):
        raise ConfigError(f"run is {unknown[0]}, but the sweep in {out} has runs 0 to {len(known) - 1}.")
    store.warn_of_other_sources(out, sweep)
    return groups, known if runs is None else {*runs}


_Row = tuple[dict[str, np.ndarray], int]
"""Arrays of a file, and which row of them."""


def _final(out: Path, runs: Sequence[int] | None, wanted: set[int]) -> dict[int, _Row]:
    """The final parameters of each of the wanted runs that has any; raises as `load_policies` does."""
    files = [_read(path, wanted) for path in sorted((out / store.POLICIES).glob("*.npz"))]
    rows = [(int(index), (arrays, row)) for arrays in files for row, index in enumerate(arrays.get(_RUN_INDEX, ()))]
    place = {run: at for run, at in rows if run in wanted}
    if not place:
        raise ConfigError(f"directory {out} holds no policy of these runs yet: they are saved when their runs end.")
    if runs is not None and (missing := sorted(wanted - set(place))):
        raise ConfigError(
            f"run is {missing[0]}, but {out} does not hold its policy yet: it is saved when the run ends."
        )
    return place


def _of_snapshot(
    out: Path, found: Mapping[int, Sequence[Place]], wanted: set[int], number: int, *, is_each: bool
) -> dict[int, _Row]:
    """The parameters of each of the wanted runs that has this snapshot; raises as `load_policies` does.

    found: where the directory's snapshots are. is_each: whether all of the wanted runs must have it, not just one.
    """
    found = {run: places for run, places in found.items() if run in wanted}
    chosen = {run: places[number] for run, places in found.items() if 0 <= number < len(places)}
    if lacking := sorted(wanted - set(chosen)) if is_each else [] if chosen else sorted(found):
        last = len(found.get(lacking[0], ())) - 1
        has = f"snapshots 0 to {last}" if last >= 0 else "none yet"
        raise ConfigError(f"snapshot is {number}, but run {lacking[0]} in {out} has {has}.")
    files = {path: _read(path, wanted) for path in {place.path for place in chosen.values()}}
    return {run: (files[place.path], place.row) for run, place in chosen.items()}


def find_snapshots(out: Path, *, is_diverged: bool = False) -> dict[int, list[Place]]:
    """The snapshots of each run of a directory, in the order of training.

    Those of a run that diverged end with its last good log point; the others, `is_diverged`, hold what it was then.
    Raises ConfigError where there are none.
    """
    found: dict[int, list[Place]] = {}
    for path in sorted((out / store.SNAPSHOTS).glob("*.npz")):
        with store.opened(path) as content:
            rows = [content[name].tolist() for name in (_RUN_INDEX, _STATUS, LOG_POINT)]
        for row, (run, status, log_point) in enumerate(zip(*rows, strict=True)):
            own = found.setdefault(run, [])
            if (status != 0) is is_diverged:
                own.append(Place(path=path, row=row, log_point=log_point))
    if not found:
        store.read_sweep(out)
        raise ConfigError(f"directory {out} holds no snapshots: they are kept with num_snapshots, as runs go on.")
    return {run: sorted(own, key=lambda place: place.log_point) for run, own in found.items()}


def each_snapshot(
    out: str | Path, runs: Sequence[int] | None = None
) -> Iterator[tuple[int, dict[int, Place], list[Policies]]]:
    """Number of one snapshot after the other, where it is and the networks, of the runs that have it.

    The first one all `runs` must have. No file is read for more than one of its snapshots. Raises as `load_policies`.
    """
    found = find_snapshots(out := Path(out).expanduser())
    groups, wanted = _wanted(out, runs)
    for number in range(max(map(len, found.values()))):
        places = {run: own[number] for run, own in found.items() if run in wanted and number < len(own)}
        is_each = number == 0 and runs is not None
        if places or (is_each and wanted):
            yield number, places, _stacked(groups, _of_snapshot(out, found, wanted, number, is_each=is_each))
        elif number == 0:
            raise ConfigError(f"runs is {list(runs or ())}, but must name runs that have snapshots.")


def load_policy(out: str | Path, run: int, snapshot: int | None = None) -> Policy:
    """The policy of one run of a sweep's directory, a place in the sweep (`run_index` of the dataset).

    snapshot: None for the final one, else the number of a snapshot, 0 of the initial one; where they were taken, the
    dataset's `is_snapshot` says.
    Warns of one that diverged, whose final policy is that of its last good log point. Raises ConfigError as
    `load_policies` does.
    """
    (policies,) = load_policies(out, [run], snapshot)
    params, statistics = jax.tree.map(lambda x: x[0], (policies.params, policies.statistics))
    diverged_at = int(policies.status[0]) or None
    if diverged_at is not None:
        warnings.warn(
            f"run {run} diverged before its log point {diverged_at}: this is its last policy before that.", stacklevel=2
        )
    return Policy(policies.config, policies.runs[0], params, statistics, diverged_at, int(policies.env_steps[0]))


def _read(path: Path, wanted: set[int]) -> dict[str, np.ndarray]:
    """All arrays of a file by name; empty when none of its runs is wanted."""
    try:
        with open(path, "rb") as file, np.load(file) as content:
            if wanted.isdisjoint(content[_RUN_INDEX].tolist()):
                return {}
            return {name: content[name] for name in content.files if not name.startswith(ORIGIN)}
    except (OSError, *DAMAGED) as error:
        raise ConfigError(f"file {path} is damaged and cannot be read.") from error


def _stacked(groups: Sequence[Group], place: Mapping[int, _Row]) -> list[Policies]:
    """What was read of runs, one item per configuration, runs in the sweep's order."""
    alike: dict[TrainConfig, list[Run]] = {}
    for run in (run for group in groups for run in group.runs if run.index in place):
        alike.setdefault(run.config, []).append(run)
    return [_stack(config, tuple(runs), [place[run.index] for run in runs]) for config, runs in alike.items()]


def _stack(config: TrainConfig, runs: tuple[Run, ...], places: list[_Row]) -> Policies:
    """The runs' rows of their files, below each other."""
    names = [name for name in places[0][0] if name not in (_RUN_INDEX, _STATUS, LOG_POINT)]
    arrays = {name: np.stack([file[name][row] for file, row in places]) for name in names}
    params = {name.removeprefix(_PARAMS): x for name, x in arrays.items() if name.startswith(_PARAMS)}
    fields: dict[str, Any] = {name: arrays.get(f"observation_{name}") for name in _STATISTICS}
    statistics = None if config.normalize_observations == "off" else ObservationStatistics(**fields)
    status = np.array([file[_STATUS][row] if _STATUS in file else 0 for file, row in places], np.int32)
    ends = np.where(status == 0, config.num_logs, status - 1)
    rows = zip(places, ends.tolist(), strict=True)
    log_point = [file[LOG_POINT][row] if LOG_POINT in file else end for (file, row), end in rows]
    return Policies(
        config=config,
        runs=runs,
        params=unflatten_dict(params, sep="/"),
        statistics=statistics,
        status=status,
        log_point=np.asarray(log_point, np.int64),
    )
