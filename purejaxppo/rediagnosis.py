"""Diagnostics computed anew, from snapshots: those that training logged, equal, and such as nobody thought of then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from purejaxppo import own
from purejaxppo.config import TrainConfig
from purejaxppo.envs.names import CUSTOM
from purejaxppo.envs.wrappers import ObservationStatistics
from purejaxppo.errors import ConfigError
from purejaxppo.fields import scalar
from purejaxppo.metrics import Metrics
from purejaxppo.networks import Params
from purejaxppo.ppo.rollout import collect_batch
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import Array, Batch, Learner, Origin, RunState, make_learner
from purejaxppo.sweep.brought import own_rows
from purejaxppo.sweep.policies import each_snapshot
from purejaxppo.sweep.snapshots import origin_shapes, read_origin
from purejaxppo.training.diagnosis import diagnose_update

if TYPE_CHECKING:
    from purejaxppo.hyperparams import HyperParams

# What no diagnosis reads: runs that differ in it alone share a program.
_UNREAD: dict[str, Any] = {"num_epochs": 1, "lr_schedule": "constant", "reset_optimizer": False}


def rediagnose(
    out: str | Path,
    *,
    runs: Sequence[int] | None = None,
    snapshots: Sequence[int] | None = None,
    diagnostics: Sequence[str] = (),
) -> pd.DataFrame:
    """The representation and trust-region diagnostics of the snapshots of a sweep's directory; a row per run and one.

    What a log point reports is the network before against the network after its last update, on that update's rollout.
    A snapshot keeps the networks and where the update began, from which that very rollout is collected again: the
    numbers are those that were logged, up to the rounding of another program (on another processor or card, or where
    physics amplify it, of another rollout of the same policy).

    runs: places in the sweep. snapshots: numbers, 0 of the initial networks. None takes all. diagnostics: import paths,
    `module:name`, of the user's own that are to be computed beside ours, in place of the sweep's own.
    Columns: run, the swept fields, seed, snapshot, log_point, env_steps, and the diagnostics that are one number each.
    Raises ConfigError as `load_policies` does, and for diagnostics of one's own as a sweep does.
    """
    rows = []
    for number, places, everything in each_snapshot(out, runs):
        if snapshots is not None and number not in snapshots:
            continue
        for policies in everything:
            asked = tuple(diagnostics) or policies.config.diagnostics or True
            diagnose, shapes = _program(replace(policies.config, diagnostics=asked, **_UNREAD))
            for i, run in enumerate(policies.runs):
                place = places[run.index]
                params, statistics = jax.tree.map(lambda x, i=i: x[i], (policies.params, policies.statistics))
                origin, hparams = read_origin(shapes, place), jax.tree.map(np.float32, run.hparams)
                key = jax.random.key(np.uint32(run.seed))
                found = diagnose(hparams, key, np.int32(place.log_point), origin, params, statistics)
                about = {"run": run.index} | {name: scalar(value) for name, value in run.point.items()}
                about |= {"seed": run.seed, "snapshot": number, "log_point": place.log_point}
                about |= {"env_steps": int(policies.env_steps[i])}
                rows.append(about | dict(zip(found.names, np.asarray(found.scalars).tolist(), strict=True)))
    if not rows:
        raise ConfigError(f"snapshots is {list(snapshots or ())}, but {out} has no such snapshot of these runs.")
    return pd.DataFrame(rows).sort_values(["run", "snapshot"], ignore_index=True)


def _program(config: TrainConfig) -> tuple[Callable[..., Metrics], Origin]:
    """What diagnoses, compiled once, and the shapes of what it begins from."""
    named = {"env": (config.env,), "network": (config.network or "",)}
    named |= {"diagnostics": config.own_diagnostics, "interventions": config.interventions}
    brought = (own.find(field, path) for field, paths in named.items() for path in paths if own.is_path(path))
    return _made(config, (CUSTOM.get(config.env), *brought))


@cache
def _made(config: TrainConfig, brought: tuple[Any, ...]) -> tuple[Callable[..., Metrics], Origin]:
    """brought: what the user's names lead to now; once they lead elsewhere, after a reload, it is another program."""
    del brought
    learner = make_learner(config)
    own_rows(learner, {})  # no name is taken
    return jax.jit(partial(_diagnose, learner)), origin_shapes(learner)


@jax.default_matmul_precision("highest")  # as in training
def _diagnose(
    learner: Learner,
    hparams: HyperParams,
    key: Array,
    log_point: Array,
    origin: Origin,
    params: Params,
    statistics: ObservationStatistics | None,
) -> Metrics:
    """Diagnostics of the last update before a log point, from where it began and the networks after it.

    At log point 0 nothing is learned, and the rollouts before the last one are played again as well.
    """
    num_updates = jnp.where(log_point == 0, 1, log_point) * learner.config.updates_per_log
    began = replace(
        init_run(learner, key),
        params=origin.params,
        observation_statistics=origin.observation_statistics,
        reward_statistics=origin.reward_statistics,
        env_state=origin.env_state,
        obs=origin.obs,
        optimizer={},
        origin=None,
    )

    def play(update: Array, state: RunState) -> tuple[RunState, Batch]:
        return collect_batch(learner, hparams, state, jax.random.split(jax.random.fold_in(state.key, update))[0])

    first = jnp.where(log_point == 0, 0, num_updates - 1)
    before = jax.lax.fori_loop(first, num_updates - 1, lambda update, state: play(update, state)[0], began)
    batch = play(num_updates - 1, before)[1]
    after = replace(before, params=params, observation_statistics=statistics, update=num_updates)
    return diagnose_update(learner, hparams, before, after, batch)
