"""The optimisation phase: epochs of shuffled minibatches, one Adam per network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.networks import Params
from purejaxppo.ppo import units
from purejaxppo.ppo.interventions import after_step, kl_control, optimizers, owned, penalties, proximity, resets
from purejaxppo.ppo.interventions.optimizers import Rates, Unravel, Weights, flattened
from purejaxppo.ppo.measures import corners, minibatch_metrics
from purejaxppo.ppo.minibatches import rows_of, shuffled_indices
from purejaxppo.ppo.state import Array, Batch, Learner, RunState
from purejaxppo.ppo.terms import Outputs, loss_terms, sum_of_terms

T = TypeVar("T")
Step = tuple[Array, Array | None, Array, Array]  # rows of a minibatch, of another one, key, whether it is measured


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
            taken = dataclasses.replace(rows_of(batch, indices), other=None if other is None else rows_of(batch, other))
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
            others = jnp.roll(order, -1, axis=0)  # of each the next one, of the last the first
        keys = jax.random.split(key_loss, config.num_minibatches)
        return jax.lax.scan(minibatch, state, (order, others, keys, is_corner))

    state = dataclasses.replace(state, params=weights)
    state, first, last = _repeat_epochs(learner, epoch, state, num_epochs)
    state = dataclasses.replace(state, params=unravel(state.params))
    return end_of_update(learner, hparams, state, batch, key, num_epochs, corners(first[0], last[0]), last[1], fresh)


def end_of_update(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    batch: Batch,
    key: Array,
    num_epochs: Array | int,
    metrics: Metrics,
    last_kl: Array | None,
    fresh: Params | None,
) -> tuple[RunState, Metrics]:
    """What interventions do after the epochs, `state.params` being nested, and report of them.

    last_kl: of every minibatch of the last epoch; fresh: networks whose weights units that are reset get.
    """
    config, num_steps = learner.config, num_epochs * learner.config.num_minibatches
    if fresh is not None:
        state = resets.reset_at_interval(learner, hparams, state, batch, key, num_epochs, fresh)
    if config.unit_resets != "off":
        metrics = metrics.joined(Metrics.of(resets.reset_metrics(state)))
    if of_pfo := proximity.pfo_metrics(state, num_steps):
        metrics = metrics.joined(Metrics.of(of_pfo))
    if state.kl_control is not None:
        assert last_kl is not None
        control, of_kl = kl_control.finish_rollout(learner, hparams, state, last_kl, num_steps)
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
