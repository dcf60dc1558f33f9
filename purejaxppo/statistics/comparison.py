"""Which point of a sweep is selected as the best, what it was selected from, and how far each is from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from purejaxppo.errors import ConfigError
from purejaxppo.fields import unknown_name
from purejaxppo.results.dataset import Point, points, swept_fields
from purejaxppo.results.runs import steps_reached
from purejaxppo.statistics.collapse import count_columns
from purejaxppo.statistics.contrasts import PAIRING_CORRELATION, difference, holm, select_best
from purejaxppo.statistics.estimates import estimate_columns, probability_of_improvement
from purejaxppo.statistics.finals import comparable_values, final_values
from purejaxppo.statistics.tables import (
    ESTIMATES,
    FORMATS,
    count_cells,
    estimate_cells,
    format_interval,
    format_number,
    format_p,
    format_value,
    with_notes,
    wrap,
)

Block = list[tuple[Point, bool]]
"""Points that are compared with each other, and whether each is the one that the others are compared against; that one
is the first, where there is one."""

MANY_FIELDS = 6
"""More than these are not all written into the first row of a table."""

LOSS = "_plasticity_loss"
REFERENCES = {"best_constant": "_plasticity_constant_loss", "fresh": "_plasticity_fresh_loss"}
"""Column -> end of the name of the metric that a plasticity loss is to be read against."""


def comparison_table(
    dataset: xr.Dataset,
    metric: str = "return_mean",
    is_lowest: bool = False,
    against: Mapping[str, Any] | str | None = None,
    within: str | Sequence[str] = (),
) -> pd.DataFrame:
    """One row per point: interquartile mean of the final values, what its rank is worth, and a contrast with another.

    Points of one environment, and with equal values of the fields `within`, are compared with each other. `against`
    (`{"pfo_coef": 0}` or `"pfo_coef=0"`) says what the point is set to that the others of a block are compared against;
    the first point of the block by default.

    `value`: interquartile mean over runs of `comparable_values`, with interval (`_low`, `_high`), and `value_runs`: the
    single values where there is none. `best`: share of bootstrap samples of the seeds in which it is the highest
    (`is_lowest`: the lowest), `best_level`: what the largest share exceeds in 5 % of sweeps of equal points,
    `is_candidate`: whether the point cannot be told from the best (`select_best`). `difference`: its interquartile mean
    minus that of the other point, with interval, `correlation` between runs of equal seed, `is_paired`, `p`, and
    `p_holm`, adjusted for all contrasts of the table (`difference`, `holm`). `improvement`: probability that one of its
    runs is higher (`is_lowest`: lower) than one of the other point's, with interval (`probability_of_improvement`).
    A run that diverged counts as the worst case in all of these. `runs`, `diverged`, `collapsed`, `never_learned`:
    numbers of runs (`collapse.count_columns`); `env_steps` is the step that all of them have reached. `block` numbers
    the points that are compared with each other, `is_base` marks the one that the others are compared against. The
    swept values are columns too; what has no meaning in a row is NaN. Of a plasticity loss `best_constant` and `fresh`
    are the medians over runs of the loss of the best constant output and of the run's initial network fitted alike, if
    the results have them.
    Raises ConfigError for a metric or a field that these results do not have, and where `against` does not name one
    point of a block.
    """
    within = [within] if isinstance(within, str) else within
    finals, reached = comparable_values(dataset, metric, is_lowest).values, steps_reached(dataset)
    counts, references = count_columns(dataset), _references(dataset, metric)
    rows = []
    for number, block in enumerate(_blocks(dataset, _parse(against), within)):
        compared = _compare(block, finals, -1.0 if is_lowest else 1.0, dataset["seed"].values)
        for ((swept, runs), is_base), row in zip(block, compared, strict=True):
            head = counts(runs) | {"env_steps": int(np.min(reached[runs])), "block": number, "is_base": is_base}
            beside = {name: float(pd.Series(values[runs]).median()) for name, values in references.items()}
            rows.append(dict(swept) | head | row | beside)
    table = pd.DataFrame(rows)
    if rows:
        table.insert(list(table.columns).index("p") + 1, "p_holm", holm(table["p"].to_numpy()))
    return table


def _references(dataset: xr.Dataset, metric: str) -> dict[str, np.ndarray]:
    """Final values [S] of what a plasticity loss is to be read against, as far as the results have them."""
    if not metric.endswith(LOSS):
        return {}
    names = {column: metric.removesuffix(LOSS) + end for column, end in REFERENCES.items()}
    return {column: final_values(dataset, name).values for column, name in names.items() if name in dataset}


def _parse(against: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Field -> value of the point to compare against."""
    if not isinstance(against, str):
        return dict(against or {})
    parts = [part.partition("=") for part in against.split(",")]
    if not all(field.strip() and sign and value.strip() for field, sign, value in parts):
        raise ConfigError(f"against is {against!r}, but must be field=value, or several of these with commas between.")
    values = {field.strip(): value.strip() for field, _, value in parts}
    if len(values) < len(parts):
        raise ConfigError(f"against is {against!r}, but must have one value for each field.")
    return values


