"""What is done to all weights after every gradient step, in this order: decay, perturb, clip, project.

Before operations of the user's own. Weights are one flat vector [P] a network, as in `optimizers`.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import Params
from purejaxppo.ppo.interventions import optimizers
from purejaxppo.ppo.interventions.optimizers import Rates, Unravel, Weights
from purejaxppo.ppo.interventions.penalties import hidden_matrices
from purejaxppo.ppo.state import Array, Learner, RunState

_FRESH_KEY = 0x66726573  # folded into the key of a minibatch, for freshly initialised weights


def apply(
    learner: Learner,
    hparams: HyperParams,
    rates: Rates,
    unravel: Unravel,
    state: RunState,
    weights: Weights,
    key: Array,
) -> Weights:
    """The weights after what is switched on; `state` is that before the gradient step, its parameters flat."""
    config = learner.config
    if config.weight_decay:
        owners = optimizers.owners(learner, unravel(weights))
        weights = decay(weights, state.params, rates, owners, hparams.weight_decay_rate)
    if config.shrink_and_perturb == "soft":
        fresh = _flat(learner.networks.init(jax.random.fold_in(key, _FRESH_KEY)))
        weights = shrink_and_perturb(weights, fresh, hparams.perturbation)
    if config.weight_clipping:
        weights = _flat(clip_weights(unravel(weights), hparams.weight_clip_scale))
    if config.weight_projection:
        weights = _flat(project_weights(unravel(weights), state.memory["weight_projection"]))
    return weights


def decay(
    weights: Weights,
    before: Weights,
    rates: Rates,
    owners: dict[str, tuple[str, Array | None]],
    decay_rate: Array | float,
) -> Weights:
    """Decoupled weight decay: theta <- theta - learning rate x decay_rate x theta_before, as `optax.adamw`.

    Of all weights, biases, gains and log scales, as in PyTorch's AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101);
    the learning rate is the scheduled one. With two optimisers of a trunk each decays what it owns, at its own rate, so
    that the trunk decays twice.
    """
    weights = dict(weights)
    for name, (network, mask) in owners.items():
        weights[network] = weights[network] - rates[name] * decay_rate * optimizers.owned(before[network], mask)
    return weights


def shrink_and_perturb(weights: Weights, fresh: Weights, perturbation: Array | float) -> Weights:
    """theta <- (1 - perturbation) theta + perturbation theta_fresh, of all weights, biases and gains.

    Ash and Adams 2020 (arXiv 1910.08475); after every step, softly, in Juliani and Ash 2024 (arXiv 2405.19153), whose
    code shrinks and perturbs trunk and heads alike, by the initialiser itself, its scale unchanged.
    """
    return jax.tree.map(lambda theta, new: theta + perturbation * (new - theta), weights, fresh)


def clip_weights(params: Params, scale: Array | float) -> Params:
    """theta <- clip(theta, -+ scale / sqrt(fan_in)) of every layer's weights and its biases, heads included.

    Elsayed et al. 2024 (arXiv 2407.01704): 1 / sqrt(fan_in) is the bound of the uniform start, in their code that of
    biases as well. Gains and biases of a normalisation, and log scales, stay: a gain starts at 1, beyond most bounds
    (their code for PPO clips the logs of its deviations, too).
    """
    if not isinstance(params, dict):
        return params
    if "kernel" not in params:
        return {name: clip_weights(part, scale) for name, part in params.items()}
    kernel = params["kernel"]
    bound = scale * (kernel.size // kernel.shape[-1]) ** -0.5
    return {name: jnp.clip(x, -bound, bound) if name in ("kernel", "bias") else x for name, x in params.items()}


def matrix_norms(params: Params) -> dict[str, Array]:
    """Frobenius norms [] of the weight matrices of all hidden layers, by name."""
    return {name: jnp.linalg.norm(matrix) for name, matrix in hidden_matrices(params).items()}


def project_weights(params: Params, norms: dict[str, Array]) -> Params:
    """W, b <- |W_0| / |W| (W, b) of every hidden layer, Frobenius norms; a matrix of zeros stays, and its biases do.

    The projection of Normalize-and-Project (Lyle et al. 2024, arXiv 2407.01800). Where a normalisation follows, this
    changes no output (but by its epsilon, and in residual layers), and the larger the norm of W is, the less a step
    turns it. None follows a head, whose norm is how sure the policy may be: heads are left alone. So are the
    normalisation's gains and offsets, which others project too.
    """
    factors = {}
    for name, norm in matrix_norms(params).items():
        factors[name] = jnp.where(norm > 0, norms[name] / jnp.where(norm > 0, norm, 1.0), 1.0)

    def scaled(path: tuple[Any, ...], x: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="_")
        layer = re.sub("bias$", "kernel", name)
        return x * factors[layer] if layer in factors else x

    return jax.tree_util.tree_map_with_path(scaled, params)


def _flat(params: Params) -> Weights:
    return {name: ravel_pytree(network)[0] for name, network in params.items()}
