"""What a trained run looks like to the diagnostics: snapshots of its networks before and after an update."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purejaxppo import own
from purejaxppo.diagnostics.diagnose import Representation, Snapshot, diagnose
from purejaxppo.diagnostics.neurons import dead_neurons, dormant_neurons
from purejaxppo.diagnostics.trust_region import drift
from purejaxppo.errors import ConfigError
from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.networks import NetworkOutput, Params, layer_weights
from purejaxppo.ppo.interventions import proximity
from purejaxppo.ppo.interventions.objectives import policy_loss, value_loss
from purejaxppo.ppo.state import Array, Batch, Learner, RunState

# On an accelerator: bytes of what is diagnosed at a time, and as many runs at least, so that a library call gets 80
# matrices of 512 units and more, too.
DIAGNOSED_BYTES, _LEAST_TOGETHER = 2**30, 20
_NETWORKS = ("policy", "critic")


def diagnose_update(learner: Learner, hparams: HyperParams, before: RunState, after: RunState, batch: Batch) -> Metrics:
    """Representation and trust region: the networks before and after an update, on its whole rollout."""
    distribution = learner.distribution
    keys = jax.random.split(jax.random.fold_in(after.key, -1 - after.update), 3)
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
    metrics |= weight_change(before.params, after.params)
    slopes = feature_gradients(learner, hparams, after, outputs_after, batch, keys[2])
    metrics |= {f"{name}_gradient_inactive_neurons": dormant_neurons(slope) for name, slope in slopes.items()}
    if learner.config.normalize_observations == "running":
        policy_moved = learner.both_of_rollout(replace(after, observation_statistics=moved), batch.obs)[0]
        metrics["statistics_kl"] = distribution.kl(policy_after.outputs, policy_moved.outputs).mean()
        metrics["statistics_drift"] = drift(policy_after.preactivations[-1], policy_moved.preactivations[-1])[0]
    return Metrics.of(metrics | own_metrics(learner, (before, outputs_before), (after, outputs_after), batch))


def weight_change(before: Params, after: Params) -> dict[str, Array]:
    """L2 norm [] of the change of all of each network's parameters; a shared network's under both names."""
    moves = jax.tree.map(jnp.subtract, after, before)
    norms = {name: jnp.linalg.norm(ravel_pytree(network)[0]) for name, network in moves.items()}
    return {f"{name}_weight_change": norms["shared" if "shared" in norms else name] for name in _NETWORKS}


def feature_gradients(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    outputs: tuple[NetworkOutput, NetworkOutput],
    batch: Batch,
    key: Array,
) -> dict[str, Array]:
    """Gradient [N, D] of PPO's loss on a whole rollout with respect to the features of policy and critic.

    The loss is that of policy, entropy and value, as the run's objective has them, without the penalties that a run may
    have; samples that `pfo_mode = "clip"` leaves out have no gradient of the policy. Of features that policy and critic
    share it is the sum of both.
    """

    def loss(heads: tuple[Array, Array]) -> Array:
        policy, critic = (replace(output, outputs=head) for output, head in zip(outputs, heads, strict=True))
        log_prob = learner.distribution.log_prob(policy.outputs, batch.action)
        phi = proximity.pfo_representation(learner, state, policy)
        entropy = learner.distribution.entropy(policy.outputs, key).mean()
        return (
            policy_loss(learner, hparams, state, log_prob, phi, batch)
            - hparams.entropy_coef * entropy
            + hparams.value_coef * value_loss(learner, hparams, critic.outputs[..., 0], batch)
        )

    slopes = {}
    for name, of_head in zip(_NETWORKS, jax.grad(loss)((outputs[0].outputs, outputs[1].outputs)), strict=True):
        kernel = layer_weights(state.params, name)[-1]
        # A scale that does not depend on the state has outputs of its own, after the head's.
        slopes[name] = jnp.matmul(of_head[:, : kernel.shape[1]], kernel.T, precision=jax.lax.Precision.HIGHEST)
    return dict.fromkeys(slopes, slopes["policy"] + slopes["critic"]) if learner.config.share_trunk else slopes


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
        weights={name: tuple(layer_weights(state.params, name)) for name in _NETWORKS},
    )