def _is_value(value: Any, wanted: Any) -> bool:
    """Whether a swept value is what somebody asked for, as text or as a value."""
    if str(wanted).casefold() in (str(value).casefold(), format_value(value).casefold()):
        return True
    try:
        return not isinstance(value, bool) and float(value) == float(wanted)
    except (TypeError, ValueError):
        return False


def _blocks(dataset: xr.Dataset, against: dict[str, Any], within: Sequence[str]) -> list[Block]:
    """Points that are compared with each other, the one that the others are compared against at the head of each."""
    fields = swept_fields(dataset)
    for field in (*against, *within):
        if field not in fields:
            raise unknown_name("swept field", field, fields)
        if field in against and field in within:
            raise ConfigError(f"field {field!r} is in against and in within, but can only be in one of them.")
    blocks: dict[Any, list[Point]] = {}
    for swept, runs in points(dataset):
        blocks.setdefault(tuple(swept.get(field) for field in ("env", *within)), []).append((swept, runs))
    found = []
    for members in blocks.values():
        fitting = [all(_is_value(swept[field], value) for field, value in against.items()) for swept, _ in members]
        if against and sum(fitting) > 1:
            _refuse_several([swept for (swept, _), fits in zip(members, fitting, strict=True) if fits], against)
        base = fitting.index(True) if any(fitting) else -1
        order = sorted(range(len(members)), key=lambda number: number != base)
        found.append([(members[number], number == base) for number in order])
    if found and not any(is_base for block in found for _, is_base in block):
        asked = ", ".join(f"{field}={value}" for field, value in against.items())
        values = {field: dict.fromkeys(map(format_value, dataset[field].values.tolist())) for field in against}
        known = "; ".join(f"{field}: {', '.join(there)}" for field, there in values.items())
        raise ConfigError(f"against is {asked!r}, but no point of these results is set so; they have {known}.")
    return found


def _refuse_several(fitting: Sequence[dict[str, Any]], against: Mapping[str, Any]) -> None:
    varying = [field for field in fitting[0] if len({str(swept[field]) for swept in fitting}) > 1]
    asked = ", ".join(f"{field}={value}" for field, value in against.items())
    raise ConfigError(
        f"against is {asked!r}, but that fits {len(fitting)} points, which differ in {', '.join(varying)}; it must fit "
        f"one: name {varying[0]}=... too, or compare within {varying[0]}."
    )


def _compare(block: Block, finals: np.ndarray, sign: float, seeds: np.ndarray) -> list[dict[str, Any]]:
    """The columns of a block's rows that come from its values.

    finals [S]: final value of every run of the dataset; sign: 1 where more is better, else -1.
    """
    merits = sign * finals
    by_seed = [pd.Series(merits[runs], index=seeds[runs]) for (_, runs), _ in block]
    selection = select_best(pd.concat(by_seed, axis=1).to_numpy())
    (_, base), has_base = block[0]
    rows = []
    for number, ((_, runs), is_base) in enumerate(block):
        row = estimate_columns("value", finals[runs])
        row |= {"best": selection.shares[number], "best_level": selection.level}
        row |= {"is_candidate": bool(selection.is_candidate[number])}
        ours, theirs = (runs, base) if has_base and not is_base else (runs[:0], base[:0])
        found = asdict(difference(finals[ours], finals[theirs], seeds[ours], seeds[theirs]))
        row |= {"difference": found["value"], "difference_low": found["low"], "difference_high": found["high"]}
        row |= {name: found[name] for name in ("correlation", "is_paired", "p")}
        better = probability_of_improvement(merits[ours], merits[theirs])
        row |= {"improvement": better.value, "improvement_low": better.low, "improvement_high": better.high}
        rows.append(row)
    return rows


