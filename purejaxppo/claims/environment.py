"""The parts of all claims in the results of one environment, before the verdicts that depend on all of them.

The sample is of seeds: what the runs of one seed measured at several settings is averaged first. Intervals and p values
of effects are Student's t, those of shares are Clopper and Pearson's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy import stats

from purejaxppo.claims.effects import (
    EPOCHS,
    HELP,
    RANGE,
    WITHIN_RUNS,
    Effect,
    Share,
    has_collapsed,
    has_metric,
    learned_values,
    window_means,
    with_collapses,
)
from purejaxppo.claims.interventions import Setup, has_dense_reward, paper_steps, setups
from purejaxppo.results.runs import has_widths, recorded
from purejaxppo.statistics.estimates import MIN_RUNS, exact_interval
from purejaxppo.statistics.tables import format_percent, format_shares

SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_TESTED = "SUPPORTED", "CONTRADICTED", "INCONCLUSIVE", "NOT TESTED"
NOT_OBSERVED, NO_DIFFERENCE = "NOT OBSERVED", "NO DIFFERENCE"
MIN_SEEDS = MIN_RUNS
"""Of four seeds all agree too often by chance: once in 128, where each side of a pair collapses in half of its runs."""
LEAST_LENGTH = 0.01
"""Share of the paper's length, rounded, up to which nothing contradicts: ranks fall from those of random weights."""


class Member(NamedTuple):
    """A run: its position in the results, its seed, how it was trained."""

    position: int
    seed: int
    setup: Setup


Cells = dict[tuple[int, Any], float]
"""Something measured, by (seed, setting)."""
Row = dict[str, Any]
Block = tuple[Row, list[Row]]
"""The row of a claim, and those of its parts."""


