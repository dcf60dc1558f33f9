"""Which interventions each run of a results file was trained with: none is plain PPO."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from purejaxppo.config import TrainConfig
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.interventions import INTERVENTIONS
from purejaxppo.results.dataset import swept_fields
from purejaxppo.statistics.tables import format_value

Fields = dict[str, Any]

DEFAULTS: Fields = dataclasses.asdict(TrainConfig()) | dataclasses.asdict(HyperParams())


_BETAS = ("adam_beta1", "adam_beta2")
_FIELDS = tuple(field for intervention in INTERVENTIONS for field in intervention.fields)

# Environments that pay at most steps, and differently for better and for worse. The paper says itself that a shared
# trunk can hurt the return where reward is sparse.
_DENSE = (
    *("CartPole-v1", "Pendulum-v1", "Reacher-misc", "Swimmer-misc"),
    *("Asterix-MinAtar", "Breakout-MinAtar", "Seaquest-MinAtar", "SpaceInvaders-MinAtar"),
)


def has_dense_reward(env: str) -> bool:
    """Whether an environment is known to pay at most steps."""
    suite, _, name = env.partition("/")
    return suite == "brax" or (suite == "gymnax" and name in _DENSE)


def paper_steps(env: str) -> int:
    """Environment steps of a run of the paper: 100M frames, four a step, on Atari, 5M on MuJoCo.

    MinAtar and JAXtari stand for Atari. For all other environments 5M, the shorter of the two.
    """
    return 25_000_000 if "MinAtar" in env or env.startswith("jaxtari/") else 5_000_000


@dataclass(frozen=True)
class Setup:
    """How one run was trained: interventions on top of a setting."""

    interventions: str
    """Fields that differ from plain PPO, `pfo_coef=1`; empty for plain PPO."""
    is_papers: bool
    """Whether it is one of the four interventions of claim C6, and nothing else."""
    setting: tuple[tuple[str, Any], ...]
    """All other swept fields and their values; runs are compared at equal settings."""
    shares_trunk: bool = False

    def get(self, field: str) -> Any:
        """Value of a field of the setting; None where it is not swept."""
        return dict(self.setting).get(field)

    def without(self, field: str) -> tuple[tuple[str, Any], ...]:
        """The setting without one field, which is not to tell runs apart."""
        return tuple((name, value) for name, value in self.setting if name != field)


def setups(dataset: xr.Dataset) -> list[Setup]:
    """How each run was trained, from its swept values and, for the rest, the `sweep` attribute of the results.

    Fields that an intervention uses only when it is on are no settings: plain runs that differ in `pfo_layers` alone
    were trained alike. Adam's betas are used by every run: where they are no intervention, others than those of the
    base (or of the first such run) are a setting.
    Raises ConfigError for results that do not say from which sweep they come, or say it wrongly.
    """
    base = _base_fields(dataset)
    columns = {field: dataset[field].values.tolist() for field in swept_fields(dataset)}
    swept = [{field: column[run] for field, column in columns.items()} for run in range(dataset.sizes["run"])]
    for values in swept:
        _check(base | values)
    plain_betas = _plain_betas(base, swept)
    coefs = {"interventions"} | {f"{name}_coef" for values in swept for name in _own_names(base | values)}
    found = []
    for values in swept:
        fields = base | values
        on = [intervention for intervention in INTERVENTIONS if intervention.is_on(fields)]
        names = [field for intervention in on for field in intervention.fields if _matters(field, fields)]
        own = own_strengths(fields)
        told = [f"{name}={format_value(fields[name])}" for name in names]
        told += [
            name if strength is None else f"{name}_coef={format_value(strength)}" for name, strength in own.items()
        ]
        found.append(
            Setup(
                interventions=", ".join(told),
                is_papers=len(on) == 1 and not own and on[0].is_papers(fields),
                shares_trunk=fields["share_trunk"],
                setting=tuple(
                    (name, value)
                    for name, value in values.items()
                    if not (name in _FIELDS or name in coefs) or (name in _BETAS and _betas(fields) not in plain_betas)
                ),
            )
        )
    return found


def own_strengths(fields: Fields) -> dict[str, float | None]:
    """The user's own interventions that are on, by name, with their coefficients; None for what is no penalty.

    All are on but penalties of coefficient 0.
    """
    found = {name: fields.get(f"{name}_coef") for name in _own_names(fields)}
    return {name: coef for name, coef in found.items() if coef != 0}


def _own_names(fields: Fields) -> list[str]:
    """Names of the functions that `interventions` leads to, as recorded (a list) or swept (a text)."""
    paths = fields["interventions"]
    paths = paths.split("-") if isinstance(paths, str) else paths
    return [str(path).partition(":")[2] for path in paths if path]


def fields_of_runs(dataset: xr.Dataset, field: str) -> np.ndarray:
    """Value of a field in each run, [S]: as swept, else as recorded."""
    if field in dataset.coords:
        return dataset[field].values
    return np.full(dataset.sizes["run"], _base_fields(dataset)[field])


def _betas(fields: Fields) -> tuple[float, float] | None:
    """Adam's betas; None where they are equal, which is an intervention."""
    first, second = (fields[name] for name in _BETAS)
    return None if first == second else (first, second)


def _plain_betas(base: Fields, swept: list[Fields]) -> tuple[tuple[float, float] | None, ...]:
    """The betas that are no setting: equal ones, and those of the base, or of the first run where none has these."""
    found = [betas for values in swept if (betas := _betas(base | values))]
    return (None, _betas(base) if _betas(base) in found else next(iter(found), None))


def _matters(field: str, fields: Fields) -> bool:
    """Whether a field of an intervention that is on belongs to its name."""
    if field == ("pfo_coef" if fields["pfo_mode"] == "clip" else "pfo_limit"):
        return False
    return fields[field] != DEFAULTS[field] or field == "adam_beta2"


def _base_fields(dataset: xr.Dataset) -> Fields:
    """All fields of the sweep's base configuration; those that an older version did not know have their defaults."""
    try:
        sweep = json.loads(dataset.attrs["sweep"])
        return DEFAULTS | sweep["config"] | sweep["hparams"]
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            "these results do not say from which sweep they come (attribute sweep is missing or damaged), so which of "
            "their runs are plain PPO cannot be told."
        ) from None


def _check(fields: Fields) -> None:
    """Raise ConfigError for a field of an intervention that has the wrong kind of value."""
    for name in _FIELDS:
        kind = type(DEFAULTS[name])
        if not isinstance(fields[name], (int, float) if kind is float else kind):
            raise ConfigError(f"{name} is {fields[name]!r} in these results, but must be like {DEFAULTS[name]!r}.")
