"""The optimisation phase: epochs of shuffled minibatches, one Adam per network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.networks import NetworkOutput, Params
from purejaxppo.ppo import losses, units
from purejaxppo.ppo.interventions import after_step, kl_control, optimizers, owned, penalties, proximity, resets
from purejaxppo.ppo.interventions.objectives import learned_advantage, policy_loss, value_loss
from purejaxppo.ppo.interventions.optimizers import Rates, Weights
from purejaxppo.ppo.state import Array, Batch, Learner, RunState

T = TypeVar("T")
Outputs = tuple[NetworkOutput, NetworkOutput]
Unravel = Callable[[Weights], Params]
Step = tuple[Array, Array | None, Array, Array]  # rows of a minibatch, of another one, key, whether it is measured
# Suffix of a metric's name -> (epoch, minibatch) at which it is taken.
CORNERS = {"": (-1, -1), "_first_epoch_first": (0, 0), "_first_epoch_last": (0, -1), "_last_epoch_first": (-1, 0)}


def update_networks(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    batch: Batch,
    key: Array,
    num_epochs: Array | int,
    is_measured: Array | bool = True,
) -> tuple[RunState, Metrics]:
    """All epochs over one rollout; metrics of the first and last minibatch of the first and last epoch.

    NaN in their place unless `is_measured`, which must be the same for all runs of a vmapped program; so must be
    `num_epochs`, unless `learner.max_epochs` says how many there are at most.
    """
    config, rates = learner.config, optimizers.scheduled_learning_rates(learner, hparams, state)
    control = None if state.kl_control is None else kl_control.start_rollout(state.kl_control)
    memory = proximity.start_pfo(learner, hparams, state)
    optimizer = optimizers.start_update(learner, state)
    state = dataclasses.replace(state, optimizer=optimizer, kl_control=control, memory=memory)
    weights, unravel = flattened(state.params)
    # The same for all resets of an update: a unit is replaced twice in it only if it is mature that soon.
    is_reset = config.unit_resets != "off" or config.shrink_and_perturb == "hard"
    fresh = learner.networks.init(resets.child_keys(key)[0]) if is_reset else None

    def minibatch(state: RunState, step: Step) -> tuple[RunState, tuple[Metrics, Array | None]]:
        indices, other, key, is_corner = step

        def rows(other: Array | None) -> Batch:
            taken = dataclasses.replace(_rows(batch, indices), other=None if other is None else _rows(batch, other))
            return proximity.with_reference(learner, unravel, state, taken)

        taken = rows(other if config.pfo_states == "other" else None)
        after, norms, outputs = gradient_step(learner, hparams, rates, unravel, state, taken, key, fresh)

        def measure() -> Metrics:
            # Rows again, so that outside of this condition only what the loss reads is copied; the key again, as it is
            # this very loss that is reported.
            before = dataclasses.replace(state, power_vectors=after.power_vectors)  # iterated before the step
            return minibatch_metrics(learner, hparams, rates, unravel, before, after, norms, outputs, rows(other), key)

        # The same for all runs, so that vmap keeps it a condition: norms of all weights cost as much as the step.
        metrics = jax.lax.cond(is_corner, measure, lambda: nothing_like(measure))
        return after, (metrics, None if after.kl_control is None else after.kl_control.kl)

    def epoch(state: RunState, number: Array | int) -> tuple[RunState, tuple[Metrics, Array | None]]:
        key_shuffle, key_loss = jax.random.split(jax.random.fold_in(key, number))
        order = shuffled_indices(key_shuffle, config.batch_size)
        order = order[: config.num_minibatches * config.minibatch_size]  # an incomplete last minibatch is dropped
        order = order.reshape(config.num_minibatches, config.minibatch_size)
        is_corner = _is_first_or_last(jnp.arange(config.num_minibatches), (config.num_minibatches,))
        last = (num_epochs,) if learner.max_epochs is None else learner.values("num_epochs")
        is_corner &= _is_first_or_last(jnp.asarray(number), last) & is_measured
        others = None
        if config.num_minibatches > 1 and (config.pfo_states == "other" or config.diagnostics):
            others = jnp.roll(order, -1, axis=0)  # of each the next one, on which the step before was not made either
        keys = jax.random.split(key_loss, config.num_minibatches)
        return jax.lax.scan(minibatch, state, (order, others, keys, is_corner))

    state = dataclasses.replace(state, params=weights)
    state, first, last = _repeat_epochs(learner, epoch, state, num_epochs)
    state = dataclasses.replace(state, params=unravel(state.params))
    metrics, num_steps = corners(first[0], last[0]), num_epochs * config.num_minibatches
    if fresh is not None:
        state = reset_at_interval(learner, hparams, state, batch, key, num_epochs, fresh)
    if config.unit_resets != "off":
        metrics = metrics.joined(Metrics.of(resets.reset_metrics(state)))
    if of_pfo := proximity.pfo_metrics(state, num_steps):
        metrics = metrics.joined(Metrics.of(of_pfo))
    if state.kl_control is not None:
        control, of_kl = kl_control.finish_rollout(learner, hparams, state, last[1], num_steps)
        state, metrics = dataclasses.replace(state, kl_control=control), metrics.joined(Metrics.of(of_kl))
    return state, metrics


def gradient_step(
    learner: Learner,
    hparams: HyperParams,
    rates: Rates,
    unravel: Unravel,
    state: RunState,
    batch: Batch,
    key: Array,
    fresh: Params | None = None,
) -> tuple[RunState, dict[str, Array], Outputs]:
    """One step of every network on one minibatch, `state.params` being flat.

    Also each optimiser's gradient norm, and what policy and critic gave before the step. fresh: with unit_resets, the
    networks whose weights units that are replaced get.
    """

    def loss(weights: Weights) -> tuple[Array, tuple[Outputs, dict[str, Array]]]:
        nested = dataclasses.replace(state, params=unravel(weights))
        outputs = learner.both(nested, batch.obs)
        terms = loss_terms(learner, hparams, nested, outputs, batch, key)
        return sum_of_terms(learner, terms), (outputs, proximity.sizes_of_terms(learner, terms))

    if state.power_vectors is not None:
        vectors = penalties.iterate_power(unravel(state.params), state.power_vectors)
        state = dataclasses.replace(state, power_vectors=vectors)
    gradients, (outputs, sizes) = jax.grad(loss, has_aux=True)(state.params)
    weights, optimizer, norms = optimizers.step_weights(
        learner, hparams, rates, unravel, state.params, gradients, state.optimizer
    )
    weights = after_step.apply(learner, hparams, rates, unravel, state, weights, key)
    if owned.has_operations(learner):
        nested = owned.operate_after_step(learner, hparams, unravel(state.params), unravel(weights), key)
        weights, _ = flattened(nested)
    memory = proximity.pfo_after_step(state, sizes)
    if learner.config.unit_resets == "continual_backprop":
        assert fresh is not None
        stepped = dataclasses.replace(state, params=unravel(weights), optimizer=optimizer, memory=memory)
        activity = units.activity(learner, state, outputs)
        stepped = resets.continual_backprop(learner, hparams, stepped, activity, fresh)
        (weights, _), optimizer, memory = flattened(stepped.params), stepped.optimizer, stepped.memory
    control = state.kl_control
    if control is not None:
        is_stopped = control.is_stopped  # masked, not skipped: under vmap every run computes every step anyway
        control = kl_control.watch_minibatch(
            learner, hparams, state, learner.distribution.kl(batch.policy_outputs, outputs[0].outputs).mean()
        )
        if True in learner.values("kl_stop"):
            weights, optimizer, memory = jax.tree.map(
                lambda old, new: jnp.where(is_stopped, old, new),
                (state.params, state.optimizer, state.memory),
                (weights, optimizer, memory),
            )
    after = dataclasses.replace(state, params=weights, optimizer=optimizer, kl_control=control, memory=memory)
    return after, norms, outputs


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
    config, is_due = learner.config, resets.is_due(learner, state, num_epochs)
    if config.unit_resets in ("redo", "regrama"):
        activity = unit_activity(learner, hparams, state, batch, key)
        chosen = jax.tree.map(lambda x: x & is_due, resets.is_inactive(hparams, activity))
        state = resets.reset_units(learner, state, chosen, fresh)
    if config.shrink_and_perturb == "hard":
        moved = resets.shrink_and_perturb(hparams, state.params, fresh)
        params = jax.tree.map(lambda old, new: jnp.where(is_due, new, old), state.params, moved)
        state = dataclasses.replace(state, params=params)
    return state


def unit_activity(learner: Learner, hparams: HyperParams, state: RunState, batch: Batch, key: Array) -> units.Units:
    """What ReDo or ReGraMa judge units by, on as many random samples of the rollout as a minibatch has."""
    _, key_samples, key_loss = resets.child_keys(key)
    rows = _rows(batch, shuffled_indices(key_samples, learner.config.batch_size)[: learner.config.minibatch_size])
    if learner.config.unit_resets == "redo":
        return units.activity(learner, state, learner.both(state, rows.obs))
    # With `pfo_states = "other"` PFO's term is about other samples, and does not depend on these units' outputs.
    rows = dataclasses.replace(rows, other=rows)
    rows = proximity.with_reference(learner, flattened(state.params)[1], state, rows)

    def loss(outputs: Outputs) -> Array:
        return sum_of_terms(learner, loss_terms(learner, hparams, state, outputs, rows, key_loss))

    return units.gradient_activity(learner, state, rows.obs, loss)


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


def flattened(params: Params) -> tuple[Weights, Unravel]:
    """Of each network its weights as one vector, and the way back."""
    pairs = {name: ravel_pytree(network) for name, network in params.items()}
    return {name: flat for name, (flat, _) in pairs.items()}, lambda weights: {
        name: unravel(weights[name]) for name, (_, unravel) in pairs.items()
    }


def _rows(batch: Batch, indices: Array) -> Batch:
    return jax.tree.map(lambda x: x[indices], batch)


def _is_first_or_last(index: Array, sizes: tuple[Array | int, ...]) -> Array:
    """Whether an index is 0 or the last one, of any of these sizes."""
    return jnp.stack([index == 0, *(index == size - 1 for size in sizes)]).any(axis=0)


def _repeat_epochs(
    learner: Learner, epoch: Callable[..., tuple[RunState, tuple]], state: RunState, num_epochs: Array | int
) -> tuple[RunState, tuple, tuple]:
    """The state after all epochs, and what the first and the last of them gave; NaN where there is none."""
    epoch = jax.jit(epoch)  # traced once, for its shapes and for the loop

    def next_epoch(number: Array | int, carry: tuple[RunState, tuple, tuple]) -> tuple[RunState, tuple, tuple]:
        state, first, last = carry
        after, found = epoch(state, number)
        if learner.max_epochs is not None:
            is_on = number < num_epochs
            after, found = jax.tree.map(lambda new, old: jnp.where(is_on, new, old), (after, found), (state, last))
        return after, jax.tree.map(lambda old, new: jnp.where(number == 0, new, old), first, found), found

    nothing = nothing_like(lambda: epoch(state, jnp.int32(0))[1])
    bound = num_epochs if learner.max_epochs is None else learner.max_epochs
    return jax.lax.fori_loop(0, bound, next_epoch, (state, nothing, nothing))


def nothing_like(function: Callable[[], T]) -> T:
    """NaN (0 for what is no float) in place of what `function` would give, without computing it."""

    def nothing(x: jax.ShapeDtypeStruct) -> Array:
        return jnp.full(x.shape, jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else 0, x.dtype)

    return jax.tree.map(nothing, jax.eval_shape(function))


def shuffled_indices(key: Array, size: int) -> Array:
    """0 .. size - 1 in random order, int32 [size].

    One sort of random words whose low bits are the index: several times as fast on a CPU as `jax.random.permutation`,
    which sorts pairs. Words that agree in all their random bits keep the order of their indices; with 1024
    indices that befalls one pair in one shuffle out of eight.
    """
    index_bits = max(size - 1, 1).bit_length()
    words = jax.random.bits(key, (size,), jnp.uint32) << index_bits | jnp.arange(size, dtype=jnp.uint32)
    return (jnp.sort(words) & ((1 << index_bits) - 1)).astype(jnp.int32)


def corners(first_epoch: Metrics, last_epoch: Metrics) -> Metrics:
    """From two epochs' metrics [minibatches] those of the first and last minibatch, under their names.

    The plain name is the last minibatch of the last epoch.
    """
    epochs = {0: first_epoch, -1: last_epoch}
    return Metrics(
        names=tuple(f"{name}{suffix}" for suffix in CORNERS for name in first_epoch.names),
        values=jnp.concatenate([epochs[epoch].values[minibatch] for epoch, minibatch in CORNERS.values()]),
        spectra={},
    )
