"""From a sweep file to groups of runs: one group is one static configuration, one XLA program. Imports no JAX."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from purejaxppo import own
from purejaxppo.config import SELECTABLE, TrainConfig
from purejaxppo.envs import check_options
from purejaxppo.errors import ConfigError
from purejaxppo.fields import coerce, field_names, hints_of, scalar, unknown_name
from purejaxppo.hyperparams import HyperParams, validate_hyperparams, with_strengths
from purejaxppo.presets import PRESETS, preset_fields
from purejaxppo.sweep import inert

STATIC = field_names(TrainConfig)
TRACED = field_names(HyperParams)
_IS_STATIC = frozenset(STATIC)
TOP_LEVEL = ["name", "seeds", "preset", "import", "config", "hparams", "axes", "points"]
MAX_SEED = 2**32 - 1
# One value of every field in which runs of one program may differ: configurations that agree in the others are equal.
_ANY = {name: getattr(TrainConfig(), name) for name in SELECTABLE}
# What earlier versions called the values of a field, which are in the directories of their sweeps.
_FORMER_VALUES = {("normalize_observations", True): "running", ("normalize_observations", False): "off"}
MAX_NAME = 200  # it names a folder, and file systems allow 255
MAX_RUNS = 1_000_000  # more are a slip of the keyboard, and would fill the memory with the plan alone


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A base configuration, the points at which to run it, and the seeds to run each point with.

    `points` is one dict of field -> value per point; every point sets the same fields. An empty tuple of fields (one
    point, `{}`) runs the base configuration alone. In a file they are the product of [axes], of [[points]], or of both.
    """

    name: str
    seeds: tuple[int, ...]
    config: TrainConfig = field(default_factory=TrainConfig)
    hparams: HyperParams = field(default_factory=HyperParams)
    points: tuple[dict[str, Any], ...] = ({},)
    imports: tuple[str, ...] = ()
    """Modules of your own that are imported first, such as one that registers environments."""
    folder: str | None = field(default=None, compare=False)
    """Folder of the sweep file, beside which modules of your own are found; None where there is no file."""

    def __post_init__(self) -> None:
        """A number of seeds counts from 0, as in a file; raises ConfigError for what is neither that nor several.

        And for points that are one mapping: `axes` of a file.
        """
        if isinstance(self.points, Mapping):
            raise ConfigError(
                "points is a mapping, but must be a sequence of them, one for each point: {'pfo_coef': 0.0}, "
                "{'pfo_coef': 1.0}."
            )
        if not hasattr(self.seeds, "__iter__"):
            object.__setattr__(self, "seeds", parse_seeds(self.seeds))

    @property
    def swept(self) -> list[str]:
        """Names of the swept fields, in the file's order."""
        return list(self.points[0])

    @property
    def num_runs(self) -> int:
        """Points times seeds."""
        return len(self.points) * len(self.seeds)

    @staticmethod
    def from_toml(path: str | Path, *, imports: Sequence[str] = ()) -> Sweep:
        """Read and validate a sweep file; raises ConfigError with one sentence for anything wrong in it.

        That includes fields that are set or swept and have no effect, and a file that does not name its environment.
        imports: modules of your own to import first, beside those that the file names.
        """
        path = Path(path)
        content = read_toml(path)
        if imports:
            named = content.get("import", [])
            content["import"] = [*dict.fromkeys([*named, *imports])] if isinstance(named, list) else named
        sweep = parse_sweep(content, default_name=path.stem, folder=str(path.parent.resolve()))
        _check_env_is_named(content, path)
        check_effects(sweep, content)
        return sweep


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a sweep: its place in the sweep, its point, its seed, and what it is configured with."""

    index: int
    point: dict[str, Any]
    seed: int
    config: TrainConfig
    hparams: HyperParams


@dataclass(frozen=True, kw_only=True)
class Group:
    """All runs that share a program: their configurations differ in fields of `SELECTABLE` at most.

    config: that of the first run; what it says of sizes, steps and log points holds for all.
    """

    config: TrainConfig
    runs: tuple[Run, ...]

    @property
    def env_steps(self) -> int:
        """Environment steps of all runs together."""
        return len(self.runs) * self.config.num_updates * self.config.batch_size

    @property
    def alternatives(self) -> dict[str, tuple[Any, ...]]:
        """The fields in which runs differ, with their values in the order of the runs."""
        values = {name: tuple(dict.fromkeys(getattr(run.config, name) for run in self.runs)) for name in SELECTABLE}
        return {name: found for name, found in values.items() if len(found) > 1}

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Runs of equal numbers of epochs, which lie next to each other, as (first, stop)."""
        epochs = [run.config.num_epochs for run in self.runs]
        starts = [i for i in range(len(epochs)) if i == 0 or epochs[i] != epochs[i - 1]]
        return list(zip(starts, [*starts[1:], len(epochs)], strict=True))


