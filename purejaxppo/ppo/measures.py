"""What is reported of single gradient steps: loss terms, clipped share, KL, churn, norms."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.ppo import losses
from purejaxppo.ppo.interventions import kl_control, optimizers
from purejaxppo.ppo.interventions.objectives import learned_advantage
from purejaxppo.ppo.interventions.optimizers import Rates, Unravel
from purejaxppo.ppo.state import Array, Batch, Learner, RunState
from purejaxppo.ppo.terms import Outputs, loss_terms

# Suffix of a metric's name -> (epoch, minibatch) at which it is taken.
CORNERS = {"": (-1, -1), "_first_epoch_first": (0, 0), "_first_epoch_last": (0, -1), "_last_epoch_first": (-1, 0)}


def minibatch_metrics(
    learner: Learner,
    hparams: HyperParams,
    rates: Rates,
    unravel: Unravel,
    before: RunState,
    after: RunState,
    norms: dict[str, Array],
    outputs: Outputs,
    batch: Batch,
    key: Array,
) -> Metrics:
    """Of one minibatch and its step from `before` to `after` (flat): loss terms, clipped share, KL, norms."""
    nested = dataclasses.replace(before, params=unravel(before.params))
    terms = loss_terms(learner, hparams, nested, outputs, batch, key)
    metrics = {name: value for name, (_, value) in terms.items()}
    metrics["learning_rate"] = rates["shared" if "shared" in rates else "policy"]
    if "kl_loss" in metrics:
        metrics["kl_loss"] = kl_control.where_on(learner, before, "kl_penalty", metrics["kl_loss"])
    if not learner.config.diagnostics:
        return Metrics.of(metrics)
    distribution = learner.distribution
    log_prob = distribution.log_prob(outputs[0].outputs, batch.action)
    ratio = losses.probability_ratio(log_prob, batch.log_prob, distribution.log_ratio_range)
    advantage = learned_advantage(learner, batch)
    metrics |= {
        "clip_fraction": losses.clip_fraction(ratio, advantage, hparams.clip_eps),
        "minibatch_kl": distribution.kl(batch.policy_outputs, outputs[0].outputs).mean(),
        "minibatch_entropy": -terms["entropy_loss"][1],
    }
    metrics |= churn(learner, nested, dataclasses.replace(after, params=unravel(after.params)), batch.other)
    for owner, (name, mask) in optimizers.owners(learner, nested.params).items():
        step, weights = (
            optimizers.owned(x, mask) for x in (after.params[name] - before.params[name], after.params[name])
        )
        for network in ("policy", "critic") if owner == "shared" else (owner,):
            metrics |= {
                f"{network}_gradient_norm": norms[owner],
                f"{network}_gradient_norm_clipped": norms[owner] * optimizers.clip_scale(hparams, norms[owner]),
                f"{network}_step_norm": jnp.linalg.norm(step),
                f"{network}_weight_norm": jnp.linalg.norm(weights),
            }
    return Metrics.of(metrics)


def churn(learner: Learner, before: RunState, after: RunState, other: Batch | None) -> dict[str, Array]:
    """How far one gradient step moved the outputs on a minibatch that it was not made on; NaN where there is none.

    Mean KL(before || after), in nat, and mean |V_after - V_before|: Schaul et al. 2022 (arXiv 2206.00730).
    """
    if other is None:
        return dict.fromkeys(("policy_churn", "critic_churn"), jnp.full((), jnp.nan))
    (old_policy, old_critic), (policy, critic) = (learner.both(state, other.obs) for state in (before, after))
    return {
        "policy_churn": learner.distribution.kl(old_policy.outputs, policy.outputs).mean(),
        "critic_churn": jnp.abs(critic.outputs - old_critic.outputs).mean(),
    }


def corners(first_epoch: Metrics, last_epoch: Metrics) -> Metrics:
    """From two epochs' metrics [minibatches] those of the first and last minibatch, under their names.

    The plain name is the last minibatch of the last epoch.
    """
    epochs = {0: first_epoch, -1: last_epoch}
    return Metrics(
        names=tuple(f"{name}{suffix}" for suffix in CORNERS for name in first_epoch.names),
        scalars=jnp.concatenate([epochs[epoch].scalars[minibatch] for epoch, minibatch in CORNERS.values()]),
        spectra={},
    )
