"""What is done with gradients: who owns which weights, clipping, Adam and its resets, Muon, learning rates.

Weights, gradients and moments are one flat vector a network: an elementwise optimiser does not mind, and XLA gets a few
kernels, not dozens.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.flatten_util import ravel_pytree

from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import Params
from purejaxppo.ppo.state import Array, Learner, RunState

Weights = dict[str, Array]
"""Of each network its weights (or their gradient, or Adam's step) as one vector [P]."""
Unravel = Callable[[Weights], Params]
"""From flat weights to the networks' nested parameters."""
Rates = dict[str, Array]
"""Of each optimiser its learning rate []."""


def flattened(params: Params) -> tuple[Weights, Unravel]:
    """Of each network its weights as one vector, and the way back."""
    pairs = {name: ravel_pytree(network) for name, network in params.items()}
    return {name: flat for name, (flat, _) in pairs.items()}, lambda weights: {
        name: unravel(weights[name]) for name, (_, unravel) in pairs.items()
    }


def owners(learner: Learner, params: Params) -> dict[str, tuple[str, Array | None]]:
    """Optimisers by name: the network that each steps, and which of its weights it owns (a mask [P]; None: all).

    One for each network. With `trunk_optimizers = "two"` policy and critic have one each that owns the shared trunk and
    its head, as in the paper's reference implementation.
    """
    if "shared" not in params or learner.config.trunk_optimizers == "one":
        return {name: (name, None) for name in params}

    def all_but(head: str) -> Array:
        layers = params["shared"].items()
        marked = {name: jax.tree.map(lambda x, own=name != head: jnp.full(x.shape, own), x) for name, x in layers}
        return ravel_pytree(marked)[0].astype(bool)

    # A scale that does not depend on the state ("log_scale") is the policy's.
    critic = all_but("policy_head")
    if "log_scale" in params["shared"]:
        critic &= all_but("log_scale")
    return {"policy": ("shared", all_but("critic_head")), "critic": ("shared", critic)}


def init_optimizers(learner: Learner, params: Params) -> dict[str, optax.OptState]:
    """Adam's zero moments of every optimiser, flat [P] (they depend on no hyper-parameter), or Muon's state."""
    if learner.config.optimizer == "muon":
        return {name: muon(HyperParams()).init(network) for name, network in params.items()}
    weights = {name: ravel_pytree(network)[0] for name, network in params.items()}
    return {name: init_adam(weights[network]) for name, (network, _) in owners(learner, params).items()}


def init_adam(weights: Array) -> optax.OptState:
    """Adam's zero moments for weights [P]."""
    return optax.scale_by_adam().init(weights)


def adam_direction(hparams: HyperParams, gradient: Array, moments: optax.OptState) -> tuple[Array, optax.OptState]:
    """Adam's direction [P], to be descended along, and its moments after this gradient [P]."""
    # eps_root is far below float32's resolution next to eps: it changes no step, but keeps the derivative of the square
    # root finite where a weight never had a gradient, so that training itself can be differentiated.
    adam = optax.scale_by_adam(b1=hparams.adam_beta1, b2=hparams.adam_beta2, eps=hparams.adam_eps, eps_root=1e-30)
    direction, moments = adam.update(gradient, moments)
    return jnp.asarray(direction), moments


def muon(hparams: HyperParams) -> optax.GradientTransformation:
    """Muon at learning rate 1, for nested parameters: matrices by Muon, everything else by Nesterov's Adam.

    A matrix moves by sqrt(max(1, fan_out / fan_in)) times its momentum (decay 0.95, Nesterov), orthogonalised by five
    Newton-Schulz iterations: all singular values between about 0.7 and 1.2 (Jordan et al. 2024, as `optax` has it; they
    leave the last layer to Adam, here it is a matrix as others are). `adam_eps` is also that of the iterations.
    """
    return optax.contrib.muon(1.0, eps=hparams.adam_eps, adam_b1=hparams.adam_beta1, adam_b2=hparams.adam_beta2)


def muon_direction(
    hparams: HyperParams, gradient: Params, weights: Params, state: optax.OptState
) -> tuple[Array, optax.OptState]:
    """Muon's direction [P], to be descended along, of a network, and its state after this gradient."""
    step, state = muon(hparams).update(gradient, state, weights)
    return -ravel_pytree(step)[0], state


def clip_scale(hparams: HyperParams, norm: Array) -> Array:
    """What a gradient of this global norm is multiplied by, so that its norm is at most `max_grad_norm`."""
    return jnp.minimum(1.0, hparams.max_grad_norm / (norm + 1e-6))


def step_weights(
    learner: Learner,
    hparams: HyperParams,
    rates: Rates,
    unravel: Unravel,
    weights: Weights,
    gradients: Weights,
    optimizer: dict[str, optax.OptState],
) -> tuple[Weights, dict[str, optax.OptState], dict[str, Array]]:
    """One step of every optimiser: first all clip, each what it owns, then all step, each what it owns; norms before.

    With two owners of a trunk its gradient is clipped twice and it moves twice, by the same gradient: the reference
    implementation clips in place and steps one optimiser after the other.
    """
    gradients, weights, optimizer, norms = dict(gradients), dict(weights), dict(optimizer), {}
    every = owners(learner, unravel(weights))
    for name, (network, mask) in every.items():
        gradient = gradients[network]
        norms[name] = jnp.linalg.norm(owned(gradient, mask))
        clipped = gradient * clip_scale(hparams, norms[name])
        gradients[network] = clipped if mask is None else jnp.where(mask, clipped, gradient)
    for name, (network, mask) in every.items():
        if learner.config.optimizer == "muon":
            nested = unravel(gradients)[network], unravel(weights)[network]
            direction, optimizer[name] = muon_direction(hparams, *nested, optimizer[name])
        else:
            direction, optimizer[name] = adam_direction(hparams, owned(gradients[network], mask), optimizer[name])
        weights[network] = weights[network] - rates[name] * direction
    return weights, optimizer, norms


def owned(vector: Array, mask: Array | None) -> Array:
    """The vector [P] with zeros in place of what is not owned."""
    return vector if mask is None else jnp.where(mask, vector, 0.0)


def start_update(learner: Learner, state: RunState) -> dict[str, optax.OptState]:
    """Adam's moments at the start of an update phase: as they are, or zero with `reset_optimizer`.

    With `adam_rel` only their number of steps t is zero, so that the bias is corrected anew, m / (1 - beta1^t), though
    the moments have none any more (Ellis et al. 2024, arXiv 2412.17113).
    """

    def moments(is_reset: bool) -> dict[str, optax.OptState]:
        if learner.config.adam_rel:
            return optax.tree_utils.tree_set(state.optimizer, count=jnp.zeros((), jnp.int32))
        if is_reset and learner.config.optimizer == "muon":  # whose state is not all zeros at the start
            return init_optimizers(learner, state.params)
        return jax.tree.map(jnp.zeros_like, state.optimizer) if is_reset else state.optimizer

    return learner.choose(state.choices, "reset_optimizer", moments)


def initial_learning_rate(learner: Learner, hparams: HyperParams, name: str) -> Array | float:
    """The learning rate at the start of training of an optimiser, or of a head ("policy", "critic") fitted alone."""
    is_own = name == "critic" and learner.config.separate_learning_rates
    return hparams.critic_learning_rate if is_own else hparams.learning_rate


def scheduled_learning_rates(learner: Learner, hparams: HyperParams, state: RunState) -> Rates:
    """The learning rates of an update: constant, or falling linearly with the number u of updates done, of U.

    rate_u = rate_0 (1 - (1 - f) u / U), f: `lr_final_fraction`, which is reached after the last update, not in it.
    """

    def scheduled(name: str) -> Array:
        rate = jnp.asarray(initial_learning_rate(learner, hparams, name), jnp.float32)

        def of(schedule: str) -> Array:
            if schedule == "constant":
                return rate
            done, final = state.update / learner.config.num_updates, learner.config.lr_final_fraction
            return rate * (1.0 - (done if final == 0 else (1.0 - final) * done))

        return learner.choose(state.choices, "lr_schedule", of)

    if not learner.config.separate_learning_rates:
        return dict.fromkeys(state.optimizer, scheduled("policy"))
    return {name: scheduled(name) for name in state.optimizer}