def read_toml(path: Path) -> dict[str, Any]:
    """Contents of a TOML file; raises ConfigError when it cannot be read or parsed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte order mark
    except FileNotFoundError:
        raise ConfigError(f"sweep file {path} does not exist.") from None
    except OSError as error:
        raise ConfigError(f"sweep file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"sweep file {path} is not UTF-8 text, which TOML must be.") from None
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, and brackets as deep
        raise ConfigError(f"sweep file {path} is not valid TOML: {error}.") from None


def parse_sweep(content: dict[str, Any], *, default_name: str = "sweep", folder: str | None = None) -> Sweep:
    """A validated Sweep from the contents of a sweep file in a folder.

    Strengths of the user's own interventions are taken as they are: what these are, their modules say later. Only those
    of `import` are imported here, as they may register names.
    Raises ConfigError naming the field, the value and what is allowed.
    """
    for key in content:
        if key not in TOP_LEVEL:
            raise unknown_name("key", key, TOP_LEVEL)
    for table in ("config", "hparams", "axes"):
        if not isinstance(content.get(table, {}), dict):
            raise ConfigError(f"{table} is {content[table]!r}, but must be a table, [{table}].")
    points = content.get("points", [])
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise ConfigError(f"points is {points!r}, but must be a list of tables, [[points]].")
    imports = import_modules(content.get("import", []), folder)
    preset_config, preset_hparams = preset_fields(content["preset"]) if "preset" in content else ({}, {})
    config = build(TrainConfig, preset_config | content.get("config", {}), "config")
    hparams, strengths = preset_hparams | content.get("hparams", {}), {}
    if _has_interventions(content):
        strengths = {name: _strength(x) for name, x in hparams.items() if name not in STATIC + TRACED}
    hparams = build(HyperParams, {name: x for name, x in hparams.items() if name not in strengths}, "hparams")
    hparams = with_strengths(hparams, strengths)
    sweep = Sweep(
        name=_parse_name(content.get("name", default_name)),
        seeds=parse_seeds(content.get("seeds", 1)),
        config=config,
        hparams=hparams,
        points=_parse_points(content, dataclasses.asdict(config) | dataclasses.asdict(hparams) | strengths),
        imports=imports,
        folder=folder,
    )
    if sweep.num_runs > MAX_RUNS:
        raise ConfigError(f"the sweep has {sweep.num_runs} runs, points x seeds, but at most {MAX_RUNS} are allowed.")
    modules = (name for group in make_groups(sweep) for name in group.config.own_modules)
    own.check_places(modules, folder)
    return sweep


def build(cls: type, values: dict[str, Any], where: str) -> Any:
    """An instance of TrainConfig or HyperParams from values as read; raises ConfigError for an unknown field."""
    hints = hints_of(cls)
    for name in values:
        if name in hints:
            continue
        other = "hparams" if cls is TrainConfig else "config"
        if name in (TRACED if cls is TrainConfig else STATIC):
            raise ConfigError(f"{name} is in [{where}], but belongs in [{other}].")
        raise unknown_name(f"[{where}] field", name, STATIC if cls is TrainConfig else TRACED)
    return cls(**{name: _coerce(name, value, hints[name]) for name, value in values.items()})


def _coerce(name: str, value: Any, hint: Any) -> Any:
    if isinstance(value, bool):
        value = _FORMER_VALUES.get((name, value), value)
    return coerce(name, value, hint)


def parse_seeds(seeds: Any) -> tuple[int, ...]:
    """Seeds from a number (0, 1, ..., n - 1) or a list of different whole numbers from 0 to 2^32 - 1."""
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        if seeds > MAX_RUNS:
            raise ConfigError(f"seeds is {seeds}, but must be at most {MAX_RUNS} runs.")
        return tuple(range(seeds))
    if isinstance(seeds, (list, tuple)) and seeds:
        valid = all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s <= MAX_SEED for s in seeds)
        if valid and len(set(seeds)) == len(seeds):
            return tuple(seeds)
    raise ConfigError(
        f"seeds is {seeds!r}, but must be a number of at least 1 or a list of different whole numbers from 0 to "
        "2^32 - 1."
    )


def check_effects(sweep: Sweep, content: dict[str, Any] | None = None, presets: Iterable[str] = tuple(PRESETS)) -> None:
    """Raise ConfigError for what has no effect although it is set or swept; by a file's content, or else by its value.

    A field of the base configuration is fine where it acts at some point; so is an axis. presets: those from which the
    sweep may have begun, whose values nobody has set.
    """
    points = inert.full_points(sweep.config, sweep.hparams, sweep.points)
    if content is None:
        inert.check_base(sorted({*inert.chosen(sweep.config, sweep.hparams, presets)} | {*sweep.swept}), points)
        return
    for table in ("config", "hparams"):
        inert.check_base([x for x in content.get(table, {}) if x not in sweep.swept], points, f"[{table}]")
    inert.check_axes(content.get("axes", {}), points)
    inert.check_points(content.get("points", []), points)


def _check_env_is_named(content: dict[str, Any], path: Path) -> None:
    """The environment decides what everything else means: a default for it would be a trap, a preset's too."""
    points = content.get("points", [])
    if "env" not in {**content.get("config", {}), **content.get("axes", {})} and not (
        points and all("env" in point for point in points)
    ):
        raise ConfigError(f'sweep file {path} names no env; [config] needs one, such as env = "gymnax/CartPole-v1".')


