"""Claims C1 to C6 of the paper (Moalla et al. 2024, arXiv 2405.00662), held against the results of a sweep.

Each part of a claim is one effect with a sign: above 0 is what the paper says. A part is SUPPORTED where the 95 %
interval of its effect lies above its threshold, CONTRADICTED where it lies below 0, INCONCLUSIVE else and with fewer
than four seeds, NOT TESTED where the sweep lacks what it needs. A claim is CONTRADICTED if a part of it is, SUPPORTED
if all parts are, NOT TESTED if no part was tested, INCONCLUSIVE else.

The parts, their thresholds, and what is left out are in effects.py.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.claims.effects import EPOCHS, HELP, WITHIN_RUNS, Part, values_of
from purejaxppo.claims.interventions import Setup, setups
from purejaxppo.errors import ConfigError
from purejaxppo.results.runs import is_after_start
from purejaxppo.statistics.collapse import last_steps
from purejaxppo.statistics.estimates import mean_over_settings
from purejaxppo.statistics.tables import align, format_interval, format_value

SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_TESTED = "SUPPORTED", "CONTRADICTED", "INCONCLUSIVE", "NOT TESTED"
MIN_SEEDS = 4
"""With three seeds a bootstrap has ten different resamples: no 95 % interval can be read from those."""

COLUMNS = ["claim", "part", "verdict", "effect", "low", "high", "threshold", "unit", "runs", "note"]
TITLES = {
    "C1": "plain PPO loses its representation, and its return with it",
    "C2": "more epochs: more severe, and sooner",
    "C3": "plasticity is lost at the same time",
    "C4": "clipping stops protecting around the collapse",
    "C5": "a collapsed policy is the same in all states, dead, and without an objective",
    "C6": "interventions on the representation help",
    "more": "interventions and strengths that claim C6 does not name",
}


class Member(NamedTuple):
    """A run: its position in the results, its seed, how it was trained."""

    position: int
    seed: int
    setup: Setup


Cells = dict[tuple[int, Any], float]
"""Something measured, by (seed, setting)."""


def evaluate_claims(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per claim (`part` empty) and one per part below it: `verdict`, `effect` with its 95 % interval `low` to
    `high`, `threshold`, `unit`, number of `runs` (comparisons: pairs of runs), and a `note` where there is no effect.

    C1 to C5 use runs without interventions, C2 those with most against those with fewest epochs; C6 each intervention
    against plain PPO, at otherwise equal settings and of the same seed. The effect is the mean over settings of the
    interquartile mean over seeds, its interval a bootstrap over seeds (`mean_over_settings`). Start and end of a run
    are the first and last 5 % of the log points that have a value (the paper's figure 6). A run that diverged counts
    with what it measured before, its return with the lowest; in C6 its return with the lowest of any run at its
    setting, and so the rank of a run with an intervention. Runs at different steps, of a sweep that has not ended, are
    not compared with each other.
    Raises ConfigError for results without seeds, and for those that do not say from which sweep they come.
    """
    if not {"seed", "env_steps"} <= set(dataset.coords):
        raise ConfigError("these results have no coordinates seed and env_steps, so runs cannot be compared.")
    seeds = dataset["seed"].values.tolist()
    members = [Member(position, seeds[position], setup) for position, setup in enumerate(setups(dataset))]
    plain = [member for member in members if not member.setup.interventions]
    rows = {claim: [_within(dataset, plain, part) for part in parts] for claim, parts in WITHIN_RUNS.items()}
    most, fewest = _by_epochs(plain)
    rows["C2"] = [_more_epochs(dataset, most, fewest, part) for part in EPOCHS]
    rows["C6"] = _against_plain(dataset, [member for member in members if member.setup.is_papers], plain)
    others = [member for member in members if member.setup.interventions and not member.setup.is_papers]
    rows["more"] = _against_plain(dataset, others, plain)
    notes = {"C1": _about(dataset, plain), "C6": "no such intervention in this sweep"}
    if rows["C6"]:
        notes["C6"] = _diverged(dataset, [member for member in members if member.setup.is_papers])
    if most and fewest:
        notes["C2"] = f"{most[0].setup.get('num_epochs')} against {fewest[0].setup.get('num_epochs')} epochs"
    table = []
    for claim in TITLES:
        if claim != "more" or rows["more"]:
            head = {"part": "", "verdict": _conjunction(claim, rows[claim]), "runs": 0, "note": notes.get(claim, "")}
            table += [{"claim": claim} | row for row in [head, *rows[claim]]]
    return pd.DataFrame(table, columns=COLUMNS)


