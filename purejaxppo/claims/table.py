"""The verdicts as a table that a person reads."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from purejaxppo.claims.effects import SAME_SHARE, SAME_SIZE
from purejaxppo.claims.environment import MIN_SEEDS
from purejaxppo.claims.verdicts import ALL, LEVEL
from purejaxppo.statistics.tables import (
    FORMATS,
    align,
    format_count,
    format_interval,
    format_percent,
    format_value,
    with_notes,
    with_title,
)

TITLES = {
    "C1": "plain PPO loses its representation, and its return with it",
    "C2": "more epochs: more severe, and sooner",
    "C3": "plasticity is lost at the same time",
    "C4": "clipping stops protecting around the collapse",
    "C5": "a collapsed policy is the same in all states, dead, and without an objective",
    "C6": "interventions on the representation help",
}
HEADER = ["claim", "verdict", "what the paper says", "effect [95 % interval]", "needs", "seeds", "length"]
EXPLANATION = f"""\
SUPPORTED: it happened in most runs (the exact interval lies above 1/2), or the effect is larger than it needs to be
(p < {LEVEL}, Holm over all effects of the sweep). CONTRADICTED: the opposite is.
NOT OBSERVED: what it is about happened in no run or too few so far, or the opposite is seen while nothing has
collapsed yet, or in at most a hundredth of the paper's length. That contradicts nothing.
NO DIFFERENCE: the interval lies within {SAME_SIZE} doublings, or {format_percent(SAME_SHARE)} of a range.
INCONCLUSIVE: none of these, or fewer than {MIN_SEEDS} seeds.
A claim is SUPPORTED if all its parts are, CONTRADICTED if one is. Effects: mean over seeds, Student's t. Length: share
of the paper's length of training."""


def format_claims(table: pd.DataFrame, kind: str = "text") -> str:
    """The table of `evaluate_claims` as text, Markdown or LaTeX (`tables.FORMATS`), with what the verdicts mean."""
    texts = []
    for _, part in table.groupby("env", sort=False):
        rows = [cells(row) for row in part.to_dict("records")]
        if kind == "text":
            top, *lines = align([HEADER, *rows])  # the last cell of a row, a title or a note, may run on
            shown = "\n".join([top, "-" * len(top), *lines])
        else:
            shown = FORMATS[kind](HEADER, [filled(row) for row in rows])
        texts.append(with_title(how_far(part), shown, kind))
    return with_notes("\n\n".join(texts), EXPLANATION, kind)


def filled(row: list[str]) -> list[str]:
    """A row of `cells` with as many cells as `HEADER`."""
    return row + [""] * (len(HEADER) - len(row))


def how_far(table: pd.DataFrame) -> str:
    """What the verdicts of one environment are about: `gymnax/Acrobot-v1: 300,000 steps, 6 % of the paper's length`."""
    first = table.iloc[0]
    if first["env"] == ALL:
        return f"{ALL}: how many came out how; probability that a run is better, a mean over environments and settings"
    return f"{first['env']}: {first['steps']:,.0f} steps, {format_percent(first['length'])} of the paper's length"


def cells(row: dict[Any, Any]) -> list[str]:
    """A row as texts, in the order of `HEADER`: a claim with its note, or a part with its numbers (or the reason)."""
    if not row["part"]:
        title = row["intervention"] or TITLES[row["claim"]]
        return [row["claim"], row["verdict"], title + (f" ({row['note']})" if row["note"] else "")]
    told = ["", row["verdict"], f"- {row['part']}"]
    if math.isnan(row["effect"]) and math.isnan(row["count"]):
        return [*told, row["note"]]
    needs = f"> {format_value(round(row['threshold'], 2))}"
    return [*told, format_effect(row), needs, f"{row['seeds']}", format_percent(row["length"])]


def format_effect(row: dict[Any, Any]) -> str:
    """The effect of a part with its interval and unit: `1.02 [0.71, 1.30] doublings`, or `3 of 8 [9 %, 76 %] runs`."""
    if not math.isnan(row["count"]):
        return f"{format_count(int(row['count']), row['runs'], row['low'], row['high'])} {row['unit']}"
    return f"{format_interval(row['effect'], row['low'], row['high'], decimals=2)} {row['unit']}"