class Environment:
    """The runs of one environment: who among them is plain PPO, how far they have come, what has collapsed."""

    def __init__(self, name: str, dataset: xr.Dataset) -> None:
        self.dataset = with_collapses(dataset)
        seeds = dataset["seed"].values.tolist()
        self.members = [Member(position, seeds[position], setup) for position, setup in enumerate(setups(dataset))]
        self.name = name or next(map(str, recorded(dataset, "env")), "")
        self.plain = [member for member in self.members if not member.setup.interventions]
        self.is_diverged = dataset["status"].values != 0
        self.reached = np.where(self.is_diverged, np.nan, self.dataset["last_step"].values)
        steps = self.reached[_positions(self.plain or self.members)]
        self.steps = float(np.min(steps, initial=np.inf, where=np.isfinite(steps))) if np.isfinite(steps).any() else 0.0
        self.length = self.steps / paper_steps(self.name)
        self._values: dict[str, np.ndarray] = {}

    def blocks(self) -> list[Block]:
        """The claims, without the verdicts that depend on all parts."""
        blocks = [self._block(claim, "", map(self._within, parts)) for claim, parts in WITHIN_RUNS.items()]
        blocks[0][0]["note"] = self._about_plain()
        blocks.insert(1, self._more_epochs())
        for claim in ("C6", "more"):
            ours: dict[str, list[Member]] = {}
            for member in self.members:
                if member.setup.interventions and member.setup.is_papers == (claim == "C6"):
                    ours.setdefault(member.setup.interventions, []).append(member)
            blocks += [self._help(claim, name, members) for name, members in ours.items()]
            if claim == "C6" and not ours:
                blocks.append(self._block(claim, "no such intervention in this sweep", ()))
        return blocks

    def _block(self, claim: str, note: str, parts: Iterable[Row], intervention: str = "") -> Block:
        about = {"env": self.name, "claim": claim, "intervention": intervention}
        about |= {"steps": self.steps, "length": self.length, "runs": 0, "seeds": 0}
        return about | {"part": "", "note": note}, [about | part for part in parts]

    def _about_plain(self) -> str:
        """How many runs of plain PPO there are, how many diverged, and whether the others have come equally far."""
        positions = _positions(self.plain)
        about = f"{len(positions)} runs of plain PPO, {int(self.is_diverged[positions].sum())} of them diverged"
        steps = self.reached[positions][~self.is_diverged[positions]]
        if np.unique(steps).size > 1:
            about += f"; they have come to between {np.nanmin(steps):g} and {np.nanmax(steps):g} steps"
        return about

    def _more_epochs(self) -> Block:
        """Runs of plain PPO with most epochs against those with fewest."""
        epochs = [member.setup.get("num_epochs") for member in self.plain]
        if len(set(epochs)) < 2:
            reason = "no axis num_epochs among the runs of plain PPO"
            return self._block("C2", "", [_not_tested(part, reason) for part in EPOCHS])
        ends = max(epochs), min(epochs)
        sides = [[m for m in self.plain if m.setup.get("num_epochs") == end] for end in ends]
        parts = [self._compare(part, *sides, axis="num_epochs") for part in EPOCHS]
        return self._block("C2", f"{ends[0]} against {ends[1]} epochs", parts)

    def _help(self, claim: str, name: str, members: list[Member]) -> Block:
        """An intervention, and what it is to help."""
        is_diverged = self.is_diverged[_positions(members)]
        notes = [f"{int(is_diverged.sum())} of {is_diverged.size} runs diverged"] if is_diverged.any() else []
        parts = list(HELP)
        if members[0].setup.shares_trunk and not has_dense_reward(self.name):
            parts.pop()
            notes.append("not asked of the return, as the reward is not known to be dense")
        return self._block(claim, "; ".join(notes), [self._compare(part, members, self.plain) for part in parts], name)

    def _within(self, part: Share | Effect) -> Row:
        """A part about what happens within runs of plain PPO."""
        if missing := self._lacks(part):
            return _not_tested(part, missing)
        values = self._measured(part)
        if isinstance(part, Share):
            return {"part": part.text} | self._share(values, self.plain)
        return self._effect(part, _cells(values, self.plain), self.plain)

    def _compare(self, part: Effect, ours: list[Member], theirs: list[Member], axis: str = "") -> Row:
        """A part about runs of one kind against those of another, at settings that are equal but for `axis`."""
        if missing := self._lacks(part) or self._uneven(ours, theirs, axis):
            return _not_tested(part, missing)
        values = self._measured(part)
        if part.unit == RANGE:
            values = self._of_the_range(values, ours, theirs)
        mine, others = (_cells(values, side, axis) for side in (ours, theirs))
        shared = [key for key in mine if key in others]
        row = self._effect(part, {key: mine[key] - others[key] for key in shared}, [*ours, *theirs] if axis else theirs)
        # For the summary over environments; settings share seeds, so that each seed is one sample.
        means = (_seed_means({key: side[key] for key in shared}) for side in (mine, others))
        return row | {"samples": [(self.name, *pair) for pair in zip(*means, strict=True)]}

    def _measured(self, part: Share | Effect) -> np.ndarray:
        """What a part measures in each run, [S]; once for all interventions."""
        if part.text not in self._values:
            self._values[part.text] = part.measure(self.dataset)
        return self._values[part.text]

    @functools.cached_property
    def _return_windows(self) -> list[np.ndarray]:
        return [window_means(x) for x in learned_values(self.dataset, "return_mean")]

    def _of_the_range(self, values: np.ndarray, ours: list[Member], theirs: list[Member]) -> np.ndarray:
        """Returns [S] in shares of the range at each setting, nothing below its lower end.

        The range is that of typical runs: from the lower of the two sides' medians of the lowest 5 % in a row of a run
        to the higher of their medians of the best. One bad run among several, however bad, does not stretch it.
        """
        means, scaled = self._return_windows, np.full(values.shape, np.nan)
        for setting in {member.setup.setting for member in ours}:
            sides = [[m.position for m in side if m.setup.setting == setting] for side in (ours, theirs)]
            found = [[means[position] for position in side if means[position].size] for side in sides]
            if all(found):
                low = min(np.median([x.min() for x in side]) for side in found)
                high = max(np.median([x.max() for x in side]) for side in found)
                positions = sides[0] + sides[1]
                scaled[positions] = np.maximum(values[positions] - low, 0) / (high - low if high > low else np.nan)
        return scaled

    def _lacks(self, part: Share | Effect) -> str:
        """What is missing for a part, in words; empty where nothing is."""
        if not self.plain:
            return "no run of plain PPO in this sweep"
        for name in part.metrics:
            if not has_metric(self.dataset, name) or not np.isfinite(learned_values(self.dataset, name)).any():
                return f"{name} has no values in these results"
        if "policy_dead_neurons" in part.metrics and not has_widths(self.dataset):
            return "neither hidden_sizes nor spectra, which say how many units there are, are in these results"
        return ""

    def _uneven(self, ours: list[Member], theirs: list[Member], axis: str) -> str:
        """Why runs cannot be compared yet: those of a setting that did not diverge are at different steps. Or empty."""
        reached: dict[Any, tuple[set[float], set[float]]] = {}
        for side, members in enumerate((ours, theirs)):
            for member in members:
                if math.isfinite(step := self.reached[member.position]):
                    reached.setdefault(member.setup.without(axis), (set(), set()))[side].add(float(step))
        for mine, others in reached.values():
            if mine and others and len(mine | others) > 1:
                ends = f"{min(mine | others):g} to {max(mine | others):g}"
                return f"runs are at different steps, {ends}: the sweep has not ended"
        return ""

    def _share(self, happened: np.ndarray, members: list[Member]) -> Row:
        """In how many runs something happened (`happened` [S]: 1, 0, NaN for not asked), and whether that is most.

        The interval is exact for seeds: as if the runs of one seed, at several settings, were one. A fraction of a seed
        counts against the claim for the lower, and for it for the upper end.
        """
        asked = happened[_positions(members)]
        asked = asked[np.isfinite(asked)]
        seeds = _seed_means(_cells(happened, members))
        of_seeds, count = round(float(seeds.sum()), 9), int(asked.sum())
        low, high = (exact_interval(end(of_seeds), seeds.size)[i] for i, end in enumerate((math.floor, math.ceil)))
        so_far = f"by {self.steps:,.0f} steps, {format_percent(self.length)} of the paper's length"
        note = f"{count} of {asked.size} runs {so_far} {format_shares(low, high)}"
        row = {"effect": float(seeds.mean()) if seeds.size else math.nan, "low": low, "high": high, "threshold": 0.5}
        row |= {"unit": "runs", "count": count, "runs": asked.size, "seeds": seeds.size}
        is_rare = count == 0 or high < 0.5
        verdict = SUPPORTED if low > 0.5 else NOT_OBSERVED if is_rare else INCONCLUSIVE
        return row | {"verdict": verdict, "note": note}

    def _effect(self, part: Effect, cells: Cells, about: list[Member]) -> Row:
        """The row of an effect [seed, setting], without the verdict that depends on all effects.

        about: runs that a collapse must have been seen in, for a part that is about one and to contradict any other.
        """
        event = part.event or "rank"
        happened = has_collapsed(self.dataset, event)
        seen = self._share(happened, about)
        num_seen = len({member.seed for member in about if happened[member.position] == 1})
        if part.event and num_seen < max(1, min(MIN_SEEDS, seen["seeds"])):
            note = f"the {event} collapsed in {seen['note']}"
            return {"part": part.text} | seen | {"verdict": NOT_OBSERVED, "unit": f"runs ({event})", "note": note}
        seeds = _seed_means(cells)
        if seeds.size == 0:
            return _not_tested(part, "no run has the values that it needs")
        value, low, high, p = student(seeds, part.threshold)
        row = {"part": part.text, "effect": value, "low": low, "high": high, "threshold": part.threshold}
        row |= {"margin": part.margin, "unit": part.unit, "runs": len(cells), "seeds": seeds.size, "note": ""}
        if seeds.size < MIN_SEEDS:
            return row | {"verdict": INCONCLUSIVE, "note": f"only {seeds.size} of the {MIN_SEEDS} seeds that it needs"}
        is_late = (num_seen >= MIN_SEEDS and round(self.length, 2) > LEAST_LENGTH) or self.length >= 1
        return row | {"p": p, "not_yet": "" if is_late else f"the rank collapsed in {seen['note']}"}


