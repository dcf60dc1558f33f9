"""Claims C1 to C6 of the paper (Moalla et al. 2024, arXiv 2405.00662), held against the results of a sweep.

What the parts of a claim measure is in effects.py. Their verdicts:

- SUPPORTED: something that is claimed of most runs happened in most (the exact interval of its share lies above 1/2),
  or the effect is larger than it must be (p < 0.025 after Holm).
- CONTRADICTED: the opposite of the effect is as large (p < 0.025 after Holm). Never because something has not happened.
- NOT OBSERVED: what it is about happened in no run, or in too few of them, so far; or the opposite is seen where no
  rank has collapsed yet, and the runs are shorter than the paper's, or in at most a hundredth of its length.
- NO DIFFERENCE: the 95 % interval of the effect lies within a margin below which it is nothing.
- INCONCLUSIVE: none of these, or fewer than five seeds. NOT TESTED: the sweep lacks what it needs.

The sample is of seeds: what the runs of one seed measured at several settings is averaged first. Intervals and p values
of effects are Student's t, those of shares are Clopper and Pearson's. Holm is over all effects of the sweep.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.claims.environment import (
    CONTRADICTED,
    INCONCLUSIVE,
    NO_DIFFERENCE,
    NOT_OBSERVED,
    NOT_TESTED,
    SUPPORTED,
    Block,
    Environment,
    Row,
)
from purejaxppo.errors import ConfigError
from purejaxppo.results.dataset import by_environment
from purejaxppo.statistics.contrasts import holm
from purejaxppo.statistics.estimates import probability_of_improvement

LEVEL = 0.025
"""A sweep in which nothing is true has a verdict on something in one of 40 cases, to stay below one in 20 for sure."""
ALL = "all environments"

COLUMNS = [
    *("env", "claim", "intervention", "part", "verdict", "effect", "low", "high", "p", "threshold", "margin", "unit"),
    *("count", "runs", "seeds", "steps", "length", "note"),
]


def evaluate_claims(dataset: xr.Dataset) -> pd.DataFrame:
    """One row per claim (`part` empty; C6: one per `intervention`) and one per part below it, for every `env`.

    `verdict`; of an effect its mean over seeds with the 95 % interval `low` to `high`, `p` after Holm, `threshold`,
    `margin` and `unit`; of what happens in `count` of `runs` runs its share with an exact interval; `runs`
    (comparisons: pairs) and `seeds` behind it; the `steps` that plain PPO has come, their `length` as a share of the
    paper's (`paper_steps`), and a `note`. C1 and C3 to C5 use runs without interventions, C2 those with most against
    those with fewest epochs, C6 each intervention against plain PPO; runs of the same seed are compared, at otherwise
    equal settings. Runs that diverged are the worst in every comparison; runs at different steps, of a sweep that has
    not ended, are not compared.
    Below several environments, which are never averaged, stands (`env`: all environments) in how many a claim came out
    how, and for comparisons the probability that a run is better than one of the other side, a mean over environments
    and settings (`probability_of_improvement`, stratified).
    Raises ConfigError for results without seeds, and for those that do not say from which sweep they come.
    """
    if not {"seed", "env_steps"} <= set(dataset.coords):
        raise ConfigError("these results have no coordinates seed and env_steps, so runs cannot be compared.")
    environments = by_environment(dataset)
    blocks = [block for name, part in environments.items() for block in Environment(name, part).blocks()]
    _decide([part for _, parts in blocks for part in parts])
    for head, parts in blocks:
        head["verdict"] = _conjunction([part["verdict"] for part in parts])
    if len(environments) > 1:
        blocks += _over_environments(blocks)
    return pd.DataFrame([row for head, parts in blocks for row in (head, *parts)], columns=COLUMNS)


def _decide(parts: list[Row]) -> None:
    """The verdicts of all effects of a sweep, which share their level."""
    tested = [part for part in parts if "p" in part]
    for part, p in zip(tested, holm(np.array([part["p"] for part in tested])), strict=True):
        part["p"], part["verdict"] = p, INCONCLUSIVE
        if -part["margin"] < part["low"] and part["high"] < part["margin"]:
            part["verdict"] = NO_DIFFERENCE
        elif p < LEVEL and part["effect"] > 0:
            part["verdict"] = SUPPORTED
        elif p < LEVEL:
            part["verdict"] = NOT_OBSERVED if part["not_yet"] else CONTRADICTED
            part["note"] = part["not_yet"]


def _conjunction(verdicts: list[str]) -> str:
    """The verdict of a claim from those of its parts."""
    if all(verdict == NOT_TESTED for verdict in verdicts):
        return NOT_TESTED
    for decisive in (CONTRADICTED, NOT_OBSERVED):
        if decisive in verdicts:
            return decisive
    return verdicts[0] if len(set(verdicts)) == 1 else INCONCLUSIVE


def _over_environments(blocks: list[Block]) -> list[Block]:
    """What all environments say of each claim and intervention: counts of verdicts, and stratified probabilities."""
    same: dict[tuple[str, str], list[Block]] = {}
    for head, parts in blocks:
        same.setdefault((head["claim"], head["intervention"]), []).append((head, parts))
    summary = []
    for (claim, intervention), found in sorted(same.items(), key=lambda item: item[0][0]):
        verdicts = [head["verdict"] for head, _ in found]
        counts = ", ".join(f"{verdict} in {verdicts.count(verdict)}" for verdict in dict.fromkeys(verdicts))
        about = {"env": ALL, "claim": claim, "intervention": intervention, "verdict": "", "runs": 0, "seeds": 0}
        head = about | {"part": "", "note": f"{counts} of {len(found)} environments"}
        compared: dict[str, list[Row]] = {}
        for part in (part for _, parts in found for part in parts if part.get("samples")):
            compared.setdefault(part["part"], []).append(part)
        rows = []
        for text, parts in compared.items():
            pairs = [pair for part in parts for pair in part["samples"]]
            labels, ours, theirs = map(np.array, zip(*pairs, strict=True))
            better = probability_of_improvement(ours, theirs, (labels, labels))
            row = about | {"part": text, "unit": "P(better)", "runs": len(pairs), "note": "", "threshold": 0.5}
            row |= {"effect": better.value, "low": better.low, "high": better.high}
            rows.append(row | {"seeds": max(part["seeds"] for part in parts)})
        summary.append((head, rows))
    return summary
