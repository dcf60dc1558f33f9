"""What a sweep's own diagnostics and interventions are: tried on shapes before anything is compiled, and described."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax

from purejaxppo.errors import ConfigError
from purejaxppo.fields import unknown_name
from purejaxppo.hyperparams import strengths_of
from purejaxppo.own import Row
from purejaxppo.ppo.state import Learner, make_learner
from purejaxppo.results.dataset import OWN_COORDINATES
from purejaxppo.results.registry import METRICS, at_moments
from purejaxppo.sweep.plan import STATIC, TRACED, Group
from purejaxppo.training.train import trainer_of

_NAMES = {*OWN_COORDINATES, "log", "D", "minibatch", "snapshot", "log_point", *STATIC, *TRACED}
"""What datasets and tables call their dimensions, coordinates and columns, and may call them: swept fields."""


def check_brought(groups: Sequence[Group]) -> dict[str, Row]:
    """Build every program's static parts and trace the user's own functions; the rows of the metrics that these give.

    Raises ConfigError for an impossible configuration, a function that fails or gives something else than it should, a
    name that is taken, and a strength that no intervention takes or that has no value.
    """
    rows: dict[str, Row] = {}
    givers: dict[str, str] = {}
    taken: set[str] = set()
    for group in groups:
        learner = make_learner(group.config)
        for intervention in learner.interventions:
            if ours := [name for name in intervention.strengths if name in _NAMES or name in METRICS]:
                kind = "field" if ours[0] in STATIC + TRACED else "metric" if ours[0] in METRICS else "column"
                raise ConfigError(
                    f"interventions has {intervention.path!r}, whose strength {ours[0]} is already a {kind} of ours; "
                    "call it otherwise."
                )
            taken.update(intervention.strengths)
        rows |= own_rows(learner, givers)
        if learner.diagnostics or learner.interventions:
            _trace(learner, group)
    given = list(strengths_of(groups[0].runs[0].hparams))
    if unknown := [name for name in given if name not in taken]:
        raise unknown_name("[hparams] field", unknown[0], [*TRACED, *sorted(taken)])
    return rows


def own_rows(learner: Learner, givers: dict[str, str]) -> dict[str, Row]:
    """The rows of the metrics that the user's own functions give; `givers`, who gives which, is added to.

    Raises ConfigError for a name that is taken.
    """
    rows: dict[str, Row] = {}
    strengths = {name for intervention in learner.interventions for name in intervention.strengths}
    for path, name, row in _rows(learner):
        if name in _NAMES or name in strengths or not name.isidentifier():
            raise ConfigError(
                f"{path!r} gives a metric {name}, but must call it by one word that is no field, strength, dimension "
                "or column of results."
            )
        if name in METRICS or givers.setdefault(name, path) != path:
            giver = givers.get(name, "ours")
            raise ConfigError(f"{path!r} gives a metric {name}, which is {giver} already; call it otherwise.")
        rows[name] = row
    return rows


def _rows(learner: Learner) -> Iterator[tuple[str, str, Row]]:
    """Import path, metric, row."""
    for diagnostic in learner.diagnostics:
        yield from ((diagnostic.path, name, row) for name, row in diagnostic.rows)
    for penalty in (x for x in learner.interventions if x.is_penalty):
        yield from ((penalty.path, name, row) for name, row in at_moments(f"{penalty.name}_loss", penalty.row).items())


def _trace(learner: Learner, group: Group) -> None:
    trainer, hparams = trainer_of(learner), group.runs[0].hparams

    def whole(key: jax.Array) -> object:
        return trainer.segment(hparams, trainer.init(hparams, key))

    jax.eval_shape(whole, jax.eval_shape(lambda: jax.random.key(0)))