def format_claims(table: pd.DataFrame) -> str:
    """The table of `evaluate_claims` as aligned text, with what the verdicts mean below it."""
    cells = [["claim", "verdict", "what the paper says", "effect [95 % interval]", "needs", "runs"]]
    for row in table.to_dict("records"):
        if not row["part"]:
            title = TITLES[row["claim"]] + (f" ({row['note']})" if row["note"] else "")
            cells.append([row["claim"], row["verdict"], title])
        elif row["note"]:
            cells.append(["", row["verdict"], f"- {row['part']}", row["note"]])
        else:
            told = [format_effect(row), f"> {format_value(row['threshold'])}", str(row["runs"])]
            cells.append(["", row["verdict"], f"- {row['part']}", *told])
    lines = align(cells)  # the last cell of a line, a title or a note, may run on
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", EXPLANATION, ""])


def format_effect(row: dict[Any, Any]) -> str:
    """The effect of a part with its interval and unit: `1.02 [0.71, 1.30] doublings`."""
    return f"{format_interval(row['effect'], row['low'], row['high'], decimals=2)} {row['unit']}"


EXPLANATION = f"""\
SUPPORTED: the interval lies above what the part needs; CONTRADICTED: below 0; INCONCLUSIVE: neither, or fewer
than {MIN_SEEDS} seeds. A claim needs all of its parts; one contradicted part contradicts it. Effects: mean over
settings of the interquartile mean over seeds; intervals: bootstrap over seeds, too narrow for few of them (of four
seeds their range, which is an 87 % interval) and not corrected for the number of parts."""


def _conjunction(claim: str, parts: list[dict[str, Any]]) -> str:
    """The verdict of a claim from those of its parts; none for what is no claim of the paper."""
    verdicts = [part["verdict"] for part in parts]
    if claim == "more":
        return ""
    if all(verdict == NOT_TESTED for verdict in verdicts):
        return NOT_TESTED
    if CONTRADICTED in verdicts:
        return CONTRADICTED
    return SUPPORTED if all(verdict == SUPPORTED for verdict in verdicts) else INCONCLUSIVE


def _about(dataset: xr.Dataset, plain: list[Member]) -> str:
    """How many runs of plain PPO there are, how many diverged, and whether the others have come equally far."""
    positions = [member.position for member in plain]
    is_diverged = dataset["status"].values[positions] != 0
    about = f"{len(plain)} runs of plain PPO, {int(is_diverged.sum())} of them diverged"
    steps = last_steps(dataset)[positions][~is_diverged]
    if np.unique(steps).size > 1:
        about += f"; they have come to between {np.nanmin(steps):g} and {np.nanmax(steps):g} steps"
    return about


def _diverged(dataset: xr.Dataset, members: list[Member]) -> str:
    """How many runs of each intervention diverged; empty where none did."""
    counts: dict[str, list[bool]] = {}
    for member in members:
        is_diverged = bool(dataset["status"].values[member.position] != 0)
        counts.setdefault(member.setup.interventions, []).append(is_diverged)
    told = [f"{sum(found)} of {len(found)} runs of {name}" for name, found in counts.items() if any(found)]
    return "diverged: " + ", ".join(told) if told else ""


def _judge(part: Part, cells: Cells, name: str = "") -> dict[str, Any]:
    """The row of a part from its effects by seed and setting; `name` is the intervention that it is about."""
    cells = {key: value for key, value in cells.items() if not math.isnan(value)}
    if not cells:
        return _not_tested(part, "no run has the values that it needs", name)
    seeds, settings = sorted({seed for seed, _ in cells}), list(dict.fromkeys(setting for _, setting in cells))
    matrix = np.full((len(seeds), len(settings)), np.nan)
    for (seed, setting), value in cells.items():
        matrix[seeds.index(seed), settings.index(setting)] = value
    effect = mean_over_settings(matrix)
    row = _not_tested(part, "", name)
    row |= {"effect": effect.value, "low": effect.low, "high": effect.high, "runs": effect.num_runs}
    if len(seeds) < MIN_SEEDS:
        return row | {"verdict": INCONCLUSIVE, "note": f"only {len(seeds)} of the {MIN_SEEDS} seeds that it needs"}
    if effect.low > part.threshold:
        return row | {"verdict": SUPPORTED}
    return row | {"verdict": CONTRADICTED if effect.high < 0 else INCONCLUSIVE}


def _not_tested(part: Part, reason: str, name: str = "") -> dict[str, Any]:
    """The row of a part without an effect."""
    row = {"part": f"{name}: {part.text}" if name else part.text, "verdict": NOT_TESTED, "runs": 0, "note": reason}
    return row | {"threshold": part.threshold, "unit": part.unit}


def _lacks(dataset: xr.Dataset, part: Part, plain: list[Member]) -> str:
    """What is missing for a part, in words; empty where nothing is."""
    if not plain:
        return "no run of plain PPO in this sweep"
    for name in part.metrics:
        is_there = name in dataset and dataset[name].dims[:2] == ("run", "log")
        if not is_there or not np.any(np.isfinite(dataset[name].values[is_after_start(dataset)])):
            return f"{name} has no values in these results"
    return ""


