"""What the policy maximises, and what the critic minimises."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purejaxppo.hyperparams import HyperParams
from purejaxppo.ppo import losses
from purejaxppo.ppo.interventions.proximity import change_of_samples
from purejaxppo.ppo.state import Array, Batch, Learner, RunState


def policy_loss(
    learner: Learner, hparams: HyperParams, state: RunState, log_prob: Array, phi: Array, batch: Batch
) -> Array:
    """Minus the mean over samples of the chosen objective, the advantage as `learned_advantage` has it.

    With `pfo_mode = "clip"` samples whose phi [B, D] has changed by more than `pfo_limit` count, but have no gradient.
    """
    advantage = learned_advantage(learner, batch)
    ratio = losses.probability_ratio(log_prob, batch.log_prob, learner.distribution.log_ratio_range)

    def objective_of(name: str) -> Array:
        return losses.SURROGATES[name](ratio, advantage, hparams.clip_eps)

    objective = learner.choose(state.choices, "policy_objective", objective_of)
    if learner.config.pfo_mode == "clip":
        is_within = change_of_samples(learner, phi, batch.policy_phi) <= hparams.pfo_limit
        objective = jnp.where(is_within, objective, jax.lax.stop_gradient(objective))
    return -objective.mean()


def learned_advantage(learner: Learner, batch: Batch) -> Array:
    """Advantages [B] of a minibatch as the objective has them; `batch` ones are normalised in the rollout already."""
    is_normalized = learner.config.advantage_normalization == "minibatch"
    return losses.normalize_advantage(batch.advantage) if is_normalized else batch.advantage


def value_loss(learner: Learner, hparams: HyperParams, value: Array, batch: Batch) -> Array:
    """Squared error of the critic's values [B] on a minibatch, with `value_clipping` the clipped one."""
    if not learner.config.value_clipping:
        return losses.value_loss(value, batch.value_target)
    assert batch.value is not None
    return losses.clipped_value_loss(value, batch.value, batch.value_target, hparams.value_clip_eps)
