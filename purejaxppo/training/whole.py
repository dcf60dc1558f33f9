"""A whole run as one function: its segments in a scan, and what is measured at some of the log points."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.config import TrainConfig
from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.ppo.state import Array, RunState, make_learner
from purejaxppo.ppo.update import nothing_like
from purejaxppo.training import plasticity
from purejaxppo.training.train import trainer_of


@struct.dataclass(kw_only=True)
class TrainResult:
    """End of a run: its last state, and metrics by name, [1 + L] each (spectra [1 + L, D]), log point 0 first."""

    state: RunState
    metrics: Metrics


def make_train(config: TrainConfig) -> Callable[[HyperParams, Array], TrainResult]:
    """A whole run as one pure function of (hparams, key): jit, vmap and grad it as you like.

    Raises ConfigError for an impossible configuration, before anything is compiled.
    """
    learner = make_learner(config)
    trainer = trainer_of(learner)

    def train(hparams: HyperParams, key: Array) -> TrainResult:
        state = trainer.init(hparams, key)
        task = plasticity.make_task(learner, hparams, key) if config.measures_plasticity else None

        def with_sparse(state: RunState, metrics: Metrics, is_due: dict[str, Any]) -> Metrics:
            """Together with what is measured at some log points only: NaN at the others."""
            measures: dict[str, Callable[[], Metrics]] = {}
            if task is not None:
                measures["plasticity"] = partial(trainer.plasticity, hparams, state, task)
            if config.num_evaluation_episodes:
                measures["evaluation"] = partial(trainer.evaluation, jax.lax.stop_gradient(state))
            for name, measure in measures.items():
                metrics = metrics.joined(jax.lax.cond(is_due[name], measure, partial(nothing_like, measure)))
            return metrics

        def log_point(state: RunState, is_due: dict[str, Array]) -> tuple[RunState, Metrics]:
            state, metrics = trainer.segment(hparams, state)
            return state, with_sparse(state, metrics, is_due)

        rules = {"plasticity": config.is_plasticity_point}
        if config.num_evaluation_episodes:
            rules["evaluation"] = config.is_evaluation_point
        first = trainer.segment(hparams, state, num_epochs=0)[1]
        initial = with_sparse(state, first, dict.fromkeys(rules, True))
        logs = range(1, config.num_logs + 1)
        due = {name: jnp.asarray([is_point(log) for log in logs]) for name, is_point in rules.items()}
        state, metrics = jax.lax.scan(log_point, state, due)
        metrics = jax.tree.map(lambda first, others: jnp.concatenate([first[None], others]), initial, metrics)
        return TrainResult(state=state, metrics=metrics)

    return train