def make_groups(sweep: Sweep) -> list[Group]:
    """Runs grouped by the program they share, every one of them validated.

    Raises ConfigError naming the field, the value and what is allowed.
    """
    groups: dict[TrainConfig, list[Run]] = {}
    configs: dict[str, tuple[TrainConfig, list[Run]]] = {}  # by their fields as they are written, 1 being no True
    index = 0
    for point in sweep.points:
        static = {name: value for name, value in point.items() if name in _IS_STATIC}
        key = repr(static)
        if key not in configs:
            config = dataclasses.replace(sweep.config, **static).validate()
            check_options(config.env, brax_backend=config.brax_backend, max_episode_steps=config.max_episode_steps)
            configs[key] = config, groups.setdefault(dataclasses.replace(config, **_ANY), [])
        config, runs = configs[key]
        hparams = _hparams_at(sweep, {name: value for name, value in point.items() if name not in _IS_STATIC})
        for seed in sweep.seeds:
            runs.append(Run(index=index, point=point, seed=seed, config=config, hparams=hparams))
            index += 1
    ordered = (sorted(runs, key=lambda run: run.config.num_epochs) for runs in groups.values())
    return [Group(config=runs[0].config, runs=tuple(runs)) for runs in ordered]


def _hparams_at(sweep: Sweep, values: dict[str, Any]) -> HyperParams:
    """The hyper-parameters of a sweep with some values, of strengths too; raises ConfigError for impossible ones."""
    strengths = {name: value for name, value in values.items() if name not in TRACED}
    traced = {name: value for name, value in values.items() if name in TRACED}
    return validate_hyperparams(with_strengths(dataclasses.replace(sweep.hparams, **traced), strengths))


def describe(sweep: Sweep, groups: list[Group]) -> str:
    """The plan as a few lines of text, for `--dry-run` and the start of a sweep."""
    lines = [
        f"Sweep '{sweep.name}': {sweep.num_runs} runs = {len(sweep.points)} points x {len(sweep.seeds)} seeds, "
        f"{len(groups)} program{'s' if len(groups) > 1 else ''}, "
        f"{sum(group.env_steps for group in groups):,} environment steps"
    ]
    for name in sweep.swept:
        splits = name in STATIC and name not in SELECTABLE
        kind = "one program per value" if splits else "inside one program"
        values = list(dict.fromkeys(str(scalar(point[name])) for point in sweep.points))
        lines.append(f"  {name}: {', '.join(values)} ({kind})")
    given = dict.fromkeys([*inert.chosen(sweep.config, sweep.hparams), *sweep.swept])
    lines += inert.remarks(given, inert.full_points(sweep.config, sweep.hparams, sweep.points))
    for number, group in enumerate(groups, 1):
        config = group.config
        epochs = ", ".join(str(value) for value in group.alternatives.get("num_epochs", (config.num_epochs,)))
        selected = [name for name in group.alternatives if name != "num_epochs"]
        lines.append(
            f"  program {number}: {config.env}, {len(group.runs)} runs x {config.num_updates} updates of "
            f"{config.num_envs} x {config.num_steps} steps, {epochs} epochs x {config.num_minibatches} "
            f"minibatches, {config.num_logs} log points{', selects ' * bool(selected)}{', '.join(selected)}"
        )
    return "\n".join(lines)


def to_json(sweep: Sweep) -> dict[str, Any]:
    """The resolved sweep as plain data: `parse_sweep` of it gives the sweep back."""
    config = {name: _plain(value) for name, value in dataclasses.asdict(sweep.config).items() if value is not None}
    hparams = dataclasses.asdict(sweep.hparams)
    hparams |= hparams.pop("strengths", {})
    return {
        "name": sweep.name,
        "seeds": [_plain(seed) for seed in sweep.seeds],
        **({"import": list(sweep.imports)} if sweep.imports else {}),
        "config": config,
        "hparams": {name: _plain(value) for name, value in hparams.items()},
        "points": [{name: _plain(value) for name, value in point.items()} for point in sweep.points],
    }


