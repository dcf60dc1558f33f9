"""What keeps networks near earlier ones, from PFO to CHAIN: three choices of one term. (By the KL: `kl_control.py`.)

    coef E_s d(x(theta), x(theta_ref))       theta_ref: of the rollout, or of one gradient step before (`pfo_reference`)
                                             s: of the minibatch, or of another one (`pfo_states`)
                                             x: pre-activations, features or outputs (`pfo_features`); d: below

PFO (Moalla et al. 2024, arXiv 2405.00662) is (rollout, minibatch, preactivations), CHAIN (Tang et al. 2024, NeurIPS,
"Improving Deep RL by Reducing the Chain Effect of Value and Policy Churn") is (previous, other, outputs).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree

from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import NetworkOutput, Params
from purejaxppo.ppo import losses
from purejaxppo.ppo.state import Array, Batch, Learner, RunState

AUTO_WINDOW = 100
"""Rollouts over which `pfo_auto` averages, as CHAIN's public code does."""
_ADDED_TO = {"pfo_loss": "policy_loss", "critic_pfo_loss": "value_loss"}


@struct.dataclass(kw_only=True)
class AutoCoefs:
    """Memory of `pfo_auto`, by term of the loss (pfo_loss, critic_pfo_loss)."""

    coefs: dict[str, Array]
    """Coefficients [] of the present rollout."""
    terms: dict[str, Array]
    """The term [W] in the last gradient step of each of the latest W = AUTO_WINDOW rollouts, in turn; 0 before."""
    added_to: dict[str, Array]
    """The size [W], coefficient included, of the loss that it was added to: |policy loss|, or the value loss."""


def pfo_representation(learner: Learner, state: RunState, output: NetworkOutput) -> Array:
    """phi [..., D], what PFO compares: pre- or post-activations of the last or of all hidden layers, or outputs."""
    config = learner.config
    if config.pfo_features == "outputs":
        return output.outputs
    if config.pfo_layers == "last":
        return output.preactivations[-1] if config.pfo_features == "preactivations" else output.features
    every = jnp.concatenate(output.preactivations, axis=-1)
    return every if config.pfo_features == "preactivations" else learner.activation(state.choices)(every)


def change_of_samples(learner: Learner, phi: Array, reference: Array) -> Array:
    """PFO's distance of each sample [B] between the policy's phi [B, D] and what it is held to."""
    if learner.config.pfo_features == "outputs":
        return learner.distribution.output_change(reference, phi)
    return losses.PFO_CHANGES[learner.config.pfo_distance](phi, reference)


def pfo_terms(
    learner: Learner, hparams: HyperParams, state: RunState, phis: tuple[Array, Array], batch: Batch
) -> dict[str, tuple[Array | float, Array]]:
    """PFO on policy and critic: name -> (coefficient, value); phis: of both on the minibatch itself, [B, D]."""
    config, held = learner.config, batch
    if config.pfo_states == "other":
        assert batch.other is not None
        held, phis = batch.other, representations(learner, state, learner.both(state, batch.other.obs))
    policy = critic = losses.PFO_PENALTIES[config.pfo_distance]
    if config.pfo_features == "outputs":
        policy, critic = partial(_mean_change, learner), losses.pfo  # of V: mean squared difference
    coefs = _coefs(hparams, state)
    return {
        "pfo_loss": (coefs["pfo_loss"] if config.pfo_mode == "penalty" else 0.0, policy(phis[0], held.policy_phi)),
        "critic_pfo_loss": (coefs["critic_pfo_loss"], critic(phis[1], held.critic_phi)),
    }


def _mean_change(learner: Learner, phi: Array, reference: Array) -> Array:
    return change_of_samples(learner, phi, reference).mean()


def representations(
    learner: Learner, state: RunState, outputs: tuple[NetworkOutput, NetworkOutput]
) -> tuple[Array, Array]:
    """phi of policy and critic."""
    policy, critic = outputs
    return pfo_representation(learner, state, policy), pfo_representation(learner, state, critic)


def with_reference(
    learner: Learner, unravel: Callable[[dict[str, Array]], Params], state: RunState, batch: Batch
) -> Batch:
    """A minibatch with what PFO holds the networks to, on the states where it does: as it is, or of one step before."""
    if learner.config.pfo_reference == "rollout":
        return batch
    previous = dataclasses.replace(state, params=unravel(state.memory["pfo_previous"]))
    held = batch if learner.config.pfo_states == "minibatch" else batch.other
    assert held is not None
    policy_phi, critic_phi = representations(learner, previous, learner.both(previous, held.obs))
    held = dataclasses.replace(held, policy_phi=policy_phi, critic_phi=critic_phi)
    return held if learner.config.pfo_states == "minibatch" else dataclasses.replace(batch, other=held)


# --- What the term remembers


