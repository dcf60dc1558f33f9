"""The optimisation phase: epochs of shuffled minibatches, one Adam per network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import Params
from purejaxppo.ppo import losses
from purejaxppo.ppo.rollout import regularized_preactivations
from purejaxppo.ppo.state import Array, Batch, Learner, Metrics, RunState

PFO_DISTANCES = {"l2": losses.pfo, "cosine": losses.pfo_cosine}


def minibatch_loss(
    params: Params, learner: Learner, hparams: HyperParams, state: RunState, batch: Batch, key: Array
) -> tuple[Array, Metrics]:
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
) -> tuple[Params, optax.OptState, Metrics]:
    """Clip the gradient's global norm, then one Adam step, for one network; and the norms of all three."""
    grad_norm = optax.tree.norm(grads)
    scale = jnp.minimum(1.0, hparams.max_grad_norm / (grad_norm + 1e-6))
    adam = optax.scale_by_adam(b1=hparams.adam_beta1, b2=hparams.adam_beta2, eps=hparams.adam_eps)
    steps, opt_state = adam.update(jax.tree.map(lambda g: g * scale, grads), opt_state)
    steps = jax.tree.map(lambda s: -learning_rate * s, steps)
    norms = {
        "gradient_norm": grad_norm,
        "gradient_norm_clipped": grad_norm * scale,
        "step_norm": optax.tree.norm(steps),
    }
    return optax.apply_updates(params, steps), opt_state, norms


def init_optimizer(params: Params) -> optax.OptState:
    """Adam's zero moments for one network (they do not depend on its hyper-parameters)."""
    return optax.scale_by_adam().init(params)


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
            norms["weight_norm"] = optax.tree.norm(params[name])
            for network in ("policy", "critic") if name == "shared" else (name,):
                metrics |= {f"{network}_{key}": value for key, value in norms.items()}
    return state.replace(params=params, optimizer=optimizer), metrics


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
    metrics["learning_rate"] = jnp.broadcast_to(learning_rate, (config.num_epochs, config.num_minibatches))
    return state, corners(metrics)


def corners(metrics: Metrics) -> Metrics:
    """From [epochs, minibatches] the first and last minibatch of the first and last epoch, under their names.

    The plain name is the last minibatch of the last epoch.
    """
    places = {"": (-1, -1), "_first_epoch_first": (0, 0), "_first_epoch_last": (0, -1), "_last_epoch_first": (-1, 0)}
    return {f"{name}{suffix}": value[place] for name, value in metrics.items() for suffix, place in places.items()}


def scheduled_learning_rate(learner: Learner, hparams: HyperParams, update: Array) -> Array:
    """The learning rate of an update: constant, or falling linearly from its start to 0 after the last update."""
    rate = jnp.asarray(hparams.learning_rate, jnp.float32)
    if learner.config.lr_schedule == "constant":
        return rate
    return rate * (1.0 - update / learner.config.num_updates)