def own_modules(sweep: Sweep) -> list[str]:
    """Modules of the user's own that a sweep needs, each once."""
    configs = (group.config for group in make_groups(sweep))
    return list(dict.fromkeys([*sweep.imports, *(name for config in configs for name in config.own_modules)]))


def _plain(value: Any) -> Any:
    """A NumPy scalar, as `np.arange` and `np.logspace` give them, as Python's own number."""
    return value.item() if isinstance(value, np.generic) else value


def _parse_name(name: Any) -> str:
    is_text = isinstance(name, str) and name.strip() not in ("", ".", "..") and not set(name) & set("/\\\0\n")
    is_text = is_text and not any("\ud800" <= letter <= "\udfff" for letter in name)  # bytes that are no UTF-8
    if not is_text or len(name.encode()) > MAX_NAME:
        raise ConfigError(
            f"name is {name!r}, but must be a non-empty line of text without slashes, of at most {MAX_NAME} bytes."
        )
    return name


def import_modules(names: Any, folder: str | None) -> tuple[str, ...]:
    """The modules of `import`, imported; they may be in a folder that is not on sys.path.

    Raises ConfigError for what is no list of names, and as `own.load` does.
    """
    own.look_in(folder)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"import is {names!r}, but must be a list of modules, such as ['lab.setup'].")
    own.check_places(names, folder)
    for name in names:
        own.load("import", name)
    return tuple(names)


def _has_interventions(content: dict[str, Any]) -> bool:
    """Whether any run of a sweep may have interventions of the user's own, whose strengths have names of their own."""
    tables = [content.get("config", {}), content.get("axes", {}), *content.get("points", [])]
    return any(isinstance(table, dict) and table.get("interventions") for table in tables)


def _strength(value: Any) -> Any:
    return coerce("", _plain(value), float)


def _parse_points(content: dict[str, Any], base: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Every point of [[points]] at every point of [axes]; what a point leaves out is as in the base configuration."""
    axes, points = _product(content), content.get("points", [])
    has_own = _has_interventions(content)
    points = [{name: _coerce_swept(name, value, has_own) for name, value in point.items()} for point in points] or [{}]
    fields = dict.fromkeys(name for point in points for name in point)
    for name in fields:
        if name not in base and not all(name in point for point in points):
            raise ConfigError(f"{name} is in some points only, so [hparams] must say its value in the others.")
    points = [{name: point[name] if name in point else base[name] for name in fields} for point in points]
    for name in fields:
        if name in axes[0]:
            raise ConfigError(f"{name} is in both axes and points, but must be in one of them.")
    if (position := _repeated([tuple(point.values()) for point in points])) is not None:
        raise ConfigError(
            f"points[{position}] is {points[position]}, but an earlier point is the same; points must differ."
        )
    count = len(axes) * len(points)
    if count > MAX_RUNS:  # before they are laid out, which would fill the memory
        raise ConfigError(f"axes and points have {count} points together, but at most {MAX_RUNS} are allowed.")
    return tuple(outer | inner for outer in axes for inner in points)


def _product(content: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    coerced: dict[str, list[Any]] = {}
    has_own = _has_interventions(content)
    for name, values in content.get("axes", {}).items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"axes.{name} is {values!r}, but must be a non-empty list of values.")
        coerced[name] = [_coerce_swept(name, value, has_own) for value in values]
        if (position := _repeated(coerced[name])) is not None:
            raise ConfigError(f"axes.{name} has {coerced[name][position]!r} twice, but no two values may be the same.")
    count = math.prod(len(values) for values in coerced.values())
    if count > MAX_RUNS:
        raise ConfigError(
            f"axes have {count} points, the product of their lengths, but at most {MAX_RUNS} are allowed."
        )
    return tuple(dict(zip(coerced, point, strict=True)) for point in itertools.product(*coerced.values()))


def _repeated(values: Sequence[Any]) -> int | None:
    """The position of the first of some values that an earlier one equals, as 1, 1.0 and true do; None without any."""
    seen: set[Any] = set()
    for position, value in enumerate(values):
        try:
            hash(key := value)
        except TypeError:  # a table or a list of lists of lists, which no field takes and its type says so later
            key = repr(value)
        if key in seen:
            return position
        seen.add(key)
    return None


def _coerce_swept(name: str, value: Any, has_own: bool) -> Any:
    """A swept value in the type of its field; with interventions of the user's own an unknown field is a strength."""
    hints = hints_of(TrainConfig if name in STATIC else HyperParams)
    if name not in STATIC + TRACED:
        if has_own:
            return _strength(value)
        raise unknown_name("swept field", name, STATIC + TRACED)
    return _coerce(name, value, hints[name])
