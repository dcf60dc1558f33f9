"""All terms of the loss of one minibatch, and their sum."""

from __future__ import annotations

from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import NetworkOutput
from purejaxppo.ppo.interventions import owned, penalties, proximity
from purejaxppo.ppo.interventions.objectives import policy_loss, value_loss
from purejaxppo.ppo.state import Array, Batch, Learner, RunState

Outputs = tuple[NetworkOutput, NetworkOutput]
"""What policy and critic give for a batch."""


def loss_terms(
    learner: Learner, hparams: HyperParams, state: RunState, outputs: Outputs, batch: Batch, key: Array
) -> dict[str, tuple[Array | float, Array]]:
    """All terms of the loss of one minibatch, name -> (coefficient, value), from what policy and critic give for it.

    PPO-Clip - entropy_coef H + value_coef (V - target)^2 + pfo_coef PFO(policy) + critic_pfo_coef PFO(critic), and
    whatever penalties of `interventions` are switched on.
    """
    policy, critic = outputs
    log_prob = learner.distribution.log_prob(policy.outputs, batch.action)
    entropy = learner.distribution.entropy(policy.outputs, key).mean()
    phis = proximity.representations(learner, state, outputs)
    terms: dict[str, tuple[Array | float, Array]] = {
        "policy_loss": (1.0, policy_loss(learner, hparams, state, log_prob, phis[0], batch)),
        "entropy_loss": (hparams.entropy_coef, -entropy),
        "value_loss": (hparams.value_coef, value_loss(learner, hparams, critic.outputs[..., 0], batch)),
    }
    terms |= proximity.pfo_terms(learner, hparams, state, phis, batch)
    terms |= penalties.penalties(learner, hparams, state, batch, policy, critic)
    return terms | owned.own_penalties(learner, hparams, state, batch, outputs)


def sum_of_terms(learner: Learner, terms: dict[str, tuple[Array | float, Array]]) -> Array:
    """The total loss: coefficient times value of every term that acts in any run; what is not in it is not computed."""
    absent = learner.absent | ({"pfo_loss"} if learner.config.pfo_mode == "clip" else set())
    acting = [coef * value for name, (coef, value) in terms.items() if name not in absent]
    return sum(acting[1:], start=acting[0])
