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

from purejaxppo.config import TrainConfig
from purejaxppo.envs.wrappers import ObservationStatistics
from purejaxppo.evaluate import cell
from purejaxppo.metrics import Metrics
from purejaxppo.networks import Params
from purejaxppo.ppo.rollout import collect, prepare_batch
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import Array, Learner, Origin, RunState, make_learner
from purejaxppo.sweep.policies import find_snapshots, load_policies
from purejaxppo.sweep.snapshots import read_origin
from purejaxppo.training.diagnosis import diagnose_update

if TYPE_CHECKING:
    from purejaxppo.hyperparams import HyperParams


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
    numbers are those that were logged, up to the rounding of another program.

    runs: places in the sweep. snapshots: numbers, 0 of the initial networks. None takes all. diagnostics: import paths,
    `module:name`, of the user's own that are to be computed beside ours, in place of the sweep's own.
    Columns: run, the swept fields, seed, snapshot, log_point, env_steps, and the diagnostics that are one number each.
    Raises ConfigError as `load_policies` does, and for diagnostics of one's own as a sweep does.
    """
    out = Path(out).expanduser()
    rows = []
    for run, places in sorted(find_snapshots(out).items()):
        if runs is not None and run not in runs:
            continue
        for number, place in enumerate(places):
            if snapshots is not None and number not in snapshots:
                continue
            (policies,) = load_policies(out, [run], number)
            of_run = policies.runs[0]
            config = replace(policies.config, diagnostics=tuple(diagnostics) or policies.config.diagnostics or True)
            learner, diagnose = _program(config)
            params, statistics = jax.tree.map(lambda x: x[0], (policies.params, policies.statistics))
            hparams = jax.tree.map(np.float32, of_run.hparams)
            key, origin = jax.random.key(np.uint32(of_run.seed)), read_origin(learner, place)
            found = diagnose(hparams, key, np.int32(place.log_point), origin, params, statistics)
            about = {"run": run} | {name: cell(value) for name, value in of_run.point.items()} | {"seed": of_run.seed}
            about |= {"snapshot": number, "log_point": place.log_point, "env_steps": int(policies.env_steps[0])}
            rows.append(about | dict(zip(found.names, np.asarray(found.values).tolist(), strict=True)))
    return pd.DataFrame(rows)


@cache
def _program(config: TrainConfig) -> tuple[Learner, Callable[..., Metrics]]:
    learner = make_learner(config)
    return learner, jax.jit(partial(_diagnose, learner))


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
        env_state=origin.env_state,
        obs=origin.obs,
        optimizer={},
        origin=None,
    )

    def play(update: Array, state: RunState) -> Any:
        return collect(learner, state, jax.random.split(jax.random.fold_in(state.key, update))[0])

    first = jnp.where(log_point == 0, 0, num_updates - 1)
    before = jax.lax.fori_loop(first, num_updates - 1, lambda update, state: play(update, state)[0], began)
    batch = prepare_batch(learner, hparams, before, play(num_updates - 1, before)[1])
    after = replace(before, params=params, observation_statistics=statistics, update=num_updates)
    return diagnose_update(learner, hparams, before, after, batch)
