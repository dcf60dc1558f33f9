"""The optimisation phase: epochs of shuffled minibatches, one Adam per network."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.networks import Params
from purejaxppo.ppo import interventions, losses
from purejaxppo.ppo.interventions import pfo_representation
from purejaxppo.ppo.state import Array, Batch, Learner, RunState

History = tuple[Metrics, interventions.KLControl | None]
"""Of one minibatch, or of several stacked: its metrics, and the memory of the KL interventions after it."""


def minibatch_loss(
    params: Params, learner: Learner, hparams: HyperParams, state: RunState, batch: Batch, key: Array
) -> tuple[Array, tuple[dict[str, Array], Array]]:
    """Total loss of one minibatch; its terms (each without its coefficient), and the policy's outputs.

    PPO-Clip - entropy_coef H + value_coef (V - target)^2 + pfo_coef PFO(policy) + critic_pfo_coef PFO(critic), and
    whatever penalties of `interventions` are switched on.
    """
    policy, critic = learner.networks.both(params, learner.network_input(state.observation_statistics, batch.obs))
    log_prob = learner.distribution.log_prob(policy.outputs, batch.action)
    entropy = learner.distribution.entropy(policy.outputs, key).mean()
    distance = losses.PFO_PENALTIES[learner.config.pfo_distance]
    policy_phi, critic_phi = (pfo_representation(learner.config, output) for output in (policy, critic))
    terms = {
        "policy_loss": interventions.policy_loss(learner.config, hparams, log_prob, policy_phi, batch),
        "entropy_loss": -entropy,
        "value_loss": losses.value_loss(critic.outputs[..., 0], batch.value_target),
        "pfo_loss": distance(policy_phi, batch.policy_phi),
        "critic_pfo_loss": distance(critic_phi, batch.critic_phi),
    }
    total = (
        terms["policy_loss"] + hparams.entropy_coef * terms["entropy_loss"] + hparams.value_coef * terms["value_loss"]
    )
    if learner.config.pfo_mode == "penalty":
        total += hparams.pfo_coef * terms["pfo_loss"]
    total += hparams.critic_pfo_coef * terms["critic_pfo_loss"]
    for name, (coef, value) in interventions.penalties(learner, hparams, state, params, batch, policy, critic).items():
        terms[name] = value
        total += coef * value
    return total, (terms, policy.outputs)


def adam_step(
    hparams: HyperParams, learning_rate: Array, grads: Params, opt_state: optax.OptState, params: Params
) -> tuple[Params, optax.OptState, Array]:
    """Clip the gradient's global norm, then one Adam step, for one network; and that step [P].

    On one flat vector per network: an elementwise optimiser does not mind, and XLA gets a few kernels, not dozens.
    """
    gradient, _ = ravel_pytree(grads)
    weights, unravel = ravel_pytree(params)
    # eps_root is far below float32's resolution next to eps: it changes no step, but keeps the derivative of the square
    # root finite where a weight never had a gradient, so that training itself can be differentiated.
    adam = optax.scale_by_adam(b1=hparams.adam_beta1, b2=hparams.adam_beta2, eps=hparams.adam_eps, eps_root=1e-30)
    direction, opt_state = adam.update(gradient * clip_scale(hparams, jnp.linalg.norm(gradient)), opt_state)
    step = -learning_rate * jnp.asarray(direction)
    return unravel(weights + step), opt_state, step


def clip_scale(hparams: HyperParams, norm: Array) -> Array:
    """What a gradient of this global norm is multiplied by, so that its norm is at most `max_grad_norm`."""
    return jnp.minimum(1.0, hparams.max_grad_norm / (norm + 1e-6))


def init_optimizer(params: Params) -> optax.OptState:
    """Adam's zero moments for one network, flat [P] (they do not depend on its hyper-parameters)."""
    return optax.scale_by_adam().init(ravel_pytree(params)[0])


def minibatch_update(
    learner: Learner,
    hparams: HyperParams,
    learning_rate: Array,
    state: RunState,
    batch: Batch,
    key: Array,
    is_measured: Array,
) -> tuple[RunState, Metrics]:
    """One gradient step of every network on one minibatch; its metrics, or zeros where it is not to be measured."""
    if state.power_vectors is not None:
        vectors = interventions.iterate_power(state.params, state.power_vectors)
        state = dataclasses.replace(state, power_vectors=vectors)
    grads, (terms, outputs) = jax.grad(minibatch_loss, has_aux=True)(state.params, learner, hparams, state, batch, key)
    params, optimizer, steps = {}, {}, {}
    for name in state.params:
        params[name], optimizer[name], steps[name] = adam_step(
            hparams, learning_rate, grads[name], state.optimizer[name], state.params[name]
        )
    if state.kl_control is not None:
        kl = learner.distribution.kl(batch.policy_outputs, outputs).mean()
        kl_control = interventions.watch_minibatch(learner.config, hparams, state.kl_control, kl)
        if learner.config.kl_stop:  # masked, not skipped: under vmap every run computes every step anyway
            params, optimizer, steps = jax.tree.map(
                lambda old, new: jnp.where(kl_control.is_stopped, old, new),
                (state.params, state.optimizer, jax.tree.map(jnp.zeros_like, steps)),
                (params, optimizer, steps),
            )
        state = dataclasses.replace(state, kl_control=kl_control)

    def measure() -> Metrics:
        metrics = terms | {"learning_rate": learning_rate}
        if learner.config.diagnostics:
            metrics |= minibatch_diagnostics(learner, hparams, batch, terms, outputs, grads, steps, params)
        return Metrics.of(metrics)

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(measure))
    # The same for all runs, so that vmap keeps it a condition. Reductions over the weights cost as much as the step.
    metrics = jax.lax.cond(is_measured, measure, lambda: nothing)
    return dataclasses.replace(state, params=params, optimizer=optimizer), metrics


