"""Which runs make a line, and which lines share a panel: at most six, the rest goes to other facets."""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.claims.interventions import DEFAULTS
from purejaxppo.errors import ConfigError
from purejaxppo.fields import unknown_name
from purejaxppo.plots.channels import (
    Channel,
    bundled_fields,
    choose_channels,
    describe,
    is_intervention,
    varying_fields,
)
from purejaxppo.results.dataset import Point, swept_fields
from purejaxppo.results.runs import environments
from purejaxppo.statistics.tables import format_value

MOST_LINES = 6
"""In one panel: more cannot be told apart."""
_LONGEST = 60
"""Letters of conditions in a caption or the name of a file."""


@dataclass(frozen=True, kw_only=True)
class Facet:
    """The lines of one panel."""

    name: str
    """What its points have in common, `num_epochs = 4`; empty where there is nothing to say."""
    points: tuple[Point, ...]
    level: str = ""
    """The part of its name that is a value of a field."""

    @property
    def runs(self) -> np.ndarray:
        """Positions of all its runs."""
        return np.concatenate([runs for _, runs in self.points] or [np.zeros(0, dtype=int)])


Conditions = Mapping[str, Any] | str | Sequence[str]
"""{field: value or list of values}, or one or several texts like `pfo_coef=1` or `num_epochs=4,16`."""


def select(dataset: xr.Dataset, where: Conditions | None) -> xr.Dataset:
    """The runs whose fields (swept ones, or seed) have one of the values of `where`.

    The attribute `selected` of the result has for its captions what was asked for, and the number of runs before, of
    each environment. Raises ConfigError for a field that is not swept and for values that no run has.
    """
    if not where:
        return dataset
    if not isinstance(where, Mapping):
        where = parse_where([where] if isinstance(where, str) else where)
    asked = {field: list(x) if isinstance(x, list | tuple | set | np.ndarray) else [x] for field, x in where.items()}
    note = {"words": describe_conditions(asked), "runs": Counter(environments(dataset).tolist())}
    if "selected" in dataset.attrs:
        earlier = json.loads(dataset.attrs["selected"])
        note = {"words": f"{earlier['words']}, {note['words']}", "runs": earlier["runs"]}
    for field, accepted in asked.items():
        values = dataset[check_field(dataset, field, "where")].values.tolist()
        for value in accepted:
            if not any(_is_same(other, value) for other in values):
                known = ", ".join(map(format_value, dict.fromkeys(values)))
                raise ConfigError(f"where: {field} is {format_value(value)}, but must be one of {known}.")
        chosen = [run for run, other in enumerate(values) if any(_is_same(other, value) for value in accepted)]
        dataset = dataset.isel(run=chosen)
    return dataset.assign_attrs(selected=json.dumps(note))


def describe_conditions(asked: Mapping[str, Sequence[Any]]) -> str:
    """`only pfo_coef = 0.1 or 1, seed = 3`; where that is long, `selected by pfo_coef, l2_init and 5 more fields`."""
    words = "only " + ", ".join(
        f"{field} = {' or '.join(map(format_value, values))}" for field, values in asked.items()
    )
    if len(words) <= _LONGEST:
        return words
    named = list(asked)[:3]
    left = len(asked) - len(named)
    return f"selected by {', '.join(named)}" + f" and {left} more field{'s' * (left > 1)}" * (left > 0)


def conditions_suffix(asked: Mapping[str, Sequence[Any]]) -> str:
    """What to append to the name of a figure of these runs, in characters that any disk takes: `_pfo_coef=0.1+1`."""
    text = "_".join(f"{field}={'+'.join(values)}" for field, values in asked.items())
    safe = re.sub(r"[^\w=+.-]", "-", text, flags=re.ASCII)
    short = safe if len(safe) <= _LONGEST else f"{safe[:_LONGEST]}-{zlib.crc32(text.encode()):08x}"
    return f"_{short}" if asked else ""


def parse_where(texts: Sequence[str]) -> dict[str, list[str]]:
    """`select`'s conditions from texts like `pfo_coef=1` or `num_epochs=4,16`; a field's values add up over texts.

    Raises ConfigError for a text of another form.
    """
    conditions: dict[str, dict[str, None]] = {}  # each value once, in order
    for text in texts:
        field, equals, values = text.partition("=")
        if not (field and equals and values):
            raise ConfigError(f"where is {text!r}, but must be FIELD=VALUE or FIELD=VALUE,VALUE.")
        conditions.setdefault(field, {}).update(dict.fromkeys(values.split(",")))
    return {field: list(values) for field, values in conditions.items()}


def check_options(figure: str | None, metrics: Sequence[str], by: Sequence[str], facet: str | None) -> None:
    """Raise ConfigError where the options of `plot` do not go together."""
    if metrics and figure not in (None, "sensitivity"):
        raise ConfigError(f"figure is {figure}, which shows metrics of its own; leave out figure, or metric.")
    if (by or facet) and (not metrics or figure is not None):
        raise ConfigError("by and facet go with metric, without figure; `purejaxppo metrics` lists the metrics.")


def check_field(dataset: xr.Dataset, field: str, option: str) -> str:
    """The name of a swept field, or `seed`; raises ConfigError for another one."""
    known = [*swept_fields(dataset), "seed"]
    if field not in known:
        raise unknown_name(f"{option} field", field, known)
    return field


