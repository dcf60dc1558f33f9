"""PPO with PFO and representation diagnostics, as one reads it in the paper; one run, pure, to be vmapped and jitted.

    log point 0: the initial networks are diagnosed, on rollouts from which nothing is learned
    for each log point:
        for each update:                                                   (iterate)
            collect a rollout with pi_old; values, old log-probabilities,
                phi_old, advantages                                        (rollout.collect_batch)
            epochs of shuffled minibatches: PPO-Clip + value + PFO          (update.update_networks)
        diagnose the last update: networks before against after it, on its whole rollout
The cadence is a nested scan, not a condition: under vmap both branches of a condition would always run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo import blas
from purejaxppo.config import TrainConfig
from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.ppo.rollout import collect_batch
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import Array, Batch, Learner, RunState, make_learner, origin_of
from purejaxppo.ppo.update import nothing_like, update_networks
from purejaxppo.training import evaluation, plasticity
from purejaxppo.training.diagnosis import diagnose_update, diagnosed_together
from purejaxppo.training.freeze import freeze_if_diverged


class Trainer(NamedTuple):
    """A run as three pure functions, for host loops that show progress and write to disk.

    `init(hparams, key)` is the state before training. `segment(hparams, state)` goes on to the next log point;
    `config.num_logs` of them make a run. With `num_epochs=0` nothing is learned: what it measures from the initial
    state is log point 0, and its state is thrown away. Another `num_epochs` stands for the configuration's, so that one
    compiled program serves several. `plasticity(hparams, state, task)` measures the plasticity loss, for whoever owns
    its cadence; `config.is_plasticity_point` tells it, `plasticity.make_task` makes the task. `evaluation(state)` plays
    whole episodes, where `config.is_evaluation_point`.
    """

    init: Callable[..., RunState]
    segment: Callable[..., tuple[RunState, Metrics]]
    plasticity: Callable[[HyperParams, RunState, plasticity.PlasticityTask], Metrics]
    evaluation: Callable[[RunState], Metrics]


@struct.dataclass(kw_only=True)
class Iteration:
    """What one iteration leaves for the diagnosis: the state it began with, its batch, its minibatches' metrics."""

    before: RunState
    batch: Batch
    minibatches: Metrics


def make_trainer(config: TrainConfig) -> Trainer:
    """A run in segments; raises ConfigError for an impossible configuration, before anything is compiled."""
    return trainer_of(make_learner(config))


def trainer_of(learner: Learner) -> Trainer:
    """The functions of a run whose static parts are `learner`.

    Products are exact to float32 on every platform, also those inside of an environment; `matmul_precision` is about
    the networks alone.
    """
    exactly = jax.default_matmul_precision("highest")
    return Trainer(
        init=exactly(lambda hparams, key, choices=None: init_run(learner, key, choices)),
        segment=exactly(partial(segment, learner)),
        plasticity=exactly(partial(plasticity.measure, learner)),
        evaluation=exactly(partial(evaluation.measure, learner)),
    )


def segment(
    learner: Learner, hparams: HyperParams, state: RunState, num_epochs: Array | int | None = None
) -> tuple[RunState, Metrics]:
    """All updates up to the next log point, and the metrics there. A run that diverges is frozen before it did."""
    num_epochs = learner.config.num_epochs if num_epochs is None else num_epochs
    once = jax.jit(partial(iterate, learner, hparams, num_epochs))  # traced once, for its shapes and for the scan

    def step(carry: tuple[RunState, Iteration], is_last: Array) -> tuple[tuple[RunState, Iteration], None]:
        return once(carry[0], is_last), None

    start = replace(state, episodes=state.episodes.reset_interval())
    is_last = jnp.arange(learner.config.updates_per_log) == learner.config.updates_per_log - 1
    nothing = nothing_like(lambda: once(start, is_last[0])[1])
    (after, last), _ = jax.lax.scan(step, (start, nothing), is_last)
    metrics = Metrics.of(after.episodes.metrics()).joined(last.minibatches)
    if learner.config.diagnostics:
        diagnose = blas.in_blocks(partial(diagnose_update, learner), diagnosed_together(learner))
        metrics = metrics.joined(diagnose(*jax.lax.stop_gradient((hparams, last.before, after, last.batch))))
    return freeze_if_diverged(learner, state, after, metrics, num_epochs)


def iterate(
    learner: Learner, hparams: HyperParams, num_epochs: Array | int, state: RunState, is_measured: Array
) -> tuple[RunState, Iteration]:
    """One iteration of PPO: collect, values and advantages, epochs."""
    origin, state = origin_of(learner, state), replace(state, origin=None)
    key_collect, key_update = jax.random.split(jax.random.fold_in(state.key, state.update))
    after, batch = collect_batch(learner, hparams, state, key_collect)
    after, minibatches = update_networks(learner, hparams, after, batch, key_update, num_epochs, is_measured)
    if learner.config.normalize_observations == "running":  # fixed within an update, so that phi_old stays phi_old
        assert after.observation_statistics is not None
        old, new = after.observation_statistics, learner.updated_statistics(after.observation_statistics, batch.obs)
        seen = jax.tree.map(lambda old, new: jnp.where(num_epochs > 0, new, old), old, new)  # not at log point 0
        after = replace(after, observation_statistics=seen)
    unread = dict.fromkeys(("env_state", "obs", "episodes", "reward_statistics"))  # by any diagnosis
    before = replace(state, optimizer={}, **unread)
    after = replace(after, update=after.update + 1, origin=origin)
    return after, Iteration(before=before, batch=batch, minibatches=minibatches)