def minibatch_diagnostics(
    learner: Learner,
    hparams: HyperParams,
    batch: Batch,
    terms: dict[str, Array],
    outputs: Array,
    grads: dict[str, Params],
    steps: dict[str, Array],
    params: dict[str, Params],
) -> dict[str, Array]:
    """Of one minibatch and its gradient step: clipped share, KL, entropy, and every network's norms."""
    log_prob = learner.distribution.log_prob(outputs, batch.action)
    advantage = losses.normalize_advantage(batch.advantage)
    metrics = {
        "clip_fraction": losses.clip_fraction(log_prob, batch.log_prob, advantage, hparams.clip_eps),
        "minibatch_kl": learner.distribution.kl(batch.policy_outputs, outputs).mean(),
        "minibatch_entropy": -terms["entropy_loss"],
    }
    for name, step in steps.items():
        norm = jnp.linalg.norm(ravel_pytree(grads[name])[0])
        for network in ("policy", "critic") if name == "shared" else (name,):
            metrics |= {
                f"{network}_gradient_norm": norm,
                f"{network}_gradient_norm_clipped": norm * clip_scale(hparams, norm),
                f"{network}_step_norm": jnp.linalg.norm(step),
                f"{network}_weight_norm": jnp.linalg.norm(ravel_pytree(params[name])[0]),
            }
    return metrics


def update_networks(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    batch: Batch,
    key: Array,
    is_measured: Array | bool = True,
    num_epochs: Array | int | None = None,
) -> tuple[RunState, Metrics]:
    """All epochs over one rollout; metrics of the first and last minibatch of the first and last epoch.

    Zeros in their place unless `is_measured`, which must be the same for all runs of a vmapped program, as must
    `num_epochs`: the configuration's by default, or a number that is known only when the program runs.
    """
    config = learner.config
    num_epochs = config.num_epochs if num_epochs is None else num_epochs
    learning_rate = scheduled_learning_rate(learner, hparams, state.update)
    if config.reset_optimizer:
        fresh = {name: init_optimizer(network) for name, network in state.params.items()}
        state = dataclasses.replace(state, optimizer=fresh)
    if state.kl_control is not None:
        state = dataclasses.replace(state, kl_control=interventions.start_rollout(state.kl_control))

    def minibatch(state: RunState, step: tuple[Array, Array, Array]) -> tuple[RunState, History]:
        indices, key, is_corner = step
        rows = jax.tree.map(lambda x: x[indices], batch)
        state, metrics = minibatch_update(learner, hparams, learning_rate, state, rows, key, is_corner & is_measured)
        return state, (metrics, state.kl_control)

    def epoch(state: RunState, number: Array | int) -> tuple[RunState, History]:
        key_shuffle, key_loss = jax.random.split(jax.random.fold_in(key, number))
        order = shuffled_indices(key_shuffle, config.batch_size)
        order = order[: config.num_minibatches * config.minibatch_size]  # an incomplete last minibatch is dropped
        order = order.reshape(config.num_minibatches, config.minibatch_size)
        is_corner = _is_first_or_last(jnp.arange(config.num_minibatches), config.num_minibatches)
        is_corner &= _is_first_or_last(jnp.asarray(number), num_epochs)
        return jax.lax.scan(minibatch, state, (order, jax.random.split(key_loss, config.num_minibatches), is_corner))

    epoch = jax.jit(epoch, inline=True)  # traced once for its shapes and for the loop

    def next_epoch(number: Array | int, carry: tuple[RunState, History, History]) -> tuple[RunState, History, History]:
        state, first, _ = carry
        state, last = epoch(state, number)
        return state, jax.tree.map(lambda old, new: jnp.where(number == 0, new, old), first, last), last

    shapes = jax.eval_shape(epoch, state, 0)[1]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    state, first, last = jax.lax.fori_loop(0, num_epochs, next_epoch, (state, nothing, nothing))
    metrics = corners(first[0], last[0])
    if state.kl_control is not None:
        assert last[1] is not None
        num_steps = num_epochs * config.num_minibatches
        kl_control, kl_metrics = interventions.finish_rollout(config, hparams, state, last[1].kl, num_steps)
        state, metrics = dataclasses.replace(state, kl_control=kl_control), metrics.joined(Metrics.of(kl_metrics))
    return state, metrics


def _is_first_or_last(index: Array, size: Array | int) -> Array:
    return (index == 0) | (index == size - 1)


def shuffled_indices(key: Array, size: int) -> Array:
    """0 .. size - 1 in random order, int32 [size].

    One sort of random words whose low bits are the index: several times as fast on a CPU as `jax.random.permutation`,
    which sorts pairs. Words that agree in all their random bits keep the order of their indices; with 1024
    indices that befalls one pair in one shuffle out of eight.
    """
    index_bits = max(size - 1, 1).bit_length()
    words = jax.random.bits(key, (size,), jnp.uint32) << index_bits | jnp.arange(size, dtype=jnp.uint32)
    return (jnp.sort(words) & ((1 << index_bits) - 1)).astype(jnp.int32)


# Suffix of a metric's name -> (epoch, minibatch) at which it is taken.
CORNERS = {"": (-1, -1), "_first_epoch_first": (0, 0), "_first_epoch_last": (0, -1), "_last_epoch_first": (-1, 0)}


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


def scheduled_learning_rate(learner: Learner, hparams: HyperParams, update: Array) -> Array:
    """The learning rate of an update: constant, or falling linearly from its start to 0 after the last update."""
    rate = jnp.asarray(hparams.learning_rate, jnp.float32)
    if learner.config.lr_schedule == "constant":
        return rate
    return rate * (1.0 - update / learner.config.num_updates)
