"""Fresh episodes of trained policies: how good each run is at the end, free of the noise of training's own episodes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import pandas as pd

from purejaxppo.envs.wrappers import ObservationStatistics
from purejaxppo.errors import ConfigError
from purejaxppo.fields import scalar
from purejaxppo.networks import Params
from purejaxppo.ppo.state import Array, Learner, make_learner
from purejaxppo.results.dataset import GroupResult, to_dataset
from purejaxppo.statistics.collapse import outcomes
from purejaxppo.statistics.estimates import bootstrap_interval, estimate_columns, exact_interval, iqm
from purejaxppo.statistics.tables import (
    FORMATS,
    MISSING,
    estimate_cells,
    format_count,
    format_interval,
    format_number,
    format_value,
    with_notes,
    with_title,
)
from purejaxppo.sweep.plan import MAX_SEED, Run, make_groups
from purejaxppo.sweep.policies import check_fit, each_snapshot, find_snapshots, load_policies
from purejaxppo.sweep.store import load_results, read_sweep
from purejaxppo.training.evaluation import EVALUATION, Episodes, choose_action, play

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray as xr

MOST_RUNS_LISTED = 32
MOST_RUNS_AT_ONCE, MOST_AT_ONCE = 128, 32_768  # runs, and episodes of all of them, side by side
MOST = {"episodes": 10_000, "max_steps": 1_000_000}


def evaluate(
    out: str | Path,
    *,
    episodes: int = 32,
    seed: int = 0,
    is_deterministic: bool = False,
    runs: Sequence[int] | None = None,
    max_steps: int = 10_000,
    snapshots: bool = False,
) -> pd.DataFrame:
    """Play fresh episodes with every trained policy of a sweep's directory; one row per run.

    With `snapshots` in place of the final policies those along training, with the same random numbers: one row per run
    and snapshot, and columns snapshot (from 0, the initial policy) and env_steps. After a run diverged its rows are
    marked and have no return.

    Each run plays exactly `episodes` episodes with its own random numbers, in the environment it was trained in:
    sampled actions, or the mode of the distribution if `is_deterministic`. Episodes longer than `max_steps` are cut
    there and counted as they are. runs: places in the sweep; None takes all that have finished.

    Columns: run, the swept fields, seed, return_mean with its 95 % bootstrap interval over episodes (return_low,
    return_high), length_mean (steps), episodes, cut (number of episodes), diverged, collapsed (in training; missing
    where the directory has no results any more). `attrs["missing"]`: runs of the sweep that have no policy yet.
    Returns are raw sums of rewards. A run that diverged plays with the
    policy of its last good log point: what it did while it was well, not its end.

    Raises ConfigError for numbers out of range and as `load_policies` does.
    """
    for name, value in {"episodes": episodes, "max_steps": max_steps}.items():
        if not 1 <= value <= MOST[name]:
            raise ConfigError(f"{name} is {value}, but must be at least 1 and at most {MOST[name]}.")
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed is {seed}, but must be a whole number from 0 to 2^32 - 1.")
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION)
    rows, programs = [], {}
    numbered = each_snapshot(out, runs) if snapshots else [(None, {}, load_policies(out, runs))]
    for number, policies in ((number, policies) for number, _, everything in numbered for policies in everything):
        keys = jax.vmap(partial(jax.random.fold_in, key))(np.asarray([run.index for run in policies.runs], np.uint32))
        if policies.config not in programs:  # made and compiled once for all snapshots
            learner = make_learner(policies.config)
            played_by = partial(_played, learner, episodes, max_steps, is_deterministic)
            programs[policies.config] = learner, jax.jit(jax.vmap(played_by))
        learner, play_all = programs[policies.config]
        check_fit(learner, policies.params, len(policies.runs))
        width = max(1, min(MOST_RUNS_AT_ONCE, MOST_AT_ONCE // episodes))
        for at in range(0, len(policies.runs), width):
            some = slice(at, at + width)
            played = play_all(*jax.tree.map(lambda x, some=some: x[some], (policies.params, policies.statistics, keys)))
            arrays = (np.asarray(x) for x in (played.returns, played.lengths, played.is_over))
            own = _rows(policies.runs[some], policies.status[some] != 0, *arrays)
            if number is not None:
                steps = policies.env_steps[some].tolist()
                own = [_with_snapshot(row, number, at) for row, at in zip(own, steps, strict=True)]
            rows += own
    if snapshots:
        rows += _of_diverged(out, rows)
    table = pd.DataFrame(rows).sort_values(["run", "snapshot"] if snapshots else "run", ignore_index=True)
    there = set(table["run"])
    planned = [run.index for group in make_groups(read_sweep(Path(out).expanduser())) for run in group.runs]
    table.attrs["missing"] = [] if runs is not None else sorted(set(planned) - there)
    known = _collapsed_runs(out)
    return table.assign(collapsed=[known.get(run, np.nan) for run in table["run"]])


def _played(
    learner: Learner,
    num_episodes: int,
    max_steps: int,
    is_deterministic: bool,
    params: Params,
    statistics: ObservationStatistics | None,
    key: Array,
) -> Episodes:
    """The first episodes of one run."""

    def choose(obs: Array, key: Array) -> Array:
        return choose_action(learner, params, statistics, obs, None if is_deterministic else key)

    return play(learner, num_episodes, max_steps, choose, key)


def _collapsed_runs(out: str | Path) -> dict[int, bool]:
    """Whether each run of a directory collapsed in training, by its number; nothing where that is not known."""
    try:
        dataset = load_results(out)
        found = outcomes(dataset).is_collapsed.tolist()
    except ConfigError:
        return {}
    return dict(zip(dataset["run_index"].values.tolist(), found, strict=True))


def _rows(
    runs: Sequence[Run], is_diverged: np.ndarray, returns: np.ndarray, lengths: np.ndarray, is_over: np.ndarray
) -> list[dict[str, Any]]:
    """Rows of `evaluate`, from arrays [S] and [S, E]."""
    low, high = bootstrap_interval(returns.T, np.mean)
    return [
        {"run": run.index}
        | {name: scalar(value) for name, value in run.point.items()}
        | {
            "seed": run.seed,
            "return_mean": float(returns[i].mean(dtype=np.float64)),
            "return_low": float(low[i]),
            "return_high": float(high[i]),
            "length_mean": float(lengths[i].mean()),
            "episodes": returns.shape[1],
            "cut": int(np.sum(~is_over[i])),
            "diverged": bool(is_diverged[i]),
        }
        for i, run in enumerate(runs)
    ]


def format_evaluation(table: pd.DataFrame, kind: str = "text") -> str:
    """What `evaluate` found, as text, Markdown or LaTeX (`tables.FORMATS`): of each point the IQM over its runs, and of
    up to 32 runs a line each.

    Intervals are 95 % bootstrap intervals: over episodes for a run, over runs for a point; of fewer than five runs
    their values. A run that diverged is marked, and counts in its point's return as the worst run of its environment.
    """
    swept = [str(name) for name in table.columns[1 : list(table.columns).index("seed")]]
    swept += [name for name in ("snapshot", "env_steps") if name in table]
    episodes = f"{table['episodes'].iloc[0]} episodes per run"
    table = table.assign(counted=_worst_for_diverged(table))
    points = [members for _, members in table.groupby(swept, sort=False)] if swept else [table]
    has_diverged = bool(table["diverged"].any())
    lines = [_point_line(swept, members, has_diverged) for members in points]
    title = f"Interquartile mean over runs [95 % bootstrap interval], {episodes}"
    text = with_notes(with_title(title, _formatted(lines, kind), kind), _notes(table), kind)
    if len(table) > MOST_RUNS_LISTED or "snapshot" in table:
        return text
    lines = [
        {name: format_value(row[name]) for name in ["run", *swept, "seed"]}
        | {"return": format_interval(row["return_mean"], row["return_low"], row["return_high"])}
        | {"length": format_number(row["length_mean"]), "cut": str(row["cut"])}
        | ({"diverged": "diverged" if row["diverged"] else ""} if has_diverged else {})
        for row in table.to_dict("records")
    ]
    title = "Mean of each run [95 % bootstrap interval over episodes]"
    return f"{text}\n{with_title(title, _formatted(lines, kind), kind)}\n"


def along_training(out: str | Path, table: pd.DataFrame) -> xr.Dataset:
    """What `evaluate` found of snapshots as a dataset, in which they are the log points: for figures.

    `is_collapsed` and `has_learned` are what became of each run in training, where the directory's results tell.
    """
    groups = make_groups(read_sweep(Path(out).expanduser()))
    results = []
    for steps, members in _alike(table):
        runs = members["run"].unique()
        columns = members.pivot(index="run", columns="snapshot")
        place = {run.index: run for group in groups for run in group.runs}
        results.append(
            GroupResult(
                metrics={
                    "evaluation_return_mean": columns["return_mean"].to_numpy(np.float64),
                    "evaluation_length_mean": columns["length_mean"].to_numpy(np.float64),
                },
                env_steps=np.asarray(steps),
                seeds=np.asarray([place[run].seed for run in runs]),
                swept={name: [place[run].point[name] for run in runs] for name in place[runs[0]].point},
                status=np.asarray(columns["diverged"].to_numpy(bool).any(axis=1), np.int32),
                run_index=np.asarray(runs),
            )
        )
    trained = load_results(out)
    attributes = dict(trained.attrs)
    record = json.loads(attributes.get("sweep", "{}"))
    record.get("config", {}).pop("num_log_points", None)  # that many are not to be expected here
    drawn = to_dataset(results, attributes | {"sweep": record})
    if "return_mean" not in trained or not np.isfinite(trained["return_mean"].values).any():
        return drawn  # nobody can tell
    if not set(drawn["run_index"].values) <= set(trained["run_index"].values):
        return drawn
    found = outcomes(trained)
    rows = [trained["run_index"].values.tolist().index(run) for run in drawn["run_index"].values]
    return drawn.assign(is_collapsed=("run", found.is_collapsed[rows]), has_learned=("run", found.has_learned[rows]))


def _alike(table: pd.DataFrame) -> Iterator[tuple[tuple[int, ...], pd.DataFrame]]:
    """Rows of the runs whose snapshots were taken at the same steps."""
    steps: dict[Any, tuple[int, ...]] = {run: tuple(rows["env_steps"]) for run, rows in table.groupby("run")}
    for at in dict.fromkeys(steps.values()):
        yield at, table.loc[[steps[run] == at for run in table["run"]]]


def _notes(table: pd.DataFrame) -> str:
    """What is played, and which runs are not among them."""
    notes = (
        "Final policies in fresh episodes; the summary table has the last 5 % of training, whose policies still change."
    )
    if "snapshot" in table:
        notes = "Policies along training, in the same fresh episodes each; after it diverged a run counts as the worst."
    missing = table.attrs.get("missing", [])
    if not missing:
        return notes
    first = ", ".join(map(str, missing[:10])) + ", ..." * (len(missing) > 10)
    of = len(missing) + table["run"].nunique()
    return f"{notes}\n{len(missing)} of {of} runs have not finished and are left out: {first}."


def _point_line(swept: list[str], members: pd.DataFrame, has_diverged: bool) -> dict[str, str]:
    """The cells of one point of the axes, from the rows of its runs; `has_diverged`: whether any point has lost one."""
    sound = members.loc[~members["diverged"]]
    estimate = pd.DataFrame([estimate_columns("return", members["counted"].to_numpy())])
    counts = {"runs": str(len(members))}
    if members["collapsed"].notna().to_numpy().all():
        collapsed = int(members["collapsed"].to_numpy(dtype=bool).sum())
        counts["collapsed"] = format_count(collapsed, len(members), *exact_interval(collapsed, len(members)))
    return (
        {name: format_value(members[name].iloc[0]) for name in swept}
        | counts
        | ({"diverged": str(len(members) - len(sound))} if has_diverged else {})
        | {
            "return": estimate_cells(estimate, "return")[0],
            "length": format_number(float(iqm(sound["length_mean"].to_numpy()))) if len(sound) else MISSING,
            "cut": str(sound["cut"].sum()),
        }
    )


def _worst_for_diverged(table: pd.DataFrame) -> np.ndarray:
    """Mean return of each run; of one that diverged the lowest of the others, NaN without any.

    Others are those of its environment, and of the same snapshot.
    """
    is_diverged = table["diverged"].to_numpy(dtype=bool)
    returns = np.where(is_diverged, np.nan, table["return_mean"].to_numpy())
    among = table.filter(["env", "snapshot"]).assign(returns=returns)
    others = among.groupby(["env"] * ("env" in table) + ["snapshot"] * ("snapshot" in table) or np.zeros(len(table)))
    return np.where(is_diverged, others["returns"].transform("min"), returns)


def _of_diverged(out: str | Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the snapshots of runs that had diverged by then: marked, and of no return."""
    out = Path(out).expanduser()
    nothing = dict.fromkeys(("return_mean", "return_low", "return_high", "length_mean"), np.nan)
    steps = {run.index: run.config.steps_per_log for group in make_groups(read_sweep(out)) for run in group.runs}
    lost, found = find_snapshots(out, is_diverged=True), []
    for _, own in pd.DataFrame(rows).groupby("run", sort=False):
        first = own.iloc[0].to_dict()
        for number, place in enumerate(lost[first["run"]], len(own)):
            about = {"snapshot": number, "env_steps": place.log_point * steps[first["run"]], "cut": 0, "diverged": True}
            found.append(first | nothing | about)
    return found


def _with_snapshot(row: dict[str, Any], number: int, env_steps: int) -> dict[str, Any]:
    """A row of `evaluate` with the columns of a snapshot after the seed's."""
    names = list(row)
    after = names.index("seed") + 1
    first = {name: row[name] for name in names[:after]}
    return first | {"snapshot": number, "env_steps": env_steps} | {name: row[name] for name in names[after:]}


def _formatted(lines: list[dict[str, str]], kind: str) -> str:
    return FORMATS[kind](list(lines[0]), [list(line.values()) for line in lines])