def _cells(values: np.ndarray, members: list[Member], without: str = "") -> Cells:
    """Values [S] of some runs by seed and setting; several there are averaged, and NaN is none.

    without: a field that is not to tell settings apart.
    """
    found: dict[tuple[int, Any], list[float]] = {}
    for member in members:
        setting = tuple((field, value) for field, value in member.setup.setting if field != without)
        if not math.isnan(values[member.position]):
            found.setdefault((member.seed, setting), []).append(float(values[member.position]))
    return {key: float(np.mean(same)) for key, same in found.items()}


def _minus(ours: Cells, theirs: Cells) -> Cells:
    """Differences at the seeds and settings that both have."""
    return {key: ours[key] - theirs[key] for key in ours if key in theirs}


def _uneven(dataset: xr.Dataset, ours: list[Member], theirs: list[Member], without: str = "") -> str:
    """Why runs that are to be compared cannot be yet: those that did not diverge are at different steps. Or empty."""
    steps = np.where(dataset["status"].values == 0, last_steps(dataset), np.nan)
    reached: dict[Any, tuple[set[float], set[float]]] = {}
    for side, members in enumerate((ours, theirs)):
        for member in members:
            setting = tuple((field, value) for field, value in member.setup.setting if field != without)
            if not math.isnan(steps[member.position]):
                reached.setdefault(setting, (set(), set()))[side].add(float(steps[member.position]))
    for mine, others in reached.values():
        if mine and others and len(mine | others) > 1:
            ends = f"{min(mine | others):g} to {max(mine | others):g}"
            return f"runs are at different steps, {ends}: the sweep has not ended"
    return ""


def _within(dataset: xr.Dataset, plain: list[Member], part: Part) -> dict[str, Any]:
    """A part about what happens within runs of plain PPO."""
    if missing := _lacks(dataset, part, plain):
        return _not_tested(part, missing)
    row = _judge(part, _cells(part.measure(dataset), plain))
    if row["verdict"] == NOT_TESTED and part in WITHIN_RUNS["C5"]:
        row["note"] = "the return of no run of plain PPO collapsed"
    return row


def _by_epochs(plain: list[Member]) -> tuple[list[Member], list[Member]]:
    """Runs of plain PPO with most, and those with fewest epochs; none where the sweep has no axis num_epochs."""
    epochs = {member.setup.get("num_epochs") for member in plain}
    if len(epochs) < 2:
        return [], []
    most, fewest = ([m for m in plain if m.setup.get("num_epochs") == end(epochs)] for end in (max, min))
    return most, fewest


def _more_epochs(dataset: xr.Dataset, most: list[Member], fewest: list[Member], part: Part) -> dict[str, Any]:
    """A part about runs of plain PPO with most epochs against those with fewest."""
    if not most:
        return _not_tested(part, "no axis num_epochs among the runs of plain PPO")
    if missing := _lacks(dataset, part, most) or _uneven(dataset, most, fewest, without="num_epochs"):
        return _not_tested(part, missing)
    values = part.measure(dataset)
    return _judge(part, _minus(*(_cells(values, side, without="num_epochs") for side in (most, fewest))))


def _against_plain(dataset: xr.Dataset, members: list[Member], plain: list[Member]) -> list[dict[str, Any]]:
    """The parts of C6 for each of the interventions that some runs have."""
    values = {}
    for part in HELP:
        if not _lacks(dataset, part, plain):
            is_return = part.metrics == ("return_mean",)
            lowest, highest = _extremes(dataset, part.metrics[0], [*members, *plain])
            is_lowest = dataset["status"].values != 0
            if not is_return:  # an early end can leave a rank high, or no rank, and a pair less to speak against it
                is_lowest = is_lowest & ~np.isin(np.arange(is_lowest.size), [member.position for member in plain])
            worst = lowest if is_return else np.log2(np.maximum(lowest, 1.0))
            ends = np.where(is_lowest, worst, part.measure(dataset))
            values[part.text] = ends / np.where(highest > lowest, highest - lowest, np.nan) if is_return else ends
    rows = []
    for name in dict.fromkeys(member.setup.interventions for member in members):
        ours = [member for member in members if member.setup.interventions == name]
        for part in HELP:
            if missing := _lacks(dataset, part, plain) or _uneven(dataset, ours, plain):
                rows.append(_not_tested(part, missing, name))
            else:
                effects = _minus(_cells(values[part.text], ours), _cells(values[part.text], plain))
                rows.append(_judge(part, effects, name))
    return rows


def _extremes(dataset: xr.Dataset, name: str, members: list[Member]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of a metric among the members that share each one's setting, [S] each; NaN for none."""
    settings: dict[Any, list[int]] = {}
    for member in members:
        settings.setdefault(member.setup.setting, []).append(member.position)
    measured, extremes = values_of(dataset, name), np.full((2, dataset.sizes["run"]), np.nan)
    for positions in settings.values():
        values = np.concatenate([measured[position] for position in positions])
        if values.size:
            extremes[:, positions] = [[values.min()], [values.max()]]
    return extremes[0], extremes[1]