def group_by(dataset: xr.Dataset, fields: Sequence[str]) -> list[Point]:
    """The combinations of values of some fields, in order of first appearance, with the positions of their runs."""
    columns = [dataset[field].values.tolist() for field in fields]
    members: dict[tuple[Any, ...], list[int]] = {}
    for run in range(dataset.sizes["run"]):
        members.setdefault(tuple(column[run] for column in columns), []).append(run)
    return [(dict(zip(fields, key, strict=True)), np.array(runs)) for key, runs in members.items()]


def arrange(everything: Sequence[Point], facet: str | None = None) -> tuple[list[Facet], list[Channel]]:
    """Facets with at most six points each, and the channels that tell the points of a facet apart.

    One facet per value of `facet`; without it one facet in all, or, of more than six points, one per value of the axis
    that makes the fewest. What is left with more than six points is cut into parts of similar size; each begins with
    plain PPO, if that is among them. The legend says which level is in which part, in brackets.
    """
    if not everything:
        return [Facet(name="", points=())], []
    swept = [point for point, _ in everything]
    bundle = bundled_fields(swept)
    groups = [bundle] * bool(bundle) + [(field,) for field in varying_fields(swept) if field not in bundle]
    if facet is not None:
        candidates = [(facet,)]
    elif len(everything) > MOST_LINES and len(groups) > 1:
        candidates = groups
    else:
        candidates = [()]
    arrangements = [(_facets(everything, group), group) for group in candidates]
    (facets, channels), _ = min(arrangements, key=lambda found: (len(found[0][0]), is_intervention(found[1])))
    return facets, channels


def _facets(everything: Sequence[Point], group: tuple[str, ...]) -> tuple[list[Facet], list[Channel]]:
    """One facet, or several, for each level of a group of fields, and the channels of the other fields."""
    rest = [{field: value for field, value in point.items() if field not in group} for point, _ in everything]
    channels = choose_channels(rest)
    levels: dict[tuple[Any, ...], list[Point]] = {}
    for point, runs in everything:
        levels.setdefault(tuple(point[field] for field in group), []).append((point, runs))
    names = _names(list(levels), group)
    facets, places = [], {}
    for name, points in zip(names, levels.values(), strict=True):
        parts = _parts(points, channels)
        for number, part in enumerate(parts):
            which = f"part {number + 1} of {len(parts)}{_range(part, channels[0])}" if len(parts) > 1 else ""
            facets.append(Facet(name=", ".join(filter(None, [name, which])), points=tuple(part), level=name))
            for point, _ in part:
                level = tuple(point[field] for field in channels[0].fields) if channels else ()
                places.setdefault(level, set()).add(number + 1)
    return facets, [*(_with_parts(channel, places) for channel in channels[:1]), *channels[1:]]


def _range(part: Sequence[Point], channel: Channel) -> str:
    """First and last level of a part, where a colour bar has no entry for each."""
    if channel.kind != "colour_bar":
        return ""
    return f": {channel.label(part[0][0])} to {channel.label(part[-1][0])}"


def _with_parts(channel: Channel, places: Mapping[tuple[Any, ...], Collection[int]]) -> Channel:
    """The channel by whose levels points are cut into parts, with the parts of each level in its legend."""
    every = set().union(*places.values())
    if len(every) < 2 or channel.kind == "colour_bar":
        return channel
    texts = (
        "all" if places[level] == every else ", ".join(map(str, sorted(places[level]))) for level in channel.levels
    )
    return replace(channel, notes=tuple(f" ({text})" for text in texts), heading=f"{channel.title} (part)")


def _names(levels: Sequence[tuple[Any, ...]], group: tuple[str, ...]) -> list[str]:
    """`num_epochs = 4`; of a list of settings what each changes."""
    if len(group) < 2:
        return [describe(dict(zip(group, level, strict=True))).replace("=", " = ") if group else "" for level in levels]
    swept = [dict(zip(group, level, strict=True)) for level in levels]
    (channel, *_) = choose_channels(swept)
    return [channel.label(point) for point in swept]


def _parts(points: list[Point], channels: Sequence[Channel]) -> list[list[Point]]:
    """Points in parts of at most six, in the order of the legend."""
    if len(points) <= MOST_LINES:
        return [points]
    head = channels[0]
    points = sorted(points, key=lambda item: head.levels.index(tuple(item[0][field] for field in head.fields)))
    plain = [item for item in points if _is_plain(item[0], head)][: MOST_LINES // 2]
    others = [item for item in points if not any(item is other for other in plain)]
    size = MOST_LINES - len(plain)
    count = -(-len(others) // size)
    ends = [round(len(others) * number / count) for number in range(count + 1)]
    return [plain + others[begin:end] for begin, end in itertools.pairwise(ends)]


def _is_plain(point: Mapping[str, Any], channel: Channel) -> bool:
    return is_intervention(channel.fields) and all(point[field] == DEFAULTS.get(field) for field in channel.fields)


def _is_same(value: Any, wanted: Any) -> bool:
    """Whether a swept value is the wanted one, which may be its text: `0.1`, `True`, `relu`."""
    if isinstance(wanted, str) and not isinstance(value, str):
        try:
            return float(value) == float({"true": "1", "false": "0"}.get(wanted.lower(), wanted))
        except ValueError:
            return False
    return value == wanted