def init_pfo_memory(learner: Learner, params: Params) -> dict[str, Any]:
    """For `RunState.memory` at the start of training: the initial weights, flat, and no sizes; or neither."""
    memory: dict[str, Any] = {}
    if learner.config.pfo_reference == "previous":
        memory["pfo_previous"] = {name: ravel_pytree(network)[0] for name, network in params.items()}
    if learner.config.pfo_auto:
        nothing = dict.fromkeys(_ADDED_TO, jnp.zeros(AUTO_WINDOW))
        memory["pfo_auto"] = AutoCoefs(
            coefs=dict.fromkeys(_ADDED_TO, jnp.zeros(())), terms=nothing, added_to=dict(nothing)
        )
    return memory


def restart_where(is_now: Array, state: RunState) -> dict[str, Any]:
    """The memory after weights were replaced, `state.params` being nested: the next step is held to the new ones."""
    if "pfo_previous" not in state.memory:
        return state.memory
    present = {name: ravel_pytree(network)[0] for name, network in state.params.items()}
    previous = jax.tree.map(lambda new, old: jnp.where(is_now, new, old), present, state.memory["pfo_previous"])
    return state.memory | {"pfo_previous": previous}


def start_pfo(learner: Learner, hparams: HyperParams, state: RunState) -> dict[str, Any]:
    """The memory at the start of an update phase: with `pfo_auto` the coefficients of this rollout.

    After pfo_warmup rollouts pfo_target_share x mean |policy loss| / (mean term + 1e-8), means over the last gradient
    steps of the latest 100 rollouts; of the critic the same by the value loss. CHAIN's public code for PPO on MuJoCo,
    without its factor of a falling learning rate; for the critic as its code for DQN. 0 stays 0.
    """
    if not learner.config.pfo_auto:
        return state.memory
    auto: AutoCoefs = state.memory["pfo_auto"]
    num_seen = jnp.clip(state.update, 1, AUTO_WINDOW)

    def coef(name: str, fixed: Array | float) -> Array:
        term, added_to = (sizes[name].sum() / num_seen for sizes in (auto.terms, auto.added_to))
        adapted = hparams.pfo_target_share * added_to / (term + 1e-8)
        is_warm = state.update >= jnp.maximum(hparams.pfo_warmup, 1.0)
        return jnp.where(jnp.asarray(fixed) > 0, jnp.where(is_warm, adapted, fixed), 0.0)

    coefs = {"pfo_loss": coef("pfo_loss", hparams.pfo_coef)}
    coefs["critic_pfo_loss"] = coef("critic_pfo_loss", hparams.critic_pfo_coef)
    return state.memory | {"pfo_auto": dataclasses.replace(auto, coefs=coefs)}


def _coefs(hparams: HyperParams, state: RunState) -> dict[str, Array | float]:
    if "pfo_auto" in state.memory:
        return state.memory["pfo_auto"].coefs
    return {"pfo_loss": hparams.pfo_coef, "critic_pfo_loss": hparams.critic_pfo_coef}


def sizes_of_terms(learner: Learner, terms: dict[str, tuple[Array | float, Array]]) -> dict[str, Array]:
    """What `pfo_auto` needs of a loss: PFO's terms, and the size of what they are added to, with its coefficient."""
    if not learner.config.pfo_auto:
        return {}
    sizes = {name: jnp.maximum(terms[name][1], 0.0) for name in _ADDED_TO}  # a KL of nearly 0 may be rounded below it
    return sizes | {name: jnp.abs(coef * value) for name, (coef, value) in terms.items() if name in _ADDED_TO.values()}


def pfo_after_step(state: RunState, sizes: dict[str, Array]) -> dict[str, Any]:
    """The memory after a gradient step: the weights before it (`state.params`, flat), and sizes of its terms."""
    memory = dict(state.memory)
    if "pfo_previous" in memory:
        memory["pfo_previous"] = state.params
    if "pfo_auto" in memory:
        auto: AutoCoefs = memory["pfo_auto"]
        is_here = jnp.arange(AUTO_WINDOW) == state.update % AUTO_WINDOW
        memory["pfo_auto"] = dataclasses.replace(
            auto,
            terms={name: jnp.where(is_here, sizes[name], kept) for name, kept in auto.terms.items()},
            added_to={name: jnp.where(is_here, sizes[_ADDED_TO[name]], kept) for name, kept in auto.added_to.items()},
        )
    return memory


def pfo_metrics(state: RunState, num_steps: Array | int) -> dict[str, Array]:
    """With `pfo_auto` the coefficients of an update phase; NaN without steps, as at log point 0."""
    if "pfo_auto" not in state.memory:
        return {}
    coefs = state.memory["pfo_auto"].coefs
    return {
        name.replace("loss", "auto_coef"): jnp.where(jnp.asarray(num_steps) > 0, coef, jnp.nan)
        for name, coef in coefs.items()
    }
