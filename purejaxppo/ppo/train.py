"""PPO with PFO and representation diagnostics, as one reads it in the paper; one run, pure, to be vmapped and jitted.

    for each log point:
        for each update:
            collect a rollout with pi_old                                  (rollout.collect)
            values, old log-probabilities, phi_old, advantages             (rollout.prepare_batch)
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
from jax.flatten_util import ravel_pytree

from purejaxppo import blas
from purejaxppo.config import TrainConfig
from purejaxppo.diagnostics import plasticity
from purejaxppo.diagnostics.diagnose import diagnose
from purejaxppo.envs.wrappers import EpisodeStatistics, ObservationStatistics
from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.networks import NetworkOutput, Params
from purejaxppo.ppo.interventions import init_kl_control, init_power_iteration
from purejaxppo.ppo.rollout import collect, prepare_batch
from purejaxppo.ppo.state import Array, Batch, Learner, RunState, make_learner
from purejaxppo.ppo.update import init_optimizer, update_networks


class Trainer(NamedTuple):
    """A run as two pure functions.

    They are `init(hparams, key)` and `segment(hparams, state, is_plasticity_point=False, num_epochs=None)`. A segment
    goes on to the next log point; `config.num_logs` of them make a run. `config.is_plasticity_point` says at which of
    them the plasticity loss is to be measured. `num_epochs` stands for the configuration's, so that one compiled
    program serves several. Under vmap both must be the same for all runs. See `run_segment` for a fifth argument.
    """

    init: Callable[[HyperParams, Array], RunState]
    segment: Callable[..., tuple[RunState, Metrics]]


@struct.dataclass(kw_only=True)
class TrainResult:
    """End of a run: its last state, and metrics by name, [L] each (spectra [L, D]); the registry defines them."""

    state: RunState
    metrics: Metrics


@struct.dataclass(kw_only=True)
class LastUpdate:
    """What a diagnosis needs from the last update before a log point."""

    params_before: Params
    outputs_before: tuple[NetworkOutput, NetworkOutput] | None
    """What policy and critic gave for its rollout before it; None where they are to be asked again."""
    statistics: ObservationStatistics | None
    batch: Batch
    minibatch_metrics: Metrics


def make_train(config: TrainConfig) -> Callable[[HyperParams, Array], TrainResult]:
    """A whole run as one pure function of (hparams, key): jit, vmap and grad it as you like.

    Raises ConfigError for an impossible configuration, before anything is compiled.
    """
    trainer = make_trainer(config)

    def train(hparams: HyperParams, key: Array) -> TrainResult:
        def log_point(state: RunState, is_plasticity_point: Array) -> tuple[RunState, Metrics]:
            return trainer.segment(hparams, state, is_plasticity_point)

        due = jnp.asarray([config.is_plasticity_point(log) for log in range(config.num_logs)])
        state, metrics = jax.lax.scan(log_point, trainer.init(hparams, key), due)
        return TrainResult(state=state, metrics=metrics)

    return train


def make_trainer(config: TrainConfig) -> Trainer:
    """The same run in segments, for host loops that show progress and write to disk.

    Raises ConfigError for an impossible configuration, before anything is compiled.
    """
    learner = make_learner(config)
    return Trainer(
        init=lambda hparams, key: init_run(learner, key),
        segment=partial(run_segment, learner),
    )


def init_run(learner: Learner, key: Array) -> RunState:
    """Fresh networks and environments; the same key gives the same ones in every configuration."""
    key_params, key_env, key_run, key_plasticity = jax.random.split(key, 4)
    params = learner.networks.init(key_params)
    obs, env_state = jax.vmap(learner.env.reset)(jax.random.split(key_env, learner.config.num_envs))
    is_normalized = learner.config.normalize_observations
    state = RunState(
        params=params,
        optimizer={name: init_optimizer(network) for name, network in params.items()},
        env_state=env_state,
        obs=obs,
        episodes=EpisodeStatistics.init(learner.config.num_envs),
        observation_statistics=ObservationStatistics.init(learner.env.observation_shape) if is_normalized else None,
        key=key_run,
        update=jnp.zeros((), jnp.int32),
        status=jnp.zeros((), jnp.int32),
        kl_control=init_kl_control(learner.config),
        power_vectors=init_power_iteration(learner.config, params),
    )
    if not learner.config.measures_plasticity:
        return state
    return replace(state, plasticity_task=plasticity.make_task(learner, state, key_plasticity))


def run_update(
    learner: Learner, hparams: HyperParams, state: RunState, is_measured: Array, num_epochs: Array | int
) -> tuple[RunState, LastUpdate]:
    """One iteration of PPO: collect, bootstrap, advantages, epochs."""
    key_collect, key_update = jax.random.split(jax.random.fold_in(state.key, state.update))
    before = state
    state, rollout = collect(learner, state, key_collect)
    batch, outputs_before = prepare_batch(learner, hparams, state, rollout)
    state, minibatch_metrics = update_networks(learner, hparams, state, batch, key_update, is_measured, num_epochs)
    if state.observation_statistics is not None:  # fixed within a rollout and its update, so that phi_old stays phi_old
        state = replace(state, observation_statistics=state.observation_statistics.update(batch.obs))
    last = LastUpdate(
        params_before=before.params,
        outputs_before=outputs_before,
        statistics=before.observation_statistics,
        batch=batch,
        minibatch_metrics=minibatch_metrics,
    )
    return replace(state, update=state.update + 1), last


def run_segment(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    is_plasticity_point: Array | bool = False,
    num_epochs: Array | int | None = None,
    plasticity_minibatch: plasticity.LoadMinibatch | None = None,
) -> tuple[RunState, Metrics]:
    """All updates up to the next log point, and the metrics there. A run that diverges is frozen before it did.

    `plasticity_minibatch` looks up minibatches of the plasticity task where the state comes without it.
    """
    task, state = state.plasticity_task, replace(state, plasticity_task=None)  # large, and never changed or copied
    if task is not None:
        plasticity_minibatch = partial(plasticity.minibatch_of, task)
    start, num_epochs = state, learner.config.num_epochs if num_epochs is None else num_epochs
    state = replace(state, episodes=state.episodes.reset_interval())

    @partial(jax.jit, inline=True)  # traced once for its shapes and for the scan
    def run_one(hparams: HyperParams, state: RunState, is_measured: Array) -> tuple[RunState, LastUpdate]:
        state, last = run_update(learner, hparams, state, is_measured, num_epochs)
        # Carried from update to update they would take memory and save no time, measured on CartPole.
        return state, last if learner.config.updates_per_log == 1 else replace(last, outputs_before=None)

    def update(carry: tuple[RunState, LastUpdate], is_measured: Array) -> tuple[tuple[RunState, LastUpdate], None]:
        return run_one(hparams, carry[0], is_measured), None

    is_last = jnp.arange(learner.config.updates_per_log) == learner.config.updates_per_log - 1
    if learner.config.updates_per_log == 1:
        state, last = run_one(hparams, state, is_last[0])
    else:
        shapes = jax.eval_shape(run_one, hparams, state, is_last[0])[1]
        last = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (state, last), _ = jax.lax.scan(update, (state, last), is_last)
    metrics = Metrics.of(state.episodes.metrics()).joined(last.minibatch_metrics)
    if learner.config.diagnostics:
        # On a CPU run after run: matrices of one run stay in the cache, those of all runs do not.
        diagnose_one = blas.one_at_a_time(partial(diagnose_update, learner))
        metrics = metrics.joined(diagnose_one(*jax.lax.stop_gradient((hparams, state, last))))
    if plasticity_minibatch is not None:
        arguments = jax.lax.stop_gradient((hparams, state.params))
        metrics = metrics.joined(plasticity.measure(learner, *arguments, plasticity_minibatch, is_plasticity_point))
    state, metrics = freeze_if_diverged(learner, start, state, metrics)
    return replace(state, plasticity_task=task), metrics


def diagnose_update(learner: Learner, hparams: HyperParams, state: RunState, last: LastUpdate) -> Metrics:
    """Representation and trust region: the networks before and after an update, on its whole rollout."""
    distribution = learner.distribution
    arguments = last.statistics, last.batch.obs
    policy_before, critic_before = last.outputs_before or learner.both_in_blocks(last.params_before, *arguments)
    policy_after, critic_after = learner.both_in_blocks(state.params, *arguments)
    log_prob = distribution.log_prob(policy_after.outputs, last.batch.action)
    key_before, key_after = jax.random.split(jax.random.fold_in(state.key, -1 - state.update))
    return diagnose(
        activation=learner.config.activation,
        clip_eps=hparams.clip_eps,
        share_trunk=learner.config.share_trunk,
        policy_before=policy_before,
        policy_after=policy_after,
        critic_before=critic_before,
        critic_after=critic_after,
        log_ratio=log_prob - last.batch.log_prob,
        kl=distribution.kl(policy_before.outputs, policy_after.outputs),
        entropy_before=distribution.entropy(policy_before.outputs, key_before),
        entropy_after=distribution.entropy(policy_after.outputs, key_after),
        policy_moments_before=distribution.moments(policy_before.outputs),
        policy_moments_after=distribution.moments(policy_after.outputs),
        value_before=critic_before.outputs[..., 0],
        value_after=critic_after.outputs[..., 0],
        value_target=last.batch.value_target,
        policy_weights=layer_weights(state.params, "policy"),
        critic_weights=layer_weights(state.params, "critic"),
    )


def layer_weights(params: Params, network: str) -> list[Array]:
    """Kernels [fan_in, fan_out] of a network's hidden layers (convolutions: of their patches), then of its head."""
    layers = params["shared"] if "shared" in params else params[network]
    names = [name for name in sorted(layers) if name.startswith(("conv_", "hidden_"))]
    hidden = [layers[name]["kernel"] for name in names if "kernel" in layers[name]]  # a LayerNorm has none
    return [*hidden, layers[f"{network}_head"]["kernel"]]


def freeze_if_diverged(
    learner: Learner, start: RunState, state: RunState, metrics: Metrics
) -> tuple[RunState, Metrics]:
    """Keep a run whose parameters or losses are no longer finite at its last good log point, and mark it.

    Its status becomes the log point (counted from 1) at which it broke; from there on its metrics are NaN.
    """
    weights, _ = ravel_pytree(state.params)
    losses = metrics["policy_loss"] + metrics["value_loss"]
    is_finite = jnp.isfinite(weights).all() & jnp.isfinite(losses)
    is_healthy = is_finite & (start.status == 0)
    log_point = state.update // learner.config.updates_per_log
    status = jnp.where(start.status == 0, jnp.where(is_finite, 0, log_point), start.status)
    kept = jax.tree.map(lambda new, old: jnp.where(is_healthy, new, old), state, start)
    return replace(kept, status=status), jax.tree.map(lambda x: jnp.where(is_healthy, x, jnp.nan), metrics)
