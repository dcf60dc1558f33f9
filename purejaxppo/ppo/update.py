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
from purejaxppo.ppo import losses
from purejaxppo.ppo.rollout import regularized_preactivations
from purejaxppo.ppo.state import Array, Batch, Learner, RunState

PFO_DISTANCES = {"l2": losses.pfo, "cosine": losses.pfo_cosine}


def minibatch_loss(
    params: Params, learner: Learner, hparams: HyperParams, state: RunState, batch: Batch, key: Array
) -> tuple[Array, dict[str, Array]]:
    """Total loss of one minibatch and its terms (each without its coefficient).

    PPO-Clip - entropy_coef H + value_coef (V - target)^2 + pfo_coef PFO(policy) + critic_pfo_coef PFO(critic)
    """
    policy, critic = learner.networks.both(params, learner.network_input(state.observation_statistics, batch.obs))
    log_prob = learner.distribution.log_prob(policy.outputs, batch.action)
    advantage = losses.normalize_advantage(batch.advantage)
    entropy = learner.distribution.entropy(policy.outputs, key).mean()
    distance = PFO_DISTANCES[learner.config.pfo_distance]
    clipping = (log_prob, batch.log_prob, advantage, hparams.clip_eps)
    terms = {
        "policy_loss": losses.ppo_clip(*clipping),
        "entropy_loss": -entropy,
        "value_loss": losses.value_loss(critic.outputs[..., 0], batch.value_target),
        "pfo_loss": distance(regularized_preactivations(learner, policy), batch.policy_preactivations),
        "critic_pfo_loss": distance(regularized_preactivations(learner, critic), batch.critic_preactivations),
    }
    total = (
        terms["policy_loss"]
        + hparams.entropy_coef * terms["entropy_loss"]
        + hparams.value_coef * terms["value_loss"]
        + hparams.pfo_coef * terms["pfo_loss"]
        + hparams.critic_pfo_coef * terms["critic_pfo_loss"]
    )
    if learner.config.diagnostics:
        terms["clip_fraction"] = losses.clip_fraction(*clipping)
        terms["minibatch_kl"] = learner.distribution.kl(batch.policy_outputs, policy.outputs).mean()
        terms["minibatch_entropy"] = entropy
    return total, terms


def adam_step(
    hparams: HyperParams, learning_rate: Array, grads: Params, opt_state: optax.OptState, params: Params
) -> tuple[Params, optax.OptState, dict[str, Array]]:
    """Clip the gradient's global norm, then one Adam step, for one network; and its norms.

    On one flat vector per network: an elementwise optimiser does not mind, and XLA gets a few kernels, not dozens.
    """
    gradient, _ = ravel_pytree(grads)
    weights, unravel = ravel_pytree(params)
    norm = jnp.linalg.norm(gradient)
    scale = jnp.minimum(1.0, hparams.max_grad_norm / (norm + 1e-6))
    # eps_root is far below float32's resolution next to eps: it changes no step, but keeps the derivative of the square
    # root finite where a weight never had a gradient, so that training itself can be differentiated.
    adam = optax.scale_by_adam(b1=hparams.adam_beta1, b2=hparams.adam_beta2, eps=hparams.adam_eps, eps_root=1e-30)
    direction, opt_state = adam.update(gradient * scale, opt_state)
    step = -learning_rate * jnp.asarray(direction)
    weights = weights + step
    norms = {
        "gradient_norm": norm,
        "gradient_norm_clipped": norm * scale,
        "step_norm": jnp.linalg.norm(step),
        "weight_norm": jnp.linalg.norm(weights),
    }
    return unravel(weights), opt_state, norms


def init_optimizer(params: Params) -> optax.OptState:
    """Adam's zero moments for one network, flat [P] (they do not depend on its hyper-parameters)."""
    return optax.scale_by_adam().init(ravel_pytree(params)[0])


def minibatch_update(
    learner: Learner, hparams: HyperParams, learning_rate: Array, state: RunState, batch: Batch, key: Array
) -> tuple[RunState, Metrics]:
    """One gradient step of every network on one minibatch."""
    grads, metrics = jax.grad(minibatch_loss, has_aux=True)(state.params, learner, hparams, state, batch, key)
    params, optimizer = {}, {}
    for name in state.params:
        params[name], optimizer[name], norms = adam_step(
            hparams, learning_rate, grads[name], state.optimizer[name], state.params[name]
        )
        if learner.config.diagnostics:
            for network in ("policy", "critic") if name == "shared" else (name,):
                metrics |= {f"{network}_{norm}": value for norm, value in norms.items()}
    metrics["learning_rate"] = learning_rate
    return dataclasses.replace(state, params=params, optimizer=optimizer), Metrics.of(metrics)


def update_networks(
    learner: Learner, hparams: HyperParams, state: RunState, batch: Batch, key: Array
) -> tuple[RunState, Metrics]:
    """All epochs over one rollout; metrics of the first and last minibatch of the first and last epoch."""
    config = learner.config
    learning_rate = scheduled_learning_rate(learner, hparams, state.update)

    def minibatch(state: RunState, step: tuple[Array, Array]) -> tuple[RunState, Metrics]:
        indices, key = step
        rows = jax.tree.map(lambda x: x[indices], batch)
        return minibatch_update(learner, hparams, learning_rate, state, rows, key)

    def epoch(state: RunState, key: Array) -> tuple[RunState, Metrics]:
        key_shuffle, key_loss = jax.random.split(key)
        order = jax.random.permutation(key_shuffle, config.batch_size)
        order = order[: config.num_minibatches * config.minibatch_size]  # an incomplete last minibatch is dropped
        order = order.reshape(config.num_minibatches, config.minibatch_size)
        return jax.lax.scan(minibatch, state, (order, jax.random.split(key_loss, config.num_minibatches)))

    state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, config.num_epochs))
    return state, corners(metrics)


def corners(metrics: Metrics) -> Metrics:
    """From [epochs, minibatches] the first and last minibatch of the first and last epoch, under their names.

    The plain name is the last minibatch of the last epoch.
    """
    places = {"": (-1, -1), "_first_epoch_first": (0, 0), "_first_epoch_last": (0, -1), "_last_epoch_first": (-1, 0)}
    return Metrics(
        names=tuple(f"{name}{suffix}" for suffix in places for name in metrics.names),
        values=jnp.concatenate([metrics.values[place] for place in places.values()]),
        spectra={},
    )


def scheduled_learning_rate(learner: Learner, hparams: HyperParams, update: Array) -> Array:
    """The learning rate of an update: constant, or falling linearly from its start to 0 after the last update."""
    rate = jnp.asarray(hparams.learning_rate, jnp.float32)
    if learner.config.lr_schedule == "constant":
        return rate
    return rate * (1.0 - update / learner.config.num_updates)
