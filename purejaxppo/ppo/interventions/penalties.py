"""Further terms of the loss: KL, and the spectra of weights and of features."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from purejaxppo.hyperparams import HyperParams
from purejaxppo.networks import NetworkOutput, Params
from purejaxppo.ppo.interventions.kl_control import kl_coef
from purejaxppo.ppo.state import Array, Batch, Learner, RunState


def penalties(
    learner: Learner,
    hparams: HyperParams,
    state: RunState,
    batch: Batch,
    policy: NetworkOutput,
    critic: NetworkOutput,
) -> dict[str, tuple[Array | float, Array]]:
    """The penalties that are switched on, for one minibatch: name -> (coefficient, value). To be minimised."""
    config, found = learner.config, {}
    if True in learner.values("kl_penalty"):

        def outputs(is_on: bool) -> Array:  # the old ones where the penalty is off: 0 times an infinite KL would be NaN
            return policy.outputs if is_on else batch.policy_outputs

        kl = learner.distribution.kl(batch.policy_outputs, learner.choose(state.choices, "kl_penalty", outputs)).mean()
        found["kl_loss"] = (kl_coef(learner, hparams, state), kl)
    if config.weight_spectral:
        assert state.power_vectors is not None
        value = weight_spectral(state.params, state.power_vectors)
        found["weight_spectral_loss"] = (hparams.weight_spectral_coef, value)
    if config.feature_spectral:
        found["feature_spectral_loss"] = (hparams.feature_spectral_coef, spectral_concentration(policy.features))
        concentration = spectral_concentration(critic.features)
        found["critic_feature_spectral_loss"] = (hparams.critic_feature_spectral_coef, concentration)
    return found


def weight_matrices(params: Params) -> dict[str, Array]:
    """All weight matrices [fan_in, fan_out] of all networks and their heads, a convolution's being its patches' one.

    Of a torso of the user's own what is called kernel.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    name = partial(jax.tree_util.keystr, simple=True, separator="_")
    return {name(path): leaf.reshape(-1, leaf.shape[-1]) for path, leaf in leaves if path[-1].key == "kernel"}


def init_power_iteration(learner: Learner, params: Params) -> dict[str, Array] | None:
    """A unit vector [fan_out] for every weight matrix, the same at every start; None without `weight_spectral`."""
    if not learner.config.weight_spectral:
        return None
    starts = {name: np.random.default_rng(0).normal(size=w.shape[1]) for name, w in weight_matrices(params).items()}
    return {name: jnp.asarray(start / np.linalg.norm(start), jnp.float32) for name, start in starts.items()}


def iterate_power(params: Params, vectors: dict[str, Array]) -> dict[str, Array]:
    """One power iteration, v <- W^T W v / |W^T W v|, of every weight matrix; v stays where W v is 0."""

    def iterate(matrix: Array, v: Array) -> Array:
        image = matrix.T @ (matrix @ v)
        norm = jnp.linalg.norm(image)
        return jnp.where(norm > 0, image / jnp.where(norm > 0, norm, 1.0), v)

    return {name: iterate(matrix, vectors[name]) for name, matrix in weight_matrices(params).items()}


def weight_spectral(params: Params, vectors: dict[str, Array]) -> Array:
    """Sum over all weight matrices of (|W v| - 1)^2, |W v| being the spectral norm once v has converged.

    Lewandowski et al. 2024 (arXiv 2406.06811), without their term for biases; the gradient of |W v| is u v^T, of rank
    one. The vectors v live in the state and take one iteration per gradient step: weights move slowly, so they stay
    converged, where an iteration from a fixed start takes 40 rounds in every gradient step to come within 1 %.
    """
    norms = [jnp.sqrt(jnp.square(w @ vectors[name]).sum() + 1e-30) for name, w in weight_matrices(params).items()]
    return jnp.square(jnp.stack(norms) - 1.0).sum()  # 1e-30: differentiable at a matrix of zeros


def spectral_concentration(features: Array) -> Array:
    """sum sigma^4 / (sum sigma^2)^2 = |F^T F|^2 / |F|^4 of features F [B, D], Frobenius norms: no SVD.

    The inverse of the participation ratio: 1 / D where all singular values are equal, 1 at rank one; 0, without
    gradient, for features of zeros.
    """
    squares = jnp.square(features).sum()
    scaled = features * jax.lax.rsqrt(jnp.where(squares > 0, squares, 1.0))  # fourth powers of tiny numbers underflow
    gram = scaled.T @ scaled if scaled.shape[0] >= scaled.shape[1] else scaled @ scaled.T
    return jnp.square(gram).sum()
