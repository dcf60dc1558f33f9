"""Plasticity (capacity) loss: how well networks, as they are now, can still be fitted to something new.

A run's task is fixed: observations of the initial policy, and outputs of randomly initialised networks of the same
class as targets. At a measurement copies of the run's networks are fitted to it for one epoch of minibatches, by a
fresh optimiser with the run's hyper-parameters; the loss on the last minibatch is reported. A network that has lost its
plasticity ends higher than a fresh one does (Lyle et al. 2022, arXiv 2204.09560; Moalla et al. 2024, arXiv 2405.00662).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purejaxppo.envs.wrappers import ObservationStatistics
from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.networks import Params
from purejaxppo.ppo.rollout import collect
from purejaxppo.ppo.state import Array, Learner, PlasticityTask, RunState
from purejaxppo.ppo.update import adam_step, init_optimizer, shuffled_indices

HEADS = ("policy", "critic")
LoadMinibatch = Callable[[Array], PlasticityTask]
"""From a minibatch's number in its task to that minibatch [B, ...]: a task is large, not to be copied as a whole."""


def make_task(learner: Learner, state: RunState, key: Array) -> PlasticityTask:
    """The task of a run whose initial state is `state`: M shuffled minibatches of the initial policy's observations.

    Normalised observations are so by their own statistics, for ever: what the networks are fitted on never changes.
    """
    config = learner.config
    key_rollout, key_order, key_target = jax.random.split(key, 3)

    def rollout(state: RunState, key: Array) -> tuple[RunState, Array]:
        state, data = collect(learner, state, key)
        return state, data.obs

    _, obs = jax.lax.scan(rollout, state, jax.random.split(key_rollout, config.num_plasticity_rollouts))
    obs = obs.reshape(-1, *learner.env.observation_shape)
    if config.normalize_observations:
        obs = ObservationStatistics.init(learner.env.observation_shape).update(obs).normalize(obs)
    size = config.num_plasticity_minibatches * config.minibatch_size
    obs = obs[shuffled_indices(key_order, obs.shape[0])[:size]]
    policy, critic = learner.networks.both(learner.networks.init(key_target), learner.network_input(None, obs))
    task = PlasticityTask(obs=obs, policy_outputs=policy.outputs, value=critic.outputs[..., 0])
    shape = (config.num_plasticity_minibatches, config.minibatch_size)
    return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), task)


def minibatch_of(task: PlasticityTask, number: Array) -> PlasticityTask:
    """The minibatch [B, ...] of that number."""
    return jax.tree.map(lambda x: x[number], task)


def plasticity_losses(learner: Learner, hparams: HyperParams, params: Params, minibatch: LoadMinibatch) -> Array:
    """Losses [M, 2] of policy, mean KL(target || output), and critic, mean (V_target - V)^2, before each of M steps.

    Each head is fitted on its own; with a shared trunk both start from a copy of it. `minibatch(i)` is the task's i-th.
    """
    networks = learner.networks

    def loss(fitted: dict[str, Params], batch: PlasticityTask) -> tuple[Array, Array]:
        obs = learner.network_input(None, batch.obs)
        kl = learner.distribution.kl(batch.policy_outputs, networks.policy(fitted["policy"], obs).outputs)
        error = networks.critic(fitted["critic"], obs).outputs[..., 0] - batch.value
        each = jnp.stack([kl.mean(), jnp.square(error).mean()])
        return each.sum(), each  # no weight is in both, so the gradient of the sum is both gradients

    def step(carry: tuple[Params, Params], number: Array) -> tuple[tuple[Params, Params], Array]:
        fitted, optimizer = {}, {}
        grads, losses = jax.grad(loss, has_aux=True)(carry[0], jax.lax.stop_gradient(minibatch(number)))
        for head in HEADS:
            fitted[head], optimizer[head], _ = adam_step(
                hparams, jnp.asarray(hparams.learning_rate), grads[head], carry[1][head], carry[0][head]
            )
        return (fitted, optimizer), losses

    fitted = {head: params if "shared" in params else {head: params[head]} for head in HEADS}
    optimizer = {head: init_optimizer(fitted[head]) for head in HEADS}
    return jax.lax.scan(step, (fitted, optimizer), jnp.arange(learner.config.num_plasticity_minibatches))[1]


def measure(
    learner: Learner,
    hparams: HyperParams,
    params: Params,
    minibatch: LoadMinibatch,
    is_due: Array | bool,
) -> Metrics:
    """The plasticity losses of a run as metrics, NaN unless `is_due`, which must be the same for all runs.

    Costs nothing where it is not due: a condition that vmap does not batch stays one.
    """
    losses = jax.lax.cond(
        is_due,
        lambda: plasticity_losses(learner, hparams, params, minibatch),
        lambda: jnp.full((learner.config.num_plasticity_minibatches, 2), jnp.nan),
    )
    last = {f"{head}_plasticity_loss": losses[-1, i] for i, head in enumerate(HEADS)}
    curves = {f"{head}_plasticity_curve": losses[:, i] for i, head in enumerate(HEADS)}
    return Metrics.of(last, curves if learner.config.plasticity_curve else {})