def student(x: np.ndarray, threshold: float) -> tuple[float, float, float, float]:
    """Mean of x [S] with Student's 95 % interval, and the p value of its being no larger than +-threshold.

    p: twice the smaller of those of the two one-sided tests, mean <= threshold and mean >= -threshold; where all seeds
    agree, which whole numbers may, at least that of equal signs, 2^(1 - S). With a single value there is neither
    interval nor p (NaN).
    """
    mean, num = float(np.mean(x)), x.size
    if num < 2:
        return mean, math.nan, math.nan, math.nan
    error = float(np.std(x, ddof=1)) / math.sqrt(num)
    least = 0.0 if error > 1e-12 else 2.0 ** (1 - num)
    error = max(error, 1e-12)
    half = error * stats.t.ppf(0.975, num - 1)
    p = max(2 * stats.t.sf((abs(mean) - threshold) / error, num - 1), least)
    return mean, float(mean - half), float(mean + half), float(min(p, 1.0))


def _not_tested(part: Share | Effect, reason: str) -> Row:
    """The row of a part that cannot be tested."""
    return {"part": part.text, "verdict": NOT_TESTED, "note": reason}


def _positions(members: list[Member]) -> list[int]:
    return [member.position for member in members]


def _cells(values: np.ndarray, members: list[Member], axis: str = "") -> Cells:
    """Values [S] of some runs by seed and setting (without `axis`); several there are averaged, and NaN is none."""
    found: dict[tuple[int, Any], list[float]] = {}
    for member in members:
        if not math.isnan(values[member.position]):
            found.setdefault((member.seed, member.setup.without(axis)), []).append(float(values[member.position]))
    return {key: float(np.mean(same)) for key, same in found.items()}


def _seed_means(cells: Cells) -> np.ndarray:
    """Mean over the settings of each seed, [number of seeds]."""
    by_seed: dict[int, list[float]] = {}
    for (seed, _), value in cells.items():
        by_seed.setdefault(seed, []).append(value)
    return np.array([np.mean(values) for values in by_seed.values()])
