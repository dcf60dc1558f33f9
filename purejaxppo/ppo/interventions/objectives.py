"""What the policy maximises."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purejaxppo.hyperparams import HyperParams
from purejaxppo.ppo import losses
from purejaxppo.ppo.state import Array, Batch, Learner, RunState


def policy_loss(
    learner: Learner, hparams: HyperParams, state: RunState, log_prob: Array, phi: Array, batch: Batch
) -> Array:
    """Minus the mean over samples of the chosen objective, the advantage normalised over the minibatch.

    With `pfo_mode = "clip"` samples whose phi [B, D] has changed by more than `pfo_limit` count, but have no gradient.
    """
    advantage = losses.normalize_advantage(batch.advantage)
    ratio = losses.probability_ratio(log_prob, batch.log_prob, learner.distribution.log_ratio_range)

    def objective_of(name: str) -> Array:
        return losses.SURROGATES[name](ratio, advantage, hparams.clip_eps)

    objective = learner.choose(state.choices, "policy_objective", objective_of)
    if learner.config.pfo_mode == "clip":
        is_within = losses.PFO_CHANGES[learner.config.pfo_distance](phi, batch.policy_phi) <= hparams.pfo_limit
        objective = jnp.where(is_within, objective, jax.lax.stop_gradient(objective))
    return -objective.mean()
