"""What a trained run looks like to the diagnostics: snapshots of its networks before and after an update."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from purejaxppo import own
from purejaxppo.diagnostics.diagnose import Representation, Snapshot, diagnose
from purejaxppo.diagnostics.neurons import dead_neurons
from purejaxppo.diagnostics.trust_region import drift
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.networks import NetworkOutput, layer_weights
from purejaxppo.ppo.state import Array, Batch, Learner, RunState

# On an accelerator: bytes of what is diagnosed at a time, and as many runs at least, so that a library call gets 80
# matrices of 512 units and more, too.
DIAGNOSED_BYTES, _LEAST_TOGETHER = 2**30, 20


def diagnose_update(learner: Learner, hparams: HyperParams, before: RunState, after: RunState, batch: Batch) -> Metrics:
    """Representation and trust region: the networks before and after an update, on its whole rollout."""
    distribution = learner.distribution
    keys = jax.random.split(jax.random.fold_in(after.key, -1 - after.update))
    moved = after.observation_statistics
    after = replace(after, observation_statistics=before.observation_statistics)  # the update is what is diagnosed
    outputs_before, outputs_after = (learner.both_of_rollout(state, batch.obs) for state in (before, after))
    policy_before, policy_after = outputs_before[0], outputs_after[0]
    metrics = diagnose(
        snapshot(learner, before, outputs_before, keys[0]),
        snapshot(learner, after, outputs_after, keys[1]),
        log_ratio=distribution.log_prob(policy_after.outputs, batch.action) - batch.log_prob,
        kl=distribution.kl(policy_before.outputs, policy_after.outputs),
        value_target=batch.value_target,
        clip_eps=hparams.clip_eps,
        dead_neurons=lambda features: learner.choose(
            after.choices, "activation", lambda name: dead_neurons(features, name)
        ),
    )
    if learner.config.normalize_observations == "running":
        policy_moved = learner.both_of_rollout(replace(after, observation_statistics=moved), batch.obs)[0]
        metrics["statistics_kl"] = distribution.kl(policy_after.outputs, policy_moved.outputs).mean()
        metrics["statistics_drift"] = drift(policy_after.preactivations[-1], policy_moved.preactivations[-1])[0]
    return Metrics.of(metrics | own_metrics(learner, (before, outputs_before), (after, outputs_after), batch))


Moment = tuple[RunState, tuple[NetworkOutput, NetworkOutput]]
"""A run, and what its networks give for a batch."""


def own_metrics(learner: Learner, before: Moment, after: Moment, batch: Batch) -> dict[str, Array]:
    """The metrics of the user's own diagnostics, scalars [].

    Raises ConfigError for a function that fails, or gives other metrics than it has rows for.
    """
    metrics: dict[str, Array] = {}
    for diagnostic in learner.diagnostics:
        try:
            found = diagnostic.function(learner.networks_of(*before), learner.networks_of(*after), batch)
        except Exception as error:
            raise own.failure(f"diagnostics has {diagnostic.path!r}, which fails", error) from error
        names = [name for name, _ in diagnostic.rows]
        if not isinstance(found, dict) or set(found) != set(names):
            given = sorted(found) if isinstance(found, dict) else type(found).__name__
            raise ConfigError(
                f"diagnostics has {diagnostic.path!r}, which gives {given}, but must give a dict of what it has rows "
                f"for: {', '.join(names)}."
            )
        for name in names:
            value = jnp.asarray(found[name])
            if value.shape != () or not jnp.issubdtype(value.dtype, jnp.number):
                raise ConfigError(
                    f"diagnostics has {diagnostic.path!r}, whose {name} is {value.dtype}{list(value.shape)}, but must "
                    "be one number, []."
                )
            metrics[name] = value.astype(jnp.float32)
    return metrics


def diagnosed_together(learner: Learner) -> int:
    """How many runs to diagnose side by side on an accelerator, by the bytes of their features and pre-activations."""
    config = learner.config
    widths = (config.hidden_sizes,) if config.share_trunk else (config.hidden_sizes, config.critic_sizes)
    a_sample = 4 * 2 * sum(sum(sizes) + sizes[-1] for sizes in widths)
    return max(DIAGNOSED_BYTES // (a_sample * config.batch_size), _LEAST_TOGETHER)


def snapshot(learner: Learner, state: RunState, outputs: tuple[NetworkOutput, NetworkOutput], key: Array) -> Snapshot:
    """Policy and critic of a run as the diagnostics see them, from their outputs; the key serves a sampled entropy."""
    names = ("policy",) if learner.config.share_trunk else ("policy", "critic")
    policy, critic = outputs
    return Snapshot(
        networks={
            name: Representation(features=output.features, preactivations=output.preactivations)
            for name, output in zip(names, outputs, strict=False)
        },
        entropy=learner.distribution.entropy(policy.outputs, key),
        value=critic.outputs[..., 0],
        moments=learner.distribution.moments(policy.outputs),
        weights={name: tuple(layer_weights(state.params, name)) for name in ("policy", "critic")},
    )
