"""Plasticity (capacity) loss: how well networks, as they are now, can still be fitted to something new.

A run's task is fixed: observations of the initial policy, and outputs of randomly initialised networks of the same
class as targets. At a measurement copies of the run's networks are fitted to it by a fresh Adam (whatever `optimizer`
is: networks are compared, not optimisers) with the run's hyper-parameters; the loss on the last minibatch is reported.
A network that has lost its plasticity ends higher than a fresh one does (Lyle et al. 2022, arXiv 2204.09560; Moalla et
al. 2024, arXiv 2405.00662).

The loss alone says little: targets of small random networks hardly vary, so that a dead network, which can say only one
thing, ends close to the best constant, and one that starts far away, confident or large, ends high without having lost
anything but the start. Beside it stand the loss of that constant and that of the run's own initial networks, fitted
alike, and how much more it is than each.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from purejaxppo.hyperparams import HyperParams
from purejaxppo.metrics import Metrics
from purejaxppo.networks import Params
from purejaxppo.ppo.interventions.optimizers import (
    adam_direction,
    clip_scale,
    flattened,
    init_adam,
    initial_learning_rate,
)
from purejaxppo.ppo.minibatches import shuffled_indices
from purejaxppo.ppo.rollout import collect
from purejaxppo.ppo.start import init_run
from purejaxppo.ppo.state import Array, Learner, RunState

HEADS = ("policy", "critic")
_SHUFFLE = 0x706C6173  # key of the passes after the first, the same for all runs


@struct.dataclass(kw_only=True)
class PlasticityTask:
    """Observations [K, *obs], shuffled and in their own dtype, and what networks are to say to them [K, ...].

    A function of the run's seed and hyper-parameters, so in neither its state nor its checkpoints: whoever measures
    makes it once. constant_loss, fresh_loss [2]: of policy and critic, the least loss that a constant has on the last
    minibatch, and the loss of the initial networks, fitted alike. stored: the observations, Boolean ones, else the
    largest part of a run's memory, as bits [K, bytes].
    """

    stored: Array
    shape_of_bits: tuple[int, ...] | None = struct.field(pytree_node=False)
    """Of one observation that is stored as bits; None for others."""
    policy_outputs: Array
    value: Array
    constant_loss: Array
    fresh_loss: Array

    @property
    def obs(self) -> Array:
        """Observations [K, *obs]."""
        if self.shape_of_bits is None:
            return self.stored
        bits = jnp.unpackbits(self.stored, axis=-1, count=math.prod(self.shape_of_bits))
        return bits.astype(bool).reshape(-1, *self.shape_of_bits)

    def rows(self, indices: Array) -> PlasticityTask:
        """One minibatch."""
        part = {name: getattr(self, name)[indices] for name in ("stored", "policy_outputs", "value")}
        return dataclasses.replace(self, **part)


@jax.default_matmul_precision("highest")  # inside of the environment
def make_task(
    learner: Learner, hparams: HyperParams, key: Array, choices: dict[str, Array] | None = None
) -> PlasticityTask:
    """The task of the run that begins with this key: as many of its initial policy's observations as fill minibatches.

    The target networks see them normalised as the initial networks do; with running statistics, which know nothing at
    the start, by the statistics of these observations. Targets never change.
    """
    config, state = learner.config, init_run(learner, key, choices)
    key_rollout, key_order, key_target = jax.random.split(jax.random.split(key, 4)[3], 3)

    def rollout(state: RunState, key: Array) -> tuple[RunState, Array]:
        state, data = collect(learner, state, key)
        return state, data.obs

    _, obs = jax.lax.scan(rollout, state, jax.random.split(key_rollout, config.num_plasticity_rollouts))
    obs = obs.reshape(-1, *learner.env.observation_shape)
    if config.normalize_observations == "running":
        assert state.observation_statistics is not None
        seen = learner.updated_statistics(state.observation_statistics, obs)
        state = dataclasses.replace(state, observation_statistics=seen)
    size = config.num_plasticity_minibatches * config.minibatch_size
    obs = obs[shuffled_indices(key_order, obs.shape[0])[:size]]
    target = dataclasses.replace(state, params=learner.networks.init(key_target))
    policy, critic = learner.both(target, obs)
    nothing = jnp.full(len(HEADS), jnp.nan)
    is_bits = obs.dtype == bool
    task = PlasticityTask(
        stored=jnp.packbits(obs.reshape(size, -1), axis=-1) if is_bits else obs,
        shape_of_bits=obs.shape[1:] if is_bits else None,
        policy_outputs=policy.outputs,
        value=critic.outputs[..., 0],
        constant_loss=nothing,
        fresh_loss=nothing,
    )
    last = task.rows(_minibatches(learner)[-1])
    constant = [
        learner.distribution.kl_of_constant(last.policy_outputs),
        jnp.square(last.value - last.value.mean()).mean(),
    ]
    fresh = plasticity_losses(learner, *jax.lax.stop_gradient((hparams, state, task)))[-1]
    return dataclasses.replace(task, constant_loss=jnp.stack(constant), fresh_loss=fresh)


def plasticity_losses(learner: Learner, hparams: HyperParams, state: RunState, task: PlasticityTask) -> Array:
    """Losses [E * M, 2] of policy, mean KL(target || output), and critic, mean (V_target - V)^2, before each step.

    Each head is fitted on its own; with a shared trunk both start from a copy of it. M minibatches in each of
    `num_plasticity_epochs` E passes, always the same. Observations are normalised as the networks are by now.
    """
    params = state.params
    copies = {head: params["shared"] if "shared" in params else params[head] for head in HEADS}
    name = "shared" if "shared" in params else None
    weights, unravel = flattened(copies)

    def loss(weights: dict[str, Array], batch: PlasticityTask) -> tuple[Array, Array]:
        def of(head: str) -> RunState:
            network: Params = {name or head: unravel({**weights})[head]}
            return dataclasses.replace(state, params=network)

        kl = learner.distribution.kl(batch.policy_outputs, learner.policy(of("policy"), batch.obs).outputs)
        error = learner.critic(of("critic"), batch.obs).outputs[..., 0] - batch.value
        each = jnp.stack([kl.mean(), jnp.square(error).mean()])
        return each.sum(), each  # no weight is in both, so the gradient of the sum is both gradients

    def step(carry: tuple[dict, dict], indices: Array) -> tuple[tuple[dict, dict], Array]:
        weights, moments = dict(carry[0]), dict(carry[1])
        batch = task.rows(indices)
        gradients, losses = jax.grad(loss, has_aux=True)(weights, batch)
        for head, gradient in gradients.items():
            gradient = gradient * clip_scale(hparams, jnp.linalg.norm(gradient))
            direction, moments[head] = adam_direction(hparams, gradient, moments[head])
            weights[head] = weights[head] - initial_learning_rate(learner, hparams, head) * direction
        return (weights, moments), losses

    moments = {head: init_adam(weights[head]) for head in HEADS}
    return jax.lax.scan(step, (weights, moments), _minibatches(learner))[1]


def _minibatches(learner: Learner) -> Array:
    """Indices [E * M, B] into a task, which is shuffled already: the first pass goes straight."""
    config = learner.config
    size = config.num_plasticity_minibatches * config.minibatch_size
    keys = jax.random.split(jax.random.key(_SHUFFLE), config.num_plasticity_epochs)
    passes = [shuffled_indices(key, size) for key in keys[1:]]
    return jnp.concatenate([jnp.arange(size), *passes]).reshape(-1, config.minibatch_size)


def measure(learner: Learner, hparams: HyperParams, state: RunState, task: PlasticityTask) -> Metrics:
    """The plasticity losses of a run as metrics, beside a constant's and fresh networks'; NaN for one that diverged."""
    losses = plasticity_losses(learner, *jax.lax.stop_gradient((hparams, state, task)))
    losses = jnp.where(state.status == 0, losses, jnp.nan)
    each = {
        "loss": losses[-1],
        "constant_loss": task.constant_loss,
        "fresh_loss": task.fresh_loss,
        "excess_over_constant": losses[-1] - task.constant_loss,
        "excess_over_fresh": losses[-1] - task.fresh_loss,
    }
    each = {name: jnp.where(state.status == 0, x, jnp.nan) for name, x in each.items()}
    last = {f"{head}_plasticity_{name}": x[i] for name, x in each.items() for i, head in enumerate(HEADS)}
    curves = {f"{head}_plasticity_curve": losses[:, i] for i, head in enumerate(HEADS)}
    return Metrics.of(last | (curves if learner.config.plasticity_curve else {}))