def format_comparison(table: pd.DataFrame, metric: str, is_lowest: bool = False, kind: str = "text") -> str:
    """The table as text, Markdown or LaTeX (`tables.FORMATS`), with what its columns mean below it.

    A row is named by what it sets other than the point that it is compared against.
    """
    rows = table.to_dict("records")
    names = _names(table, rows)
    word = "lower" if is_lowest else "higher"
    columns = [["point", *names]]
    columns += [[name, *cells] for name, cells in count_cells(table)]
    columns.append([metric, *estimate_cells(table, "value")])
    beside = [name for name in REFERENCES if name in table]
    columns += [[name.replace("_", " "), *map(format_number, table[name])] for name in beside]
    marks = [f"{format_number(row['best'], 2)}{' *' * row['is_candidate']}" for row in rows]
    columns.append(["best share", *marks])
    columns.append(["difference", *(_interval(row, "difference", None) for row in rows)])
    correlations = [f"{format_number(row['correlation'], 2)}{' paired' * bool(row['is_paired'])}" for row in rows]
    columns.append(["r of seeds", *correlations])
    columns.append(["p (Holm)", *(format_p(row["p_holm"]) for row in rows)])
    columns.append([f"P({word})", *(_interval(row, "improvement", 2) for row in rows)])
    header, *lines = zip(*columns, strict=True)
    notes = _explain(rows, names, word)
    if metric.endswith(LOSS):
        notes += f"\n{wrap(AGAINST if len(beside) == len(REFERENCES) else AGAINST_NOTHING)}"
    return with_notes(FORMATS[kind](header, lines), notes, kind)


def _interval(row: Mapping[Any, Any], name: str, decimals: int | None) -> str:
    return format_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], decimals)


def _names(table: pd.DataFrame, rows: Sequence[Mapping[Any, Any]]) -> list[str]:
    """A row's name: all that the base of its block sets (the first few of many), and what the others set otherwise."""
    swept = list(table.columns)[: list(table.columns).index("runs")]
    names, base = [], None
    for row in rows:
        if row["is_base"] or (base is not None and row["block"] != base["block"]):
            base = row if row["is_base"] else None
        shown = [name for name in swept if base is None or row is base or row[name] != base[name]]
        parts = [f"{name}={format_value(row[name])}" for name in shown]
        if row is base and len(parts) > MANY_FIELDS:
            parts[2:] = [f"... ({len(parts)} fields)"]
        names.append(", ".join(parts) or "all runs")
    return names


def _explain(rows: Sequence[Mapping[Any, Any]], names: Sequence[str], word: str) -> str:
    """What the columns mean, and which points were selected as the best."""
    selected = []
    for block in dict.fromkeys(row["block"] for row in rows):
        members = [(row, name) for row, name in zip(rows, names, strict=True) if row["block"] == block]
        leader, name = max(members, key=lambda member: -1.0 if np.isnan(member[0]["best"]) else member[0]["best"])
        if np.isnan(leader["best_level"]):
            continue
        others = "; ".join(other for row, other in members if row["is_candidate"] and row is not leader)
        first = f" beside {members[0][1]}" * (len(names) > len(members) and members[0][0] is not leader)
        selected.append(
            f"Selected as the best of {len(members)}: {name}{first}. Its value is biased, as it was selected for it. "
            f"Its share is {format_number(leader['best'], 2)}; of equal points the leader has more than "
            f"{format_number(leader['best_level'], 2)} in 5 % of sweeps. Not distinguishable from it: "
            f"{others or 'none'}."
        )
    ends = sorted({row["env_steps"] for row in rows})
    uneven = f"The points are at different steps, {ends[0]:,} to {ends[-1]:,}: training of unequal length is compared."
    return "\n".join(map(wrap, [*selected, ESTIMATES, COLUMNS.format(word=word), *[uneven] * (len(ends) > 1)]))


COLUMNS = (
    "best share: of bootstrap samples of the seeds; no probability. *: not distinguishable from the best one (mean "
    "ranks, permuted within seeds, 5 %). difference: from the first point, which sets everything, of each block by "
    "itself; the others are named by what they set otherwise. r of seeds: correlation between runs of equal seed; from "
    f"{PAIRING_CORRELATION:g} on pairs are used. p: exact rank test, adjusted by Holm's method for all contrasts of "
    "the table. P({word}): of a run against one of that first point."
)
"""What the columns of a comparison mean."""

AGAINST = (
    "best constant, fresh: medians over runs of the loss of the best constant output, and of the run's initial network "
    "fitted alike. A loss above the best constant's is how far a confident policy is from its targets, not what it can "
    "fit."
)
AGAINST_NOTHING = (
    "These results do not have the loss of the best constant output and of a fresh network, without which a plasticity "
    "loss does not say whether the network can still fit."
)
"""What is said below a comparison of plasticity losses."""
