"""Resets of single units: which ones, when, and what is done with their weights and with Adam's moments of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree

from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import Params
from purejaxppo.ppo import units
from purejaxppo.ppo.interventions import optimizers, proximity
from purejaxppo.ppo.interventions.optimizers import owners
from purejaxppo.ppo.minibatches import rows_of, shuffled_indices
from purejaxppo.ppo.state import Array, Batch, Learner, RunState
from purejaxppo.ppo.terms import Outputs, loss_terms, sum_of_terms
from purejaxppo.ppo.units import Units

_RESETS = 0x72657365  # folded into an update's key, whose other children are its epochs' numbers


@struct.dataclass(kw_only=True)
class Utility:
    """What continual backpropagation remembers of a hidden layer of D units.

    utility [D]: running mean of what a unit contributes, from 0. age [D]: gradient steps since it was new.
    due []: units that should have been replaced by now and have not been, less than one after every step.
    """

    utility: Array
    age: Array
    due: Array


def init_resets(learner: Learner) -> dict[str, Any]:
    """What a run remembers for `unit_resets`.

    units_reset: the number of resets so far [] of each network. unit_utility: of each network and hidden layer its
    `Utility`, with continual_backprop.
    """
    if learner.config.unit_resets == "off":
        return {}
    networks = units.built_in(learner)
    memory: dict[str, Any] = {"units_reset": {name: jnp.zeros(()) for name in networks}}
    if learner.config.unit_resets == "continual_backprop":
        memory["unit_utility"] = {
            name: {
                layer: Utility(utility=jnp.zeros(size), age=jnp.zeros(size), due=jnp.zeros(()))
                for layer, size in units.hidden_layers(network).items()
            }
            for name, network in networks.items()
        }
    return memory


def child_keys(key: Array) -> tuple[Array, Array, Array]:
    """Of an update's key, for fresh networks, for the samples that units are judged on, and for the loss of these."""
    key_fresh, key_samples, key_loss = jax.random.split(jax.random.fold_in(key, _RESETS), 3)
    return key_fresh, key_samples, key_loss


def is_due(learner: Learner, state: RunState, num_epochs: Array | int) -> Array:
    """Whether units are reset after this update, the last one of `reset_interval`; never where nothing is learned."""
    return ((state.update + 1) % learner.config.reset_interval == 0) & (num_epochs > 0)


def is_inactive(hparams: HyperParams, activity: Units) -> Units:
    """Which units' activity is at most `reset_threshold` times the mean of their layer; of a layer of zeros all are."""
    return jax.tree.map(lambda x: x <= hparams.reset_threshold * x.mean(), activity)


def judge(hparams: HyperParams, memory: Utility, activity: Array, outgoing: Array) -> tuple[Utility, Array]:
    """Continual backpropagation in one layer after one gradient step: its memory, and which units [D] are replaced.

    With ages a <- a + 1 and utilities u <- eta u + (1 - eta) mean |h| sum |outgoing w|, the units with
    a > maturity_threshold are mature, and replacement_rate times their number comes due; as many whole ones as are due
    are replaced, of least u / (1 - eta^a), and start from age and utility 0 (Dohare et al. 2024, Nature 632, Methods;
    as in their code with `accumulate`, several at once where more than one is due).
    """
    decay, age = hparams.utility_decay, memory.age + 1
    utility = decay * memory.utility + (1 - decay) * activity * outgoing
    is_mature = age > hparams.maturity_threshold
    due = memory.due + hparams.replacement_rate * is_mature.sum()
    order = jnp.argsort(jnp.where(is_mature, utility / (1 - decay**age), jnp.inf))
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
    chosen = is_mature & (rank < jnp.floor(due))
    kept = Utility(utility=jnp.where(chosen, 0.0, utility), age=jnp.where(chosen, 0.0, age), due=due - jnp.floor(due))
    return kept, chosen


def continual_backprop(
    learner: Learner, hparams: HyperParams, state: RunState, activity: Units, fresh: Params
) -> RunState:
    """The state after a gradient step (`params` nested) and the replacements that are due.

    activity: mean |h| of every unit in the minibatch that the step was made from, before it.
    """
    memory: dict[str, dict[str, Utility]] = {}
    chosen: Units = {}
    for name, network in units.built_in(learner).items():
        outgoing = units.outgoing_size(network, state.params[name])
        judged = {
            layer: judge(hparams, of_layer, activity[name][layer], outgoing[layer])
            for layer, of_layer in state.memory["unit_utility"][name].items()
        }
        memory[name] = {layer: kept for layer, (kept, _) in judged.items()}
        chosen[name] = {layer: mask for layer, (_, mask) in judged.items()}
    state = replace(state, memory=state.memory | {"unit_utility": memory})
    return reset_units(learner, state, chosen, fresh)


