"""Results of several sweeps as one: fields in which they differ become coordinates, and each keeps where it is from."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.config import SELECTABLE, TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.fields import field_names, scalar
from purejaxppo.hyperparams import HyperParams
from purejaxppo.results.dataset import GroupResult, swept_fields, to_dataset
from purejaxppo.results.pieces import Piece, below, pick

DIRECTORY = "directory"
"""The coordinate that tells sweeps apart where nothing else does."""

_STATIC = field_names(TrainConfig)
_DEFAULTS = dataclasses.asdict(TrainConfig()) | dataclasses.asdict(HyperParams())
_PER_SWEEP = ("name", "sweep", "merged", "selected")

Fields = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Union:
    """The sweep that several make together."""

    fields: list[str]
    """What is swept in it."""
    points: list[Fields]
    seeds: list[int]
    base: Fields
    """Configuration and hyper-parameters of the first one."""
    imports: list[str]
    """Modules of the user's own that any of them imports first."""
    is_told: bool
    """Whether each is a whole sweep of ours."""
    places: list[dict[int, int]]
    """Of each of them: position of a run in its dataset -> place in the sweep. Runs that an earlier one has, too, are
    left out."""

    def point(self, index: int) -> Fields:
        """The point of the run at a place in the sweep."""
        return self.points[index // len(self.seeds)]


def concat(datasets: Sequence[xr.Dataset], names: Sequence[str] | None = None) -> xr.Dataset:
    """The runs of several results as one dataset, in the order of the one sweep that would have computed them.

    Swept fields, and fields of the configuration in which the results differ, become coordinates over runs. `names` (of
    their directories, say) become a coordinate `directory` where nothing else tells two runs apart; without names such
    runs must agree in every number, and are taken once. Attributes that agree are kept, those of each are in `merged`.
    Metrics are read when they are asked for.

    Raises ConfigError, which names the first, for runs that differ in nothing but their numbers, and for results that
    do not say the value of a field in which the others differ.
    """
    if len(datasets) == 1:
        return datasets[0]
    labels = [f"number {number}" for number in range(1, 1 + len(datasets))] if names is None else list(names)
    return join(datasets, unite(datasets, labels, is_by_name=names is not None), None if names is None else labels)


def join(datasets: Sequence[xr.Dataset], union: Union, names: Sequence[str] | None) -> xr.Dataset:
    """The runs of results at their places in the sweep that they make together."""
    programs: dict[str, list[Piece]] = {}
    for dataset, places in zip(datasets, union.places, strict=True):
        for program, rows in _by_program(places, union).items():
            pieces = pick(dataset, np.asarray(rows), np.asarray([places[row] for row in rows]))
            programs.setdefault(program, []).extend(pieces)
    ordered = sorted(programs.values(), key=lambda pieces: min(piece.run_index.min() for piece in pieces))
    results = [_group_result(union, piece) for pieces in ordered for piece in _on_one_grid(pieces)]
    return to_dataset(results, _attributes(datasets, names, union), own_rows=own_rows(datasets))


def unite(datasets: Sequence[xr.Dataset], labels: Sequence[str], *, is_by_name: bool) -> Union:
    """Points and seeds of the sweep that results make together, and where in it their runs are; raises as `concat`.

    `labels` are what the results are called in sentences, and, if `is_by_name`, tell apart what nothing else does.
    """
    if not datasets:
        raise ConfigError("datasets is empty, but must be at least one.")
    bases = [_base(dataset) for dataset in datasets]
    runs = [_runs(dataset, base) for dataset, base in zip(datasets, bases, strict=True)]
    swept = list(dict.fromkeys(field for dataset in datasets for field in swept_fields(dataset)))
    known = dict.fromkeys(field for base in bases for field in base)
    differing = [field for field in known if len({_key(base[field]) for base in bases if field in base}) > 1]
    fields = [*swept, *(field for field in differing if field not in swept)]
    full = [
        [_filled(fields, point, base, label) for point, _ in own]
        for own, base, label in zip(runs, bases, labels, strict=True)
    ]
    identities = [
        [(_key(point), seed) for point, (_, seed) in zip(points, own, strict=True)]
        for points, own in zip(full, runs, strict=True)
    ]
    counted = [identity for own in identities for identity in own]
    if is_by_name and len(set(counted)) < len(counted):
        fields.append(DIRECTORY)
        full = [[point | {DIRECTORY: label} for point in own] for own, label in zip(full, labels, strict=True)]
    points = in_order([point for own in full for point in own], fields)
    seeds = _seeds([[seed for _, seed in own] for own in runs])
    place = {_key(point): number * len(seeds) for number, point in enumerate(points)}
    taken: dict[int, tuple[int, int]] = {}
    places: list[dict[int, int]] = []
    for number, (own, their) in enumerate(zip(full, runs, strict=True)):
        places.append({})
        for row, (point, (_, seed)) in enumerate(zip(own, their, strict=True)):
            index = place[_key(point)] + seeds.index(seed)
            if index not in taken:
                taken[index] = (number, row)
                places[number][row] = index
            else:
                _check_same(datasets, labels, taken[index], (number, row), point, seed)
    told = [json.loads(dataset.attrs.get("sweep", "{}")) for dataset in datasets]
    return Union(
        fields=fields,
        points=points,
        seeds=seeds,
        base=bases[0],
        imports=list(dict.fromkeys(module for record in told for module in record.get("import", []))),
        is_told=all("points" in record for record in told),
        places=places,
    )


def _base(dataset: xr.Dataset) -> Fields:
    """Configuration and hyper-parameters that results tell; those of our own sweeps with defaults of what is new."""
    record = json.loads(dataset.attrs.get("sweep", "{}"))
    told = record.get("config", {}) | record.get("hparams", {})
    known = (_DEFAULTS | told) if "points" in record else told
    return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


def _runs(dataset: xr.Dataset, base: Fields) -> list[tuple[Fields, int]]:
    """Swept values and seed of each run; as the sweep has them where it is told, else as coordinates have them."""
    record = json.loads(dataset.attrs.get("sweep", "{}"))
    points, seeds = record.get("points"), record.get("seeds") or []
    columns = {field: dataset[field].values.tolist() for field in swept_fields(dataset)}
    indices, found = dataset["run_index"].values.tolist(), []
    for row, seed in enumerate(dataset["seed"].values.tolist()):
        point = {field: values[row] for field, values in columns.items()}
        if points and seeds and indices[row] < len(points) * len(seeds):
            typed = points[indices[row] // len(seeds)]
            point |= {field: value for field, value in typed.items() if field in point}
        found.append((point, seed))
    return found


def _filled(fields: Sequence[str], point: Fields, base: Fields, label: str) -> Fields:
    missing = [field for field in fields if field not in point and field not in base]
    if missing:
        raise ConfigError(
            f"results {label} do not say their {missing[0]}, in which the others differ; `import_metrics` takes it in "
            "config."
        )
    return {field: point[field] if field in point else base[field] for field in fields}


def in_order(points: Sequence[Fields], fields: Sequence[str]) -> list[Fields]:
    """Different points: those of a whole product in its order, the last field innermost; others as they come."""
    different = list({_key(point): point for point in points}.values())
    values = {field: list(dict.fromkeys(_key(point[field]) for point in different)) for field in fields}
    if math.prod(map(len, values.values())) != len(different):
        return different
    return sorted(different, key=lambda point: [values[field].index(_key(point[field])) for field in fields])


def _seeds(each: Sequence[Sequence[int]]) -> list[int]:
    """All seeds; in ascending order where each of the results has them so, else as they come."""
    own = [list(dict.fromkeys(seeds)) for seeds in each]
    every = list(dict.fromkeys(seed for seeds in own for seed in seeds))
    return sorted(every) if all(seeds == sorted(seeds) for seeds in own) else every


def _key(value: Any) -> str:
    """A value, or a point, as text that is equal for equal ones: 1 and 1.0 are."""
    if isinstance(value, Mapping):
        return json.dumps({name: _key(item) for name, item in value.items()}, sort_keys=True)
    value = scalar(value)  # as coordinates have it
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def _check_same(
    datasets: Sequence[xr.Dataset],
    labels: Sequence[str],
    first: tuple[int, int],
    second: tuple[int, int],
    point: Fields,
    seed: int,
) -> None:
    """Raise ConfigError where one run is in two results with different numbers."""
    one, other = (datasets[number].isel(run=row).drop_vars(["run_index", "group"]) for number, row in (first, second))
    names = [str(name) for name in one.data_vars if name in other]
    if set(one.data_vars) == set(other.data_vars) and all(
        one[name].shape == other[name].shape and np.array_equal(one[name].values, other[name].values, equal_nan=True)
        for name in names
    ):
        return
    which = ", ".join(f"{field}={scalar(value)}" for field, value in point.items())
    raise ConfigError(
        f"results {labels[first[0]]} and {labels[second[0]]} both have the run {which}{', ' * bool(which)}seed {seed}, "
        "with other numbers; leave one of them out."
    )


def _by_program(places: Mapping[int, int], union: Union) -> dict[str, list[int]]:
    """The runs of a dataset, as positions in it, by what those share that are trained by one program."""
    splits = [field for field in union.fields if field in _STATIC and field not in SELECTABLE]
    members: dict[str, list[int]] = {}
    for row, index in places.items():
        point = union.point(index)
        members.setdefault(_key({field: point[field] for field in splits}), []).append(row)
    return members


def _on_one_grid(pieces: Sequence[Piece]) -> list[Piece]:
    grids: dict[bytes, list[Piece]] = {}
    for piece in pieces:
        grids.setdefault(piece.env_steps.tobytes(), []).append(piece)
    return [below(alike) for alike in grids.values()]


def _group_result(union: Union, piece: Piece) -> GroupResult:
    own = [union.point(index) for index in piece.run_index.tolist()]
    return GroupResult(
        env_steps=piece.env_steps,
        seeds=np.asarray([union.seeds[index % len(union.seeds)] for index in piece.run_index.tolist()]),
        swept={field: [point[field] for point in own] for field in union.fields},
        status=piece.status,
        run_index=piece.run_index,
        metrics=piece.metrics,
    )


def _attributes(datasets: Sequence[xr.Dataset], names: Sequence[str] | None, union: Union) -> Fields:
    """What all results agree in, the sweep that they make, and everything that each of them says."""
    attrs: list[Fields] = [{str(name): value for name, value in dataset.attrs.items()} for dataset in datasets]
    shared = {name: x for name, x in attrs[0].items() if all(other.get(name) == x for other in attrs)}
    kept = {name: value for name, value in shared.items() if name not in _PER_SWEEP}
    titles = list(dict.fromkeys(str(own["name"]) for own in attrs if own.get("name")))
    title = " + ".join(titles)
    title = title if len(title) <= 100 else f"{titles[0][:80]} and {len(titles) - 1} others"
    labels = names if names is not None else [""] * len(datasets)
    merged = [{DIRECTORY: label} | own if label else own for label, own in zip(labels, attrs, strict=True)]
    return kept | {"name": title, "sweep": record(union, title), "merged": merged}


def record(union: Union, name: str) -> Fields:
    """The sweep that results make together, as a sweep's directory has it; without points where they are not fields."""
    found: Fields = {
        "name": name,
        "config": {field: x for field, x in union.base.items() if field in _STATIC and x is not None},
        "hparams": {field: x for field, x in union.base.items() if field not in _STATIC},
    }
    if union.imports:
        found["import"] = union.imports
    if union.is_told and DIRECTORY not in union.fields:
        found |= {"seeds": union.seeds, "points": union.points}
    return found


def own_rows(datasets: Sequence[xr.Dataset]) -> dict[str, list[str]]:
    """What `to_dataset` takes to describe the metrics of the user's own that results have."""
    texts = ("long_name", "units", "definition", "source")
    return {
        str(name): [str(values.attrs.get(text, "")) for text in texts]
        for dataset in datasets
        for name, values in dataset.data_vars.items()
        if values.attrs.get("family") == "own"
    }