def reset_units(learner: Learner, state: RunState, chosen: Units, fresh: Params) -> RunState:
    """The chosen units made anew, `state.params` being nested: fresh weights to them, none from them, no moments.

    Weights and bias that lead to a unit become those of `fresh`, a normalisation's gain and bias with them; weights
    that lead away from it become 0, also to a unit that is made anew as well; Adam's moments of all of these become 0,
    its number of steps stays (Sokar et al. 2023, arXiv 2302.12902, and their code, which sets biases to 0 and keeps
    their moments). The Adam of continual backpropagation's authors counts steps by weight and starts anew with a unit:
    by one count for all a new unit's first steps are longer, with the default betas up to 6.6 times the rate. Code by
    others for ReGraMa leaves weights away from a unit as they are.
    """
    params, touched = {}, {}
    for name, network in units.built_in(learner).items():
        entering, leaving = units.marked_weights(network, state.params[name], chosen[name])
        params[name] = jax.tree.map(
            lambda old, new, to, away: jnp.where(away, 0.0, jnp.where(to, new, old)),
            state.params[name],
            fresh[name],
            entering,
            leaving,
        )
        touched[name] = ravel_pytree(jax.tree.map(jnp.logical_or, entering, leaving))[0]
    optimizer = dict(state.optimizer)
    for owner, (name, _) in owners(learner, state.params).items():
        mask = touched[name]
        optimizer[owner] = jax.tree.map(
            lambda x, mask=mask: jnp.where(mask, 0.0, x) if x.shape == mask.shape else x, optimizer[owner]
        )
    before = state.memory["units_reset"]
    counts = {name: before[name] + sum(x.sum(dtype=jnp.float32) for x in of.values()) for name, of in chosen.items()}
    memory = state.memory | {"units_reset": counts}
    return replace(state, params=params, optimizer=optimizer, memory=memory)


def shrink_and_perturb(hparams: HyperParams, params: Params, fresh: Params) -> Params:
    """theta <- shrink theta + perturb theta_fresh, of all weights, biases and gains of all networks.

    Ash and Adams 2020 (arXiv 1910.08475), whose code has 0.4 and 0.1, and networks of the initialiser as the noise.
    Adam's moments stay: `reset_optimizer` is a switch of its own.
    """
    return jax.tree.map(lambda old, new: hparams.shrink * old + hparams.perturb * new, params, fresh)


def reset_metrics(state: RunState) -> dict[str, Array]:
    """Resets of units so far, by network; a shared trunk's under both names."""
    counts = state.memory["units_reset"]
    return {f"{name}_units_reset": counts.get(name, counts.get("shared")) for name in ("policy", "critic")}


def reset_at_interval(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    batch: Batch,
    key: Array,
    num_epochs: Array | int,
    fresh: Params,
) -> RunState:
    """Resets where they are due after this update: ReDo or ReGraMa, then hard shrink and perturb.

    `state.params` is nested. Every run computes it in every update: under vmap a condition would do so, too.
    """
    config, is_now = learner.config, is_due(learner, state, num_epochs)
    if config.unit_resets in ("redo", "regrama"):
        activity = unit_activity(learner, hparams, state, batch, key)
        chosen = jax.tree.map(lambda x: x & is_now, is_inactive(hparams, activity))
        state = reset_units(learner, state, chosen, fresh)
    if config.shrink_and_perturb == "hard":
        moved = shrink_and_perturb(hparams, state.params, fresh)
        params = jax.tree.map(lambda old, new: jnp.where(is_now, new, old), state.params, moved)
        state = replace(state, params=params)
    return replace(state, memory=proximity.restart_where(is_now, state))


def unit_activity(learner: Learner, hparams: HyperParams, state: RunState, batch: Batch, key: Array) -> Units:
    """What ReDo or ReGraMa judge units by, on as many random samples of the rollout as a minibatch has."""
    _, key_samples, key_loss = child_keys(key)
    rows = rows_of(batch, shuffled_indices(key_samples, learner.config.batch_size)[: learner.config.minibatch_size])
    if learner.config.unit_resets == "redo":
        return units.activity(learner, state, learner.both(state, rows.obs))
    # With `pfo_states = "other"` PFO's term is about other samples, and does not depend on these units' outputs.
    rows = replace(rows, other=rows)
    rows = proximity.with_reference(learner, optimizers.flattened(state.params)[1], state, rows)

    def loss(outputs: Outputs) -> Array:
        return sum_of_terms(learner, loss_terms(learner, hparams, state, outputs, rows, key_loss))

    return units.gradient_activity(learner, state, rows.obs, loss)
